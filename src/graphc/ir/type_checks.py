"""Checks of types and attributes: present, legal, and what the operators say."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import TypeAlias

from graphc.errors import GraphcError
from graphc.ir.check import Check, Problem, all_nodes, all_values, graphs_with_holders
from graphc.ir.dtypes import DType
from graphc.ir.graph import Graph, Node
from graphc.ir.symbolic import SymbolicInt, symbols
from graphc.ir.tensor import Tensor
from graphc.ir.types import MapType, OptionalType, SequenceType, TensorType, Type

InferNode: TypeAlias = Callable[[Node], Sequence[Type | None]]
"""Answers the types of a node's outputs from its inputs, None where it cannot say; changes nothing."""

_TYPES = (TensorType, SequenceType, OptionalType, MapType)
_ATTRIBUTE_TYPES = (int, float, str, bytes, Tensor, Graph, *_TYPES)


def _types(graph: Graph) -> Iterator[Problem]:
    for value, node in all_values(graph):
        if value.type is None and value.name:
            yield Problem(f"%{value.name} has no type", node)


def _legal(graph: Graph) -> Iterator[Problem]:
    for value, node in all_values(graph):
        if value.type is not None:
            problem = _type_problem(value.type)
            if problem:
                yield Problem(f"type {value.type} of %{value.name}: {problem}", node)


def _type_problem(kind: object) -> str | None:
    match kind:
        case TensorType():
            return _tensor_problem(kind)
        case SequenceType(element=element) | OptionalType(element=element):
            return _type_problem(element)
        case MapType(key=key, value=value):
            return _type_problem(value) if isinstance(key, DType) else f"key type {key!r} is no dtype"
    return f"a {type(kind).__name__} is no type"


def _tensor_problem(kind: TensorType) -> str | None:
    if not isinstance(kind.dtype, DType):
        return f"{kind.dtype!r} is no dtype"
    if kind.shape is None:
        return None if kind.layout.is_row_major else f"layout {kind.layout} of a tensor of unknown rank"
    for extent in kind.shape:
        if isinstance(extent, SymbolicInt):
            illegal = [name for name in symbols(extent) if not name.isidentifier()]
            if illegal:
                return f"symbol {illegal[0]!r} is no identifier"
        elif type(extent) is not int:
            return f"extent {extent!r} is a {type(extent).__name__}, not an int"
        elif extent < 0:
            return f"extent {extent} is negative"
    return None if kind.layout.fits(len(kind.shape)) else f"layout {kind.layout} does not fit {len(kind.shape)} axes"


def _attributes(graph: Graph) -> Iterator[Problem]:
    for node in all_nodes(graph):
        for name, value in node.attributes.items():
            if isinstance(value, tuple):
                kinds = {type(item) for item in value}
                if len(kinds) > 1 or any(kind not in _ATTRIBUTE_TYPES for kind in kinds):
                    named = ", ".join(sorted(kind.__name__ for kind in kinds))
                    yield Problem(f"attribute {name} is a tuple of {named}", node)
            elif type(value) not in _ATTRIBUTE_TYPES:
                yield Problem(f"attribute {name} is a {type(value).__name__}", node)


def _constants(graph: Graph) -> Iterator[Problem]:
    for node in all_nodes(graph):
        tensor = node.attributes.get("value") if node.is_op("Constant") else None
        if isinstance(tensor, Tensor) and node.outputs:
            kind = node.output.type
            held = TensorType(tensor.dtype, tensor.shape)
            if isinstance(kind, TensorType) and (kind.dtype, kind.shape) != (held.dtype, held.shape):
                yield Problem(f"a constant of type {kind} holds {held}", node)


def _bounds(graph: Graph) -> Iterator[Problem]:
    for inner, holder in graphs_with_holders(graph):
        for name, bounds in inner.bounds.items():
            low, high = bounds
            if type(low) is not int or type(high) not in (int, type(None)) or low < 0 or (high or low) < low:
                yield Problem(f"graph {inner.name} bounds symbol {name} by {bounds}", holder)
            if not name.isidentifier():
                yield Problem(f"graph {inner.name} bounds {name!r}, which is no identifier", holder)


TYPE_CHECKS = (
    Check("types", "every value has a type", _types),
    Check("legal types", "extents are ints that are not negative, or expressions; layouts fit their rank", _legal),
    Check("attributes", "attribute values are of the kinds that ONNX has, tuples of one kind", _attributes),
    Check("constants", "a constant's type is its tensor's", _constants),
    Check("bounds", "bounds of symbols are not empty", _bounds),
)


def inference_check(start: Callable[[], InferNode]) -> Check:
    """The check that types agree with what the operators' type inference says.

    Nodes that hold graphs are passed over, since inference writes into these; the nodes inside are checked.

    Args:
        start: Called at each run for a function that infers one node; nodes come in order.
    """

    def run(graph: Graph) -> Iterator[Problem]:
        infer = start()
        for node in all_nodes(graph):
            if any(True for _ in node.subgraphs()):
                continue
            try:
                found = infer(node)
            except GraphcError as error:
                yield Problem(error.message, node)
                continue
            for value, kind in zip(node.outputs, found, strict=False):
                if value.type is not None and kind is not None and not compatible(value.type, kind):
                    yield Problem(f"%{value.name} is {value.type}, but {node.op} makes {kind}", node)

    return Check("inference", "types do not contradict what the operators make of their inputs", run)


def compatible(left: Type, right: Type) -> bool:
    """Whether some value can be of both types, layouts aside: dtypes agree, and so do ranks and extents where known."""
    match left, right:
        case TensorType(), TensorType():
            if left.dtype != right.dtype:
                return False
            if left.shape is None or right.shape is None:
                return True
            if len(left.shape) != len(right.shape):
                return False
            pairs = zip(left.shape, right.shape, strict=True)
            return all(a == b or not (isinstance(a, int) and isinstance(b, int)) for a, b in pairs)
        case SequenceType(), SequenceType():
            return compatible(left.element, right.element)
        case OptionalType(), OptionalType():
            return compatible(left.element, right.element)
        case MapType(), MapType():
            return left.key == right.key and compatible(left.value, right.value)
    return False
