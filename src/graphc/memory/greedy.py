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


def place(problem: Problem, order: Sequence[int], fit: Fit, limit: int | None = None) -> NDArray[Any] | None:
    """Places every buffer, in order, into a gap or on top.

    One step costs a scan over the buffers placed before, vectorized, so the whole is quadratic with a small constant:
    ten thousand buffers take well under a second.

    Args:
        problem: The problem.
        order: All positions of the problem, each once.
        fit: Chooses among the gaps that are large enough.
        limit: Units that a plan must stay below to be of interest.

    Returns:
        Offsets in units, by position, or None as soon as a buffer reaches the limit.
    """
    placed = np.zeros_like(problem.size)
    # What is placed so far, sorted by offset, with a column each for first and last clique, offset and top.
    table = np.zeros((4, len(problem)), dtype=problem.size.dtype)
    firsts, lasts, offsets, tops = table
    buffers = zip(order, problem.first[order].tolist(), problem.last[order].tolist(), strict=True)
    for count, (position, first, last) in enumerate(buffers):
        size = problem.size[position]
        live = np.flatnonzero((firsts[:count] < last) & (lasts[:count] > first))
        offset = 0
        if live.size:
            floors = np.maximum.accumulate(tops[live])
            gaps = offsets[live]
            gaps[1:] -= floors[:-1]
            roomy = np.flatnonzero(gaps >= size)
            if roomy.size:
                chosen = int(roomy[fit(gaps[roomy])])
                offset = floors[chosen - 1] if chosen else 0
            else:
                offset = floors[-1]
        if limit is not None and offset + size >= limit:
            return None
        placed[position] = offset
        rank = int(offsets[:count].searchsorted(offset))
        table[:, rank + 1 : count + 1] = table[:, rank:count]
        table[:, rank] = first, last, offset, offset + size
    return placed


def greedy_plans(problem: Problem) -> Iterator[tuple[str, NDArray[Any] | None]]:
    """Yields a plan per order and fit, each with a smaller peak than all before, or None where it has not.

    Lazily: a caller stops when one is good enough.

    Args:
        problem: The problem.

    Yields:
        Name of the strategy, such as `"size/best-fit"`, and offsets in units by position or None; the first is a plan.
    """
    peak: int | None = None
    for order_name, order in ORDERS.items():
        positions = order(problem)
        for fit_name, fit in FITS.items():
            offsets = place(problem, positions, fit, peak)
            if offsets is not None:
                peak = int((offsets + problem.size).max())
            yield f"{order_name}/{fit_name}", offsets
