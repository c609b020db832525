"""Passes that are a rule set."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from graphc.errors import OptionError
from graphc.ir import Graph
from graphc.passes.base import PassContext
from graphc.passes.pipeline import suggestion
from graphc.passes.rules import Rule, rewrite, rule_set


@dataclass(frozen=True)
class RulePass:
    """Applies the rules of the set that has the pass's name, up to a fixed point.

    Args:
        only: Rules to apply; all if empty.
        without: Rules to leave out.

    Raises:
        OptionError: A rule named here is not in the set.
    """

    name: ClassVar[str]
    only: tuple[str, ...] = ()
    without: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        known = rule_set(self.name).rules
        for rule in (*self.only, *self.without):
            if rule not in known:
                raise OptionError(f"pass {self.name!r} has no rule {rule!r}{suggestion(rule, known)}")

    def rules(self) -> list[Rule]:
        """The rules that these options leave."""
        return [
            rule
            for rule in rule_set(self.name)
            if (not self.only or rule.name in self.only) and rule.name not in self.without
        ]

    def run(self, graph: Graph, context: PassContext) -> int:
        """Rewrites `graph` and its subgraphs until none of the rules applies."""
        return rewrite(graph, self.rules(), context)
