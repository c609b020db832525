"""The application: paths of the protocol, each an operation of the service."""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import Awaitable, Callable, Coroutine
from typing import Any

from starlette.exceptions import HTTPException
from starlette.routing import BaseRoute, Route, Router
from starlette.types import Receive, Scope, Send

from graphc.errors import GraphcError, RequestError, SchedulerClosedError
from graphc.serve.http.direct import DirectExchange
from graphc.serve.http.exchange import IDENTITY, AsgiExchange, DisconnectedError, Exchange, in_thread
from graphc.serve.protocol.access import Access
from graphc.serve.protocol.calls import InferCall
from graphc.serve.protocol.http_body import decode_request, encode_response
from graphc.serve.protocol.service import Service
from graphc.serve.protocol.statuses import INTERNAL, status_of
from graphc.serve.request import Client, InferRequest

_log = logging.getLogger(__name__)

_LARGE_JSON = 64 << 10
_LARGE_BODY = 1 << 20

Handler = Callable[[Exchange, dict[str, str]], Awaitable[None]]
_EXCHANGE = "graphc.exchange"


class HttpApp:
    """An ASGI application that answers the protocol's paths.

    Args:
        service: What is asked.
        access: What this port's clients may do.
        routes: Further ones, looked at first; but for those of inference.

    Attributes:
        limits: Of requests.
        budget: Of what all requests hold.
    """

    def __init__(self, service: Service, access: Access, routes: list[BaseRoute] | None = None) -> None:
        self._service, self._access = service, access
        self.limits, self.budget = service.limits, service.held
        self._router = Router([*(routes or []), *self._routes()])

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """As ASGI has it."""
        if scope["type"] != "http":
            return
        exchange = AsgiExchange(scope, receive, send, self.limits, self.budget)
        # Starlette then raises what it would otherwise answer in plain text.
        scope["app"] = self
        scope[_EXCHANGE] = exchange
        # Who leaves while an error is answered is told nothing more.
        with contextlib.suppress(DisconnectedError):
            await self._answer(exchange, self._router(scope, receive, send), scope["method"], scope["path"])

    async def infer(self, exchange: DirectExchange, model: str, version: str | None, identity: str) -> None:
        """Answers an inference request that its connection hands over itself.

        Args:
            exchange: The request.
            model: That it is for.
            version: Of the model, if it names one.
            identity: Whom the connection's certificate names; empty without one.
        """

        async def work() -> None:
            await self._infer(exchange, self._let_in(exchange, identity), model, version)

        try:
            await self._answer(exchange, work(), "POST", f"/v2/models/{model}/infer")
        except DisconnectedError:
            return
        except Exception:
            _log.exception("inference by %s failed while it was answered", model)
            exchange.abort()

    async def _answer(self, exchange: Exchange, work: Coroutine[Any, Any, None], method: str, path: str) -> None:
        """Answers a request by some work, which may fail."""
        try:
            if exchange.header_bytes > exchange.limits.header_bytes:
                await exchange.answer_error(RequestError("the headers are above the server's limit"), 431)
                return
            await work
        except DisconnectedError:
            return
        except asyncio.CancelledError:
            # The server ends, and the grace that it gave its requests is over.
            if not exchange.answered:
                await exchange.answer_error(SchedulerClosedError("the server ended before the request was answered"))
        except HTTPException as error:
            exchange.skip_body()
            await exchange.answer_error(RequestError(_message(error, method, path)), error.status_code)
        except Exception as error:
            if exchange.answered:
                raise
            if status_of(error) is INTERNAL:
                _log.error("%s %s failed", method, path, exc_info=error)
            await exchange.answer_error(error)
        finally:
            # Where it was not begun.
            work.close()
            exchange.release()

    def _let_in(self, exchange: Exchange, certified: str) -> str:
        """Who asks, by a token or else by a certificate, where the port lets them in."""
        return self._access.identity(exchange.header(b"authorization")) or certified

    # ---------------------------------------------------------------- paths

    def _routes(self) -> list[Route]:
        found: list[Route] = []

        def add(method: str, path: str, handler: Handler, *, open_to_all: bool = False) -> None:
            let_in = None if open_to_all else self._let_in
            found.append(Route(path, _Endpoint(handler, let_in), methods=[method]))

        for prefix in ("/v2/models/{model}", "/v2/models/{model}/versions/{version}"):
            add("POST", f"{prefix}/infer", self._infer_at)
        add("GET", "/v2/health/live", self._live, open_to_all=True)
        add("GET", "/v2/health/ready", self._ready, open_to_all=True)
        add("GET", "/v2", self._metadata)
        add("GET", "/v2/models/stats", self._statistics)
        for prefix in ("/v2/models/{model}", "/v2/models/{model}/versions/{version}"):
            add("GET", prefix, self._model_metadata)
            add("GET", f"{prefix}/ready", self._model_ready)
            add("GET", f"{prefix}/config", self._model_config)
            add("GET", f"{prefix}/stats", self._statistics)
        add("POST", "/v2/repository/index", self._index)
        add("POST", "/v2/repository/models/{model}/load", self._load)
        add("POST", "/v2/repository/models/{model}/unload", self._unload)
        for method in ("GET", "POST"):
            add(method, "/v2/logging", self._logging)
            add(method, "/v2/trace/setting", self._trace)
            add(method, "/v2/models/{model}/trace/setting", self._trace)
        for kind, status, unregister in (
            ("system", self._memory_status, self._memory_unregister),
            ("cuda", self._cuda_status, self._cuda_unregister),
        ):
            for prefix in (f"/v2/{kind}sharedmemory", f"/v2/{kind}sharedmemory/region/{{region}}"):
                add("GET", f"{prefix}/status", status)
                add("POST", f"{prefix}/unregister", unregister)
        add("POST", "/v2/systemsharedmemory/region/{region}/register", self._memory_register)
        add("POST", "/v2/cudasharedmemory/region/{region}/register", self._cuda_register)
        return found

    async def _infer_at(self, exchange: Exchange, path: dict[str, str]) -> None:
        await self._infer(exchange, path["identity"], path["model"], path.get("version"))

    async def _infer(self, exchange: Exchange, identity: str, model: str, version: str | None) -> None:
        service = self._service
        client = exchange.client(identity)
        try:
            call = await self._read_call(exchange, model, version, client)
        except GraphcError as error:
            request = InferRequest(model, {}, version, client=client, arrived=exchange.arrived)
            service.server.refuse(request, error)
            raise
        response = await exchange.unless_gone(service.server.infer(call.request))
        size = sum([getattr(value, "nbytes", 0) for value in response.outputs.values()])
        head, parts = await in_thread(
            size > _LARGE_JSON and not _all_binary(call), lambda: encode_response(call, response, service.memory)
        )
        if head is None:
            await exchange.answer_compressed(parts, b"application/json", [])
        else:
            lengths = [(b"inference-header-content-length", b"%d" % head)]
            await exchange.answer_compressed(parts, b"application/octet-stream", lengths)

    async def _read_call(self, exchange: Exchange, model: str, version: str | None, client: Client) -> InferCall:
        service = self._service
        body = await exchange.body()
        length = exchange.header_length()

        def decode() -> InferCall:
            return decode_request(
                model,
                version,
                body,
                length,
                limits=service.limits,
                memory=service.memory,
                client=client,
                metadata=lambda: service.server.metadata(model, version),
                arrived=exchange.arrived,
            )

        large = len(body) > _LARGE_BODY or (len(body) if length is None else length) > _LARGE_JSON
        return await in_thread(large and length != 0, decode)

    async def _live(self, exchange: Exchange, path: dict[str, str]) -> None:
        await _answer_flag(exchange, "live", self._service.server.live)

    async def _ready(self, exchange: Exchange, path: dict[str, str]) -> None:
        await _answer_flag(exchange, "ready", self._service.server.ready)

    async def _metadata(self, exchange: Exchange, path: dict[str, str]) -> None:
        await exchange.answer_json(self._service.server_metadata())

    async def _model_metadata(self, exchange: Exchange, path: dict[str, str]) -> None:
        await exchange.answer_json(self._service.model_metadata(path["model"], path.get("version")))

    async def _model_ready(self, exchange: Exchange, path: dict[str, str]) -> None:
        ready = self._service.model_ready(path["model"], path.get("version"))
        await _answer_flag(exchange, "ready", ready, name=path["model"])

    async def _model_config(self, exchange: Exchange, path: dict[str, str]) -> None:
        await exchange.answer_json(self._service.model_config(path["model"], path.get("version")))

    async def _statistics(self, exchange: Exchange, path: dict[str, str]) -> None:
        await exchange.answer_json(self._service.statistics(path.get("model"), path.get("version")))

    async def _index(self, exchange: Exchange, path: dict[str, str]) -> None:
        ready = (await exchange.json()).get("ready", False)
        if type(ready) is not bool:
            raise RequestError("ready must be true or false")
        await exchange.answer_json(self._service.index(ready))

    async def _load(self, exchange: Exchange, path: dict[str, str]) -> None:
        await self._service.load(self._access, path["model"], _parameters(await exchange.json()))
        await exchange.answer_json({})

    async def _unload(self, exchange: Exchange, path: dict[str, str]) -> None:
        await self._service.unload(self._access, path["model"], _parameters(await exchange.json()))
        await exchange.answer_json({})

    async def _logging(self, exchange: Exchange, path: dict[str, str]) -> None:
        changes = await exchange.json()
        await exchange.answer_json(self._service.log_settings(self._access, changes))

    async def _trace(self, exchange: Exchange, path: dict[str, str]) -> None:
        changes = await exchange.json()
        await exchange.answer_json(self._service.trace_settings(self._access, changes, path.get("model", "")))

    async def _memory_status(self, exchange: Exchange, path: dict[str, str]) -> None:
        await exchange.answer_json(self._service.memory.status(path.get("region", "")))

    async def _memory_register(self, exchange: Exchange, path: dict[str, str]) -> None:
        text = await exchange.json()
        self._service.memory.register(
            path["region"], text.get("key", ""), text.get("offset", 0), text.get("byte_size", 0)
        )
        await exchange.answer_json({})

    async def _memory_unregister(self, exchange: Exchange, path: dict[str, str]) -> None:
        await exchange.body()
        self._service.memory.unregister(path.get("region", ""))
        await exchange.answer_json({})

    async def _cuda_status(self, exchange: Exchange, path: dict[str, str]) -> None:
        await exchange.answer_json([])

    async def _cuda_register(self, exchange: Exchange, path: dict[str, str]) -> None:
        await exchange.body()
        self._service.register_cuda()

    async def _cuda_unregister(self, exchange: Exchange, path: dict[str, str]) -> None:
        await exchange.body()
        await exchange.answer_json({})


