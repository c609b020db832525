"""The gRPC port: listens, serves, and ends when what it has is answered."""

from __future__ import annotations

from typing import Any

import grpc
from grpc_health.v1 import health, health_pb2_grpc
from grpc_reflection.v1alpha import reflection

from graphc.errors import ListenError, OptionError
from graphc.serve.grpc.health import Health
from graphc.serve.grpc.servicer import SERVICE, Servicer
from graphc.serve.protocol.access import Access
from graphc.serve.protocol.service import Service
from graphc.serve.protocol.tls import Tls

_COMPRESSIONS = {
    "none": grpc.Compression.NoCompression,
    "deflate": grpc.Compression.Deflate,
    "gzip": grpc.Compression.Gzip,
}


class GrpcFrontend:
    """A port that speaks the protocol over gRPC, with gRPC's health and reflection services.

    Args:
        service: What is asked.
        host: To listen on.
        port: Likewise; 0 takes a free one.
        access: What its clients may do.
        tls: Certificates; None for plain gRPC.
        compression: Of answers: `none`, `deflate` or `gzip`. Requests may be compressed in any case.

    Raises:
        OptionError: There is no such compression.
    """

    def __init__(
        self,
        service: Service,
        host: str = "127.0.0.1",
        port: int = 8001,
        *,
        access: Access | None = None,
        tls: Tls | None = None,
        compression: str = "none",
    ) -> None:
        self._service = service
        self._host, self.port = host, port
        self._access = access or Access()
        self._tls = tls
        if compression not in _COMPRESSIONS:
            raise OptionError(f"compression is {compression!r}; expected one of {', '.join(_COMPRESSIONS)}")
        self._compression = _COMPRESSIONS[compression]
        self._server: Any = None

    async def start(self) -> str:
        """Listens; answers the address, as `grpc://127.0.0.1:8001`.

        Raises:
            ListenError: The port is taken, the address is not this machine's, or a certificate cannot be read.
        """
        limits = self._service.limits
        server = grpc.aio.server(
            options=[
                ("grpc.max_receive_message_length", limits.body_bytes),
                ("grpc.max_send_message_length", -1),
                ("grpc.max_metadata_size", limits.header_bytes),
                ("grpc.absolute_max_metadata_size", 2 * limits.header_bytes),
                # Two servers on one port would share it in silence.
                ("grpc.so_reuseport", 0),
                ("grpc.keepalive_time_ms", 60_000),
                ("grpc.keepalive_timeout_ms", 20_000),
                ("grpc.http2.min_ping_interval_without_data_ms", 10_000),
            ],
            compression=self._compression,
            maximum_concurrent_rpcs=limits.connections,
        )
        certified = self._tls is not None and self._tls.client_authority is not None
        servicer = Servicer(self._service, self._access, certified=certified)
        server.add_generic_rpc_handlers((servicer.handler(),))
        health_pb2_grpc.add_HealthServicer_to_server(Health(self._service.server), server)
        reflection.enable_server_reflection((SERVICE, health.SERVICE_NAME, reflection.SERVICE_NAME), server)
        host = f"[{self._host}]" if ":" in self._host else self._host
        place = f"{host}:{self.port}"
        credentials = None if self._tls is None else _credentials(self._tls)
        try:
            bound = (
                server.add_insecure_port(place) if credentials is None else server.add_secure_port(place, credentials)
            )
        except RuntimeError:
            bound = 0
        if not bound:
            raise ListenError(
                f"cannot listen on {self._host}, port {self.port}: it is taken, or not this machine's",
                hint="another port? 0 takes a free one",
            )
        self.port = bound
        await server.start()
        self._server = server
        return f"grpc{'s' if self._tls else ''}://{host}:{self.port}"

    async def stop(self, grace: float) -> None:
        """Accepts no more calls, and returns when those that it has are answered, or after `grace` seconds."""
        if self._server is not None:
            await self._server.stop(grace)
            self._server = None


def _credentials(tls: Tls) -> Any:
    certificate, key, authority = tls.contents()
    return grpc.ssl_server_credentials([(key, certificate)], authority, require_client_auth=authority is not None)
