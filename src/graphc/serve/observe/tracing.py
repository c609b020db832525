"""Traces: a span for each request and its stages, part of its client's trace, sent by OpenTelemetry.

What is traced and where it goes is said by OpenTelemetry's own environment variables. Spans are made when a request
has ended, from the times that were taken anyway, so that nothing is done for them while it runs.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING

from graphc.errors import ToolchainError
from graphc.serve.observer import SUCCESS, Ended, Observer

if TYPE_CHECKING:
    from opentelemetry.sdk.trace import TracerProvider

_ENDPOINTS = ("OTEL_EXPORTER_OTLP_TRACES_ENDPOINT", "OTEL_EXPORTER_OTLP_ENDPOINT")
_CLIENT = ("invalid", "not_found", "cancelled")
"""Ends that are no error of the server."""


def wanted(environment: Mapping[str, str] | None = None) -> bool:
    """Whether the environment says where traces go, and does not forbid them."""
    environment = os.environ if environment is None else environment
    if environment.get("OTEL_SDK_DISABLED", "").lower() == "true" or environment.get("OTEL_TRACES_EXPORTER") == "none":
        return False
    return environment.get("OTEL_TRACES_EXPORTER") == "otlp" or any(map(environment.get, _ENDPOINTS))


def otlp_provider() -> TracerProvider:
    """What sends spans in batches, from a thread of its own, over HTTP to where the environment says.

    Raises:
        ToolchainError: OpenTelemetry is not installed.
    """
    try:
        from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
        from opentelemetry.sdk.resources import SERVICE_NAME, Resource
        from opentelemetry.sdk.trace import TracerProvider
        from opentelemetry.sdk.trace.export import BatchSpanProcessor
    except ModuleNotFoundError as error:
        raise ToolchainError(
            f"traces are wanted, and {error.name} is not installed", hint="pip install 'graphc[serve]'"
        ) from error
    # OTEL_SERVICE_NAME wins, as the library merges what the environment says over this.
    named = "OTEL_SERVICE_NAME" in os.environ
    provider = TracerProvider(resource=Resource.create({} if named else {SERVICE_NAME: "graphc"}))
    provider.add_span_processor(BatchSpanProcessor(OTLPSpanExporter()))
    return provider


class Tracing(Observer):
    """Makes the spans.

    A request's span is named `infer MODEL`, of kind server, a child of what its client sent as `traceparent`; below it
    are `queue`, `input`, `infer` and `output`. Whether it is sampled is the provider's sampler's to say, which by
    default follows the client.

    Args:
        provider: Of tracers; `otlp_provider()` if None.
        sampled: Whether a request for a model is traced, asked once for each that ends; all if None.
    """

    def __init__(self, provider: TracerProvider | None = None, sampled: Callable[[str], bool] | None = None) -> None:
        from opentelemetry import trace
        from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

        self._api = trace
        self._sampled = sampled
        self._provider = otlp_provider() if provider is None else provider
        self._tracer = self._provider.get_tracer("graphc.serve")
        self._extract = TraceContextTextMapPropagator().extract

    def close(self) -> None:
        """Sends what is left."""
        self._provider.shutdown()

    def ended(self, event: Ended) -> None:
        """As `Observer`."""
        request, timings = event.request, event.timings
        if self._sampled is not None and not self._sampled(request.model):
            return
        # Durations are of the monotonic clock; only where they lie is of the wall's.
        end = time.time_ns()
        start = end - round(timings.total * 1e9)
        span = self._tracer.start_span(
            f"infer {request.model}",
            context=self._extract(dict(request.client.trace)),
            kind=self._api.SpanKind.SERVER,
            start_time=start,
        )
        if span.is_recording():
            span.set_attributes(
                {
                    "graphc.model": request.model,
                    "graphc.version": event.version or "",
                    "graphc.request_id": request.id,
                    "graphc.outcome": event.reason,
                    "graphc.batch_rows": timings.rows,
                    "rpc.system": request.client.protocol,
                    "client.address": request.client.address,
                }
            )
            if event.reason not in (SUCCESS, *_CLIENT):
                span.set_status(self._api.StatusCode.ERROR, str(event.error))
            inside = self._api.set_span_in_context(span)
            # What is not accounted for lies around the stages: reading the request, handing out the answer.
            known = timings.queue + timings.input + timings.infer + timings.output
            at = max(start, end - round(known * 1e9)) if known else end
            for name in ("queue", "input", "infer", "output"):
                nanoseconds = round(getattr(timings, name) * 1e9)
                if nanoseconds:
                    child = self._tracer.start_span(name, context=inside, start_time=at)
                    at += nanoseconds
                    child.end(at)
        span.end(end)
