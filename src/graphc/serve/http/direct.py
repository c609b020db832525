"""An inference request answered by its connection itself: what ASGI costs would be most of what it costs at all.

Between a connection and an application, ASGI has a task, a queue of messages, an event and two timers for each request,
and another task to hear of a client that goes away. Here the connection puts the body together, one task answers, and
the connection cancels it where the client goes away.
"""

from __future__ import annotations

import asyncio
import re
from asyncio.events import TimerHandle
from collections.abc import Awaitable, Callable, Sequence
from time import perf_counter
from typing import Any, TypeVar

from uvicorn.protocols.http.flow_control import FlowControl
from uvicorn.protocols.http.httptools_impl import STATUS_LINE

from graphc.errors import GraphcError, RequestTimeoutError
from graphc.serve.http.exchange import DisconnectedError, Exchange
from graphc.serve.protocol.budget import Budget
from graphc.serve.protocol.limits import RequestLimits
from graphc.serve.protocol.tensors import Buffer, joined

T = TypeVar("T")

_PATH = re.compile(rb"/v2/models/([^/?#%\x80-\xff]+)(?:/versions/([^/?#%\x80-\xff]+))?/infer")
_UNUSUAL = frozenset({b"expect", b"upgrade", b"x-forwarded-for", b"x-forwarded-proto"})
"""Headers that uvicorn and its middleware see to."""

_PART = 64
"""Bytes that a part of a body takes at least, as an object: chunks may be of one byte each."""


def inference(method: bytes, url: bytes, headers: Sequence[tuple[bytes, bytes]]) -> tuple[str, str | None] | None:
    """The model and the version that a request is for; None where it is no inference, or one out of the ordinary."""
    if method != b"POST":
        return None
    found = _PATH.fullmatch(url)
    if found is None or any(name in _UNUSUAL for name, _ in headers):
        return None
    model, version = found.groups()
    return model.decode("ascii"), None if version is None else version.decode("ascii")


class DirectExchange(Exchange):
    """An exchange with a connection of uvicorn's, which takes it for its cycle: hence some of its names.

    Args:
        transport: Of the connection.
        flow: Likewise.
        head: Headers of every answer.
        ended: Called when the answer is complete.
        keep_alive: Whether the connection outlives the answer.
        headers: Of the request, names in lower case.
        peer: Host and port of the client.
        limits: Of the request.
        budget: Of what all requests hold.

    Attributes:
        keep_alive: As given; set back where the server ends.
        disconnected: Whether the client has gone.
        response_complete: Whether the answer is.
    """

    def __init__(
        self,
        transport: asyncio.Transport,
        flow: FlowControl,
        head: Sequence[tuple[bytes, bytes]],
        ended: Callable[[], None],
        *,
        keep_alive: bool,
        headers: Sequence[tuple[bytes, bytes]],
        peer: tuple[str, int] | None,
        limits: RequestLimits,
        budget: Budget,
    ) -> None:
        super().__init__(headers, peer, limits, budget)
        self.keep_alive = keep_alive
        self.disconnected = self.response_complete = False
        self._transport, self._flow, self._head, self._ended = transport, flow, head, ended
        self._parts: list[bytes] = []
        self._size = 0
        self._came = self.arrived
        self._problem: GraphcError | None = None
        self._waiting: asyncio.Future[None] | None = None
        self._timer: TimerHandle | None = None
        self._working: asyncio.Task[Any] | None = None

    # ---------------------------------------------------------------- what the connection tells

    @property
    def message_event(self) -> DirectExchange:
        """Whom the connection tells that it has set `disconnected`."""
        return self

    def take(self, part: bytes) -> None:
        """A part of the body came."""
        if self._problem is not None:
            return
        self._size += len(part)
        self._came = perf_counter()
        try:
            if self._size > self.limits.body_bytes:
                raise self._too_large()
            self._hold(max(len(part), _PART))
        except GraphcError as error:
            self._fail(error)
        else:
            self._parts.append(part)

    def complete(self) -> None:
        """All of the body has come."""
        self._whole = True
        self._wake()

    def set(self) -> None:
        """The client has gone."""
        if self.disconnected:
            self._wake()
            if self._working is not None:
                self._working.cancel()

    # ---------------------------------------------------------------- the body

    async def _read(self) -> Buffer:
        if not (self._whole or self._problem or self.disconnected):
            loop = asyncio.get_running_loop()
            self._waiting = loop.create_future()
            self._watch_pace(loop)
            try:
                await self._waiting
            finally:
                self._waiting = None
                if self._timer is not None:
                    self._timer.cancel()
        if self._problem is not None:
            raise self._problem
        if not self._whole:
            raise DisconnectedError
        parts, self._parts = self._parts, []
        length = self.header(b"inference-header-content-length")
        return joined(parts, int(length) if length.isdecimal() and len(length) < 19 else 0)

    def _watch_pace(self, loop: asyncio.AbstractEventLoop) -> None:
        """Fails the request when its body is late; one timer for all parts, which looks again when the first is due."""
        limits = self.limits
        # What came fast buys no time to stand still.
        due = min(self.arrived + limits.body_seconds + self._size / limits.body_rate, self._came + limits.body_seconds)
        left = due - perf_counter()
        if left > 0:
            self._timer = loop.call_later(left, self._watch_pace, loop)
        else:
            self._fail(RequestTimeoutError(f"the body did not come in time; {self._size} bytes did"))

    def _fail(self, error: GraphcError) -> None:
        self._problem = error
        self._parts.clear()
        self.release()
        self._wake()

    def _wake(self) -> None:
        if self._waiting is not None and not self._waiting.done():
            self._waiting.set_result(None)

    # ---------------------------------------------------------------- the answer

    async def unless_gone(self, work: Awaitable[T]) -> T:
        """As `Exchange`."""
        task = self._working = asyncio.current_task()
        assert task is not None
        if self.disconnected:
            # It ends at its first wait, and with it what it has begun.
            task.cancel()
        try:
            return await work
        except asyncio.CancelledError:
            if self.disconnected and not task.uncancel():
                raise DisconnectedError from None
            raise
        finally:
            self._working = None

    def abort(self) -> None:
        """Ends the connection: what has been sent of an answer must not be taken for one."""
        self._transport.abort()

    async def _deliver(self, status: int, head: list[tuple[bytes, bytes]], parts: list[Buffer], seconds: float) -> None:
        if self._flow.write_paused and not self.disconnected:
            # Of an answer before this one.
            try:
                async with asyncio.timeout(seconds):
                    await self._flow.drain()
            except TimeoutError:
                self._transport.abort()
                raise DisconnectedError from None
        if self.disconnected:
            return
        if (b"connection", b"close") in head:
            self.keep_alive = False
        elif not self.keep_alive:
            head = [*head, (b"connection", b"close")]
        lines = [STATUS_LINE[status]]
        for name, value in (*self._head, *head):
            lines += (name, b": ", value, b"\r\n")
        lines.append(b"\r\n")
        if len(parts) == 1:
            self._transport.write(b"".join((*lines, parts[0])))
        else:
            self._transport.write(b"".join(lines))
            for part in parts:
                self._transport.write(part)
        self.response_complete = True
        if not self.keep_alive:
            self._transport.close()
        self._ended()
