"""A connection: uvicorn's, with the limits that it leaves to a proxy in front of it."""

from __future__ import annotations

import asyncio
from asyncio.events import TimerHandle
from typing import Any, cast

from uvicorn.config import Config
from uvicorn.protocols.http.httptools_impl import STATUS_LINE, HttpToolsProtocol, RequestResponseCycle
from uvicorn.server import ServerState

from graphc.serve.http.app import HttpApp
from graphc.serve.http.direct import DirectExchange, inference
from graphc.serve.http.exchange import ABORT, IDENTITY
from graphc.serve.protocol import json_text
from graphc.serve.protocol.limits import RequestLimits

_LINGER = 0.5
"""Seconds that idle connections stay open when the server ends: a request may be on its way on them."""


class Connection(HttpToolsProtocol):
    """Closes connections whose headers come too slowly or are too long, and those that take no answers.

    Inference requests it hands to the application itself, all others as ASGI has it. `of` makes the class for an
    application, as uvicorn makes its connections itself.
    """

    application: HttpApp
    limits: RequestLimits

    @classmethod
    def of(cls, application: HttpApp) -> type[Connection]:
        """The class for an application, with its limits."""
        return type(cls.__name__, (cls,), {"application": application, "limits": application.limits})

    def __init__(
        self,
        config: Config,
        server_state: ServerState,
        app_state: dict[str, Any],
        _loop: asyncio.AbstractEventLoop | None = None,
    ) -> None:
        super().__init__(config, server_state, app_state, _loop)
        self._head_bytes = 0
        self._head_timer: TimerHandle | None = None
        self._flush_timer: TimerHandle | None = None
        self._leaving = False
        self._direct: DirectExchange | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """As asyncio calls it."""
        super().connection_made(transport)
        self.app_state = {ABORT: transport.abort, IDENTITY: _certified(transport)}
        if len(self.connections) > self.limits.connections:
            self._refuse(503, "the server has as many connections as it takes", b"retry-after: 1\r\n")
            return
        self._start_head()

    def connection_lost(self, exc: Exception | None) -> None:
        """As asyncio calls it."""
        self._end_head()
        if self._flush_timer is not None:
            self._flush_timer.cancel()
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        """As asyncio calls it."""
        if self.transport.is_closing():
            return
        self._head_bytes += len(data)
        super().data_received(data)
        if self.parser is None or self.transport.is_closing():
            return
        if self.cycle is not None and not self.cycle.response_complete:
            self._head_bytes = 0
        elif self._head_bytes > self.limits.header_bytes:
            self._refuse(431, "the headers are above the server's limit")
        elif self._head_timer is None:
            self._start_head()

    def on_headers_complete(self) -> None:
        """As httptools calls it."""
        self._end_head()
        self._head_bytes = 0
        self._direct = None
        # One that comes before the last was answered waits for it, which is uvicorn's to see to.
        if self.cycle is None or self.cycle.response_complete:
            found = inference(self.parser.get_method(), self.url, self.headers)
            if found is not None:
                self._begin(*found)
        if self._direct is None:
            super().on_headers_complete()
        if self._leaving:
            self.cycle.keep_alive = False

    def _begin(self, model: str, version: str | None) -> None:
        """Has the application answer an inference request."""
        application = self.application
        self._direct = DirectExchange(
            self.transport,
            self.flow,
            self.server_state.default_headers,
            self.on_response_complete,
            keep_alive=self.parser.get_http_version() != "1.0" and self.parser.should_keep_alive(),
            headers=self.headers,
            peer=self.client,
            limits=self.limits,
            budget=application.budget,
        )
        # It has what this class and its base ask of a cycle.
        self.cycle = cast(RequestResponseCycle, self._direct)
        task = self.loop.create_task(application.infer(self._direct, model, version, self.app_state[IDENTITY]))
        self.tasks.add(task)
        task.add_done_callback(self.tasks.discard)

    def on_body(self, body: bytes) -> None:
        """As httptools calls it."""
        if self._direct is None:
            super().on_body(body)
        elif not self._direct.response_complete:
            self._direct.take(body)

    def on_message_complete(self) -> None:
        """As httptools calls it."""
        if self._direct is None:
            super().on_message_complete()
        else:
            self._direct.complete()

    def shutdown(self) -> None:
        """As uvicorn calls it, when the server ends: answers what has come and what is on its way, and closes then."""
        self._leaving = True
        if self.cycle is None or self.cycle.response_complete:
            self.loop.call_later(_LINGER, self._leave)
        else:
            self.cycle.keep_alive = False

    def on_response_complete(self) -> None:
        """As uvicorn calls it."""
        super().on_response_complete()
        self._head_bytes = 0
        waiting = self.transport.get_write_buffer_size()
        if waiting and self._flush_timer is None:
            seconds = self.limits.write_seconds + waiting / self.limits.body_rate
            self._flush_timer = self.loop.call_later(seconds, self._check_flushed)

    def send_400_response(self, msg: str) -> None:
        """As uvicorn calls it, where the request is no HTTP."""
        self._refuse(400, msg)

    def _leave(self) -> None:
        if self.cycle is None or self.cycle.response_complete:
            self.transport.close()

    def _start_head(self) -> None:
        self._head_timer = self.loop.call_later(self.limits.header_seconds, self._head_late)

    def _end_head(self) -> None:
        if self._head_timer is not None:
            self._head_timer.cancel()
            self._head_timer = None

    def _head_late(self) -> None:
        self._head_timer = None
        if not self.transport.is_closing():
            self._refuse(408, "the headers did not come in time")

    def _check_flushed(self) -> None:
        self._flush_timer = None
        if self.transport.get_write_buffer_size():
            self.transport.abort()

    def _refuse(self, status: int, message: str, header: bytes = b"") -> None:
        if self.cycle is not None and not self.cycle.response_complete:
            # An answer is under way: another in the midst of it would be taken for its part.
            self.transport.abort()
            return
        body = json_text.dumps({"error": message})
        self.transport.write(
            STATUS_LINE[status]
            + b"content-type: application/json\r\ncontent-length: %d\r\nconnection: close\r\n" % len(body)
            + header
            + b"\r\n"
            + body
        )
        self.transport.close()


def _certified(transport: asyncio.Transport) -> str:
    """The common name of the client's certificate; empty without one."""
    certificate = transport.get_extra_info("peercert")
    if not certificate:
        return ""
    return next((value for part in certificate.get("subject", ()) for key, value in part if key == "commonName"), "")
