"""How long calls take: what was calibrated, corrected by what is seen."""

from __future__ import annotations

import bisect
import statistics
from collections import deque
from collections.abc import Mapping

WINDOW = 64
"""Calls of a bucket that count."""

_PRIOR = 16
"""Calls that the calibrated latency counts for."""

_QUANTILE = 0.98
"""Share of the calls in the window that an estimate is not below: promises rest on it, so no mean will do."""

_PUBLISHED = 0.02
"""Relative change below which an estimate stays as it is."""


class Latencies:
    """Latency of each bucket of a queue.

    Estimates are high quantiles over the latest calls. A bucket that has not been used of late is taken to have become
    slower or faster as the others have.

    Args:
        calibrated: Seconds by bucket.
    """

    def __init__(self, calibrated: Mapping[int, float]) -> None:
        self._calibrated = dict(calibrated)
        self._windows = {bucket: _Window(seconds) for bucket, seconds in calibrated.items()}
        self._published = dict(calibrated)

    @property
    def table(self) -> dict[int, float]:
        """The estimates: seconds by bucket."""
        return dict(self._published)

    def observe(self, bucket: int, seconds: float) -> bool:
        """Takes in one call; answers whether the estimates have changed enough to plan anew."""
        window = self._windows[bucket]
        window.add(seconds)
        # What most calls do is change nothing, and they are many.
        if window.seen != _PRIOR and self._is_near(bucket, window):
            return False
        published = self._published
        self._published = self._estimates()
        return any(abs(self._published[n] - old) > _PUBLISHED * old for n, old in published.items())

    def _is_near(self, bucket: int, window: _Window) -> bool:
        """Whether the estimate is about what is published; of few calls, whether they were no longer than that."""
        old = self._published[bucket]
        if window.seen < _PRIOR:
            return window.worst() <= old
        return abs(window.quantile() - old) <= _PUBLISHED * old

    def _estimates(self) -> dict[int, float]:
        drift = [
            window.quantile() / self._calibrated[number]
            for number, window in self._windows.items()
            if window.seen >= _PRIOR
        ]
        scale = statistics.median(drift) if drift else 1.0
        return {
            number: window.quantile()
            if window.seen >= _PRIOR
            else max(self._calibrated[number] * scale, window.worst())
            for number, window in self._windows.items()
        }


class _Window:
    """The latest calls of one bucket, in order of time and of length."""

    def __init__(self, calibrated: float) -> None:
        self._recent = deque([calibrated] * _PRIOR)
        self._sorted = [calibrated] * _PRIOR
        self.seen = 0

    def add(self, seconds: float) -> None:
        self.seen += 1
        self._recent.append(seconds)
        bisect.insort(self._sorted, seconds)
        if len(self._recent) > WINDOW:
            del self._sorted[bisect.bisect_left(self._sorted, self._recent.popleft())]

    def quantile(self) -> float:
        return self._sorted[int(_QUANTILE * (len(self._sorted) - 1))]

    def worst(self) -> float:
        """The longest call that was seen, 0 if none was: too few were for a quantile."""
        return max(list(self._recent)[_PRIOR:], default=0.0) if self.seen < _PRIOR else 0.0
