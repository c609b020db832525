"""The pass and its rule set, which the files beside this one fill."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from graphc.passes.base import register_pass
from graphc.passes.rule_pass import RulePass
from graphc.passes.rules import rule_set

SIMPLIFY = rule_set("simplify")


@register_pass
@dataclass(frozen=True)
class Simplify(RulePass):
    """Removes what does nothing and merges chains of one kind: identities, casts, reshapes, transposes, slices.

    Before: types are inferred; `fold` has run, for most rules look at constants. After: none of the rules applies.
    The graph has no more nodes than before, constants left out, and computes the same values but for rounding.
    """

    name: ClassVar[str] = "simplify"
