"""AttributeProto to attribute values."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NoReturn

import onnx

from graphc.errors import ModelError
from graphc.frontend.tensors import TensorReader
from graphc.frontend.value_types import Resolve, read_type
from graphc.ir import Attribute, Graph

_KINDS = onnx.AttributeProto

FIELDS: dict[int, str] = {
    _KINDS.FLOAT: "f",
    _KINDS.INT: "i",
    _KINDS.STRING: "s",
    _KINDS.TENSOR: "t",
    _KINDS.GRAPH: "g",
    _KINDS.SPARSE_TENSOR: "sparse_tensor",
    _KINDS.TYPE_PROTO: "tp",
    _KINDS.FLOATS: "floats",
    _KINDS.INTS: "ints",
    _KINDS.STRINGS: "strings",
    _KINDS.TENSORS: "tensors",
    _KINDS.GRAPHS: "graphs",
    _KINDS.SPARSE_TENSORS: "sparse_tensors",
    _KINDS.TYPE_PROTOS: "type_protos",
}
"""Field that holds the value of each attribute type."""


def attribute_kind(proto: onnx.AttributeProto) -> int:
    """The attribute's type; that of the field that is set where the file does not say (IR versions below 2)."""
    if proto.type:
        return int(proto.type)
    for kind, name in FIELDS.items():
        filled = getattr(proto, name) if kind >= _KINDS.FLOATS and name[-1] == "s" else proto.HasField(name)
        if filled:
            return kind
    return int(_KINDS.UNDEFINED)


def read_attribute(
    proto: onnx.AttributeProto,
    owner: str,
    *,
    tensors: TensorReader,
    resolve: Resolve,
    graph: Callable[[onnx.GraphProto], Graph],
) -> Attribute:
    """The value of an attribute.

    Args:
        proto: ONNX's attribute.
        owner: Node that has it, for messages.
        tensors: Reader of tensors.
        resolve: Makes dimensions of names.
        graph: Makes a graph of a subgraph.

    Raises:
        ModelError: The attribute has no type or one that graphc does not know.
    """

    def fail(message: str) -> NoReturn:
        raise ModelError(f"attribute {proto.name!r} {message}", nodes=(owner,))

    def tensor(value: onnx.TensorProto) -> Any:
        return tensors.read(value, f"{owner}.{proto.name}")

    match attribute_kind(proto):
        case _KINDS.FLOAT:
            return float(proto.f)
        case _KINDS.INT:
            return int(proto.i)
        case _KINDS.STRING:
            return _text(proto.s)
        case _KINDS.TENSOR:
            return tensor(proto.t)  # type: ignore[no-any-return]
        case _KINDS.GRAPH:
            return graph(proto.g)
        case _KINDS.SPARSE_TENSOR:
            return tensors.read_sparse(proto.sparse_tensor, f"{owner}.{proto.name}")
        case _KINDS.TYPE_PROTO:
            found = read_type(proto.tp, resolve, owner)
            return found if found is not None else fail("declares no type")
        case _KINDS.FLOATS:
            return tuple(float(value) for value in proto.floats)
        case _KINDS.INTS:
            return tuple(int(value) for value in proto.ints)
        case _KINDS.STRINGS:
            return tuple(str(_text(value)) for value in proto.strings)
        case _KINDS.TENSORS:
            return tuple(tensor(value) for value in proto.tensors)
        case _KINDS.GRAPHS:
            return tuple(graph(value) for value in proto.graphs)
        case kind:
            fail(f"has the type number {kind}, which no operator uses")


def _text(data: bytes) -> str | bytes:
    """Text where the bytes are UTF-8; the bytes themselves where they are not."""
    try:
        return data.decode("utf-8")
    except UnicodeDecodeError:
        return data
