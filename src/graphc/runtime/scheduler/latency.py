"""How long calls take: what was calibrated, corrected by what is seen."""

from __future__ import annotations

import bisect
from collections import deque
from collections.abc import Mapping

WINDOW = 64
"""Calls of a bucket that count."""

_PRIOR = 16
"""Calls that the calibrated latency counts for."""

_QUANTILE = 0.98
"""Share of the calls in the window that an estimate is not below: promises rest on it, so no mean will do."""

_CALLS = 16
"""Calls, of any bucket, by which the machine is judged to be slower or faster than when it was calibrated."""

_DRIFT = 0.75
"""Share of them that were no slower than it is judged to be."""

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
        self._ratios = deque([1.0] * _CALLS, maxlen=_CALLS)
        self._drift = 1.0

    @property
    def table(self) -> dict[int, float]:
        """The estimates: seconds by bucket."""
        return dict(self._published)

    def observe(self, bucket: int, seconds: float) -> bool:
        """Takes in one call; answers whether the estimates have changed enough to plan anew."""
        window = self._windows[bucket]
        window.add(seconds)
        self._ratios.append(seconds / self._calibrated[bucket])
        drift = sorted(self._ratios)[int(_DRIFT * (_CALLS - 1))]
        # What most calls do is change nothing, and they are many.
        if abs(drift - self._drift) <= _PUBLISHED * self._drift and self._is_near(bucket, window):
            return False
        self._drift, published = drift, self._published
        self._published = {number: self._estimate(number) for number in self._windows}
        return any(abs(self._published[n] - old) > _PUBLISHED * old for n, old in published.items())

    def _is_near(self, bucket: int, window: _Window) -> bool:
        """Whether the estimate is about what is published; of few calls, whether they were no longer than that."""
        old = self._published[bucket]
        if window.seen < _PRIOR:
            return window.worst() <= old
        return window.seen > _PRIOR and abs(window.quantile() - old) <= _PUBLISHED * old

    def _estimate(self, bucket: int) -> float:
        window = self._windows[bucket]
        if window.seen >= _PRIOR:
            return window.quantile()
        return max(self._calibrated[bucket] * self._drift, window.worst())


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
