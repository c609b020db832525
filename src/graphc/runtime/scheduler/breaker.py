"""A model that keeps failing is left alone for a while."""

from __future__ import annotations

import math


class Breaker:
    """Opens after several failures in a row, for longer each time; lets one batch through to see whether it closes.

    Pure: times are seconds, handed in.

    Args:
        failures: In a row, after which it opens.
        cooldown: Seconds that it stays open the first time; twice as long each further time.
        longest: Seconds at most.
    """

    def __init__(self, failures: int = 5, cooldown: float = 1.0, longest: float = 60.0) -> None:
        self.failures = failures
        self.cooldown = cooldown
        self.longest = longest
        self._row = 0
        self._opened = 0
        self._until = -math.inf
        self._trying = False

    def wait(self, now: float) -> float:
        """Seconds until a request may be let through; 0 lets it through.

        Where the time is over, the one request that asks is the trial, and others wait for its end.
        """
        if not self._opened:
            return 0.0
        if now < self._until:
            return self._until - now
        if self._trying:
            return self.cooldown
        self._trying = True
        return 0.0

    def abandoned(self) -> None:
        """The trial never ran (it was refused or cancelled): the next request is the trial."""
        self._trying = False

    def succeeded(self) -> None:
        """A batch was answered."""
        self._row = self._opened = 0
        self._trying = False

    def failed(self, now: float) -> None:
        """A batch failed."""
        self._row += 1
        if self._opened or self._row >= self.failures:
            self._until = now + min(self.longest, self.cooldown * 2.0**self._opened)
            self._opened += 1
            self._trying = False
