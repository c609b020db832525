"""Patterns: trees of operators with variables, written as one writes the expression.

    x, w = Var("x"), Const("w")
    P.Relu(P.Conv(x, w, group=attr("group", default=1)))
    x * P.Sigmoid(x) | 1.0 / x

Arithmetic on patterns is Add, Sub, Mul, Div, Pow, MatMul and Neg; `p | q` is either of two. A rule may have several
roots: `p & q` is two side by side that have a value in common, `every(p, share="x")` all that there are of `x`.

A pattern object that stands at two places means one value at both, so a DAG is written by using a Python name twice.
Operators that the registry calls commutative match their two operands in either order.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from functools import cache
from typing import Any, TypeAlias

from graphc.ir import GRAPHC_DOMAIN, Attribute, Tensor
from graphc.passes.rules.predicate import Filled, TensorPredicate


class Pattern:
    """Base of patterns; `p | q` matches where either does, and prefers `p`."""

    def __or__(self, other: Pattern) -> Either:
        # What has a text is one thing written in several ways.
        left = self.options if isinstance(self, Either) and not self.text else (self,)
        right = other.options if isinstance(other, Either) and not other.text else (other,)
        return Either((*left, *right))

    def __and__(self, other: Pattern) -> Together:
        left = self.parts if isinstance(self, Together) else (self,)
        return Together((*left, *(other.parts if isinstance(other, Together) else (other,))))

    def __add__(self, other: Operand) -> Apply:
        return P.Add(self, other)

    def __radd__(self, other: float) -> Apply:
        return P.Add(other, self)

    def __sub__(self, other: Operand) -> Apply:
        return P.Sub(self, other)

    def __rsub__(self, other: float) -> Apply:
        return P.Sub(other, self)

    def __mul__(self, other: Operand) -> Apply:
        return P.Mul(self, other)

    def __rmul__(self, other: float) -> Apply:
        return P.Mul(other, self)

    def __truediv__(self, other: Operand) -> Apply:
        return P.Div(self, other)

    def __rtruediv__(self, other: float) -> Apply:
        return P.Div(other, self)

    def __pow__(self, other: Operand) -> Apply:
        return P.Pow(self, other)

    def __matmul__(self, other: Pattern) -> Apply:
        return P.MatMul(self, other)

    def __neg__(self) -> Apply:
        return P.Neg(self)


Operand: TypeAlias = "Pattern | float"
"""What an operator is applied to: a pattern, or a number, which stands for a constant filled with it."""


@dataclass(frozen=True, eq=False)
class Var(Pattern):
    """Any value; two variables of one name must be the same value, or equal constants.

    Args:
        name: Name under which the match knows it.
        rank: Number of axes it must have; any if None.
        kinds: Kinds of dtype it may have (`float`, `int`, `uint`, `bool`); any if empty.
        constant: Whether it must be a constant, or must not; either if None.
    """

    name: str
    rank: int | None = None
    kinds: tuple[str, ...] = ()
    constant: bool | None = None


@dataclass(frozen=True, eq=False)
class Const(Pattern):
    """A constant, whose tensor fulfils `where`.

    Args:
        name: Name under which the match knows it.
        where: What must hold of the tensor; anything if None.
    """

    name: str
    where: TensorPredicate | None = None


@dataclass(frozen=True, eq=False)
class Absent(Pattern):
    """An optional input that is not given."""


@dataclass(frozen=True, eq=False)
class Optional(Pattern):
    """An optional input: matches `inner` where the input is given, and nothing where it is not."""

    inner: Pattern


@dataclass(frozen=True, eq=False)
class Rest(Pattern):
    """All inputs from here on, as many as there are; known to the match as a tuple of values."""

    name: str


@dataclass(frozen=True, eq=False)
class Either(Pattern):
    """One of several patterns, tried in order.

    Args:
        options: The patterns.
        text: What it is in a formula, where the options are one thing written in several ways.
    """

    options: tuple[Pattern, ...]
    text: str = ""


@dataclass(frozen=True, eq=False)
class Together(Pattern):
    """Several roots side by side, each another value: `P.Sin(x) & P.Cos(x)`. Only a rule's whole pattern may be one.

    Args:
        parts: One pattern a root; each has a value in common with another, through which it is found.
    """

    parts: tuple[Pattern, ...]


@dataclass(frozen=True, eq=False)
class Every(Pattern):
    """All roots that match one pattern and have some values in common. Only a rule's whole pattern may be one.

    Args:
        one: What each of them matches.
        share: Names that stand for the same value in all; the others stand for a value in each.
        when: Asked about each match; one that it refuses is left out.
        least: Fewest roots of a match.
    """

    one: Pattern
    share: tuple[str, ...]
    when: Callable[[Any], Any] | None = None
    least: int = 2


@dataclass(frozen=True)
class AttributePattern:
    """An attribute that is bound to a name or constrained.

    Args:
        name: Name under which the match knows it; not kept if empty.
        default: The operator's default, where the attribute may be absent.
        where: What must hold of the value.
        examples: Values that fulfil `where`, for generated instances.
    """

    name: str = ""
    default: Attribute | None = None
    where: Callable[[Any], bool] | None = None
    examples: tuple[Attribute, ...] = ()


AttributeSpec: TypeAlias = "AttributePattern | Attribute"


def attr(
    name: str = "",
    *,
    default: Attribute | None = None,
    where: Callable[[Any], bool] | None = None,
    examples: tuple[Attribute, ...] = (),
) -> AttributePattern:
    """An attribute bound to `name`; see AttributePattern."""
    return AttributePattern(name, default, where, examples)


def fixed(value: Attribute, *, default: Attribute | None = None) -> AttributePattern:
    """An attribute that must equal `value`; where it is absent, `default` must."""
    return AttributePattern("", default, lambda found: bool(found == value), (value,))


@dataclass(frozen=True, eq=False)
class Apply(Pattern):
    """An operator applied to patterns.

    Args:
        op_types: Operator's name, or several that are matched alike.
        inputs: One pattern an input; inputs beyond these must be absent unless the last is a `Rest`.
        attributes: Values or attribute patterns by attribute name; attributes not named may be anything.
        domain: Operator's domain.
        label: Name under which the match knows the node.
        output: Which output of the node the value is.
        private: Whether nothing outside the match may read the node's outputs.
    """

    op_types: tuple[str, ...]
    inputs: tuple[Pattern, ...]
    attributes: Mapping[str, AttributeSpec] = field(default_factory=dict)
    domain: str = ""
    label: str = ""
    output: int = 0
    private: bool = False

    def only_here(self) -> Apply:
        """This pattern, for a node whose value is read by nothing outside the match."""
        return replace(self, private=True)

    def named(self, label: str) -> Apply:
        """This pattern, with the node known to the match as `label`."""
        return replace(self, label=label)

    def out(self, index: int) -> Apply:
        """This pattern, for output `index` of the node."""
        return replace(self, output=index)

    @property
    def text(self) -> str:
        """The operator for messages."""
        prefix = f"{self.domain}::" if self.domain else ""
        return prefix + "|".join(self.op_types)


class Operators:
    """Writes `P.Conv(x, w)` for an operator pattern; one instance a domain: `MY = Operators("my.domain")`."""

    def __init__(self, domain: str) -> None:
        self._domain = domain

    def __getattr__(self, op_type: str) -> Callable[..., Apply]:
        if op_type.startswith("__"):
            raise AttributeError(op_type)
        return self.one_of(op_type)

    def one_of(self, *op_types: str) -> Callable[..., Apply]:
        """An operator pattern that matches any of several operators."""

        def build(*inputs: Operand, **attributes: Any) -> Apply:
            patterns = tuple(p if isinstance(p, Pattern) else Const("", filled(p)) for p in inputs)
            kept = {key: tuple(value) if isinstance(value, list) else value for key, value in attributes.items()}
            return Apply(op_types, patterns, kept, self._domain)

        return build


P = Operators("")
"""Patterns of ai.onnx operators: `P.Mul(x, 1.0)`; a number stands for a constant filled with it."""

GRAPHC = Operators(GRAPHC_DOMAIN)
"""Patterns of the compiler's own operators."""


