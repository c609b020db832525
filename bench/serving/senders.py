"""What a load sends: requests made in advance, over HTTP or gRPC, and whether the answers to them are right."""

from __future__ import annotations

import asyncio
import json
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol, Self

import aiohttp
import numpy as np
import numpy.typing as npt

Inputs = Mapping[str, npt.NDArray[Any]]
Check = Callable[[int, bytes], bool]
"""Whether a body answers request number n of those made in advance."""
TOLERANCE = 1e-3
"""Relative difference of two answers to one request: batches of other sizes round differently."""


@dataclass(frozen=True)
class Body:
    """One request, as it goes over the wire."""

    data: bytes
    headers: Mapping[str, str] = field(default_factory=dict)


class Sender(Protocol):
    """Sends request number n and says how it went: `ok`, `wrong`, or what was said instead."""

    async def __aenter__(self) -> Self:
        """Connects."""

    async def __aexit__(self, *exception: object) -> None:
        """Disconnects."""

    async def send(self, number: int) -> str:
        """Sends one and waits for its answer."""


class HttpSender:
    """Posts bodies in turns to one address.

    Args:
        url: The address.
        bodies: What to post.
        connections: Kept open at most; a request waits for one, and its wait counts.
        check: Of an answer; by default answers to one body must be the same.
    """

    def __init__(self, url: str, bodies: Sequence[Body], *, connections: int = 64, check: Check | None = None) -> None:
        self.url = url
        self.bodies = bodies
        self.connections = connections
        self.check = check or Same()

    async def __aenter__(self) -> Self:
        connector = aiohttp.TCPConnector(limit=self.connections, force_close=False)
        timeout = aiohttp.ClientTimeout(total=None)
        self._session = aiohttp.ClientSession(connector=connector, timeout=timeout, auto_decompress=False)
        return self

    async def __aexit__(self, *exception: object) -> None:
        await self._session.close()

    async def send(self, number: int) -> str:
        which = number % len(self.bodies)
        body = self.bodies[which]
        try:
            async with self._session.post(self.url, data=body.data, headers=body.headers) as response:
                answer = await response.read()
        except (aiohttp.ClientError, OSError):
            return "connection"
        if response.status != 200:
            return str(response.status)
        return "ok" if self.check(which, answer) else "wrong"


class GrpcSender:
    """Calls ModelInfer with requests that are serialized already.

    Args:
        address: Host and port.
        bodies: Serialized requests.
        method: Full name of the method.
        channels: Connections; calls take turns on them.
        check: Of a serialized answer; by default answers to one body must be the same.
    """

    def __init__(
        self,
        address: str,
        bodies: Sequence[Body],
        *,
        method: str = "/inference.GRPCInferenceService/ModelInfer",
        channels: int = 1,
        check: Check | None = None,
    ) -> None:
        self.address = address
        self.bodies = bodies
        self.method = method
        self.channels = channels
        self.check = check or Same()

    async def __aenter__(self) -> Self:
        import grpc

        self._error = grpc.aio.AioRpcError
        # Channels of one process to one address share a connection unless told not to.
        self._channels = [
            grpc.aio.insecure_channel(self.address, options=[("grpc.use_local_subchannel_pool", 1)])
            for _ in range(self.channels)
        ]
        self._calls = [channel.unary_unary(self.method) for channel in self._channels]
        return self

    async def __aexit__(self, *exception: object) -> None:
        await asyncio.gather(*(channel.close() for channel in self._channels))

    async def send(self, number: int) -> str:
        which = number % len(self.bodies)
        try:
            answer: bytes = await self._calls[number % self.channels](self.bodies[which].data)
        except self._error as error:
            return str(error.code().name)
        return "ok" if self.check(which, answer) else "wrong"


class Same:
    """Holds every answer against the first one to the same request: equal bytes, or equal but for rounding.

    Args:
        read: What is in an answer; called only where bytes differ.
    """

    def __init__(self, read: Callable[[bytes], Any] = json.loads) -> None:
        self.read = read
        self._first: dict[int, bytes] = {}

    def __call__(self, which: int, answer: bytes) -> bool:
        first = self._first.setdefault(which, answer)
        return first == answer or _close(self.read(first), self.read(answer))


class Members:
    """Holds every answer, an object of JSON, against members that it must have.

    Args:
        members: Of the answer to each request made in advance.
    """

    def __init__(self, members: Sequence[Mapping[str, Any]]) -> None:
        self.members = members

    def __call__(self, which: int, answer: bytes) -> bool:
        given = json.loads(answer)
        return all(name in given and _close(given[name], value) for name, value in self.members[which].items())


class Expected:
    """Holds every answer against outputs that are known, by the reader of its protocol.

    Args:
        outputs: Of each request made in advance.
        read: The outputs in an answer.
    """

    def __init__(self, outputs: Sequence[Inputs], read: Callable[[bytes], Inputs]) -> None:
        self.outputs = outputs
        self.read = read

    def __call__(self, which: int, answer: bytes) -> bool:
        given = self.read(answer)
        return all(
            name in given and given[name].shape == array.shape and np.allclose(given[name], array, TOLERANCE, 1e-5)
            for name, array in self.outputs[which].items()
        )


