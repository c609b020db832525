"""The methods of the protocol's gRPC service."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator, Awaitable, Callable
from time import perf_counter
from typing import Any

import grpc
from google.protobuf.json_format import ParseDict
from tritonclient.grpc import service_pb2 as pb

from graphc.errors import GraphcError, RefusedError, RequestError, RequestTimeoutError
from graphc.serve.grpc.messages import (
    InferMessage,
    decode_request,
    encode_response,
    encode_stream_error,
    encode_streamed,
    infer_reader,
    parameters_of,
    reader,
)
from graphc.serve.grpc.patience import Patience
from graphc.serve.protocol.access import Access
from graphc.serve.protocol.calls import InferCall
from graphc.serve.protocol.service import Service
from graphc.serve.protocol.statuses import INTERNAL, message_of, retry_after, status_of
from graphc.serve.request import Client, InferRequest

_log = logging.getLogger(__name__)

SERVICE: str = pb.DESCRIPTOR.services_by_name["GRPCInferenceService"].full_name
_TRACE = ("traceparent", "tracestate")
_OPEN = frozenset({"ServerLive", "ServerReady"})

Context = Any
"""`grpc.aio.ServicerContext`, which has no types."""
Method = Callable[[Any, Context], Awaitable[Any]]


class Servicer:
    """Answers the methods of one port.

    Args:
        service: What is asked.
        access: What this port's clients may do.
        certified: Whether clients show certificates, which name them.
    """

    def __init__(self, service: Service, access: Access, *, certified: bool = False) -> None:
        self._service, self._access, self._certified = service, access, certified
        self._patience = Patience(service.limits.message_seconds)

    def handler(self) -> Any:
        """The methods, as `grpc.aio.Server.add_generic_rpc_handlers` takes them."""
        methods: dict[str, Any] = {}
        described = pb.DESCRIPTOR.services_by_name["GRPCInferenceService"].methods_by_name
        for name, answer in self._methods().items():
            kind = getattr(pb, described[name].input_type.name)
            methods[name] = grpc.stream_unary_rpc_method_handler(
                self._of_one_message(self._guarded(answer, open_to_all=name in _OPEN)),
                request_deserializer=reader(kind, self._service.limits),
                response_serializer=getattr(pb, described[name].output_type.name).SerializeToString,
            )
        read = infer_reader(self._service.limits)
        methods["ModelInfer"] = grpc.stream_unary_rpc_method_handler(
            self._of_one_message(self._infer), request_deserializer=read, response_serializer=None
        )
        methods["ModelStreamInfer"] = grpc.stream_stream_rpc_method_handler(
            self._stream, request_deserializer=read, response_serializer=None
        )
        return grpc.method_handlers_generic_handler(SERVICE, methods)

    def _methods(self) -> dict[str, Method]:
        return {
            "ServerLive": self._live,
            "ServerReady": self._ready,
            "ModelReady": self._model_ready,
            "ServerMetadata": self._server_metadata,
            "ModelMetadata": self._model_metadata,
            "ModelConfig": self._model_config,
            "ModelStatistics": self._statistics,
            "RepositoryIndex": self._index,
            "RepositoryModelLoad": self._load,
            "RepositoryModelUnload": self._unload,
            "SystemSharedMemoryStatus": self._memory_status,
            "SystemSharedMemoryRegister": self._memory_register,
            "SystemSharedMemoryUnregister": self._memory_unregister,
            "CudaSharedMemoryStatus": self._cuda_status,
            "CudaSharedMemoryRegister": self._cuda_register,
            "CudaSharedMemoryUnregister": self._cuda_unregister,
            "TraceSetting": self._trace,
            "LogSettings": self._logging,
        }

    # ---------------------------------------------------------------- who asks, and what went wrong

    def _guarded(self, answer: Method, *, open_to_all: bool = False) -> Method:
        """The method, for those whom the port lets in, with its errors as statuses."""

        async def guarded(request: Any, context: Context) -> Any:
            if not open_to_all and self._access.tokens is not None:
                self._access.identity(_metadata(context).get("authorization"))
            if isinstance(request, RequestError):
                raise request
            return await answer(request, context)

        return guarded

    def _of_one_message(self, answer: Method) -> Method:
        """A method that is called with one message, with its errors as statuses.

        It is registered as one of a stream: only such a one is called before its message has come, and can say that it
        did not come in time. To a client there is no difference.
        """
        seconds = self._service.limits.message_seconds
        patience = self._patience

        async def answered(stream: Any, context: Context) -> Any:
            try:
                request: Any
                try:
                    request = await patience.wait_for(context.read())
                except TimeoutError:
                    request = RequestTimeoutError(f"the message did not come within {seconds:g} s")
                if request is grpc.aio.EOF:
                    request = RequestError("the call has no message")
                return await answer(request, context)
            except Exception as error:
                await _abort(context, error)

        return answered

    def _client(self, context: Context) -> Client:
        metadata = _metadata(context)
        identity = self._access.identity(metadata.get("authorization"))
        if self._certified and not identity:
            identity = _common_name(context)
        trace = {key: metadata[key] for key in _TRACE if key in metadata}
        return Client("grpc", _address(context.peer()), identity, trace)

    # ---------------------------------------------------------------- inference

    async def _infer(self, message: InferMessage | RequestError, context: Context) -> bytes:
        return await self._answer(message, self._client(context), context.time_remaining(), perf_counter())

    async def _answer(
        self,
        message: InferMessage | RequestError,
        client: Client,
        deadline: float | None,
        arrived: float,
        *,
        final: bool = False,
    ) -> bytes:
        service = self._service
        size = 0 if isinstance(message, RequestError) else message.size
        try:
            service.held.take(size)
        except RefusedError as error:
            self._refuse(message, client, arrived, error)
            raise
        try:
            call = self._decode(message, client, deadline, arrived)
            response = await service.server.infer(call.request)
            return encode_response(call, response, service.memory, final=final)
        finally:
            service.held.give(size)

    def _decode(
        self, message: InferMessage | RequestError, client: Client, deadline: float | None, arrived: float
    ) -> InferCall:
        service = self._service
        try:
            if isinstance(message, RequestError):
                raise message
            return decode_request(
                message, limits=service.limits, memory=service.memory, client=client, deadline=deadline, arrived=arrived
            )
        except GraphcError as error:
            self._refuse(message, client, arrived, error)
            raise

    def _refuse(self, message: InferMessage | RequestError, client: Client, arrived: float, error: GraphcError) -> None:
        model = "" if isinstance(message, RequestError) else message.head.model_name
        self._service.server.refuse(InferRequest(model, {}, client=client, arrived=arrived), error)

    async def _stream(self, requests: AsyncIterator[InferMessage | RequestError], context: Context) -> None:
        """Answers the requests of a stream in their order, several at a time; an error ends its request alone."""
        try:
            client = self._client(context)
        except Exception as error:
            await _abort(context, error)
            return
        waiting: asyncio.Queue[asyncio.Task[bytes] | None] = asyncio.Queue()
        places = asyncio.Semaphore(self._service.limits.stream_requests)
        tasks: set[asyncio.Task[Any]] = set()

        def start(work: Any) -> asyncio.Task[Any]:
            task: asyncio.Task[Any] = asyncio.ensure_future(work)
            tasks.add(task)
            task.add_done_callback(tasks.discard)
            return task

        async def read() -> None:
            try:
                async for message in requests:
                    await places.acquire()
                    waiting.put_nowait(start(self._streamed(message, client)))
            finally:
                waiting.put_nowait(None)

        reading = start(read())
        try:
            while (task := await waiting.get()) is not None:
                await context.write(await task)
                places.release()
            await reading
        finally:
            for task in list(tasks):
                task.cancel()

    async def _streamed(self, message: InferMessage | RequestError, client: Client) -> bytes:
        try:
            return encode_streamed(await self._answer(message, client, None, perf_counter(), final=True))
        except Exception as error:
            _note(error)
            return encode_stream_error(message_of(error), message.head.id if isinstance(message, InferMessage) else "")

    # ---------------------------------------------------------------- what there is

    async def _live(self, request: Any, context: Context) -> Any:
        return pb.ServerLiveResponse(live=self._service.server.live)

    async def _ready(self, request: Any, context: Context) -> Any:
        return pb.ServerReadyResponse(ready=self._service.server.ready)

    async def _model_ready(self, request: Any, context: Context) -> Any:
        return pb.ModelReadyResponse(ready=self._service.model_ready(request.name, request.version))

    async def _server_metadata(self, request: Any, context: Context) -> Any:
        return ParseDict(self._service.server_metadata(), pb.ServerMetadataResponse())

    async def _model_metadata(self, request: Any, context: Context) -> Any:
        return ParseDict(self._service.model_metadata(request.name, request.version), pb.ModelMetadataResponse())

    async def _model_config(self, request: Any, context: Context) -> Any:
        config = self._service.model_config(request.name, request.version)
        return ParseDict({"config": config}, pb.ModelConfigResponse())

    async def _statistics(self, request: Any, context: Context) -> Any:
        return ParseDict(self._service.statistics(request.name, request.version), pb.ModelStatisticsResponse())

    # ---------------------------------------------------------------- what is changed

    async def _index(self, request: Any, context: Context) -> Any:
        models = self._service.index(request.ready, request.repository_name)
        return ParseDict({"models": models}, pb.RepositoryIndexResponse())

    async def _load(self, request: Any, context: Context) -> Any:
        parameters = parameters_of(request.parameters, self._service.limits)
        await self._service.load(self._access, request.model_name, parameters, request.repository_name)
        return pb.RepositoryModelLoadResponse()

    async def _unload(self, request: Any, context: Context) -> Any:
        parameters = parameters_of(request.parameters, self._service.limits)
        await self._service.unload(self._access, request.model_name, parameters, request.repository_name)
        return pb.RepositoryModelUnloadResponse()

    async def _trace(self, request: Any, context: Context) -> Any:
        # No value at all sets a setting back.
        changes = {key: list(setting.value) or None for key, setting in request.settings.items()}
        found = self._service.trace_settings(self._access, changes, request.model_name)
        settings = {key: {"value": value if isinstance(value, list) else [value]} for key, value in found.items()}
        return ParseDict({"settings": settings}, pb.TraceSettingResponse())

    async def _logging(self, request: Any, context: Context) -> Any:
        changes = {}
        for key, setting in request.settings.items():
            which = setting.WhichOneof("parameter_choice")
            changes[key] = None if which is None else getattr(setting, which)
        found = self._service.log_settings(self._access, changes)
        fields = {bool: "bool_param", int: "uint32_param", str: "string_param"}
        settings = {key: {fields[type(value)]: value} for key, value in found.items()}
        return ParseDict({"settings": settings}, pb.LogSettingsResponse())

    # ---------------------------------------------------------------- shared memory

    async def _memory_status(self, request: Any, context: Context) -> Any:
        regions = {region["name"]: region for region in self._service.memory.status(request.name)}
        return ParseDict({"regions": regions}, pb.SystemSharedMemoryStatusResponse())

    async def _memory_register(self, request: Any, context: Context) -> Any:
        self._service.memory.register(request.name, request.key, request.offset, request.byte_size)
        return pb.SystemSharedMemoryRegisterResponse()

    async def _memory_unregister(self, request: Any, context: Context) -> Any:
        self._service.memory.unregister(request.name)
        return pb.SystemSharedMemoryUnregisterResponse()

    async def _cuda_status(self, request: Any, context: Context) -> Any:
        return pb.CudaSharedMemoryStatusResponse()

    async def _cuda_register(self, request: Any, context: Context) -> Any:
        self._service.register_cuda()

    async def _cuda_unregister(self, request: Any, context: Context) -> Any:
        return pb.CudaSharedMemoryUnregisterResponse()


def _metadata(context: Context) -> dict[str, str]:
    return {key: value for key, value in context.invocation_metadata() or () if isinstance(value, str)}


def _common_name(context: Context) -> str:
    """The common name of the client's certificate; empty without one."""
    names = context.auth_context().get("x509_common_name")
    return names[0].decode("utf-8", "replace") if names else ""


def _address(peer: str) -> str:
    """Host and port of what gRPC calls `ipv4:127.0.0.1:40000`."""
    return peer.partition(":")[2]


def _note(error: BaseException) -> None:
    if status_of(error) is INTERNAL:
        _log.error("a request failed", exc_info=error)


async def _abort(context: Context, error: BaseException) -> None:
    _note(error)
    seconds = retry_after(error)
    # gRPC's own name for when to come back; clients with a retry policy keep to it.
    trailing = () if seconds is None else (("grpc-retry-pushback-ms", str(round(seconds * 1e3))),)
    message = message_of(error).encode("utf-8", "replace").decode()
    await context.abort(getattr(grpc.StatusCode, status_of(error).grpc), message, trailing)
