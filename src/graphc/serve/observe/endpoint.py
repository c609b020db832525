"""The port for whoever watches: metrics, the status page, and what it shows as JSON."""

from __future__ import annotations

import asyncio
import contextlib
import socket
from collections.abc import Iterator

import uvicorn
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from graphc.errors import ListenError
from graphc.serve.core import ModelServer
from graphc.serve.observe.metrics import Metrics
from graphc.serve.observe.recent import Recent
from graphc.serve.observe.status import Status, page

_PAGE_HEADERS = {
    # Nothing from elsewhere, and nothing in it that another page could frame or read.
    "Content-Security-Policy": "default-src 'none'; connect-src 'self'; style-src 'unsafe-inline'; "
    "script-src 'unsafe-inline'; frame-ancestors 'none'; base-uri 'none'",
    "X-Content-Type-Options": "nosniff",
    "Cache-Control": "no-store",
}


def application(server: ModelServer, metrics: Metrics, recent: Recent) -> Starlette:
    """`/metrics` for Prometheus, `/` for people, `/status.json` for either.

    Args:
        server: Which.
        metrics: An observer of it.
        recent: An observer of it.
    """
    status = Status(server, recent)

    async def scrape(request: Request) -> Response:
        content_type, text = await metrics.scrape(server, request.headers.get("accept", ""))
        return Response(text, headers={"Content-Type": content_type})

    async def show(request: Request) -> Response:
        return Response(page(), media_type="text/html", headers=_PAGE_HEADERS)

    async def tell(request: Request) -> Response:
        return JSONResponse(status.snapshot(), headers={"Cache-Control": "no-store"})

    return Starlette(routes=[Route("/metrics", scrape), Route("/", show), Route("/status.json", tell)])


class Endpoint:
    """The frontend that listens for whoever watches.

    Args:
        server: Which.
        metrics: An observer of it.
        recent: An observer of it.
        host: Address to listen on.
        port: 0 for any that is free.
    """

    def __init__(self, server: ModelServer, metrics: Metrics, recent: Recent, *, host: str, port: int) -> None:
        self.host = host
        self.port = port
        config = uvicorn.Config(
            application(server, metrics, recent), log_config=None, access_log=False, lifespan="off", http="httptools"
        )
        self._server = _Quiet(config)
        self._task: asyncio.Task[None] | None = None

    async def start(self) -> str:
        """As `Frontend`."""
        try:
            listener = socket.create_server((self.host, self.port), family=_family(self.host), backlog=64)
        except OSError as error:
            raise ListenError(
                f"metrics cannot listen on {self.host}:{self.port}: {error.strerror or error}",
                hint="--metrics-port picks another port, 0 any that is free",
            ) from error
        self.port = listener.getsockname()[1]
        self._task = asyncio.create_task(self._server.serve([listener]))
        while not self._server.started:
            await asyncio.sleep(0.001)
        return f"http://{self.host}:{self.port}/metrics"

    async def stop(self, grace: float) -> None:
        """As `Frontend`."""
        self._server.should_exit = True
        if self._task is not None:
            await asyncio.wait([self._task], timeout=grace)
            self._server.force_exit = True
            await asyncio.wait([self._task])


class _Quiet(uvicorn.Server):
    """One that leaves signals to the process."""

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        yield


def _family(host: str) -> socket.AddressFamily:
    return socket.AF_INET6 if ":" in host else socket.AF_INET
