"""What fuzzing is to reach: every built-in rule, and every operator on every dtype that ONNX allows it.

A seed stands for a fixed few of these wishes, so that a model can be drawn again from its seed alone and seeds in a
row reach all of them.
"""

from __future__ import annotations

import random
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cache
from typing import Literal, TypeAlias

import onnx

from graphc.errors import OptionError
from graphc.passes import PASSES
from graphc.passes.rules import RULE_SETS, Rule
from graphc.testing.operators import allowed_dtypes, single_operators
from graphc.testing.wide_samples import WIDE_SAMPLERS

Kind: TypeAlias = Literal["rule", "operator"]

PER_MODEL = 3
"""Wishes that one model is to fulfil: linking a package costs more than another kernel in it."""


@dataclass(frozen=True, order=True)
class Wish:
    """A rule that should fire, or an operator that should run on a dtype.

    Args:
        kind: Which of the two.
        domain: Of the operator; the set of the rule.
        name: Of the operator or rule.
        dtype: Of the operator's first input; empty for a rule.
    """

    kind: Kind
    domain: str
    name: str
    dtype: str = ""

    def __str__(self) -> str:
        if self.kind == "rule":
            return f"rule {self.name}"
        return f"{self.domain}::{self.name} {self.dtype}" if self.domain else f"{self.name} {self.dtype}"


@cache
def rules() -> dict[str, Rule]:
    """Every built-in rule by name, those of all passes."""
    assert PASSES, "importing the passes declares their rules"
    return {rule.name: rule for group in RULE_SETS.values() for rule in group}


@cache
def every_wish() -> tuple[Wish, ...]:
    """All wishes, in an order that mixes them and is the same in every process."""
    wishes = [Wish("rule", group, rule.name) for group, own in RULE_SETS.items() for rule in own] if rules() else []
    cells = {("", name, dtype.name) for name, sampler in WIDE_SAMPLERS.items() for dtype in sampler.dtypes}
    for domain, name, version in single_operators():
        schema = onnx.defs.get_schema(name, version, domain)
        cells.update((domain, name, dtype.name) for dtype in allowed_dtypes(schema))
    wishes += [Wish("operator", *cell) for cell in cells]
    wishes.sort()
    random.Random(0).shuffle(wishes)
    return tuple(wishes)


def chosen_wishes(names: Iterable[str] = ()) -> tuple[Wish, ...]:
    """The wishes about some rules and operators; all if none is named.

    Raises:
        OptionError: A name is of no rule and no operator.
    """
    wanted = set(names)
    if unknown := sorted(wanted - {wish.name for wish in every_wish()}):
        raise OptionError(
            f"no rule and no operator is called {', '.join(unknown)}", hint="`graphc rules list` and `graphc operators`"
        )
    return tuple(wish for wish in every_wish() if not wanted or wish.name in wanted)


def wishes_of(seed: int, among: Sequence[Wish]) -> tuple[Wish, ...]:
    """The wishes that the model of a seed is drawn for: one rule, as those need more draws to fire, and operators."""
    firing = [wish for wish in among if wish.kind == "rule"]
    operators = [wish for wish in among if wish.kind == "operator"]
    count = PER_MODEL - 1 if firing and operators else PER_MODEL
    chosen = [operators[(seed * count + i) % len(operators)] for i in range(count)] if operators else []
    chosen += [firing[(seed + i) % len(firing)] for i in range(PER_MODEL - len(chosen))] if firing else []
    return tuple(dict.fromkeys(chosen))
