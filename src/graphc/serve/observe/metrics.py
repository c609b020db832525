"""Metrics in Prometheus' format: those that dashboards of Triton Inference Server read, and more exact ones.

Totals of Triton's names are read from the server's own statistics when they are scraped, so that they and the
protocol's statistics cannot disagree, and cost nothing between. What they do not have is counted here.
"""

from __future__ import annotations

import asyncio
import itertools
import threading
from bisect import bisect_left
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence

from prometheus_client import CollectorRegistry, Gauge, ProcessCollector
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily
from prometheus_client.exposition import choose_encoder
from prometheus_client.metrics_core import Metric
from prometheus_client.registry import Collector
from prometheus_client.utils import floatToGoString

import graphc
from graphc.runtime.scheduler import BatchReport
from graphc.serve.core import ModelServer
from graphc.serve.departed import Departed
from graphc.serve.facts import IndexEntry, State, VersionStatistics
from graphc.serve.observer import Changed, Ended, Observer
from graphc.serve.request import InferRequest

STAGES = ("queue", "input", "infer", "output")
SECONDS = (0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0)
"""Upper bounds of the classes that latencies are counted in."""
ROWS = tuple(float(1 << n) for n in range(11))
_LABELS = ("model", "version")
_COUNTERS: tuple[tuple[str, str, Callable[[_Counts], float]], ...] = (
    ("graphc_padding_rows", "Rows of calls that no request asked for", lambda counts: counts.padding),
    ("graphc_late_requests", "Requests accepted and answered after their promise", lambda counts: counts.late),
)
_TRITON_REASONS = {
    "cancelled": "CANCELED",
    "failed": "BACKEND",
    "queue_full": "REJECTED",
    "circuit_open": "REJECTED",
    "refused": "REJECTED",
    "timeout": "REJECTED",
    "unavailable": "REJECTED",
}
"""Its labels of why a request failed; what is not here is OTHER."""


class Metrics(Observer):
    """Counts what happens, by model and version, and writes it for Prometheus.

    A model that the server does not have is counted under no name, so that nobody can make up series without end.
    """

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        self._of: defaultdict[tuple[str, str], _Counts] = defaultdict(_Counts)
        self._models: set[str] = set()
        self._departed = Departed(self._forget)
        self._in_flight = 0
        # Batches end in several threads.
        self._lock = threading.Lock()
        in_flight = Gauge("graphc_requests_in_flight", "Requests that came and have not ended", registry=self.registry)
        in_flight.set_function(lambda: self._in_flight)
        build = Gauge("graphc_build_info", "1; the version is the label", ["version"], registry=self.registry)
        build.labels(graphc.__version__).set(1)
        self._totals = _Totals()
        self.registry.register(self._totals)
        self.registry.register(_Own(self._of))
        ProcessCollector(registry=self.registry)

    async def scrape(self, server: ModelServer, accept: str = "") -> tuple[str, bytes]:
        """The content type and the text of all metrics.

        Args:
            server: Whose statistics are part of them; asked in its event loop, and the text is written in a thread.
            accept: Of the request: OpenMetrics or the plain text format.
        """
        self._totals.statistics, self._totals.index = server.statistics(), server.index()
        present = {(entry.name, entry.version) for entry in self._totals.index}
        for model, version in self._of.keys() - present:
            if version:
                self._forget(model, version)
        encode, content_type = choose_encoder(accept)
        return content_type, await asyncio.to_thread(encode, self.registry)

    def received(self, request: InferRequest) -> None:
        """As `Observer`."""
        self._in_flight += 1

    def ended(self, event: Ended) -> None:
        """As `Observer`."""
        self._in_flight -= 1
        model = event.request.model
        counts = self._of[model if model in self._models else "", event.version or ""]
        counts.outcomes[event.reason] += 1
        if event.response is not None:
            timings = event.timings
            counts.duration.add(timings.total)
            counts.queue.add(timings.queue)
            counts.input.add(timings.input)
            counts.infer.add(timings.infer)
            counts.output.add(timings.output)

    def executed(self, model: str, version: str, batch: BatchReport) -> None:
        """As `Observer`."""
        counts = self._of[model, version]
        with self._lock:
            counts.batch.add(batch.rows)
            counts.padding += batch.bucket - batch.rows
            counts.late += batch.late

    def changed(self, event: Changed) -> None:
        """As `Observer`."""
        self._models.add(event.model)
        self._departed.changed(event)
        counts = self._of[event.model, event.version]
        if event.state is State.READY:
            counts.loads["ready"] += 1
            counts.load_seconds = event.seconds
        elif event.state is State.UNAVAILABLE and event.reason != "unloaded":
            counts.loads["failed"] += 1

    def _forget(self, model: str, version: str) -> None:
        self._of.pop((model, version), None)


