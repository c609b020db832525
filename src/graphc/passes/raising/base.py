"""The pass and its rule set, which the files beside this one fill."""

from __future__ import annotations

import itertools
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import ClassVar

from graphc.passes.base import register_pass
from graphc.passes.rule_pass import RulePass
from graphc.passes.rules import Either, P, Pattern, number, rule_set
from graphc.passes.rules.text import text

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


def product(*factors: Pattern | float) -> Pattern:
    """The product of two or more factors in any order and association."""
    first, *others = factors
    written = first if isinstance(first, Pattern) else number(first)
    for factor in others:
        written = written * factor
    return Either(tuple(P.Mul(left, right) for left, right in _splits(factors)), text(written))


def _splits(factors: Sequence[Pattern | float]) -> Iterator[tuple[Pattern | float, Pattern | float]]:
    """Every way to multiply the factors in two groups, alike ones (and commuted ones) once."""
    seen: set[frozenset[frozenset[tuple[int, int]]]] = set()
    for size in range(1, len(factors) // 2 + 1):
        for places in itertools.combinations(range(len(factors)), size):
            left = [factors[place] for place in places]
            right = [factor for place, factor in enumerate(factors) if place not in places]
            key = frozenset(frozenset(Counter(map(id, group)).items()) for group in (left, right))
            if key not in seen:
                seen.add(key)
                yield tuple(group[0] if len(group) == 1 else product(*group) for group in (left, right))  # type: ignore[misc]
