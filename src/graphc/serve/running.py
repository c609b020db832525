"""The life of a serving process: it listens, loads, says that it is ready, and ends when it is told to."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import signal
from collections.abc import Coroutine, Iterator, Sequence
from time import perf_counter
from typing import Any, Protocol

from graphc.serve.core import ModelServer

_log = logging.getLogger(__name__)


class Frontend(Protocol):
    """A protocol that the server is asked in: HTTP, gRPC, metrics. Made with the server that it asks."""

    async def start(self) -> str:
        """Listens; answers where, as a client would write it.

        Raises:
            ListenError: It cannot.
        """

    async def stop(self, grace: float) -> None:
        """Accepts no more connections, and returns when those that it has are answered, or after `grace` seconds."""


async def run(server: ModelServer, frontends: Sequence[Frontend], *, grace: float = 30.0) -> None:
    """Serves until the process is told to end (SIGTERM, SIGINT), then answers what it has accepted.

    Listens before it loads, so that whoever asks is told that it lives and is not ready. A second signal ends at once.

    Args:
        server: Not started yet.
        frontends: Started in this order, stopped together.
        grace: Seconds that requests may take to end.

    Raises:
        ListenError: A frontend cannot listen.
        RepositoryError: The repository cannot be read.
    """
    told = _Signals()
    started: list[Frontend] = []
    with told.handled():
        try:
            places = []
            for frontend in frontends:
                places.append(await frontend.start())
                started.append(frontend)
            await told.unless(server.start())
            if not told.once.is_set():
                _log.info("ready: %s", ", ".join(places) or "nothing listens")
                await told.once.wait()
        finally:
            _log.info("stopping: answering what was accepted, within %g s", grace)
            server.drain()
            await told.unless_again(_stop(server, started, grace))
            await _stop(server, started, 0.0)
            _log.info("stopped")


async def _stop(server: ModelServer, frontends: Sequence[Frontend], grace: float) -> None:
    deadline = perf_counter() + grace
    await asyncio.gather(*(frontend.stop(grace) for frontend in frontends))
    await server.stop(max(0.0, deadline - perf_counter()))


class _Signals:
    """SIGTERM and SIGINT: the first asks to end, the second to end at once."""

    def __init__(self) -> None:
        self.once = asyncio.Event()
        self.again = asyncio.Event()

    @contextlib.contextmanager
    def handled(self) -> Iterator[None]:
        loop = asyncio.get_running_loop()
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, self._tell)
        try:
            yield
        finally:
            for number in (signal.SIGTERM, signal.SIGINT):
                loop.remove_signal_handler(number)

    def _tell(self) -> None:
        (self.again if self.once.is_set() else self.once).set()

    async def unless(self, work: Coroutine[Any, Any, None]) -> None:
        """Does the work, or gives it up at the first signal."""
        await _until(work, self.once)

    async def unless_again(self, work: Coroutine[Any, Any, None]) -> None:
        """Does the work, or gives it up at the second signal."""
        await _until(work, self.again)


async def _until(work: Coroutine[Any, Any, None], event: asyncio.Event) -> None:
    task, told = asyncio.ensure_future(work), asyncio.ensure_future(event.wait())
    try:
        await asyncio.wait((task, told), return_when=asyncio.FIRST_COMPLETED)
    finally:
        told.cancel()
        if not task.done():
            task.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await task