class _Distribution:
    """How often values were in each class, and their sum.

    The library's own histogram takes several microseconds for each value, which every request would pay five times.
    """

    __slots__ = ("bounds", "counts", "sum")

    def __init__(self, bounds: tuple[float, ...]) -> None:
        self.bounds = bounds
        self.counts = [0] * (len(bounds) + 1)
        self.sum = 0.0

    def add(self, value: float) -> None:
        self.counts[bisect_left(self.bounds, value)] += 1
        self.sum += value

    def cumulated(self) -> list[tuple[str, float]]:
        """Upper bounds as text, and how many values were no larger."""
        names = [*map(floatToGoString, self.bounds), "+Inf"]
        return list(zip(names, itertools.accumulate(map(float, self.counts)), strict=True))


class _Counts:
    """Of one version."""

    def __init__(self) -> None:
        self.outcomes: Counter[str] = Counter()
        self.loads: Counter[str] = Counter()
        self.duration = _Distribution(SECONDS)
        self.queue, self.input = _Distribution(SECONDS), _Distribution(SECONDS)
        self.infer, self.output = _Distribution(SECONDS), _Distribution(SECONDS)
        self.batch = _Distribution(ROWS)
        self.padding: int = 0
        self.late: int = 0
        self.load_seconds: float | None = None


class _Own(Collector):
    """What is counted here."""

    def __init__(self, of: Mapping[tuple[str, str], _Counts]) -> None:
        self._of = of

    def collect(self) -> Iterable[Metric]:
        """As the library asks for them."""
        versions = list(self._of.items())
        requests = CounterMetricFamily("graphc_requests", "Requests that ended, by how", labels=[*_LABELS, "outcome"])
        loads = CounterMetricFamily("graphc_model_loads", "Loads of a version", labels=[*_LABELS, "outcome"])
        for key, counts in versions:
            for family, found in ((requests, counts.outcomes), (loads, counts.loads)):
                for outcome, count in list(found.items()):
                    family.add_metric([*key, outcome], count)
        yield requests
        yield loads
        known = [(key, counts) for key, counts in versions if key[1]]
        for name, text, value in _COUNTERS:
            counter = CounterMetricFamily(name, text, labels=_LABELS)
            for key, counts in known:
                counter.add_metric(key, value(counts))
            yield counter
        load = GaugeMetricFamily("graphc_model_load_seconds", "That the last load took", labels=_LABELS)
        for key, counts in known:
            if counts.load_seconds is not None:
                load.add_metric(key, counts.load_seconds)
        yield load
        yield from _histograms(known)


