"""gRPC's own health protocol, as orchestrators ask it."""

from __future__ import annotations

import asyncio
from typing import Any

import grpc
from grpc_health.v1 import health_pb2, health_pb2_grpc

from graphc.errors import ModelNotFoundError
from graphc.serve.core import ModelServer
from graphc.serve.grpc.servicer import SERVICE

_SECONDS = 1.0
"""Between two looks for those who watch."""


class Health(health_pb2_grpc.HealthServicer):  # type: ignore[misc]
    """Tells whether the server is ready (service ``, or the protocol's), or a model is (service: its name).

    Args:
        server: That is asked about.
    """

    def __init__(self, server: ModelServer) -> None:
        self._server = server

    async def Check(self, request: Any, context: Any) -> Any:  # noqa: N802 - gRPC's name
        """The status now."""
        status = self._status(request.service)
        if status == health_pb2.HealthCheckResponse.SERVICE_UNKNOWN:
            await context.abort(grpc.StatusCode.NOT_FOUND, f"there is no service or model {request.service!r:.80}")
        return health_pb2.HealthCheckResponse(status=status)

    async def Watch(self, request: Any, context: Any) -> None:  # noqa: N802 - gRPC's name
        """The status now, and whenever it changes."""
        told = None
        while True:
            status = self._status(request.service)
            if status != told:
                told = status
                await context.write(health_pb2.HealthCheckResponse(status=status))
            await asyncio.sleep(_SECONDS)

    def _status(self, name: str) -> Any:
        kinds = health_pb2.HealthCheckResponse
        try:
            ready = self._server.ready if name in ("", SERVICE) else self._server.model_ready(name)
        except ModelNotFoundError:
            return kinds.SERVICE_UNKNOWN
        return kinds.SERVING if ready else kinds.NOT_SERVING
