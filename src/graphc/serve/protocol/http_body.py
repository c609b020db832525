"""Inference over HTTP: JSON with its tensors in it or, by the binary tensor extension, behind it."""

from __future__ import annotations

from collections.abc import Callable
from time import perf_counter
from typing import Any

from graphc.errors import RequestError, RequestTooLargeError
from graphc.serve.facts import ModelMetadata
from graphc.serve.protocol import json_tensors, json_text, tensors
from graphc.serve.protocol.calls import (
    InferCall,
    RequestedOutput,
    add_input,
    answered_outputs,
    check_count,
    check_name,
    flag,
    further,
    output_names,
    priority_of,
    read_shared,
    requested_output,
    timeout_of,
)
from graphc.serve.protocol.datatypes import BYTES, datatype_of_name, numpy_of
from graphc.serve.protocol.limits import RequestLimits
from graphc.serve.protocol.shared_memory import SharedMemory
from graphc.serve.protocol.tensors import Array, Buffer
from graphc.serve.request import Client, InferRequest, InferResponse


def decode_request(
    model: str,
    version: str | None,
    body: Buffer,
    header_length: int | None,
    *,
    limits: RequestLimits,
    memory: SharedMemory,
    client: Client,
    metadata: Callable[[], ModelMetadata],
    arrived: float | None = None,
) -> InferCall:
    """The call that an HTTP body asks for; its tensors are views of the body.

    Args:
        model: Name of the model, from the path.
        version: Its version or label, from the path.
        body: Decompressed.
        header_length: `Inference-Header-Content-Length`: bytes of JSON before the tensors; 0 where the body is the
            model's only input and nothing else; None where all of it is JSON.
        limits: Of the request.
        memory: Where inputs may lie.
        client: Who asks.
        metadata: Tells what the model takes, where the body does not say.
        arrived: When, on `time.perf_counter`; now if None.

    Raises:
        RequestError: It breaks the protocol.
        RequestTooLargeError: It is above a limit.
    """
    arrived = perf_counter() if arrived is None else arrived
    if header_length == 0 and body:
        name, array = _raw_input(metadata(), body)
        return InferCall(InferRequest(model, {name: array}, version, client=client, arrived=arrived))
    if header_length is not None and not 0 <= header_length <= len(body):
        raise RequestError(f"Inference-Header-Content-Length is {header_length}, and the body has {len(body)} bytes")
    length = len(body) if header_length is None else header_length
    if length > limits.json_bytes:
        raise RequestTooLargeError(
            f"{length} bytes of JSON are above the server's limit of {limits.json_bytes}",
            hint="send tensors as binary data",
        )
    text = json_text.loads_object(bytes(body[:length]), limits.json_depth)
    binary = _Binary(memoryview(body)[length:])
    parameters = _parameters("the request", text, limits)
    inputs: dict[str, Any] = {}
    for entry in _entries("inputs", text, limits, required=True):
        name = check_name("input", entry.get("name"))
        add_input(inputs, name, _input(name, entry, binary, memory, limits))
    if binary.left:
        raise RequestError(f"{binary.left} bytes of binary data belong to no input")
    default = flag(parameters, "binary_data_output", False)
    outputs = _outputs(text, default, limits)
    request = InferRequest(
        model,
        inputs,
        version,
        output_names(outputs, limits),
        _id(text),
        priority_of(parameters),
        timeout_of(parameters),
        further(parameters),
        client,
        arrived,
    )
    return InferCall(request, outputs, default)


def encode_response(call: InferCall, response: InferResponse, memory: SharedMemory) -> tuple[int | None, list[Buffer]]:
    """The body of an answer, in parts, and the length of the JSON before its tensors; None where there are none.

    Raises:
        UnsupportedError: An output is no tensor, or of a type that the protocol does not have.
        RequestError: It does not fit where it is to go.
    """
    outputs: list[dict[str, Any]] = []
    parts: list[Buffer] = []
    for output in answered_outputs(call, response, memory):
        entry: dict[str, Any] = {"name": output.name, "datatype": output.datatype, "shape": output.shape}
        # What lies in shared memory has no parameters: perf_analyzer takes whatever has some for binary data.
        if output.place is None and output.binary:
            data = tensors.encode(output.array)
            entry["parameters"] = {"binary_data_size": len(data)}
            parts.append(data)
        elif output.place is None:
            entry["data"] = json_tensors.encode(output.name, output.array)
        outputs.append(entry)
    answer: dict[str, Any] = {"model_name": response.model, "model_version": response.version, "outputs": outputs}
    if response.id:
        answer["id"] = response.id
    head = json_text.dumps(answer)
    return (len(head), [head, *parts]) if parts else (None, [head])


