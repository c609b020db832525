"""What is the same in both protocols: an inference request with its parameters, and the form its answer is to have."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from graphc.errors import RequestError, RequestTooLargeError, UnsupportedError
from graphc.serve.protocol import tensors
from graphc.serve.protocol.datatypes import datatype_of
from graphc.serve.protocol.limits import RequestLimits
from graphc.serve.protocol.shared_memory import Place, SharedMemory, place_of
from graphc.serve.protocol.tensors import Array
from graphc.serve.request import InferRequest, InferResponse

_OWN = frozenset({"priority", "timeout", "binary_data_output"})
_LEVELS = 1 << 32
_MICROSECONDS = 1 << 62


@dataclass(slots=True)
class RequestedOutput:
    """An output as the client wants it.

    Attributes:
        name: Of the output.
        binary: Behind the JSON rather than in it; HTTP alone asks.
        classes: How many of its largest values, as `value:index`; 0 for the tensor itself.
        place: Where in shared memory it is written; None where it is in the answer.
    """

    name: str
    binary: bool = True
    classes: int = 0
    place: Place | None = None


@dataclass(slots=True)
class InferCall:
    """A request and the form of its answer.

    Attributes:
        request: What is computed.
        outputs: What is wanted; None is all, each as `binary` says.
        binary: Whether outputs that are not named are binary.
    """

    request: InferRequest
    outputs: tuple[RequestedOutput, ...] | None = None
    binary: bool = True


@dataclass(slots=True)
class AnsweredOutput:
    """An output on its way out.

    Attributes:
        name: Of the output.
        datatype: Of the protocol.
        shape: Of the tensor.
        array: The tensor.
        binary: Whether the client wants it binary.
        place: Where in shared memory it has been written; None where it goes into the answer.
    """

    name: str
    datatype: str
    shape: tuple[int, ...]
    array: Array
    binary: bool
    place: Place | None


def check_count(what: str, count: int, limit: int) -> None:
    """Holds a number of things in a request against its limit.

    Raises:
        RequestTooLargeError: There are more.
    """
    if count > limit:
        raise RequestTooLargeError(f"{count} {what} are above the server's limit of {limit}")


def priority_of(parameters: Mapping[str, Any]) -> int:
    """The request's `priority`: 1 goes first; 0, the default, is the server's choice.

    Raises:
        RequestError: Not a whole number from 0 on.
    """
    value = parameters.get("priority", 0)
    if type(value) is not int or not 0 <= value < _LEVELS:
        raise RequestError(f"priority must be a whole number from 0 on, got {value!r:.80}")
    return value


def timeout_of(parameters: Mapping[str, Any]) -> float | None:
    """The request's `timeout`, given in microseconds, in seconds; None where it is 0 or missing.

    Raises:
        RequestError: Not a whole number from 0 on.
    """
    value = parameters.get("timeout", 0)
    if type(value) is not int or not 0 <= value < _MICROSECONDS:
        raise RequestError(f"timeout must be a whole number of microseconds from 0 on, got {value!r:.80}")
    return value / 1e6 if value else None


def further(parameters: Mapping[str, Any]) -> dict[str, Any]:
    """The parameters that mean nothing to the protocol."""
    return {key: value for key, value in parameters.items() if key not in _OWN}


def flag(parameters: Mapping[str, Any], key: str, default: bool) -> bool:
    """A parameter that is true or false.

    Raises:
        RequestError: It is neither.
    """
    value = parameters.get(key, default)
    if type(value) is not bool:
        raise RequestError(f"{key} must be true or false, got {value!r:.80}")
    return value


def add_input(inputs: dict[str, Any], name: Any, value: Array) -> None:
    """Adds an input to those of a request.

    Raises:
        RequestError: It is there already.
    """
    if name in inputs:
        raise RequestError(f"input {name!r} is given twice")
    inputs[name] = value


def check_name(what: str, name: Any) -> str:
    """A tensor's name.

    Raises:
        RequestError: No string, or empty.
    """
    if not isinstance(name, str) or not name:
        raise RequestError(f"every {what} needs a name, got {name!r:.80}")
    return name


def read_shared(
    memory: SharedMemory,
    name: str,
    datatype: str,
    shape: tuple[int, ...],
    parameters: dict[str, Any],
    limits: RequestLimits,
) -> Array | None:
    """The input that lies in shared memory; None where its parameters name no region.

    Raises:
        RequestError: No such place, or another number of bytes than the tensor takes.
    """
    place = place_of(parameters)
    return None if place is None else tensors.decode(name, datatype, shape, memory.read(place), strings=limits.strings)


def requested_output(name: Any, parameters: dict[str, Any], binary: bool) -> RequestedOutput:
    """An output as its name and parameters ask for it.

    Raises:
        RequestError: Ill-typed parameters, or ones that exclude each other.
    """
    name = check_name("output", name)
    if not parameters:
        return RequestedOutput(name, binary)
    classes = parameters.get("classification", 0)
    if type(classes) is not int or classes < 0:
        raise RequestError(f"output {name!r}: classification must be a number of classes, got {classes!r:.80}")
    place = place_of(parameters)
    if classes and place is not None:
        raise RequestError(f"output {name!r}: classes cannot be written to shared memory")
    return RequestedOutput(name, flag(parameters, "binary_data", binary), classes, place)


def output_names(outputs: tuple[RequestedOutput, ...] | None, limits: RequestLimits) -> list[str] | None:
    """Names of the outputs asked for; None for all.

    Raises:
        RequestError: An output is named twice.
    """
    if outputs is None:
        return None
    check_count("outputs", len(outputs), limits.tensors)
    names = [output.name for output in outputs]
    if len(set(names)) < len(names):
        twice = next(name for name in names if names.count(name) > 1)
        raise RequestError(f"output {twice!r} is asked for twice")
    return names


def answered_outputs(call: InferCall, response: InferResponse, memory: SharedMemory) -> list[AnsweredOutput]:
    """The outputs in the form that the client wants; those for shared memory are written there.

    Raises:
        UnsupportedError: An output is no tensor, or of a type that the protocol does not have.
        RequestError: It does not fit where it is to go.
    """
    wanted = call.outputs
    if wanted is None:
        wanted = tuple([RequestedOutput(name, call.binary) for name in response.outputs])
    found = []
    for output in wanted:
        array = response.outputs[output.name]
        if not isinstance(array, np.ndarray):
            raise UnsupportedError(
                f"output {output.name!r} is a {type(array).__name__}; the Open Inference Protocol has tensors alone"
            )
        if output.classes:
            array = _classes(output, array)
        if output.place is not None:
            memory.write(output.place, tensors.encode(array))
        found.append(
            AnsweredOutput(output.name, datatype_of(array.dtype), array.shape, array, output.binary, output.place)
        )
    return found


def _classes(output: RequestedOutput, array: Array) -> Array:
    """The largest values of each row as `value:index`, largest first."""
    if array.dtype == object:
        raise RequestError(f"output {output.name!r} holds strings, which have no classes")
    rows = array.reshape(array.shape[0], -1) if array.ndim > 1 and array.size else array.reshape(1, -1)
    count = min(output.classes, rows.shape[1])
    order = np.argsort(-rows.astype(np.float64), axis=1, kind="stable")[:, :count]
    texts = np.empty(order.shape, object)
    for row, indices in enumerate(order):
        texts[row] = [f"{float(rows[row, index]):f}:{index}" for index in indices]
    return texts if array.ndim > 1 else texts[0]
