"""When requests come, and what they are: seeded streams of (time, queue)."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Iterator

import numpy as np

Arrivals = Iterator[tuple[float, int]]
"""Times in seconds, ascending, and the number of the queue that each request is for."""


def poisson(rate: float, seconds: float, seed: int, queues: int = 1) -> Arrivals:
    """Independent requests, `rate` a second; each is for any queue."""
    return _thinned(rate, seconds, seed, queues, lambda time: 1.0)


def bursts(rate: float, seconds: float, seed: int, size: int = 8, queues: int = 1) -> Arrivals:
    """Requests in groups of `size` at one moment, `rate` requests a second; a group is for one queue."""
    for time, queue in poisson(rate / size, seconds, seed, queues):
        yield from itertools.repeat((time, queue), size)


def diurnal(rate: float, seconds: float, seed: int, queues: int = 1, swing: float = 0.8) -> Arrivals:
    """A day's rise and fall: from (1 - `swing`) to (1 + `swing`) times `rate`, once over the whole time."""
    return _thinned(
        rate, seconds, seed, queues, lambda time: 1 - swing * math.cos(2 * math.pi * time / seconds), 1 + swing
    )


def interleaved(rate: float, seconds: float, seed: int, queues: int = 4) -> Arrivals:
    """Independent requests whose shapes take turns: what a queue of one line can batch nothing of."""
    for number, (time, _) in enumerate(poisson(rate, seconds, seed)):
        yield time, number % queues


def _thinned(
    rate: float, seconds: float, seed: int, queues: int, profile: Callable[[float], float], peak: float = 1.0
) -> Arrivals:
    """A Poisson process whose rate follows `profile` (at most `peak`), by thinning (Lewis and Shedler, 1979)."""
    rng = np.random.default_rng(seed)
    time = 0.0
    while True:
        time += rng.exponential(1 / (rate * peak))
        if time >= seconds:
            return
        if peak == 1.0 or rng.uniform(0, peak) < profile(time):
            yield time, int(rng.integers(queues))
