"""Real servers for tests: a loop in a thread of its own, with the frontends that a test wants."""

from __future__ import annotations

import asyncio
import contextlib
import threading
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import onnx
import uvloop
from onnx import TensorProto, helper

import graphc
from graphc.serve import ModelServer, ServerSettings
from graphc.serve.grpc import GrpcFrontend
from graphc.serve.http import HttpFrontend
from graphc.serve.protocol.service import Service
from graphc.serve.running import Frontend

ECHOED = {
    "BOOL": TensorProto.BOOL,
    "INT8": TensorProto.INT8,
    "INT16": TensorProto.INT16,
    "INT32": TensorProto.INT32,
    "INT64": TensorProto.INT64,
    "UINT8": TensorProto.UINT8,
    "UINT16": TensorProto.UINT16,
    "UINT32": TensorProto.UINT32,
    "UINT64": TensorProto.UINT64,
    "FP16": TensorProto.FLOAT16,
    "BF16": TensorProto.BFLOAT16,
    "FP32": TensorProto.FLOAT,
    "FP64": TensorProto.DOUBLE,
    "BYTES": TensorProto.STRING,
}


class Running:
    """A started server, its frontends, and its loop."""

    def __init__(self, server: ModelServer, service: Service, frontends: Sequence[Any]) -> None:
        self.server, self.service, self.frontends = server, service, frontends
        self.loop = asyncio.get_running_loop()

    def port(self, number: int = 0) -> int:
        return self.frontends[number].port

    def address(self, number: int = 0) -> str:
        return f"127.0.0.1:{self.port(number)}"

    def do(self, work: Any) -> Any:
        """Runs a coroutine in the server's loop."""
        return asyncio.run_coroutine_threadsafe(work, self.loop).result(30)


def both_ports(*, routes: Any = None, **options: Any) -> Callable[[Service], list[Any]]:
    """Frontends of HTTP and gRPC, with the same options."""
    return lambda service: [
        HttpFrontend(service, port=0, routes=routes, **options),
        GrpcFrontend(service, port=0, **options),
    ]


@contextlib.contextmanager
def running(
    repository: Path, frontends: Callable[[Service], Sequence[Frontend]], *, grace: float = 5.0, **fields: Any
) -> Iterator[Running]:
    """Serves a repository for the block; `fields` are of the Service, `settings` and `observers` the server's."""
    settings = ServerSettings(repository, **fields.pop("settings", {}))
    observers = fields.pop("observers", [])
    ready: Any = threading.Event()
    found: list[Any] = []

    async def serve() -> None:
        server = ModelServer(settings, observers)
        service = Service(server, **fields)
        made = frontends(service)
        ended = asyncio.Event()
        try:
            for frontend in made:
                await frontend.start()
            await server.start()
            found[:] = [Running(server, service, made), ended]
            ready.set()
            await ended.wait()
        finally:
            await asyncio.gather(*(frontend.stop(grace) for frontend in made))
            await server.stop(grace)

    def run() -> None:
        try:
            with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
                runner.run(serve())
        except BaseException as error:
            found[:] = [error]
            ready.set()

    thread = threading.Thread(target=run, daemon=True)
    thread.start()
    assert ready.wait(60), "the server did not start"
    if len(found) == 1:
        raise found[0]
    server, ended = found
    try:
        yield server
    finally:
        server.loop.call_soon_threadsafe(ended.set)
        thread.join(30)
        assert not thread.is_alive(), "the server did not end"


def echo_package(path: Path) -> None:
    """Writes a package whose outputs `y_FP32`, ... are its inputs `x_FP32`, ... of every datatype, n × 2."""
    inputs = [helper.make_tensor_value_info(f"x_{name}", kind, ["n", 2]) for name, kind in ECHOED.items()]
    outputs = [helper.make_tensor_value_info(f"y_{name}", kind, ["n", 2]) for name, kind in ECHOED.items()]
    nodes = [helper.make_node("Identity", [f"x_{name}"], [f"y_{name}"], name) for name in ECHOED]
    graph = helper.make_graph(nodes, "echo", inputs, outputs)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    onnx.save(model, path.with_suffix(".onnx"))
    graphc.compile(str(path.with_suffix(".onnx")), output=path, dims={"n": [1, 2, 4]})
    path.with_suffix(".onnx").unlink()
