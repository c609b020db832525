"""Choices drawn through Hypothesis, so that what fails shrinks, or from a seed, for commands and long runs."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from hypothesis import strategies as st

from graphc.passes.rules import Chooser


class DrawChooser:
    """Choices through a Hypothesis `draw` function."""

    def __init__(self, draw: Callable[[st.SearchStrategy[int]], int]) -> None:
        self._draw = draw

    def integer(self, low: int, high: int) -> int:
        """An integer in `low..high`; shrinks toward `low`."""
        return self._draw(st.integers(low, high))

    def pick(self, options: Sequence[Any]) -> Any:
        """One of `options`; shrinks toward the first."""
        return options[self._draw(st.integers(0, len(options) - 1))]


class SeedChooser:
    """Choices from a pseudo-random generator; a seed is one number or several."""

    def __init__(self, seed: int | Sequence[int]) -> None:
        self._random = np.random.default_rng(seed)

    def integer(self, low: int, high: int) -> int:
        """An integer in `low..high`."""
        return int(self._random.integers(low, high + 1))

    def pick(self, options: Sequence[Any]) -> Any:
        """One of `options`."""
        return options[int(self._random.integers(len(options)))]


def chance(choose: Chooser, percent: int) -> bool:
    """True in about `percent` of a hundred draws; shrinks toward False."""
    return choose.integer(0, 99) >= 100 - percent


def permutation(choose: Chooser, items: Sequence[Any]) -> list[Any]:
    """The items in a random order."""
    left = list(items)
    return [left.pop(choose.integer(0, len(left) - 1)) for _ in items]
