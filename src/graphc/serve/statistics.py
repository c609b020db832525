"""Counts of every version, as the protocol's statistics have them."""

from __future__ import annotations

import threading
import time
from collections import Counter, defaultdict
from dataclasses import dataclass, field

from graphc.runtime.scheduler import BatchReport
from graphc.serve.departed import Departed
from graphc.serve.facts import BatchTotals, Total, VersionStatistics
from graphc.serve.observer import SUCCESS, Changed, Ended, Observer


class _Sum:
    __slots__ = ("count", "seconds")

    def __init__(self) -> None:
        self.count = 0
        self.seconds = 0.0

    def add(self, seconds: float) -> None:
        self.count += 1
        self.seconds += seconds

    @property
    def total(self) -> Total:
        return Total(self.count, round(self.seconds * 1e9))


class _BatchSums:
    __slots__ = ("infer", "input", "output")

    def __init__(self) -> None:
        self.input, self.infer, self.output = _Sum(), _Sum(), _Sum()


@dataclass
class _Counts:
    last: int = 0
    rows: int = 0
    calls: int = 0
    success: _Sum = field(default_factory=_Sum)
    fail: _Sum = field(default_factory=_Sum)
    queue: _Sum = field(default_factory=_Sum)
    input: _Sum = field(default_factory=_Sum)
    infer: _Sum = field(default_factory=_Sum)
    output: _Sum = field(default_factory=_Sum)
    batches: defaultdict[int, _BatchSums] = field(default_factory=lambda: defaultdict(_BatchSums))
    failures: Counter[str] = field(default_factory=Counter)


class StatisticsObserver(Observer):
    """The observer that every server has."""

    def __init__(self) -> None:
        self._counts: defaultdict[tuple[str, str], _Counts] = defaultdict(_Counts)
        self._lock = threading.Lock()
        self._departed = Departed(self._forget)

    def changed(self, event: Changed) -> None:
        """As `Observer`."""
        self._departed.changed(event)

    def _forget(self, model: str, version: str) -> None:
        with self._lock:
            self._counts.pop((model, version), None)

    def ended(self, event: Ended) -> None:
        """As `Observer`."""
        if event.version is None:
            return
        timings = event.timings
        with self._lock:
            counts = self._counts[event.request.model, event.version]
            counts.last = time.time_ns() // 1_000_000
            if event.reason != SUCCESS:
                counts.fail.add(timings.total)
                counts.failures[event.reason] += 1
                return
            counts.success.add(timings.total)
            counts.queue.add(timings.queue)
            counts.input.add(timings.input)
            counts.infer.add(timings.infer)
            counts.output.add(timings.output)

    def executed(self, model: str, version: str, batch: BatchReport) -> None:
        """As `Observer`."""
        with self._lock:
            counts = self._counts[model, version]
            counts.rows += batch.rows
            counts.calls += 1
            sums = counts.batches[batch.rows]
            sums.input.add(batch.stages.input)
            sums.infer.add(batch.stages.infer)
            sums.output.add(batch.stages.output)

    def of(self, model: str, version: str, pending: int) -> VersionStatistics:
        """A version's counts now."""
        with self._lock:
            counts = self._counts[model, version]
            batches = tuple(
                BatchTotals(rows, sums.input.total, sums.infer.total, sums.output.total)
                for rows, sums in sorted(counts.batches.items())
            )
            return VersionStatistics(
                model,
                version,
                counts.last,
                counts.rows,
                counts.calls,
                counts.success.total,
                counts.fail.total,
                counts.queue.total,
                counts.input.total,
                counts.infer.total,
                counts.output.total,
                batches,
                dict(counts.failures),
                pending,
            )
