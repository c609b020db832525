"""What happened, for whoever watches: counts by model, and the interface that other observers have."""

from __future__ import annotations

import threading
from collections import Counter, defaultdict
from dataclasses import dataclass, field
from typing import Protocol

from graphc.runtime.scheduler.reply import Stages


@dataclass(frozen=True)
class BatchReport:
    """A batch that has run.

    Args:
        bucket: Rows of the program that ran.
        rows: Of them, rows of requests.
        waits: Seconds that each request waited before the batch started.
        latencies: Seconds from each request to its answer.
        seconds: Of the call itself.
        late: Requests answered after their deadline.
        failed: Requests that ended in an error.
        stages: Where the batch's time went.
    """

    bucket: int
    rows: int
    waits: tuple[float, ...]
    latencies: tuple[float, ...]
    seconds: float
    late: int
    failed: int
    stages: Stages = field(default_factory=Stages)


class Observer(Protocol):
    """Told what happens; must be quick and raise nothing."""

    def accepted(self, model: str) -> None:
        """A request was accepted."""

    def refused(self, model: str, reason: str) -> None:
        """A request was refused: `deadline`, `share`, `queue_full` or `circuit_open`."""

    def cancelled(self, model: str) -> None:
        """A request was cancelled before it ran."""

    def finished(self, model: str, report: BatchReport) -> None:
        """A batch has run."""


@dataclass
class ModelStatistics:
    """Counts of one model since the scheduler was made.

    Args:
        accepted: Requests accepted.
        refused: Requests refused, by reason.
        cancelled: Requests cancelled before they ran.
        answered: Requests that got an answer.
        failed: Requests that got an error.
        late: Of those answered, after their deadline.
        batches: Calls, by the bucket that ran.
        rows: Rows of requests in them.
        padding: Rows of padding in them.
        wait_seconds: That requests waited, summed.
        run_seconds: That calls took, summed.
        latency_seconds: From request to answer, summed.
    """

    accepted: int = 0
    refused: Counter[str] = field(default_factory=Counter)
    cancelled: int = 0
    answered: int = 0
    failed: int = 0
    late: int = 0
    batches: Counter[int] = field(default_factory=Counter)
    rows: int = 0
    padding: int = 0
    wait_seconds: float = 0.0
    run_seconds: float = 0.0
    latency_seconds: float = 0.0


class Statistics:
    """The observer that every scheduler has."""

    def __init__(self) -> None:
        self._models: defaultdict[str, ModelStatistics] = defaultdict(ModelStatistics)
        self._lock = threading.Lock()

    def of(self, model: str) -> ModelStatistics:
        """A model's counts, live."""
        return self._models[model]

    def forget(self, model: str) -> None:
        """Drops the counts of a model that is served no more."""
        self._models.pop(model, None)

    def accepted(self, model: str) -> None:
        """As `Observer`."""
        with self._lock:
            self._models[model].accepted += 1

    def refused(self, model: str, reason: str) -> None:
        """As `Observer`."""
        with self._lock:
            self._models[model].refused[reason] += 1

    def cancelled(self, model: str) -> None:
        """As `Observer`."""
        with self._lock:
            self._models[model].cancelled += 1

    def finished(self, model: str, report: BatchReport) -> None:
        """As `Observer`."""
        with self._lock:
            counts = self._models[model]
            counts.answered += len(report.waits) - report.failed
            counts.failed += report.failed
            counts.late += report.late
            counts.batches[report.bucket] += 1
            counts.rows += report.rows
            counts.padding += report.bucket - report.rows
            counts.wait_seconds += sum(report.waits)
            counts.run_seconds += report.seconds
            counts.latency_seconds += sum(report.latencies)
