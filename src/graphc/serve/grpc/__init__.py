"""The protocol over gRPC: a servicer on grpc.aio, held to the server's limits."""

from __future__ import annotations

from graphc.serve.grpc.frontend import GrpcFrontend

__all__ = ["GrpcFrontend"]
