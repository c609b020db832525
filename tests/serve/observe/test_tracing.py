"""Traces: a request is part of its client's trace, its stages lie within it, and without traces nothing is done."""

from __future__ import annotations

import asyncio
import gzip
import http.server
import itertools
import subprocess
import sys
import threading
from collections.abc import Iterator

import numpy as np
import pytest
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest
from opentelemetry.sdk.trace import ReadableSpan, TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from opentelemetry.trace import SpanKind, StatusCode

from graphc.errors import RefusedError
from graphc.serve import InferRequest, ModelServer, ServerSettings
from graphc.serve.observe.tracing import Tracing, otlp_provider, wanted
from graphc.serve.observer import Ended
from graphc.serve.protocol.settings import TraceSettings
from graphc.serve.request import Client, InferResponse, Timings
from tests.serve.conftest import Repository

TRACE = "0af7651916cd43dd8448eb211c80319c"
PARENT = "b7ad6b7169203331"
SAMPLED = Client("http", "127.0.0.1:9", trace={"traceparent": f"00-{TRACE}-{PARENT}-01"})
UNSAMPLED = Client("http", "127.0.0.1:9", trace={"traceparent": f"00-{TRACE}-{PARENT}-00"})


@pytest.fixture
def spans() -> InMemorySpanExporter:
    return InMemorySpanExporter()


@pytest.fixture
def tracing(spans: InMemorySpanExporter) -> Tracing:
    provider = TracerProvider()
    provider.add_span_processor(SimpleSpanProcessor(spans))
    return Tracing(provider)


def answered(client: Client = SAMPLED) -> Ended:
    timings = Timings(0.050, queue=0.010, input=0.001, infer=0.030, output=0.002, rows=4)
    return Ended(InferRequest("m", {}, client=client), "1", "success", timings, InferResponse("m", "1", {}))


def test_a_request_is_part_of_its_clients_trace(
    repository: Repository, tracing: Tracing, spans: InMemorySpanExporter
) -> None:
    async def main() -> None:
        server = ModelServer(ServerSettings(repository(scale={1: 2.0})), [tracing])
        await server.start()
        await server.infer(InferRequest("scale", {"x": np.ones((1, 3), np.float32)}, id="r1", client=SAMPLED))
        await server.stop()

    asyncio.run(main())
    found = {span.name: span for span in spans.get_finished_spans()}
    request = found.pop("infer scale")
    assert request.kind is SpanKind.SERVER
    assert request.parent is not None
    assert f"{request.context.trace_id:032x}" == TRACE
    assert f"{request.parent.span_id:016x}" == PARENT
    assert request.attributes is not None
    assert request.attributes["graphc.version"] == "1"
    assert request.attributes["graphc.request_id"] == "r1"
    assert "infer" in found
    for stage in found.values():
        assert stage.parent is not None
        assert stage.parent.span_id == request.context.span_id


def test_stages_follow_each_other_within_the_request(tracing: Tracing, spans: InMemorySpanExporter) -> None:
    tracing.ended(answered())
    *stages, request = spans.get_finished_spans()
    assert [span.name for span in stages] == ["queue", "input", "infer", "output"]

    def times(span: ReadableSpan) -> tuple[int, int]:
        assert span.start_time is not None
        assert span.end_time is not None
        return span.start_time, span.end_time

    begin, end = times(request)
    assert end - begin == 50_000_000
    assert [times(span)[1] - times(span)[0] for span in stages] == [10_000_000, 1_000_000, 30_000_000, 2_000_000]
    assert begin <= times(stages[0])[0]
    assert all(times(a)[1] == times(b)[0] for a, b in itertools.pairwise(stages))
    assert times(stages[-1])[1] <= end


@pytest.mark.parametrize("header", [{}, {"traceparent": "nonsense"}, {"traceparent": f"00-{'0' * 32}-{PARENT}-01"}])
def test_without_a_trace_of_the_client_it_is_one_of_its_own(
    tracing: Tracing, spans: InMemorySpanExporter, header: dict[str, str]
) -> None:
    tracing.ended(answered(Client("grpc", trace=header)))
    assert spans.get_finished_spans()[-1].parent is None