class _Endpoint:
    """A route's end: lets in whom the port lets in, and hands on the path's parts with who asks."""

    def __init__(self, handler: Handler, let_in: Callable[[Exchange, str], str] | None) -> None:
        self._handler, self._let_in = handler, let_in

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        exchange: Exchange = scope[_EXCHANGE]
        exchange.skip_body()
        identity: str = scope.get("state", {}).get(IDENTITY, "")
        if self._let_in is not None:
            identity = self._let_in(exchange, identity)
        await self._handler(exchange, {**scope["path_params"], "identity": identity})


async def _answer_flag(exchange: Exchange, what: str, value: bool, **more: Any) -> None:
    if value:
        await exchange.answer_json({**more, what: True})
    else:
        await exchange.answer_json({**more, what: False}, 503)


def _all_binary(call: InferCall) -> bool:
    return call.binary if call.outputs is None else all(output.binary for output in call.outputs)


def _parameters(text: dict[str, Any]) -> dict[str, Any]:
    parameters = text.get("parameters") or {}
    if not isinstance(parameters, dict):
        raise RequestError("parameters must be an object")
    return parameters


def _message(error: HTTPException, method: str, path: str) -> str:
    if error.status_code == 404:
        return f"there is nothing at {path[:200]!r}"
    if error.status_code == 405:
        return f"{method} is not for {path[:200]!r}"
    return str(error.detail)