def filled(value: float, text: str = "") -> TensorPredicate:
    """Tensors whose elements are all `value`, as exactly as their dtype can tell; a formula says `text` for it."""
    return Filled(value, text)


def number(value: float, text: str = "") -> Const:
    """A constant filled with `value`, which a formula calls `text`: `number(math.sqrt(2), "√2")`."""
    return Const("", Filled(value, text))


def maybe(wrap: Callable[..., Apply], inner: Pattern, *others: Pattern | float, **attributes: Any) -> Either:
    """`wrap(inner, ...)` or `inner` alone: an operator that may be left out."""
    return Either((wrap(inner, *others, **attributes), inner))


def every(
    one: Pattern, *, share: str | tuple[str, ...], when: Callable[[Any], Any] | None = None, least: int = 2
) -> Every:
    """All roots that match `one` and have the values called `share` in common; see Every."""
    return Every(one, (share,) if isinstance(share, str) else share, when, least)


def literal(spec: AttributeSpec) -> AttributePattern:
    """An attribute specification in its long form."""
    if isinstance(spec, AttributePattern):
        return spec
    if isinstance(spec, Tensor):
        return AttributePattern(where=lambda found: bool(found == spec), examples=(spec,))
    return fixed(spec)


def depth(pattern: Pattern) -> int:
    """Operators on the longest way from a root to a leaf: how far from a change a match may be rooted."""
    deepest = max((depth(p) for p in within(pattern)), default=0)
    return deepest + 1 if isinstance(pattern, Apply) else deepest


