"""How long calls take: what was calibrated, corrected by what is seen."""

from __future__ import annotations

import bisect
from collections import deque
from collections.abc import Mapping

WINDOW = 64
"""Calls of a bucket that count."""

_PRIOR = 16
"""Calls that the calibrated latency counts for."""

_QUANTILE = 0.75
"""Share of the calls in the window that an estimate is not below: what a call typically needs. Not a mean, which one
hiccup would move. What is beyond it is for `Jitter` to know: plans are sums, and tails do not add up."""

_CALLS = 16
"""Calls, of any bucket, by which the machine is judged to be slower or faster than when it was calibrated."""

_DRIFT = 0.75
"""Share of them that were no slower than it is judged to be."""

_PUBLISHED = 0.02
"""Relative change below which an estimate stays as it is."""

_STILL = 2e-5
"""Seconds: changes below that are less than waking a thread takes, and change no plan."""

_LATEST = 7
"""Calls of a bucket whose median is what a choice between buckets rests on."""

_CHOICE = 0.1
"""Relative change below which that stays as it is."""

_RETRIED = 200
"""Times as long as a bucket's calls take, after which it is tried again: what that may cost is a two-hundredth."""

_SURE = 4
"""Calls of a bucket that make sure of what it takes: of fewer all may have been unlucky, where others are at work."""

_TURN = 8
"""Calls after which that is looked at again; at once where a bucket has had none for as many."""


class Latencies:
    """Latency of each bucket of a queue.

    Estimates are quantiles over the latest calls. A bucket that has not been used of late is taken to have become
    slower or faster as the others have: that is what may be promised of it. Whether it did is known only by trying it,
    so for choosing between buckets one that was not used for long is taken to need what was calibrated: calls that are
    slowed down each by as much (by threads to wake, by others to give way to) would else be made for ever, though of
    larger ones there would be fewer.

    Args:
        calibrated: Seconds by bucket.
    """

    def __init__(self, calibrated: Mapping[int, float]) -> None:
        self._calibrated = dict(calibrated)
        self._windows = {bucket: _Window(seconds) for bucket, seconds in calibrated.items()}
        self._published = dict(calibrated)
        self._choice = dict(calibrated)
        self._ratios = deque([1.0] * _CALLS, maxlen=_CALLS)
        self._drift = 1.0
        self._calls = 0
        self._busy = 0.0

    @property
    def table(self) -> dict[int, float]:
        """The estimates: seconds by bucket."""
        return dict(self._published)

    @property
    def choice(self) -> dict[int, float]:
        """Seconds by bucket to choose between them."""
        return dict(self._choice)

    def observe(self, bucket: int, seconds: float) -> bool:
        """Takes in one call; answers whether the estimates have changed enough to plan anew."""
        window = self._windows[bucket]
        self._calls += 1
        self._busy += seconds
        first = self._calls - window.last > _TURN or window.seen < _TURN
        window.add(seconds, self._calls, self._busy)
        chosen = (first or self._calls % _TURN == 0) and self._choose()
        self._ratios.append(seconds / self._calibrated[bucket])
        drift = sorted(self._ratios)[int(_DRIFT * (_CALLS - 1))]
        # What most calls do is change nothing, and they are many.
        moved = abs(drift - self._drift)
        if moved <= max(_PUBLISHED * self._drift, _STILL / self._calibrated[bucket]) and self._is_near(bucket, window):
            return chosen
        self._drift, published = drift, self._published
        self._published = {number: self._estimate(number) for number in self._windows}
        return chosen or _differ(published, self._published, _PUBLISHED)

    def _choose(self) -> bool:
        """Updates what a choice rests on; answers whether that has changed."""
        if len(self._windows) == 1:
            return False
        choice: dict[int, float] = {}
        smaller, before = 0.0, 0.0
        for bucket, window in sorted(self._windows.items()):
            calibrated = self._calibrated[bucket]
            seconds = window.latest() if window.seen else calibrated
            if window.seen < _SURE or self._busy - window.busy >= _RETRIED * seconds:
                seconds = min(seconds, calibrated)
            # What was calibrated to take longer than fewer rows is not quicker now: nothing is padded for that.
            seconds = max(seconds, smaller * min(1.0, calibrated / before) if smaller else 0.0)
            choice[bucket] = seconds
            if seconds > smaller:
                smaller, before = seconds, calibrated
        if not _differ(self._choice, choice, _CHOICE):
            return False
        self._choice = choice
        return True

    def _is_near(self, bucket: int, window: _Window) -> bool:
        """Whether the estimate is about what is published; of few calls, whether they were no longer than that."""
        old = self._published[bucket]
        if window.seen < _PRIOR:
            return window.worst() <= old + _STILL
        return window.seen > _PRIOR and abs(window.quantile() - old) <= max(_PUBLISHED * old, _STILL)

    def _estimate(self, bucket: int) -> float:
        window = self._windows[bucket]
        if window.seen >= _PRIOR:
            return window.quantile()
        return max(self._calibrated[bucket] * self._drift, window.worst())


class _Window:
    """The latest calls of one bucket, in order of time and of length.

    Attributes:
        seen: How many there were.
        last: Number of the latest, among those of all buckets.
        busy: Seconds that calls of all buckets had taken by then.
    """

    def __init__(self, calibrated: float) -> None:
        self._recent = deque([calibrated] * _PRIOR)
        self._sorted = [calibrated] * _PRIOR
        self.seen = 0
        self.last = 0
        self.busy = 0.0
        self._latest: deque[float] = deque(maxlen=_LATEST)

    def add(self, seconds: float, number: int, busy: float) -> None:
        self.seen += 1
        self.last = number
        self.busy = busy
        self._latest.append(seconds)
        self._recent.append(seconds)
        bisect.insort(self._sorted, seconds)
        if len(self._recent) > WINDOW:
            del self._sorted[bisect.bisect_left(self._sorted, self._recent.popleft())]

    def latest(self) -> float:
        """The median of the latest calls."""
        return sorted(self._latest)[(len(self._latest) - 1) // 2]

    def quantile(self) -> float:
        return self._sorted[int(_QUANTILE * (len(self._sorted) - 1))]

    def worst(self) -> float:
        """The longest call that was seen, 0 if none was: too few were for a quantile."""
        return max(list(self._recent)[_PRIOR:], default=0.0) if self.seen < _PRIOR else 0.0


def _differ(old: Mapping[int, float], new: Mapping[int, float], least: float) -> bool:
    return any(abs(new[bucket] - seconds) > max(least * seconds, _STILL) for bucket, seconds in old.items())
