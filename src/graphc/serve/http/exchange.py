"""One HTTP request and its answer: reading the body within limits, and answering in JSON or bytes."""

from __future__ import annotations

import asyncio
import math
from abc import ABC, abstractmethod
from collections.abc import Awaitable, Callable, Sequence
from time import perf_counter
from typing import Any, TypeVar

from starlette.types import Message, Receive, Scope, Send

from graphc.errors import RequestError, RequestTimeoutError, RequestTooLargeError
from graphc.serve.protocol import json_text
from graphc.serve.protocol.budget import Budget
from graphc.serve.protocol.compression import accepted, compress, decompress
from graphc.serve.protocol.limits import RequestLimits
from graphc.serve.protocol.statuses import message_of, retry_after, status_of
from graphc.serve.protocol.tensors import Buffer
from graphc.serve.request import Client

T = TypeVar("T")

ABORT = "graphc.abort"
"""Key of the connection's state under which is what ends it at once."""
IDENTITY = "graphc.identity"
"""Key of the connection's state under which is whom its certificate names."""

_JOINED = 256 << 10
"""Bytes up to which the parts of an answer are joined: one copy costs less than several writes."""
_TRACE = (b"traceparent", b"tracestate")
_INLINE = 64 << 10
"""Bytes of JSON, or compressed, up to which the work is done in the event loop."""


class DisconnectedError(Exception):
    """The client went away: there is nobody to answer."""


class Exchange(ABC):
    """A request and its answer, however they come and go.

    Args:
        headers: Of the request, names in lower case.
        peer: Host and port of the client; None where they are unknown.
        limits: Of the request.
        budget: Of what all requests hold; `release` gives back what this one took.

    Attributes:
        arrived: When, on `time.perf_counter`.
        header_bytes: Of all headers.
        answered: Whether an answer has begun.
    """

    def __init__(
        self,
        headers: Sequence[tuple[bytes, bytes]],
        peer: tuple[str, int] | None,
        limits: RequestLimits,
        budget: Budget,
    ) -> None:
        self.limits = limits
        self._budget, self._held = budget, 0
        self.arrived = perf_counter()
        self.headers: dict[bytes, bytes] = dict(headers)
        self.header_bytes = sum([len(name) + len(value) for name, value in headers])
        self.answered = False
        self._peer = peer
        self._whole = False

    def header(self, name: bytes) -> str:
        """A header's value; empty where there is none."""
        return self.headers.get(name, b"").decode("latin-1")

    def header_length(self) -> int | None:
        """`Inference-Header-Content-Length`.

        Raises:
            RequestError: Not a whole number.
        """
        text = self.header(b"inference-header-content-length")
        if not text:
            return None
        if not text.isascii() or not text.isdecimal():
            raise RequestError(f"Inference-Header-Content-Length must be a whole number, got {text!r:.80}")
        return int(text[:20])

    def client(self, identity: str) -> Client:
        """Who asks."""
        peer = self._peer
        trace = {key.decode(): self.header(key) for key in _TRACE if key in self.headers}
        return Client("http", f"{peer[0]}:{peer[1]}" if peer else "", identity, trace)

    async def body(self) -> Buffer:
        """The whole body, decompressed.

        Raises:
            DisconnectedError: The client went away before it had sent all.
            RefusedError: The server holds as many bytes of requests as it may.
            RequestTooLargeError: It is larger than the limits allow, by its length or by what came.
            RequestTimeoutError: It took too long.
            RequestError: Its encoding is unknown, or not what it says.
        """
        declared = self.header(b"content-length")
        if declared.isdecimal() and int(declared[:20]) > self.limits.body_bytes:
            raise self._too_large()
        body = await self._read()
        encoding = self.header(b"content-encoding")
        if not encoding:
            return body
        found = await in_thread(len(body) > _INLINE, lambda: decompress(encoding, body, self.limits.body_bytes))
        self._hold(len(found))
        return found

    @abstractmethod
    async def _read(self) -> Buffer:
        """The whole body as it came, held to the limits and the budget."""

    def _hold(self, size: int) -> None:
        self._budget.take(size)
        self._held += size

    def release(self) -> None:
        """Gives back what the request held."""
        self._budget.give(self._held)
        self._held = 0

    def _too_large(self) -> RequestTooLargeError:
        return RequestTooLargeError(f"the body is above the server's limit of {self.limits.body_bytes} bytes")

    async def json(self) -> dict[str, Any]:
        """The body as a JSON object; empty where there is none.

        Raises:
            RequestError: Not a JSON object.
        """
        body = await self.body()
        if len(body) > self.limits.json_bytes:
            raise self._too_large()
        return json_text.loads_object(bytes(body), self.limits.json_depth)

    @abstractmethod
    async def unless_gone(self, work: Awaitable[T]) -> T:
        """What `work` answers, cancelled where the client goes away before.

        Raises:
            DisconnectedError: It went.
        """

    async def answer_compressed(self, parts: list[Buffer], media: bytes, headers: list[tuple[bytes, bytes]]) -> None:
        """Sends an answer as `answer`, compressed where the client accepts that.

        For tensors alone: tritonclient accepts what it then decompresses in answers to inference and nowhere else.
        """
        wanted = self.header(b"accept-encoding")
        encoding = accepted(wanted) if wanted else ""
        if encoding:
            size = sum(map(len, parts))
            encoding, parts = await in_thread(size > _INLINE, lambda: compress(encoding, parts))
            if encoding:
                headers = [*headers, (b"content-encoding", encoding.encode())]
            headers = [*headers, (b"vary", b"accept-encoding")]
        await self.answer(200, parts, media, headers)

    async def answer(
        self, status: int, parts: list[Buffer], media: bytes, headers: list[tuple[bytes, bytes]] | None = None
    ) -> None:
        """Sends an answer.

        Raises:
            DisconnectedError: The client did not take it in time.
        """
        head = [(b"content-type", media), *(headers or [])]
        size = sum(map(len, parts))
        if size <= _JOINED:
            parts = [b"".join(parts)]
        head.append((b"content-length", b"%d" % size))
        if not self._whole:
            # What is left of the body is not read: nothing that follows on this connection could be told from it.
            head.append((b"connection", b"close"))
        self.answered = True
        await self._deliver(status, head, parts, self.limits.write_seconds + size / self.limits.body_rate)

    @abstractmethod
    async def _deliver(self, status: int, head: list[tuple[bytes, bytes]], parts: list[Buffer], seconds: float) -> None:
        """Sends an answer, or ends the connection where the client does not take it within so many seconds."""

    async def answer_json(self, value: Any, status: int = 200) -> None:
        """Sends a JSON answer."""
        await self.answer(status, [json_text.dumps(value)], b"application/json")

    async def answer_error(self, error: BaseException, status: int | None = None) -> None:
        """Sends what an error is in HTTP: `{"error": ...}` and its code, with `Retry-After` where coming back helps."""
        code = status_of(error).http if status is None else status
        headers = []
        seconds = retry_after(error)
        if seconds is not None:
            headers = [(b"retry-after", b"%d" % math.ceil(seconds)), (b"retry-after-ms", b"%d" % (seconds * 1e3))]
        if code == 401:
            headers = [(b"www-authenticate", b"Bearer")]
        text = json_text.dumps({"error": message_of(error).encode("utf-8", "replace").decode()})
        await self.answer(code, [text], b"application/json", headers)

    def skip_body(self) -> None:
        """Notes that a request without a body has none: the connection can then be kept."""
        if b"content-length" not in self.headers and b"transfer-encoding" not in self.headers:
            self._whole = True