def size(pattern: Pattern) -> int:
    """Most operands of operators in one match, or in one of every."""
    sizes = [size(p) for p in within(pattern)]
    if isinstance(pattern, Apply):
        return len(sizes) + sum(sizes)
    return sum(sizes) if isinstance(pattern, Together) else max(sizes, default=0)


def within(pattern: Pattern) -> tuple[Pattern, ...]:
    """The patterns of which a pattern is made."""
    match pattern:
        case Apply():
            return pattern.inputs
        case Either():
            return pattern.options
        case Together():
            return pattern.parts
        case Every():
            return (pattern.one,)
        case Optional():
            return (pattern.inner,)
    return ()


def starts(pattern: Pattern) -> tuple[Pattern, ...]:
    """The patterns of single roots at which a match may begin, in order of preference."""
    if isinstance(pattern, Either | Together | Every):
        return tuple(inner for part in within(pattern) for inner in starts(part))
    return (pattern,)


def roots(pattern: Pattern) -> frozenset[tuple[str, str]]:
    """Domain and name of every operator that can be a root of a match; none where some root is no operator."""
    found: set[tuple[str, str]] = set()
    for start in starts(pattern):
        if not isinstance(start, Apply):
            return frozenset()
        found.update((start.domain, op_type) for op_type in start.op_types)
    return frozenset(found)


@cache
def bound_at(pattern: Pattern) -> Mapping[str | int, set[int]]:
    """What every match of a pattern binds, and how many operators before the pattern's value it may stand.

    Values are known by their names, operators by the identity of their pattern, as in a match.
    """
    match pattern:
        case Var() | Const() if pattern.name:
            return {pattern.name: {0}}
        case Either():
            first, *others = map(bound_at, pattern.options)
            kept = set(first).intersection(*others)
            return {key: set().union(first[key], *(other[key] for other in others)) for key in kept}
        case Apply():
            found: dict[str | int, set[int]] = {id(pattern): {0}}
            for inner in pattern.inputs:
                for key, places in bound_at(inner).items():
                    found.setdefault(key, set()).update(place + 1 for place in places)
            return found
    return {}