def test_what_the_client_does_not_sample_is_not_sampled(tracing: Tracing, spans: InMemorySpanExporter) -> None:
    tracing.ended(answered(UNSAMPLED))
    assert spans.get_finished_spans() == ()


@pytest.mark.parametrize(
    ("reason", "status"), [("refused", StatusCode.ERROR), ("failed", StatusCode.ERROR), ("invalid", StatusCode.UNSET)]
)
def test_errors_of_the_server_are_errors(
    tracing: Tracing, spans: InMemorySpanExporter, reason: str, status: StatusCode
) -> None:
    error = RefusedError("late", retry_after=1)
    tracing.ended(Ended(InferRequest("m", {}), "1", reason, Timings(0.001), error=error))
    (span,) = spans.get_finished_spans()
    assert span.status.status_code is status


@pytest.mark.parametrize(
    ("environment", "answer"),
    [
        ({}, False),
        ({"OTEL_EXPORTER_OTLP_ENDPOINT": "http://c:4318"}, True),
        ({"OTEL_EXPORTER_OTLP_TRACES_ENDPOINT": "http://c:4318/v1/traces"}, True),
        ({"OTEL_TRACES_EXPORTER": "otlp"}, True),
        ({"OTEL_TRACES_EXPORTER": "none", "OTEL_EXPORTER_OTLP_ENDPOINT": "http://c:4318"}, False),
        ({"OTEL_SDK_DISABLED": "true", "OTEL_EXPORTER_OTLP_ENDPOINT": "http://c:4318"}, False),
    ],
)
def test_the_environment_decides(environment: dict[str, str], answer: bool) -> None:
    assert wanted(environment) is answer


class Collector(http.server.BaseHTTPRequestHandler):
    """Takes what exporters send."""

    received: list[ExportTraceServiceRequest]

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers["Content-Length"]))
        if self.headers.get("Content-Encoding") == "gzip":
            body = gzip.decompress(body)
        self.received.append(ExportTraceServiceRequest.FromString(body))
        self.send_response(200)
        self.send_header("Content-Length", "0")
        self.end_headers()

    def log_message(self, format: str, *args: object) -> None:
        """Says nothing."""


@pytest.fixture
def collector() -> Iterator[http.server.ThreadingHTTPServer]:
    Collector.received = []
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Collector)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield server
    server.shutdown()
    server.server_close()


def test_spans_reach_a_collector(collector: http.server.ThreadingHTTPServer, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", f"http://127.0.0.1:{collector.server_port}")
    monkeypatch.setenv("OTEL_RESOURCE_ATTRIBUTES", "deployment.environment=test")
    tracing = Tracing(otlp_provider())
    tracing.ended(answered())
    tracing.close()
    (sent,) = Collector.received
    (resource,) = sent.resource_spans
    attributes = {attribute.key: attribute.value.string_value for attribute in resource.resource.attributes}
    assert attributes["service.name"] == "graphc"
    assert attributes["deployment.environment"] == "test"
    assert {span.name for scope in resource.scope_spans for span in scope.spans} == {
        "infer m", "queue", "input", "infer", "output"
    }  # fmt: skip


def test_nothing_is_imported_where_no_traces_are_wanted() -> None:
    code = "import sys, graphc.serve.observe.tracing; sys.exit(any(m.startswith('opentelemetry') for m in sys.modules))"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_settings_of_the_protocol_say_how_many(spans: InMemorySpanExporter) -> None:
    provider = TracerProvider()
    provider.add_span_processor(SimpleSpanProcessor(spans))
    settings = TraceSettings(available=True)
    tracing = Tracing(provider, settings.sample)
    for changes, wanted_spans in (({"trace_rate": "5"}, 4), ({"trace_rate": None, "trace_count": "3"}, 3)):
        spans.clear()
        settings.update(changes)
        for _ in range(20):
            tracing.ended(answered())
        assert [span.name for span in spans.get_finished_spans()].count("infer m") == wanted_spans
    settings.update({"trace_level": "OFF", "trace_count": None})
    spans.clear()
    tracing.ended(answered())
    assert not spans.get_finished_spans()
