"""All that watches a server, put together."""

from __future__ import annotations

from graphc.serve.core import ModelServer
from graphc.serve.observe.audit import AuditLog
from graphc.serve.observe.endpoint import Endpoint
from graphc.serve.observe.logs import RequestLog
from graphc.serve.observe.metrics import Metrics
from graphc.serve.observe.recent import Recent
from graphc.serve.observe.tracing import Tracing, wanted
from graphc.serve.observer import Observer
from graphc.serve.protocol.settings import TraceSettings


class Watching:
    """Metrics, the status page, the log of requests; traces where the environment says where they go.

    Args:
        audit: An audit log, if one is kept.
    """

    def __init__(self, audit: AuditLog | None = None) -> None:
        self.metrics = Metrics()
        self.recent = Recent()
        self.audit = audit
        self.trace_settings = TraceSettings(available=wanted())
        self.tracing = Tracing(sampled=self.trace_settings.sample) if wanted() else None
        optional = [observer for observer in (self.tracing, audit) if observer is not None]
        # The log first: what the others say about a request then has its id.
        self.observers: list[Observer] = [RequestLog(), self.metrics, self.recent, *optional]

    def endpoint(self, server: ModelServer, *, host: str, port: int) -> Endpoint:
        """The frontend that shows it.

        Args:
            server: That has these observers.
            host: Address to listen on.
            port: 0 for any that is free.
        """
        return Endpoint(server, self.metrics, self.recent, host=host, port=port)

    def close(self) -> None:
        """Sends and writes what is left."""
        if self.tracing is not None:
            self.tracing.close()
        if self.audit is not None:
            self.audit.close()
