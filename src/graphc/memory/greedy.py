"""Greedy plans: buffers in some order, each put into a gap between those already placed.

The orders by size and by breadth are those of Pisarchyk and Lee, "Efficient Memory Management for Deep Neural Net
Inference" (2020); by size with the best fit is what XLA's heap simulator does, by start with the best fit is an
allocator that runs along with the program.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from graphc.memory.interval import Problem

Order = Callable[[Problem], list[int]]
Fit = Callable[[NDArray[Any]], int]


def _sorted_by(problem: Problem, *keys: NDArray[Any]) -> list[int]:
    """Positions sorted by the first key, ties by the next, then by position."""
    rows = list(zip(*(key.tolist() for key in keys), strict=True))
    return sorted(range(len(problem)), key=rows.__getitem__)


def _by_size(problem: Problem) -> list[int]:
    return _sorted_by(problem, -problem.size, problem.first - problem.last)


def _by_breadth(problem: Problem) -> list[int]:
    return _sorted_by(problem, -problem.contention, -problem.size)


def _by_duration(problem: Problem) -> list[int]:
    return _sorted_by(problem, problem.first - problem.last, -problem.size)


def _by_area(problem: Problem) -> list[int]:
    return _sorted_by(problem, (problem.first - problem.last) * problem.size)


def _by_start(problem: Problem) -> list[int]:
    return _sorted_by(problem, problem.first, -problem.size)


def _by_end(problem: Problem) -> list[int]:
    return _sorted_by(problem, -problem.last, -problem.size)


ORDERS: dict[str, Order] = {
    "size": _by_size,
    "breadth": _by_breadth,
    "area": _by_area,
    "duration": _by_duration,
    "start": _by_start,
    "end": _by_end,
}
"""What comes first, by name; each answers positions in the problem."""


def _first_fit(gaps: NDArray[Any]) -> int:
    return 0


def _best_fit(gaps: NDArray[Any]) -> int:
    return int(gaps.argmin())


FITS: dict[str, Fit] = {"first-fit": _first_fit, "best-fit": _best_fit}
"""Which of the gaps that are large enough (given from the lowest up) a buffer takes, by name."""


def place(problem: Problem, order: Sequence[int], fit: Fit) -> NDArray[Any]:
    """Places every buffer, in order, into a gap or on top.

    One step costs a scan over the buffers placed before, vectorized, so the whole is quadratic with a small constant:
    ten thousand buffers take well under a second.

    Args:
        problem: The problem.
        order: All positions of the problem, each once.
        fit: Chooses among the gaps that are large enough.

    Returns:
        Offsets in units, by position.
    """
    ranked = np.asarray(order, dtype=np.int64)
    firsts, lasts, sizes = problem.first[ranked], problem.last[ranked], problem.size[ranked]
    offsets = np.zeros_like(sizes)
    tops = np.zeros_like(sizes)
    for rank, (first, last, size) in enumerate(zip(firsts.tolist(), lasts.tolist(), sizes.tolist(), strict=True)):
        live = np.flatnonzero((firsts[:rank] < last) & (lasts[:rank] > first))
        offset = 0
        if live.size:
            live = live[offsets[live].argsort()]
            floors = np.maximum.accumulate(tops[live])
            gaps = offsets[live]
            gaps[1:] -= floors[:-1]
            roomy = np.flatnonzero(gaps >= size)
            if roomy.size:
                chosen = int(roomy[fit(gaps[roomy])])
                offset = int(floors[chosen - 1]) if chosen else 0
            else:
                offset = int(floors[-1])
        offsets[rank] = offset
        tops[rank] = offset + size
    placed = np.empty_like(offsets)
    placed[ranked] = offsets
    return placed


def greedy_plans(problem: Problem) -> Iterator[tuple[str, NDArray[Any]]]:
    """Yields a plan per order and fit, lazily: the caller stops when one is good enough.

    Args:
        problem: The problem.

    Yields:
        Name of the strategy, such as `"size/best-fit"`, and offsets in units by position.
    """
    for order_name, order in ORDERS.items():
        positions = order(problem)
        for fit_name, fit in FITS.items():
            yield f"{order_name}/{fit_name}", place(problem, positions, fit)
