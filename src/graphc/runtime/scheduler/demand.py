"""How much is asked for and how much was given, as averages that forget."""

from __future__ import annotations

import math


class Decaying:
    """A sum in which an amount counts for less the longer ago it was added: it halves every 0.7 `memory` seconds.

    Args:
        memory: Seconds after which an amount counts for 1/e of itself.
    """

    __slots__ = ("_last", "_memory", "_total")

    def __init__(self, memory: float) -> None:
        self._memory = memory
        self._total = 0.0
        self._last = -math.inf

    def add(self, amount: float, now: float) -> None:
        """Counts `amount` at time `now`; times never run backwards."""
        self._total = self.total(now) + amount
        self._last = now

    def total(self, now: float) -> float:
        """What the sum is at time `now`."""
        if self._total == 0.0:
            return 0.0
        return self._total * math.exp(min(0.0, self._last - now) / self._memory)

    def rate(self, now: float) -> float:
        """Amount a second, of late."""
        return self.total(now) / self._memory


class Dispersion:
    """How bursty arrivals are: variance over mean of how many come in a window; 1 for independent ones.

    Args:
        window: Seconds.
    """

    __slots__ = ("_count", "_end", "_mean", "_square", "_window", "value")

    def __init__(self, window: float) -> None:
        self._window = window
        self._end = -math.inf
        self._count = 0.0
        self._mean = self._square = 0.0
        self.value = 1.0

    def add(self, amount: float, now: float) -> None:
        """Counts `amount` at time `now`."""
        if now >= self._end:
            self._close(now)
        self._count += amount

    def _close(self, now: float) -> None:
        if self._end == -math.inf:
            self._end = now + self._window
            return
        empty = int((now - self._end) / self._window)
        self._learn(self._count)
        for _ in range(min(empty, _WINDOWS)):
            self._learn(0.0)
        self._count = 0.0
        self._end += self._window * (empty + 1)
        if self._mean > 0:
            variance = max(0.0, self._square - self._mean * self._mean)
            self.value = min(max(variance / self._mean, _LEAST), _MOST)

    def _learn(self, count: float) -> None:
        # The first windows start the averages at 1, the variance of independent arrivals.
        if self._mean == 0.0:
            self._mean, self._square = count, count * count + count
            return
        self._mean += (count - self._mean) / _WINDOWS
        self._square += (count * count - self._square) / _WINDOWS


_WINDOWS = 20
"""Windows that the averages remember."""

_LEAST, _MOST = 0.1, 32.0
