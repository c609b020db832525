"""Metrics in Prometheus' format: those that dashboards of Triton Inference Server read, and more exact ones.

Totals of Triton's names are read from the server's own statistics when they are scraped, so that they and the
protocol's statistics cannot disagree, and cost nothing between. Distributions are kept here.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import cached_property

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, ProcessCollector
from prometheus_client.core import GaugeMetricFamily
from prometheus_client.exposition import choose_encoder
from prometheus_client.metrics_core import Metric
from prometheus_client.registry import Collector

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
        self._of: dict[tuple[str, str], _Series] = {}
        self._families = _Families(self.registry)
        self._models: set[str] = set()
        self._departed = Departed(self._forget)
        self._in_flight = 0
        Gauge(
            "graphc_requests_in_flight", "Requests that came and have not ended", registry=self.registry
        ).set_function(lambda: self._in_flight)
        Gauge("graphc_build_info", "1; the version is the label", ["version"], registry=self.registry).labels(
            graphc.__version__
        ).set(1)
        self._totals = _Totals()
        self.registry.register(self._totals)
        ProcessCollector(registry=self.registry)

    async def scrape(self, server: ModelServer, accept: str = "") -> tuple[str, bytes]:
        """The content type and the text of all metrics.

        Args:
            server: Whose statistics are part of them; asked in its event loop, and the text is written in a thread.
            accept: Of the request: OpenMetrics or the plain text format.
        """
        self._totals.statistics, self._totals.index = server.statistics(), server.index()
        present = {(entry.name, entry.version) for entry in self._totals.index}
        for key in self._of.keys() - present:
            if key[1]:
                self._forget(*key)
        encode, content_type = choose_encoder(accept)
        return content_type, await asyncio.to_thread(encode, self.registry)

    def received(self, request: InferRequest) -> None:
        """As `Observer`."""
        self._in_flight += 1

    def ended(self, event: Ended) -> None:
        """As `Observer`."""
        self._in_flight -= 1
        model = event.request.model
        series = self._series(model if model in self._models else "", event.version or "")
        series.requests(event.reason)
        if event.response is not None:
            timings = event.timings
            series.duration.observe(timings.total)
            for stage, seconds in zip(
                series.stages, (timings.queue, timings.input, timings.infer, timings.output), strict=True
            ):
                stage.observe(seconds)

    def executed(self, model: str, version: str, batch: BatchReport) -> None:
        """As `Observer`."""
        series = self._series(model, version)
        series.batch.observe(batch.rows)
        series.padding.inc(batch.bucket - batch.rows)
        series.late.inc(batch.late)

    def changed(self, event: Changed) -> None:
        """As `Observer`."""
        self._models.add(event.model)
        self._departed.changed(event)
        series = self._series(event.model, event.version)
        if event.state is State.READY:
            series.loads("ready")
            series.load.set(event.seconds)
        elif event.state is State.UNAVAILABLE and event.reason != "unloaded":
            series.loads("failed")

    def _forget(self, model: str, version: str) -> None:
        if self._of.pop((model, version), None) is not None:
            self._families.remove(model, version)

    def _series(self, model: str, version: str) -> _Series:
        found = self._of.get((model, version))
        if found is None:
            # Two threads may make it at once; the library gives both the same children.
            found = self._of[model, version] = _Series(self._families, model, version)
        return found


class _Families:
    """The metrics that are kept here."""

    def __init__(self, registry: CollectorRegistry) -> None:
        labels = ["model", "version"]
        self.requests = Counter(
            "graphc_requests", "Requests that ended, by how", [*labels, "outcome"], registry=registry
        )
        self.duration = Histogram(
            "graphc_request_duration_seconds",
            "From the arrival of a request to its answer",
            labels,
            buckets=SECONDS,
            registry=registry,
        )
        self.stage = Histogram(
            "graphc_stage_duration_seconds",
            "Of requests answered: waiting, putting the batch together, the call, taking it apart",
            [*labels, "stage"],
            buckets=SECONDS,
            registry=registry,
        )
        self.batch = Histogram(
            "graphc_batch_rows", "Rows of requests in a call", labels, buckets=ROWS, registry=registry
        )
        self.padding = Counter(
            "graphc_padding_rows", "Rows of calls that no request asked for", labels, registry=registry
        )
        self.late = Counter(
            "graphc_late_requests", "Requests accepted and answered after their promise", labels, registry=registry
        )
        self.loads = Counter("graphc_model_loads", "Loads of a version", [*labels, "outcome"], registry=registry)
        self.load = Gauge("graphc_model_load_seconds", "That the last load took", labels, registry=registry)

    def remove(self, model: str, version: str) -> None:
        """Lets go of a version that the repository no longer has."""
        labels = {"model": model, "version": version}
        for family in (
            self.requests,
            self.duration,
            self.stage,
            self.batch,
            self.padding,
            self.late,
            self.loads,
            self.load,
        ):
            family.remove_by_labels(labels)


class _Series:
    """Those of one version, each looked up once, when it is first needed."""

    def __init__(self, families: _Families, model: str, version: str) -> None:
        self._families = families
        self._labels = model, version
        self._outcomes: dict[str, Counter] = {}

    @cached_property
    def duration(self) -> Histogram:
        return self._families.duration.labels(*self._labels)

    @cached_property
    def stages(self) -> tuple[Histogram, ...]:
        return tuple(self._families.stage.labels(*self._labels, stage) for stage in STAGES)

    @cached_property
    def batch(self) -> Histogram:
        return self._families.batch.labels(*self._labels)

    @cached_property
    def padding(self) -> Counter:
        return self._families.padding.labels(*self._labels)

    @cached_property
    def late(self) -> Counter:
        return self._families.late.labels(*self._labels)

    @cached_property
    def load(self) -> Gauge:
        return self._families.load.labels(*self._labels)

    def requests(self, outcome: str) -> None:
        counter = self._outcomes.get(outcome)
        if counter is None:
            counter = self._outcomes[outcome] = self._families.requests.labels(*self._labels, outcome)
        counter.inc()

    def loads(self, outcome: str) -> None:
        self._families.loads.labels(*self._labels, outcome).inc()


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
