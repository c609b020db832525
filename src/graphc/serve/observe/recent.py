"""What the last minute was like: rates, refusals, latencies, by second and version."""

from __future__ import annotations

import math
import threading
import time
from collections import Counter, deque
from collections.abc import Callable
from dataclasses import dataclass, field

from graphc.runtime.scheduler import BatchReport
from graphc.serve.departed import Departed
from graphc.serve.observer import SUCCESS, Changed, Ended, Observer

WINDOW = 60
"""Seconds that are remembered."""
_LEAST = 1e-5
_GROWTH = math.log(1.05)
"""Latencies are counted in classes of 5 %, so that their quantiles are off by no more."""


@dataclass
class Second:
    """One second of one version.

    Attributes:
        at: Which, on the clock of `Recent`.
        outcomes: Requests that ended, by how.
        latencies: Those answered, by class.
        rows: Of requests in calls.
        calls: Made.
    """

    at: int
    outcomes: Counter[str] = field(default_factory=Counter)
    latencies: Counter[int] = field(default_factory=Counter)
    rows: int = 0
    calls: int = 0


@dataclass(frozen=True)
class Summary:
    """The last minute of one version.

    Attributes:
        outcomes: Requests that ended, by how.
        latency: Seconds to the answer, by quantile; empty where nothing was answered.
        rows_per_call: Mean; 0 where nothing was called.
        answered: In each second of the window, oldest first; the one that runs is not in it.
    """

    outcomes: Counter[str]
    latency: dict[str, float]
    rows_per_call: float
    answered: list[int]


class Recent(Observer):
    """Remembers the last minute of every version, in constant memory.

    Args:
        clock: Seconds; monotonic.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._start = int(clock())
        self._lock = threading.Lock()
        self._seconds: dict[tuple[str, str], deque[Second]] = {}
        self._departed = Departed(self._forget)

    def ended(self, event: Ended) -> None:
        """As `Observer`."""
        if event.version is None:
            return
        with self._lock:
            second = self._now(event.request.model, event.version)
            second.outcomes[event.reason] += 1
            if event.response is not None:
                second.latencies[max(0, int(math.log(max(event.timings.total, _LEAST) / _LEAST) / _GROWTH))] += 1

    def executed(self, model: str, version: str, batch: BatchReport) -> None:
        """As `Observer`."""
        with self._lock:
            second = self._now(model, version)
            second.rows += batch.rows
            second.calls += 1

    def changed(self, event: Changed) -> None:
        """As `Observer`."""
        self._departed.changed(event)

    def summary(self, model: str, version: str) -> Summary:
        """The last minute of one version."""
        with self._lock:
            now = int(self._clock())
            seconds = [each for each in self._seconds.get((model, version), ()) if now - WINDOW <= each.at]
            calls = sum(each.calls for each in seconds)
            answered = [0] * WINDOW
            for each in seconds:
                if each.at < now:
                    answered[each.at - now + WINDOW] = each.outcomes[SUCCESS]
            return Summary(
                sum((each.outcomes for each in seconds), Counter()),
                _quantiles(sum((each.latencies for each in seconds), Counter())),
                sum(each.rows for each in seconds) / calls if calls else 0.0,
                answered,
            )

    def seconds(self) -> int:
        """Seconds that summaries are of: the window, or the time since the start where that is less; at least 1."""
        return max(1, min(WINDOW, int(self._clock()) - self._start))

    def _forget(self, model: str, version: str) -> None:
        with self._lock:
            self._seconds.pop((model, version), None)

    def _now(self, model: str, version: str) -> Second:
        at = int(self._clock())
        seconds = self._seconds.get((model, version))
        if seconds is None:
            seconds = self._seconds[model, version] = deque(maxlen=WINDOW + 1)
        if not seconds or seconds[-1].at != at:
            seconds.append(Second(at))
        return seconds[-1]


def _quantiles(classes: Counter[int]) -> dict[str, float]:
    total = classes.total()
    if not total:
        return {}
    found = {}
    for name, share in (("p50", 0.5), ("p90", 0.9), ("p99", 0.99)):
        seen = 0
        for number in sorted(classes):
            seen += classes[number]
            if seen >= share * total:
                # The middle of the class.
                found[name] = _LEAST * math.exp((number + 0.5) * _GROWTH)
                break
    return found