def json_bodies(requests: Sequence[Inputs]) -> list[Body]:
    """Requests of the Open Inference Protocol in plain JSON."""
    return [
        Body(
            json.dumps(
                {
                    "inputs": [
                        {
                            "name": name,
                            "shape": array.shape,
                            "datatype": _datatype(array),
                            "data": array.ravel().tolist(),
                        }
                        for name, array in inputs.items()
                    ]
                }
            ).encode(),
            {"Content-Type": "application/json"},
        )
        for inputs in requests
    ]


def binary_bodies(requests: Sequence[Inputs]) -> list[Body]:
    """Requests of the binary tensor extension, whose answers are binary too."""
    from tritonclient.http import InferenceServerClient, InferInput

    bodies = []
    for inputs in requests:
        tensors = []
        for name, array in inputs.items():
            tensor = InferInput(name, list(array.shape), _datatype(array))
            tensor.set_data_from_numpy(array, binary_data=True)
            tensors.append(tensor)
        data, length = InferenceServerClient.generate_request_body(tensors)
        bodies.append(Body(data, {"Inference-Header-Content-Length": str(length)}))
    return bodies


def grpc_bodies(model: str, requests: Sequence[Inputs]) -> list[Body]:
    """Serialized requests with raw contents."""
    from tritonclient.grpc import service_pb2

    bodies = []
    for inputs in requests:
        message = service_pb2.ModelInferRequest(model_name=model)
        for name, array in inputs.items():
            message.inputs.add(name=name, shape=array.shape, datatype=_datatype(array))
            message.raw_input_contents.append(array.tobytes())
        bodies.append(Body(message.SerializeToString()))
    return bodies


def upload_bodies(files: Sequence[tuple[str, bytes]], field_name: str = "file") -> list[Body]:
    """Multipart forms with one file each, as a browser or curl -F sends them."""
    bodies = []
    for name, data in files:
        writer = aiohttp.MultipartWriter("form-data")
        part = writer.append(data, {"Content-Type": _content_type(name)})
        part.set_content_disposition("form-data", name=field_name, filename=Path(name).name)
        head = f"--{writer.boundary}\r\n" + "".join(f"{key}: {value}\r\n" for key, value in part.headers.items())
        form = head.encode() + b"\r\n" + data + f"\r\n--{writer.boundary}--\r\n".encode()
        bodies.append(Body(form, {"Content-Type": str(writer.headers["Content-Type"])}))
    return bodies


def json_outputs(answer: bytes) -> dict[str, npt.NDArray[Any]]:
    """Outputs in an answer in plain JSON."""
    return {
        output["name"]: np.array(output["data"], np.float64).reshape(output["shape"])
        for output in json.loads(answer)["outputs"]
    }


def binary_outputs(answer: bytes) -> dict[str, npt.NDArray[Any]]:
    """Outputs in an answer of the binary tensor extension, each of which is binary."""
    from tritonclient.utils import triton_to_np_dtype

    header, place = json.JSONDecoder().raw_decode(answer.decode("latin-1"))
    outputs = {}
    for output in header["outputs"]:
        size = output["parameters"]["binary_data_size"]
        dtype = np.dtype(triton_to_np_dtype(output["datatype"]))
        outputs[output["name"]] = np.frombuffer(answer[place : place + size], dtype).reshape(output["shape"])
        place += size
    return outputs


def grpc_outputs(answer: bytes) -> dict[str, npt.NDArray[Any]]:
    """Outputs in a serialized ModelInferResponse."""
    from tritonclient.grpc import InferResult, service_pb2

    result = InferResult(service_pb2.ModelInferResponse.FromString(answer))
    return {output.name: result.as_numpy(output.name) for output in result.get_response().outputs}


def _datatype(array: npt.NDArray[Any]) -> str:
    from tritonclient.utils import np_to_triton_dtype

    return str(np_to_triton_dtype(array.dtype))


def _content_type(name: str) -> str:
    kinds = {".jpg": "image/jpeg", ".jpeg": "image/jpeg", ".png": "image/png", ".webp": "image/webp"}
    return kinds.get(Path(name).suffix.lower(), "application/octet-stream")


def _close(first: Any, second: Any) -> bool:
    """Whether two values, of JSON or arrays, are the same but for rounding."""
    if isinstance(first, np.ndarray) and isinstance(second, np.ndarray):
        return first.shape == second.shape and bool(np.allclose(first, second, TOLERANCE, 1e-5))
    if isinstance(first, dict) and isinstance(second, dict):
        return first.keys() == second.keys() and all(_close(first[key], second[key]) for key in first)
    if isinstance(first, list) and isinstance(second, list):
        return len(first) == len(second) and all(map(_close, first, second))
    if isinstance(first, float) and isinstance(second, float):
        return math.isclose(first, second, rel_tol=TOLERANCE, abs_tol=1e-5)
    return type(first) is type(second) and bool(first == second)
