"""Which of the buffers at the same offset the search tries first: it decides whether luck comes early.

How long a search takes varies by orders of magnitude with this order, so many short tries in different orders beat one
long try in any of them (Gomes, Selman and Kautz, "Boosting Combinatorial Search Through Randomization", 1998).
"""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from graphc.memory.interval import Problem

Preorder: TypeAlias = Callable[[NDArray[Any]], NDArray[np.int64]]
"""From the unplaced load of each clique to the rank of each buffer by position; the least rank is tried first."""

_NAMED: tuple[tuple[str, ...], ...] = (
    ("contention", "duration", "volume"),
    ("contention", "cliques", "duration"),
    ("contention", "cliques", "area"),
    ("contention", "area", "cliques"),
    ("contention", "volume", "duration"),
    ("cliques", "area", "contention"),
)
# The weight that the logarithm of each measure can have at most in a mixed order, and that of chance.
_WEIGHTS = {"contention": 6.0, "cliques": 1.0, "size": 1.0}
_CHANCE = 0.5


def preorders(problem: Problem) -> Iterator[tuple[str, Preorder]]:
    """Yields orders of the positions without end: first some by one measure after another, then seeded mixtures.

    A buffer's contention follows what is still to be placed, so an order depends on it: where a search splits its
    problem in time, each part is ranked anew.

    Args:
        problem: The problem.

    Yields:
        Name of the order, such as `"contention-duration-volume"` or `"mixture-3"`, and the order; the same each time.
    """
    for names in _NAMED:
        yield "-".join(names), partial(_by_measures, problem, names)
    seed = 0
    while True:
        chance = random.Random(seed)
        weights = {name: most * chance.random() for name, most in _WEIGHTS.items()}
        noise = np.array([_CHANCE * chance.random() for _ in range(len(problem))])
        yield f"mixture-{seed}", partial(_by_mixture, problem, weights, noise)
        seed += 1


def _measure(problem: Problem, name: str, load: NDArray[Any]) -> NDArray[Any]:
    """A buffer's `area` counts its time in cliques, its `volume` as the caller does."""
    cliques = problem.last - problem.first
    match name:
        case "contention":
            measure = problem.contention_of(load)
        case "cliques":
            measure = cliques
        case "area":
            measure = cliques * problem.size
        case "volume":
            measure = problem.duration * problem.size
        case _:
            measure = getattr(problem, name)
    return measure


def _by_measures(problem: Problem, names: Sequence[str], load: NDArray[Any]) -> NDArray[np.int64]:
    rows = np.stack([-_measure(problem, name, load) for name in reversed(names)])
    if rows.dtype == object:  # which lexsort does not take
        columns = list(zip(*rows[::-1].tolist(), strict=True))
        return _ranks(np.array(sorted(range(len(problem)), key=columns.__getitem__)))
    return _ranks(np.lexsort(rows))


def _by_mixture(
    problem: Problem, weights: dict[str, float], noise: NDArray[np.float64], load: NDArray[Any]
) -> NDArray[np.int64]:
    scores = noise.copy()
    for name, weight in weights.items():
        # Buffers of other parts of a problem may have no load left.
        scores += weight * np.log(np.maximum(_measure(problem, name, load).astype(np.float64), 1.0))
    return _ranks((-scores).argsort(kind="stable"))


def _ranks(order: NDArray[Any]) -> NDArray[np.int64]:
    ranks = np.empty(len(order), dtype=np.int64)
    ranks[order] = np.arange(len(order))
    return ranks
