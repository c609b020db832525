"""A node with its subgraphs and constants as bytes, and back, without onnx and without pickle.

The bytes are a magic word, the length of a JSON header, the header, and the elements of all tensors one after another.
"""

from __future__ import annotations

import json
import struct
from collections.abc import Callable
from typing import Any

import numpy as np

from graphc.errors import GraphcError, PackageError
from graphc.ir import Graph, MapType, Node, OptionalType, SequenceType, Tensor, TensorType, Type, Value, dtypes
from graphc.ir.dim_parser import parse_dim
from graphc.ir.graph import Attribute

MAGIC = b"GHS1"
_LENGTH = struct.Struct("<Q")


def encode(node: Node, embed: Callable[[Value | None], bool]) -> bytes:
    """`node` as bytes. Constants that its subgraphs capture are held within, and those inputs that `embed` picks."""
    writer = _Writer(embed)
    header = json.dumps(writer.node(node), separators=(",", ":")).encode()
    tensors = json.dumps(writer.tensors, separators=(",", ":")).encode()
    parts = [MAGIC, _LENGTH.pack(len(header)), header, _LENGTH.pack(len(tensors)), tensors, *writer.blobs]
    return b"".join(parts)


def decode(payload: bytes) -> Node:
    """The node that `encode` wrote, with inputs that nothing produces.

    Raises:
        PackageError: The bytes are damaged.
    """
    try:
        return _Reader(payload).root()
    except (
        *(ValueError, KeyError, IndexError, TypeError, AttributeError, AssertionError, struct.error),
        *(RecursionError, OverflowError, GraphcError),
    ) as error:
        raise PackageError(f"the payload of a host step is damaged: {error}") from error


class _Writer:
    def __init__(self, embed: Callable[[Value | None], bool]) -> None:
        self.embed = embed
        self.tensors: list[Any] = []
        self.blobs: list[bytes] = []
        self.offset = 0
        self.numbers: dict[Value, int] = {}
        self.depth = 0

    def node(self, node: Node) -> dict[str, Any]:
        inputs = [None if value is None else self.read(value) for value in node.inputs]
        attributes = {name: self.attribute(value) for name, value in node.attributes.items()}
        for value in node.outputs:
            self.numbers[value] = len(self.numbers)
        return {
            "op": [node.op_type, node.domain, node.version, node.name, list(node.origins)],
            "inputs": inputs,
            "attributes": attributes,
            "outputs": [[self.numbers[value], value.name] for value in node.outputs],
        }

    def read(self, value: Value) -> Any:
        """A value's number where it is known, else, at its first read, its number, name and constant."""
        if value in self.numbers:
            return self.numbers[value]
        self.numbers[value] = len(self.numbers)
        inside = value.constant
        captured = self.depth > 0
        held = inside is not None and (captured or self.embed(value))
        return [self.numbers[value], value.name, self.tensor(inside) if held and inside is not None else None]

    def graph(self, graph: Graph) -> dict[str, Any]:
        self.depth += 1
        for value in graph.inputs:
            self.numbers[value] = len(self.numbers)
        found = {
            "name": graph.name,
            "opset": graph.opset,
            "inputs": [[self.numbers[value], value.name, encode_type(value.type)] for value in graph.inputs],
            "nodes": [self.node(node) for node in graph.nodes],
            "outputs": [self.read(value) for value in graph.outputs],
            "types": [encode_type(value.type) for value in graph.outputs],
        }
        self.depth -= 1
        return found

    def attribute(self, value: Attribute) -> Any:
        match value:
            case bool() | int():
                return {"i": int(value)}
            case float():
                return {"f": value.hex()}
            case str():
                return {"s": value}
            case bytes():
                return {"b": value.hex()}
            case Tensor():
                return {"t": self.tensor(value)}
            case Graph():
                return {"g": self.graph(value)}
            case tuple():
                return {"l": [self.attribute(item) for item in value]}
        return {"y": encode_type(value)}

    def tensor(self, tensor: Tensor) -> int:
        array = tensor.array()
        if tensor.dtype == dtypes.STRING:
            items = [item.decode() if isinstance(item, bytes) else str(item) for item in array.reshape(-1).tolist()]
            self.tensors.append([tensor.dtype.name, list(tensor.shape), items])
        else:
            blob = np.ascontiguousarray(array).tobytes()
            self.tensors.append([tensor.dtype.name, list(tensor.shape), [self.offset, len(blob)]])
            self.blobs.append(blob)
            self.offset += len(blob)
        return len(self.tensors) - 1