class _Binary:
    """The bytes behind the JSON, taken in order."""

    def __init__(self, data: memoryview) -> None:
        self._data = data
        self._place = 0

    @property
    def left(self) -> int:
        return len(self._data) - self._place

    def take(self, name: str, size: Any) -> memoryview:
        if type(size) is not int or size < 0:
            raise RequestError(f"input {name!r}: binary_data_size must be a number of bytes, got {size!r:.80}")
        if size > self.left:
            raise RequestError(f"input {name!r}: binary_data_size is {size}, and {self.left} bytes are left")
        start, self._place = self._place, self._place + size
        return self._data[start : self._place]


def _input(name: str, entry: dict[str, Any], binary: _Binary, memory: SharedMemory, limits: RequestLimits) -> Array:
    datatype = entry.get("datatype")
    numpy_of(datatype)  # type: ignore[arg-type]
    assert isinstance(datatype, str)
    shape = tensors.check_shape(name, entry.get("shape"), limits)
    parameters = _parameters(f"input {name!r}", entry, limits)
    if "binary_data_size" in parameters:
        if "data" in entry:
            raise RequestError(f"input {name!r} has both data and binary_data_size")
        return tensors.decode(
            name, datatype, shape, binary.take(name, parameters["binary_data_size"]), strings=limits.strings
        )
    shared = read_shared(memory, name, datatype, shape, parameters, limits)
    if shared is not None:
        return shared
    if "data" not in entry:
        raise RequestError(f"input {name!r} has neither data nor binary_data_size")
    return json_tensors.decode(name, datatype, shape, entry["data"])


def _outputs(text: dict[str, Any], default: bool, limits: RequestLimits) -> tuple[RequestedOutput, ...] | None:
    entries = _entries("outputs", text, limits, required=False)
    return (
        tuple(
            [requested_output(entry.get("name"), _parameters("an output", entry, limits), default) for entry in entries]
        )
        or None
    )


def _entries(key: str, text: dict[str, Any], limits: RequestLimits, *, required: bool) -> list[dict[str, Any]]:
    entries = text.get(key)
    if entries is None:
        if required:
            raise RequestError(f"the request has no {key}")
        return []
    if not isinstance(entries, list):
        raise RequestError(f"{key} must be a list, got {type(entries).__name__}")
    check_count(key, len(entries), limits.tensors)
    if any(type(entry) is not dict for entry in entries):
        raise RequestError(f"{key} must be a list of objects")
    return entries


def _parameters(what: str, entry: dict[str, Any], limits: RequestLimits) -> dict[str, Any]:
    parameters = entry.get("parameters")
    if parameters is None:
        return {}
    if type(parameters) is not dict:
        raise RequestError(f"{what}: parameters must be an object")
    check_count("parameters", len(parameters), limits.parameters)
    for key, value in parameters.items():
        if type(value) not in (str, int, float, bool):
            raise RequestError(f"{what}: parameter {key!r:.80} must be a string, a number, true or false")
    return parameters


def _id(text: dict[str, Any]) -> str:
    value = text.get("id", "")
    if not isinstance(value, str):
        raise RequestError(f"id must be a string, got {value!r:.80}")
    return value


def _raw_input(metadata: ModelMetadata, body: Buffer) -> tuple[str, Array]:
    """The model's only input, of the shape that the number of bytes gives it."""
    if len(metadata.inputs) != 1:
        raise RequestError(
            f"a raw body is for models of one input; {metadata.name!r} has {len(metadata.inputs)}",
            hint="say with Inference-Header-Content-Length where the tensors begin",
        )
    (spec,) = metadata.inputs
    datatype = datatype_of_name(spec.dtype)
    if datatype == BYTES:
        shape = tuple([1 if extent < 0 else extent for extent in spec.shape])
        return spec.name, tensors.decode(spec.name, BYTES, shape, len(body).to_bytes(4, "little") + body)
    itemsize = numpy_of(datatype).itemsize
    open_axes = [axis for axis, extent in enumerate(spec.shape) if extent < 0]
    # One sample where the batch is open and so is something else.
    extents = [1 if axis in open_axes[:-1] else extent for axis, extent in enumerate(spec.shape)]
    if open_axes:
        known = itemsize
        for axis, extent in enumerate(extents):
            known *= 1 if axis == open_axes[-1] else extent
        extents[open_axes[-1]] = len(body) // known if known else 0
    return spec.name, tensors.decode(spec.name, datatype, tuple(extents), body)