class AsgiExchange(Exchange):
    """An exchange over ASGI.

    Args:
        scope: Of the request, as ASGI has it.
        receive: Tells of the body, and of the client's going away.
        send: Takes the answer.
        limits: Of the request.
        budget: Of what all requests hold.
    """

    def __init__(self, scope: Scope, receive: Receive, send: Send, limits: RequestLimits, budget: Budget) -> None:
        super().__init__(scope["headers"], scope.get("client"), limits, budget)
        self.scope = scope
        self._receive, self._send = receive, send

    async def _read(self) -> bytes:
        parts: list[bytes] = []
        size = 0
        while not self._whole:
            left = self.limits.body_seconds + size / self.limits.body_rate - (perf_counter() - self.arrived)
            message: Message
            try:
                # What came fast buys no time to stand still.
                message = await self._next(min(left, self.limits.body_seconds))
            except TimeoutError:
                raise RequestTimeoutError(f"the body did not come in time; {size} bytes did") from None
            if message["type"] == "http.disconnect":
                raise DisconnectedError
            part = message.get("body", b"")
            size += len(part)
            if size > self.limits.body_bytes:
                raise self._too_large()
            self._hold(len(part))
            parts.append(part)
            self._whole = not message.get("more_body", False)
        return parts[0] if len(parts) == 1 else b"".join(parts)

    async def _next(self, seconds: float) -> Message:
        async with asyncio.timeout(max(0.0, seconds)):
            return await self._receive()

    async def unless_gone(self, work: Awaitable[T]) -> T:
        """As `Exchange`."""
        task = asyncio.current_task()
        assert task is not None
        gone = False

        async def watch() -> None:
            nonlocal gone
            while (await self._receive())["type"] != "http.disconnect":
                pass
            gone = True
            task.cancel()

        watcher = asyncio.ensure_future(watch())
        try:
            return await work
        except asyncio.CancelledError:
            if gone and not task.uncancel():
                raise DisconnectedError from None
            raise
        finally:
            watcher.cancel()

    async def _deliver(self, status: int, head: list[tuple[bytes, bytes]], parts: list[Buffer], seconds: float) -> None:
        try:
            async with asyncio.timeout(seconds):
                await self._send({"type": "http.response.start", "status": status, "headers": head})
                for part in parts[:-1]:
                    await self._send({"type": "http.response.body", "body": part, "more_body": True})
                await self._send({"type": "http.response.body", "body": parts[-1]})
        except TimeoutError:
            self.scope["state"][ABORT]()
            raise DisconnectedError from None


async def in_thread(large: bool, work: Callable[[], T]) -> T:
    """The work's answer; done in a thread where it is large enough to hold others up."""
    return await asyncio.to_thread(work) if large else work()