class _Reader:
    def __init__(self, payload: bytes) -> None:
        if payload[:4] != MAGIC:
            raise ValueError("it does not begin as one")
        (length,) = _LENGTH.unpack_from(payload, 4)
        start = 4 + _LENGTH.size
        self.header = json.loads(payload[start : start + length])
        start += length
        (length,) = _LENGTH.unpack_from(payload, start)
        start += _LENGTH.size
        self.tensors = json.loads(payload[start : start + length])
        self.blob = memoryview(payload)[start + length :]
        self.values: dict[int, Value] = {}

    def root(self) -> Node:
        return self.node(self.header)

    def node(self, header: Any) -> Node:
        op_type, domain, version, name, origins = header["op"]
        inputs = [None if item is None else self.read(item) for item in header["inputs"]]
        attributes = {key: self.attribute(item) for key, item in header["attributes"].items()}
        outputs = [label for _, label in header["outputs"]]
        node = Node(op_type, inputs, outputs, attributes, domain=domain, version=version, name=name, origins=origins)
        for (number, _), value in zip(header["outputs"], node.outputs, strict=True):
            self.values[number] = value
        return node

    def read(self, item: Any) -> Value:
        if isinstance(item, int):
            return self.values[item]
        number, name, tensor = item
        made = Node("Constant", (), [name], {} if tensor is None else {"value": self.tensor(tensor)})
        self.values[number] = Value(name) if tensor is None else made.output
        return self.values[number]

    def graph(self, header: Any) -> Graph:
        graph = Graph(header["name"], opset=header["opset"])
        for number, name, kind in header["inputs"]:
            self.values[number] = graph.add_input(name, decode_type(kind))
        for node in header["nodes"]:
            graph.append(self.node(node))
        graph.outputs = [self.read(item) for item in header["outputs"]]
        for value, kind in zip(graph.outputs, header["types"], strict=True):
            value.type = decode_type(kind)
        return graph

    def attribute(self, item: Any) -> Any:
        ((kind, value),) = item.items()
        match kind:
            case "f":
                return float.fromhex(value)
            case "b":
                return bytes.fromhex(value)
            case "t":
                return self.tensor(value)
            case "g":
                return self.graph(value)
            case "l":
                return tuple(self.attribute(part) for part in value)
            case "y":
                return decode_type(value)
        return value

    def tensor(self, number: int) -> Tensor:
        name, shape, place = self.tensors[number]
        dtype = dtypes.from_name(name)
        if dtype == dtypes.STRING:
            return Tensor.of(np.array(place, dtype=object).reshape(shape), dtype)
        offset, length = place
        array = np.frombuffer(self.blob[offset : offset + length], dtype=dtype.numpy)
        return Tensor.of(array.reshape(shape), dtype)


def encode_type(kind: Type | None) -> Any:
    """A type as JSON."""
    match kind:
        case TensorType(dtype=dtype, shape=shape):
            return [
                "tensor",
                dtype.name,
                None if shape is None else [d if isinstance(d, int) else str(d) for d in shape],
            ]
        case SequenceType(element=element):
            return ["sequence", encode_type(element)]
        case OptionalType(element=element):
            return ["optional", encode_type(element)]
        case MapType(key=key, value=element):
            return ["map", key.name, encode_type(element)]
    return None


def decode_type(item: Any) -> Any:
    """The type that `encode_type` wrote."""
    match item:
        case ["tensor", name, shape]:
            dims = None if shape is None else tuple(d if isinstance(d, int) else parse_dim(d) for d in shape)
            return TensorType(dtypes.from_name(name), dims)
        case ["sequence", element]:
            return SequenceType(decode_type(element))
        case ["optional", element]:
            return OptionalType(decode_type(element))
        case ["map", key, element]:
            return MapType(dtypes.from_name(key), decode_type(element))
        case None:
            return None
    raise ValueError(f"{item!r} is no type")
