"""What Prometheus reads is what happened, to the last request."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from prometheus_client import CollectorRegistry, Histogram
from prometheus_client.openmetrics.parser import text_string_to_metric_families as open_metrics
from prometheus_client.parser import text_string_to_metric_families as plain

from graphc.errors import InputError, ModelNotFoundError, RefusedError
from graphc.runtime.scheduler import ModelSettings
from graphc.serve import InferRequest, ModelServer, ServerSettings
from graphc.serve.facts import State
from graphc.serve.observe.metrics import SECONDS, Metrics
from graphc.serve.observer import Changed, Ended
from graphc.serve.request import InferResponse, Timings
from tests.serve.conftest import Repository

X = np.ones((2, 3), np.float32)
OPEN = "application/openmetrics-text; version=1.0.0"


def serve(root: Path, work: Callable[[ModelServer, Metrics], Awaitable[None]], **settings: float) -> None:
    async def main() -> None:
        metrics = Metrics()
        server = ModelServer(ServerSettings(root, model=ModelSettings(**settings)), [metrics])
        await server.start()
        try:
            await work(server, metrics)
        finally:
            await server.stop()

    asyncio.run(main())


async def scraped(server: ModelServer, metrics: Metrics) -> Callable[..., float | None]:
    """Looks up a sample by its name and labels."""
    _, text = await metrics.scrape(server)
    samples = {
        (sample.name, frozenset(sample.labels.items())): sample.value
        for family in plain(text.decode())
        for sample in family.samples
    }
    return lambda name, **labels: samples.get((name, frozenset(labels.items())))


def test_requests_are_counted_by_how_they_ended_and_where_their_time_went(repository: Repository) -> None:
    async def work(server: ModelServer, metrics: Metrics) -> None:
        for _ in range(3):
            await server.infer(InferRequest("scale", {"x": X}))
        with pytest.raises(InputError):
            await server.infer(InferRequest("scale", {"x": X[:, :2]}))
        with pytest.raises(ModelNotFoundError):
            await server.infer(InferRequest("made-up", {"x": X}))
        scale = {"model": "scale", "version": "1"}
        value = await scraped(server, metrics)
        while value("nv_inference_exec_count", **scale) != 3:  # a batch is reported after its answers have gone out
            await asyncio.sleep(0.001)
            value = await scraped(server, metrics)
        assert value("graphc_requests_total", **scale, outcome="success") == 3
        assert value("graphc_requests_total", **scale, outcome="invalid") == 1
        assert value("graphc_requests_total", model="", version="", outcome="not_found") == 1
        assert value("graphc_requests_in_flight") == 0
        assert value("nv_inference_request_success", **scale) == 3
        assert value("nv_inference_request_failure", **scale, reason="OTHER") == 1
        assert value("nv_inference_request_failure", **scale, reason="REJECTED") == 0
        assert value("nv_inference_count", **scale) == 6
        assert value("nv_inference_pending_request_count", **scale) == 0
        total, infer = (value(f"nv_inference_{name}_duration_us", **scale) for name in ("request", "compute_infer"))
        assert total is not None
        assert infer is not None
        assert 0 < infer < total
        seconds = value("graphc_request_duration_seconds_sum", **scale)
        assert seconds == pytest.approx(total / 1e6, rel=1e-3)
        assert value("graphc_request_duration_seconds_count", **scale) == 3
        for stage in ("queue", "input", "infer", "output"):
            assert value("graphc_stage_duration_seconds_count", **scale, stage=stage) == 3
        assert value("graphc_batch_rows_sum", **scale) == 6
        assert value("graphc_model_state", **scale, state="READY") == 1
        assert value("graphc_model_state", **scale, state="UNAVAILABLE") == 0
        memory = value("process_resident_memory_bytes")
        assert memory is not None
        assert memory > 1e6

    serve(repository(scale={1: 2.0}), work)


def test_refusals_are_counted_exactly(repository: Repository) -> None:
    async def work(server: ModelServer, metrics: Metrics) -> None:
        burst = (server.infer(InferRequest("scale", {"x": X})) for _ in range(200))
        results = await asyncio.gather(*burst, return_exceptions=True)
        assert {type(result) for result in results} == {RefusedError}
        value = await scraped(server, metrics)
        scale = {"model": "scale", "version": "1"}
        assert value("graphc_requests_total", **scale, outcome="refused") == 200
        assert value("nv_inference_request_failure", **scale, reason="REJECTED") == 200
        assert value("nv_inference_request_success", **scale) == 0

    serve(repository(scale={1: 2.0}), work, slo_ms=0.001)  # which no machine can promise


def test_both_formats_are_what_they_say(repository: Repository) -> None:
    async def work(server: ModelServer, metrics: Metrics) -> None:
        await server.infer(InferRequest("scale", {"x": X}))
        kind, text = await metrics.scrape(server, OPEN)
        assert kind.startswith("application/openmetrics-text")
        names = {family.name for family in open_metrics(text.decode())}
        assert {"nv_inference_request_success", "graphc_requests", "graphc_batch_rows"} <= names
        kind, text = await metrics.scrape(server)
        assert kind.startswith("text/plain")
        assert b"\nnv_inference_request_success{" in text

    serve(repository(scale={1: 2.0}), work)


def test_what_clients_make_up_makes_no_series(repository: Repository) -> None:
    async def work(server: ModelServer, metrics: Metrics) -> None:
        _, before = await metrics.scrape(server)
        for number in range(50):
            with pytest.raises(ModelNotFoundError):
                await server.infer(InferRequest(f"model-{number}", {"x": X}))
            with pytest.raises(ModelNotFoundError):
                await server.infer(InferRequest("scale", {"x": X}, version=str(100 + number)))
        _, after = await metrics.scrape(server)
        assert b"model-" not in after
        assert len(after.splitlines()) < len(before.splitlines()) + 12

    serve(repository(scale={1: 2.0}), work)


def test_a_version_that_is_gone_leaves_nothing_behind(repository: Repository) -> None:
    async def work(server: ModelServer, metrics: Metrics) -> None:
        metrics.changed(Changed("old", "7", State.READY, seconds=0.5))
        metrics.changed(Changed("old", "8", State.UNAVAILABLE, "no such file"))
        _, text = await metrics.scrape(server)
        assert b'"old"' not in text
        assert b'graphc_model_loads_total{model="scale",outcome="ready",version="1"} 1.0' in text

    serve(repository(scale={1: 2.0}), work)


def test_versions_that_come_and_go_leave_nothing_behind_where_nobody_scrapes() -> None:
    metrics = Metrics()

    def series() -> int:
        return sum(len(family.samples) for family in metrics.registry.collect())

    def come_and_go(versions: range) -> None:
        for number in versions:
            metrics.changed(Changed("m", str(number), State.READY, seconds=0.1))
            metrics.ended(Ended(InferRequest("m", {}), str(number), "refused", Timings(0.1)))
            metrics.changed(Changed("m", str(number), State.UNAVAILABLE, "unloaded"))

    come_and_go(range(50))
    before = series()
    come_and_go(range(50, 200))
    assert series() == before
    metrics.changed(Changed("m", "199", State.READY))  # it is served again, and others go
    come_and_go(range(200, 250))
    labels = {"model": "m", "version": "199", "outcome": "refused"}
    assert metrics.registry.get_sample_value("graphc_requests_total", labels) == 1


@given(st.lists(st.one_of(st.floats(0, 20), st.sampled_from(SECONDS)), max_size=50))
def test_classes_are_those_of_the_library_s_histogram(latencies: list[float]) -> None:
    metrics = Metrics()
    metrics.changed(Changed("m", "1", State.READY))
    registry = CollectorRegistry()
    theirs = Histogram("graphc_request_duration_seconds", "", ["model", "version"], buckets=SECONDS, registry=registry)
    theirs.labels("m", "1")
    for latency in latencies:
        theirs.labels("m", "1").observe(latency)
        response = InferResponse("m", "1", {})
        metrics.ended(Ended(InferRequest("m", {}), "1", "success", Timings(latency), response))
    labels = {"model": "m", "version": "1"}
    for bound in (*map(str, SECONDS), "+Inf"):
        of_class = {**labels, "le": bound}
        ours = metrics.registry.get_sample_value("graphc_request_duration_seconds_bucket", of_class)
        assert ours == registry.get_sample_value("graphc_request_duration_seconds_bucket", of_class)
    for suffix in ("sum", "count"):
        name = f"graphc_request_duration_seconds_{suffix}"
        assert metrics.registry.get_sample_value(name, labels) == registry.get_sample_value(name, labels)
