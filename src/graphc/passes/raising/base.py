"""The pass and its rule set, which the files beside this one fill."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from graphc.passes.base import register_pass
from graphc.passes.rule_pass import RulePass
from graphc.passes.rules import P, Pattern, rule_set

RAISE = rule_set("raise")


@register_pass
@dataclass(frozen=True)
class Raise(RulePass):
    """Recognizes operators written in pieces: normalizations, activations, softmax, attention, global pooling.

    Before: constants are folded and shared, `simplify` has run (patterns expect its forms). After: none of the rules
    applies. Results differ from before by rounding, and where a row of an attention is masked throughout: it gives
    zeros, not NaN.
    """

    name: ClassVar[str] = "raise"


def product(a: Pattern | float, b: Pattern | float, c: Pattern | float) -> Pattern:
    """`a * b * c` in any order and association."""
    return P.Mul(P.Mul(a, b), c) | P.Mul(P.Mul(a, c), b) | P.Mul(a, P.Mul(b, c))
