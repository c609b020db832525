"""Which of the buffers at the same offset the search tries first: it decides whether luck comes early.

How long a search takes varies by orders of magnitude with this order, so many short tries in different orders beat one
long try in any of them (Gomes, Selman and Kautz, "Boosting Combinatorial Search Through Randomization", 1998).
"""

from __future__ import annotations

import random
from collections.abc import Iterator

import numpy as np

from graphc.memory.interval import Problem

_NAMED: tuple[tuple[str, ...], ...] = (
    ("contention", "duration", "area"),
    ("contention", "area", "duration"),
    ("duration", "area", "contention"),
    ("size", "duration", "contention"),
)
# The weight that the logarithm of each measure can have at most in a mixed order, and that of chance.
_WEIGHTS = {"contention": 6.0, "duration": 1.0, "size": 1.0}
_CHANCE = 0.5


def preorders(problem: Problem) -> Iterator[tuple[str, list[int]]]:
    """Yields orders of the positions without end: first some by one measure after another, then seeded mixtures.

    Args:
        problem: The problem.

    Yields:
        Name of the order, such as `"contention-duration"` or `"mixture-3"`, and the order; the same in every run.
    """
    duration = problem.last - problem.first
    measures = {
        "contention": problem.contention,
        "duration": duration,
        "area": duration * problem.size,
        "size": problem.size,
    }
    for names in _NAMED:
        rows = list(zip(*((-measures[name]).tolist() for name in names), strict=True))
        yield "-".join(names[:2]), sorted(range(len(problem)), key=rows.__getitem__)
    logarithms = {name: np.log(measures[name].astype(np.float64)) for name in _WEIGHTS}
    seed = 0
    while True:
        chance = random.Random(seed)
        scores = np.zeros(len(problem))
        for name, most in _WEIGHTS.items():
            scores += most * chance.random() * logarithms[name]
        scores += [_CHANCE * chance.random() for _ in range(len(problem))]
        yield f"mixture-{seed}", (-scores).argsort(kind="stable").tolist()
        seed += 1
