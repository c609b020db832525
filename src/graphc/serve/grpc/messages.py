"""Inference requests and answers as protobuf messages."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import numpy as np
from google.protobuf.message import DecodeError, Message
from tritonclient.grpc import service_pb2 as pb

from graphc.errors import DeadlineError, RequestError, RequestTooLargeError
from graphc.serve.grpc.wire import lift, lower
from graphc.serve.protocol import tensors
from graphc.serve.protocol.calls import (
    InferCall,
    RequestedOutput,
    add_input,
    answered_outputs,
    check_count,
    check_name,
    further,
    output_names,
    priority_of,
    read_shared,
    requested_output,
    timeout_of,
)
from graphc.serve.protocol.datatypes import BYTES, numpy_of
from graphc.serve.protocol.limits import RequestLimits
from graphc.serve.protocol.shared_memory import SharedMemory
from graphc.serve.protocol.tensors import Array, Buffer
from graphc.serve.request import Client, InferRequest, InferResponse

_RAW_INPUTS = pb.ModelInferRequest.DESCRIPTOR.fields_by_name["raw_input_contents"].number
_RAW_OUTPUTS = pb.ModelInferResponse.DESCRIPTOR.fields_by_name["raw_output_contents"].number
_STREAMED = pb.ModelStreamInferResponse.DESCRIPTOR.fields_by_name["infer_response"].number
_SMALL = 4096
"""Bytes of a message up to which copies cost less than finding the tensors in it."""
_CONTENTS = {
    "BOOL": "bool_contents",
    "INT8": "int_contents",
    "INT16": "int_contents",
    "INT32": "int_contents",
    "INT64": "int64_contents",
    "UINT8": "uint_contents",
    "UINT16": "uint_contents",
    "UINT32": "uint_contents",
    "UINT64": "uint64_contents",
    "FP32": "fp32_contents",
    "FP64": "fp64_contents",
    BYTES: "bytes_contents",
}


class InferMessage(NamedTuple):
    """A ModelInferRequest, and its tensors apart from it.

    Attributes:
        head: All the rest.
        raw: What that was: views of the message as it came, or copies where it is small.
        size: Bytes of the message.
    """

    head: Any
    raw: Sequence[Buffer]
    size: int


def infer_reader(limits: RequestLimits) -> Callable[[bytes], InferMessage | RequestError]:
    """What makes a message of the bytes of a ModelInferRequest, or says what is wrong with them."""
    most = 3 * limits.tensors + limits.parameters + 8

    def read(data: bytes) -> InferMessage | RequestError:
        try:
            if len(data) <= _SMALL:
                message = pb.ModelInferRequest.FromString(data)
                return InferMessage(message, message.raw_input_contents, len(data))
            head, raw = lift(data, _RAW_INPUTS, most)
            if len(head) > limits.json_bytes:
                raise RequestTooLargeError(
                    f"{len(head)} bytes of message are above the server's limit of {limits.json_bytes}",
                    hint="send tensors as raw_input_contents",
                )
            return InferMessage(pb.ModelInferRequest.FromString(head), raw, len(data))
        except RequestError as error:
            return error
        except DecodeError as error:
            return RequestError(f"the message is no ModelInferRequest: {error}")

    return read


def reader(kind: Any, limits: RequestLimits) -> Callable[[bytes], Message | RequestError]:
    """What makes a message of its bytes, or says what is wrong with them."""

    def read(data: bytes) -> Message | RequestError:
        if len(data) > limits.json_bytes:
            return RequestTooLargeError(
                f"{len(data)} bytes of message are above the server's limit of {limits.json_bytes}"
            )
        try:
            found: Message = kind.FromString(data)
            return found
        except DecodeError as error:
            return RequestError(f"the message is no {kind.DESCRIPTOR.name}: {error}")

    return read


def parameters_of(fields: Any, limits: RequestLimits) -> dict[str, Any]:
    """The parameters of a request or a tensor as plain values.

    Raises:
        RequestError: One has no value.
        RequestTooLargeError: There are more than the limits allow.
    """
    check_count("parameters", len(fields), limits.parameters)
    found = {}
    for key, value in fields.items():
        which = value.WhichOneof("parameter_choice")
        if which is None:
            raise RequestError(f"parameter {key!r:.80} has no value")
        found[key] = getattr(value, which)
    return found


def decode_request(
    message: InferMessage,
    *,
    limits: RequestLimits,
    memory: SharedMemory,
    client: Client,
    deadline: float | None,
    arrived: float,
) -> InferCall:
    """The call that a message asks for; its tensors are views of the message.

    Args:
        message: As `infer_reader` made it.
        limits: Of the request.
        memory: Where inputs may lie.
        client: Who asks.
        deadline: Seconds until the call's own deadline; None without one.
        arrived: When, on `time.perf_counter`.

    Raises:
        RequestError: It breaks the protocol.
        RequestTooLargeError: It is above a limit.
        DeadlineError: Its deadline has passed.
    """
    head, raw, _ = message
    check_count("inputs", len(head.inputs), limits.tensors)
    parameters = parameters_of(head.parameters, limits) if head.parameters else {}
    inputs: dict[str, Any] = {}
    used = 0
    for entry in head.inputs:
        name = check_name("input", entry.name)
        datatype = entry.datatype
        numpy_of(datatype)
        shape = tensors.check_shape(name, list(entry.shape), limits)
        own = parameters_of(entry.parameters, limits) if entry.parameters else {}
        value = read_shared(memory, name, datatype, shape, own, limits) if own else None
        if value is None and raw:
            if entry.HasField("contents"):
                raise RequestError(
                    f"input {name!r} has contents beside raw_input_contents; all inputs are one or other"
                )
            if used == len(raw):
                raise RequestError(f"input {name!r} has no data: there are {len(raw)} raw_input_contents")
            value = tensors.decode(name, datatype, shape, raw[used], strings=limits.strings)
            used += 1
        elif value is None:
            value = _typed(name, datatype, shape, entry.contents, limits)
        add_input(inputs, name, value)
    if used != len(raw):
        raise RequestError(f"{len(raw) - used} of {len(raw)} raw_input_contents belong to no input")
    outputs = _outputs(head, limits)
    timeout = timeout_of(parameters)
    if deadline is not None:
        if deadline <= 0:
            raise DeadlineError("the call's deadline was over before it was read")
        timeout = deadline if timeout is None else min(timeout, deadline)
    request = InferRequest(
        head.model_name,
        inputs,
        head.model_version or None,
        output_names(outputs, limits),
        head.id,
        priority_of(parameters),
        timeout,
        further(parameters),
        client,
        arrived,
    )
    return InferCall(request, outputs)


def _outputs(head: Any, limits: RequestLimits) -> tuple[RequestedOutput, ...] | None:
    if not head.outputs:
        return None
    check_count("outputs", len(head.outputs), limits.tensors)
    return tuple(
        [
            requested_output(entry.name, parameters_of(entry.parameters, limits) if entry.parameters else {}, True)
            for entry in head.outputs
        ]
    )


def _typed(name: str, datatype: str, shape: tuple[int, ...], contents: Any, limits: RequestLimits) -> Array:
    field = _CONTENTS.get(datatype)
    if field is None:
        raise RequestError(f"input {name!r}: {datatype} is sent as raw_input_contents alone")
    for descriptor, _ in contents.ListFields():
        if descriptor.name != field:
            raise RequestError(f"input {name!r}: values of {datatype} are in {field}, not in {descriptor.name}")
    values = getattr(contents, field)
    count = 1
    for extent in shape:
        count *= extent
    if len(values) != count:
        raise RequestError(f"input {name!r}: shape {list(shape)} has {count} values, got {len(values)} in {field}")
    if datatype == BYTES:
        check_count("strings", count, limits.strings)
        array: Array = np.empty(count, object)
        array[:] = [value.decode("utf-8", "surrogateescape") for value in values]
        return array.reshape(shape)
    dtype = numpy_of(datatype)
    wide: Array = np.array(values, np.int64 if field in ("int_contents", "uint_contents") else dtype)
    if wide.dtype != dtype:
        limit = np.iinfo(dtype)
        if count and (wide.min() < limit.min or wide.max() > limit.max):
            raise RequestError(f"input {name!r}: a value is out of the range of {datatype}")
        wide = wide.astype(dtype)
    return wide.reshape(shape)


def encode_response(call: InferCall, response: InferResponse, memory: SharedMemory, *, final: bool = False) -> bytes:
    """A serialized ModelInferResponse.

    Args:
        call: That is answered.
        response: To it.
        memory: Where outputs may go.
        final: Whether to say that no further answer follows, as streams do.

    Raises:
        UnsupportedError: An output is no tensor, or of a type that the protocol does not have.
        RequestError: It does not fit where it is to go.
    """
    head = pb.ModelInferResponse(model_name=response.model, model_version=response.version, id=response.id)
    if final:
        head.parameters["triton_final_response"].bool_param = True
    raw: list[Buffer] = []
    for output in answered_outputs(call, response, memory):
        head.outputs.add(name=output.name, datatype=output.datatype, shape=output.shape)
        # Clients count the contents by the outputs, those in shared memory among them.
        raw.append(tensors.encode(output.array) if output.place is None else b"")
    return lower(head.SerializeToString(), _RAW_OUTPUTS, raw)


def encode_streamed(response: bytes) -> bytes:
    """A serialized ModelStreamInferResponse of a serialized ModelInferResponse."""
    return lower(b"", _STREAMED, [response])


def encode_stream_error(message: str, id: str) -> bytes:
    """A serialized ModelStreamInferResponse that says what went wrong with one request."""
    found = pb.ModelStreamInferResponse(error_message=message)
    found.infer_response.id = id
    found.infer_response.parameters["triton_final_response"].bool_param = True
    octets: bytes = found.SerializeToString()
    return octets