def _histograms(known: Sequence[tuple[tuple[str, str], _Counts]]) -> Iterator[Metric]:
    text = "From the arrival of a request to its answer"
    duration = HistogramMetricFamily("graphc_request_duration_seconds", text, labels=_LABELS)
    text = "Of requests answered: waiting, putting the batch together, the call, taking it apart"
    stage = HistogramMetricFamily("graphc_stage_duration_seconds", text, labels=[*_LABELS, "stage"])
    batch = HistogramMetricFamily("graphc_batch_rows", "Rows of requests in a call", labels=_LABELS)
    for key, counts in known:
        duration.add_metric(key, counts.duration.cumulated(), counts.duration.sum)
        batch.add_metric(key, counts.batch.cumulated(), counts.batch.sum)
        for name in STAGES:
            distribution: _Distribution = getattr(counts, name)
            stage.add_metric([*key, name], distribution.cumulated(), distribution.sum)
    yield from (duration, stage, batch)


class _Totals(Collector):
    """What the server counts itself, under Triton's names.

    These are of no declared type: OpenMetrics wants the names of counters to end in `_total`, and those that
    dashboards know do not.
    """

    def __init__(self) -> None:
        self.statistics: Sequence[VersionStatistics] = ()
        self.index: Sequence[IndexEntry] = ()

    def collect(self) -> Iterable[Metric]:
        """As the library asks for them."""
        yield from self._triton()
        yield from self._own()

    def _triton(self) -> Iterator[Metric]:
        for name, text, value in _TRITON:
            metric = _untyped(name, text)
            for each in self.statistics:
                metric.add_sample(name, _labels(each), value(each))
            yield metric
        metric = _untyped("nv_inference_request_failure", "Requests that failed, by reason")
        for each in self.statistics:
            reasons = dict.fromkeys(("REJECTED", "CANCELED", "BACKEND", "OTHER"), 0)
            for reason, count in each.failures.items():
                reasons[_TRITON_REASONS.get(reason, "OTHER")] += count
            for reason, count in reasons.items():
                metric.add_sample(metric.name, {**_labels(each), "reason": reason}, count)
        yield metric
        yield _gauge(
            "nv_inference_pending_request_count",
            "Requests that wait",
            [(_labels(each), each.pending) for each in self.statistics],
        )

    def _own(self) -> Iterator[Metric]:
        yield _gauge(
            "graphc_queue_depth", "Requests that wait", [(_labels(each), each.pending) for each in self.statistics]
        )
        yield _gauge(
            "graphc_model_state",
            "1 for the state that a version is in",
            [
                ({"model": entry.name, "version": entry.version, "state": state.value}, entry.state is state)
                for entry in self.index
                for state in State
            ],
        )


_TRITON: tuple[tuple[str, str, Callable[[VersionStatistics], float]], ...] = (
    ("nv_inference_request_success", "Requests answered", lambda each: each.success.count),
    ("nv_inference_count", "Rows answered", lambda each: each.rows),
    ("nv_inference_exec_count", "Calls of the model", lambda each: each.calls),
    (
        "nv_inference_request_duration_us",
        "Of requests answered, from arrival to end, in sum",
        lambda each: each.success.ns / 1e3,
    ),
    ("nv_inference_queue_duration_us", "That requests answered waited, in sum", lambda each: each.queue.ns / 1e3),
    (
        "nv_inference_compute_input_duration_us",
        "That putting batches together took, for all requests in them",
        lambda each: each.input.ns / 1e3,
    ),
    (
        "nv_inference_compute_infer_duration_us",
        "That calls took, for all requests in them",
        lambda each: each.infer.ns / 1e3,
    ),
    (
        "nv_inference_compute_output_duration_us",
        "That taking batches apart took, for all requests in them",
        lambda each: each.output.ns / 1e3,
    ),
)


def _untyped(name: str, text: str) -> Metric:
    return Metric(name, text, "unknown")


def _labels(each: VersionStatistics) -> dict[str, str]:
    return {"model": each.name, "version": each.version}


def _gauge(name: str, text: str, values: Iterable[tuple[dict[str, str], float]]) -> Metric:
    metric = GaugeMetricFamily(name, text)
    for labels, value in values:
        metric.add_sample(name, labels, float(value))
    return metric
