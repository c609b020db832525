"""The HTTP port: listens, serves, and ends when what it has is answered."""

from __future__ import annotations

import asyncio
import socket

import uvicorn
from starlette.routing import BaseRoute

from graphc.errors import ListenError
from graphc.serve.http.app import HttpApp
from graphc.serve.http.connection import Connection
from graphc.serve.protocol.access import Access
from graphc.serve.protocol.service import Service
from graphc.serve.protocol.tls import Tls

_BACKLOG = 2048
_LAST_WORDS = 0.5
"""Seconds for requests to be refused whose grace is over."""


class HttpFrontend:
    """A port that speaks the protocol over HTTP.

    Args:
        service: What is asked.
        host: To listen on.
        port: Likewise; 0 takes a free one.
        access: What its clients may do.
        tls: Certificates; None for plain HTTP.
        routes: Further ones, looked at before the protocol's; but for those of inference.
    """

    def __init__(
        self,
        service: Service,
        host: str = "127.0.0.1",
        port: int = 8000,
        *,
        access: Access | None = None,
        tls: Tls | None = None,
        routes: list[BaseRoute] | None = None,
    ) -> None:
        self._service = service
        self._host, self.port = host, port
        self._access = access or Access()
        self._tls = tls
        self._app = HttpApp(service, self._access, routes)
        self._server: uvicorn.Server | None = None
        self._ticking: asyncio.Task[None] | None = None
        self._sockets: list[socket.socket] = []

    async def start(self) -> str:
        """Listens; answers the address, as `http://127.0.0.1:8000`.

        Raises:
            ListenError: The port is taken, the address is not this machine's, or a certificate cannot be read.
        """
        limits = self._service.limits
        config = uvicorn.Config(
            self._app,
            http=Connection.of(self._app),
            ws="none",
            lifespan="off",
            log_config=None,
            log_level="error",
            access_log=False,
            server_header=False,
            backlog=_BACKLOG,
            timeout_keep_alive=round(limits.idle_seconds),
        )
        config.load()
        if self._tls is not None:
            config.ssl = self._tls.context()
        self._sockets = [listening(self._host, self.port)]
        self.port = self._sockets[0].getsockname()[1]
        server = uvicorn.Server(config)
        server.lifespan = config.lifespan_class(config)
        await server.startup(sockets=self._sockets)
        self._server = server
        self._ticking = asyncio.ensure_future(server.main_loop())
        host = f"[{self._host}]" if ":" in self._host else self._host
        return f"http{'s' if self._tls else ''}://{host}:{self.port}"

    async def stop(self, grace: float) -> None:
        """Accepts no more connections, and returns when those that it has are answered, or after `grace` seconds."""
        server, ticking = self._server, self._ticking
        if server is None or ticking is None:
            return
        server.should_exit = True
        # Zero would mean to wait for ever.
        server.config.timeout_graceful_shutdown = max(grace, 0.01)  # type: ignore[assignment]
        # Not awaited itself: who gives up waiting here must not cancel it, and may stop the server again.
        await asyncio.wait((ticking,))
        await server.shutdown(sockets=self._sockets)
        if tasks := set(server.server_state.tasks):
            # Cancelled by now: they say so to their clients.
            await asyncio.wait(tasks, timeout=_LAST_WORDS)
        for connection in list(server.server_state.connections):
            connection.transport.close()
        self._server = None


def listening(host: str, port: int) -> socket.socket:
    """A socket that listens there.

    Raises:
        ListenError: It cannot.
    """
    try:
        family = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)[0][0]
        found = socket.socket(family, socket.SOCK_STREAM)
    except OSError as error:
        raise ListenError(f"cannot listen on {host}: {error.strerror}") from None
    try:
        found.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        found.bind((host, port))
        found.listen(_BACKLOG)
        found.setblocking(False)
    except OSError as error:
        found.close()
        raise ListenError(
            f"cannot listen on {host}, port {port}: {error.strerror}", hint="another port? 0 takes a free one"
        ) from None
    return found
