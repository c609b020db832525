"""Rules: a pattern, conditions that answer with a reason when they refuse, and a replacement; and named sets of them.

    SIMPLIFY = rule_set("simplify")
    SIMPLIFY.formula("add_of_negative", x + -y, x - y)

    @SIMPLIFY.rule(P.Transpose(P.Transpose(x, perm=attr("inner")), perm=attr("outer")))
    def transpose_of_transpose(m: Match, b: Builder) -> Value:
        '''Transpose[q](Transpose[p](x)) = Transpose[p∘q](x).'''
        return b.op("Transpose", m["x"], perm=[m.attribute("inner")[axis] for axis in m.attribute("outer")])

The right side of a formula is a pattern too, which is built from what the left side matched; it refuses where that
would be of another shape or dtype. Where there is more to say, a function is the replacement: it answers the value that
takes the place of the root's (a tuple of values where the root has several outputs that are used), or `refuse("why")`.
Its docstring is the formula.

A rule with several roots answers a tuple with a value for each: of `p & q` in this order, of `every(p, share="x")` in
the order of `m.each`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, TypeAlias

from graphc.errors import OptionError
from graphc.ir import Builder, Node, Value
from graphc.passes.base import Refusal
from graphc.passes.rules.match import Match, RefusedError, Trace
from graphc.passes.rules.pattern import Pattern, depth, roots, size
from graphc.passes.rules.predicate import Chooser
from graphc.passes.rules.siblings import check_roots, find_siblings
from graphc.passes.rules.template import template
from graphc.passes.rules.text import formula

Condition: TypeAlias = Callable[[Match], "Refusal | None"]
Replacement: TypeAlias = "Callable[[Match, Builder], Value | tuple[Value, ...] | Refusal]"
Examples: TypeAlias = Callable[[Chooser], Mapping[str, Any]]
"""Draws what some of a pattern's names stand for: TensorType or array for values, attribute values for attributes."""


@dataclass(frozen=True, eq=False)
class Rule:
    """One rewrite.

    Args:
        name: Unique in its set.
        pattern: What it matches; its roots must be operators.
        replacement: Builds what takes the root's place, or refuses.
        conditions: Asked before the replacement, in order.
        examples: Draws types and attributes for generated instances, where the pattern alone does not say enough.
        tolerance: Relative tolerance of float32 results in property tests, for rewrites that reorder arithmetic.
    """

    name: str
    pattern: Pattern
    replacement: Replacement
    conditions: tuple[Condition, ...] = ()
    examples: Examples | None = None
    tolerance: float = 1e-4

    @property
    def summary(self) -> str:
        """The first line of the replacement's docstring: the formula."""
        return (self.replacement.__doc__ or "").strip().partition("\n")[0]

    @property
    def roots(self) -> frozenset[tuple[str, str]]:
        """Domain and name of the operators at which its roots can be."""
        return roots(self.pattern)

    @property
    def depth(self) -> int:
        """Operators from its root to its farthest leaf."""
        return depth(self.pattern)

    @property
    def size(self) -> int:
        """Most operands that one of its matches has in all: no value is read more often by one match."""
        return size(self.pattern)

    def matches(self, node: Node, trace: Trace | None = None) -> Iterator[Match]:
        """Every match with a root at `node`, conditions not asked yet."""
        return find_siblings(self.pattern, node, trace)

    def refusal(self, match: Match) -> Refusal | None:
        """The first condition's refusal, or None."""
        try:
            return next((found for condition in self.conditions if (found := condition(match)) is not None), None)
        except RefusedError as refused:
            return refused.refusal


@dataclass
class RuleSet:
    """Rules that one pass applies together, in order of preference."""

    name: str
    rules: dict[str, Rule] = field(default_factory=dict)

    def rule(
        self,
        pattern: Pattern,
        *,
        when: Condition | Sequence[Condition] = (),
        examples: Examples | None = None,
        tolerance: float = 1e-4,
    ) -> Callable[[Replacement], Rule]:
        """Decorator that makes a rule of its replacement function and adds it to the set.

        Raises:
            OptionError: The pattern cannot be a whole rule's, or the set has a rule of that name.
        """
        check_roots(pattern)

        def build(replacement: Replacement) -> Rule:
            conditions = (when,) if callable(when) else tuple(when)
            name = getattr(replacement, "__name__", repr(replacement))
            return self.add(Rule(name, pattern, replacement, conditions, examples, tolerance))

        return build

    def formula(
        self,
        name: str,
        left: Pattern,
        right: Pattern,
        *,
        when: Condition | Sequence[Condition] = (),
        examples: Examples | None = None,
        tolerance: float = 1e-4,
    ) -> Rule:
        """Adds the rule that writes `right` for `left`; its summary is the formula itself.

        It refuses where `right` is not of the shape and dtype of what it would replace: `x + 0 = x` where x is not
        broadcast by the zero.

        Raises:
            OptionError: The left side's root is no operator, the right side has what the left side does not bind, or
                the set has a rule of that name.
        """
        replacement = template(left, right)
        replacement.__doc__ = f"{formula(left, right)}."
        replacement.__name__ = name
        return self.rule(left, when=when, examples=examples, tolerance=tolerance)(replacement)

    def add(self, rule: Rule) -> Rule:
        """Adds a rule at the end.

        Raises:
            OptionError: The set has a rule of that name.
        """
        if rule.name in self.rules:
            raise OptionError(f"rule set {self.name!r} has a rule {rule.name!r} already")
        self.rules[rule.name] = rule
        return rule

    def __iter__(self) -> Iterator[Rule]:
        return iter(self.rules.values())

    def __len__(self) -> int:
        return len(self.rules)


RULE_SETS: dict[str, RuleSet] = {}
"""Every rule set, by name."""


def rule_set(name: str) -> RuleSet:
    """The rule set called `name`, made where there is none yet."""
    return RULE_SETS.setdefault(name, RuleSet(name))
