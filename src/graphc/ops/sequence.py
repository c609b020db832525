"""Sequences (Python lists at evaluation) and optionals (None where empty)."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from graphc.ir import Dim, Node, OptionalType, SequenceType, TensorType, Type, dtypes
from graphc.ir.symbolic import floordiv
from graphc.ops.base import Datum, InferenceContext, Operator, register
from graphc.ops.control import captured_data, output_types
from graphc.ops.evaluate import evaluate_graph
from graphc.ops.merging import join, renew, renew_tensor


def _sequence(ctx: InferenceContext, index: int) -> SequenceType:
    found = ctx.inputs[index]
    if not isinstance(found, SequenceType):
        ctx.fail(f"input {index} must be a sequence, not {found}")
    return found


def _joined(ctx: InferenceContext, left: Type, right: Type) -> Type:
    found = join(left, right, lambda a, b: ctx.fresh("element"))
    if found is None:
        ctx.fail(f"elements of types {left} and {right} do not go together")
    return found


def _infer_empty(ctx: InferenceContext) -> Sequence[Type]:
    return [SequenceType(TensorType(dtypes.from_onnx(ctx.node.int_attribute("dtype", dtypes.FLOAT32.onnx)), None))]


def _infer_construct(ctx: InferenceContext) -> Sequence[Type]:
    element: Type = ctx.tensor(0)
    for index in range(1, len(ctx.inputs)):
        element = _joined(ctx, element, ctx.tensor(index))
    return [SequenceType(element)]


def _infer_insert(ctx: InferenceContext) -> Sequence[Type]:
    sequence, given = _sequence(ctx, 0), ctx.node.input(0)
    if given is not None and given.producer is not None and given.producer.is_op("SequenceEmpty"):
        return [SequenceType(ctx.tensor(1))]
    return [SequenceType(_joined(ctx, sequence.element, ctx.tensor(1)))]


def _position(datum: Datum, length: int, *, end: int) -> int:
    """A position that may count from the end."""
    index = int(np.asarray(datum).reshape(()))
    if not -length <= index < length + end:
        raise IndexError(f"position {index} of a sequence of {length}")
    return index + length if index < 0 else index


def _evaluate_insert(node: Node, data: Sequence[Datum]) -> Sequence[Datum]:
    items = list(data[0])
    place = len(items) if len(data) < 3 or data[2] is None else _position(data[2], len(items), end=1)
    return [[*items[:place], data[1], *items[place:]]]


def _evaluate_erase(node: Node, data: Sequence[Datum]) -> Sequence[Datum]:
    items = list(data[0])
    del items[-1 if len(data) < 2 or data[1] is None else _position(data[1], len(items), end=0)]
    return [items]


def _evaluate_at(node: Node, data: Sequence[Datum]) -> Sequence[Datum]:
    return [data[0][_position(data[1], len(data[0]), end=0)]]


def _infer_split(ctx: InferenceContext) -> Sequence[Type]:
    shape = ctx.shape(0)
    axis = ctx.node.int_attribute("axis", 0)
    if not -len(shape) <= axis < len(shape):
        ctx.fail(f"axis {axis} of an input of shape {list(shape)}")
    axis %= len(shape)
    if not ctx.has(1):
        part: tuple[Dim, ...] = (1,) if ctx.node.int_attribute("keepdims", 1) else ()
    else:
        sizes, extent = ctx.constant(1), shape[axis]
        even: Dim | None = None
        if sizes is not None and sizes.ndim == 0 and int(sizes) > 0 and isinstance(extent, int):
            even = int(sizes) if extent % int(sizes) == 0 else None
        elif sizes is not None and sizes.ndim == 1 and len(set(sizes.tolist())) == 1:
            even = floordiv(int(sizes.sum()), len(sizes))
        part = (ctx.fresh("part") if even is None else even,)
    return [SequenceType(ctx.tensor(0).with_shape((*shape[:axis], *part, *shape[axis + 1 :])))]


def _evaluate_split(node: Node, data: Sequence[Datum]) -> Sequence[Datum]:
    array, sizes = (*data, None)[:2]
    axis = node.int_attribute("axis", 0)
    extent = array.shape[axis]
    if sizes is None:
        parts = np.split(array, extent, axis) if extent else []
        return [parts if node.int_attribute("keepdims", 1) else [part.squeeze(axis) for part in parts]]
    if sizes.ndim == 0:
        cuts = list(range(int(sizes), extent, int(sizes)))
    else:
        if int(sizes.sum()) != extent:
            raise ValueError(f"parts of {sizes.tolist()} do not make up {extent}")
        cuts = np.cumsum(sizes)[:-1].tolist()
    return [np.split(array, cuts, axis)]


def _infer_concat(ctx: InferenceContext) -> Sequence[Type]:
    element = _sequence(ctx, 0).element
    if not isinstance(element, TensorType):
        ctx.fail(f"elements must be tensors, not {element}")
    if element.shape is None:
        return [element]
    shape = list(renew_tensor(element, ctx.fresh).dims)
    stacked, axis = ctx.node.int_attribute("new_axis", 0), ctx.node.int_attribute("axis", 0)
    rank = len(shape) + (1 if stacked else 0)
    if not -rank <= axis < rank:
        ctx.fail(f"axis {axis} of elements of shape {shape}")
    if stacked:
        shape.insert(axis % rank, ctx.fresh("count"))
    else:
        shape[axis % rank] = ctx.fresh("total")
    return [element.with_shape(shape)]


def _evaluate_concat(node: Node, data: Sequence[Datum]) -> Sequence[Datum]:
    axis = node.int_attribute("axis", 0)
    return [np.stack(data[0], axis) if node.int_attribute("new_axis", 0) else np.concatenate(data[0], axis)]


def _infer_map(ctx: InferenceContext) -> Sequence[Type]:
    body = ctx.node.graph_attribute("body")
    _sequence(ctx, 0)
    if len(body.inputs) != len(ctx.inputs):
        ctx.fail(f"body takes {len(body.inputs)} inputs, the node has {len(ctx.inputs)}")
    for value, kind in zip(body.inputs, ctx.inputs, strict=True):
        value.type = kind.element if isinstance(kind, SequenceType) else kind
    ctx.infer_subgraph(body)
    return [SequenceType(renew(kind, ctx.fresh)) for kind in output_types(ctx, body)]


def _evaluate_map(node: Node, data: Sequence[Datum]) -> Sequence[Datum]:
    body, captured = node.graph_attribute("body"), captured_data(node, data)
    results: list[list[Datum]] = [[] for _ in body.outputs]
    for position in range(len(data[0])):
        inputs = [datum[position] if isinstance(datum, list) else datum for datum in data[: len(node.inputs)]]
        for collected, datum in zip(results, evaluate_graph(body, inputs, captured=captured), strict=True):
            collected.append(datum)
    return results


def _infer_optional(ctx: InferenceContext) -> Sequence[Type]:
    found = ctx.inputs[0] if ctx.inputs else None
    if found is None:
        declared = ctx.node.attributes.get("type")
        if not isinstance(declared, TensorType | SequenceType):
            ctx.fail("neither an input nor a type is given")
        found = declared
    return [OptionalType(found)]


def _infer_get(ctx: InferenceContext) -> Sequence[Type]:
    found = ctx.inputs[0]
    if found is None:
        ctx.fail("input 0 is missing")
    return [found.element if isinstance(found, OptionalType) else found]


def _evaluate_get(node: Node, data: Sequence[Datum]) -> Sequence[Datum]:
    if data[0] is None:
        raise ValueError("the optional is empty")
    return [data[0]]


def _infer_length(ctx: InferenceContext) -> Sequence[Type]:
    _sequence(ctx, 0)
    return [TensorType(dtypes.INT64, ())]


def _infer_erase(ctx: InferenceContext) -> Sequence[Type]:
    return [_sequence(ctx, 0)]


def _infer_at(ctx: InferenceContext) -> Sequence[Type]:
    return [renew(_sequence(ctx, 0).element, ctx.fresh)]


for operator in (
    Operator("SequenceEmpty", _infer_empty, lambda node, data: [[]]),
    Operator("SequenceConstruct", _infer_construct, lambda node, data: [list(data)]),
    Operator("SequenceInsert", _infer_insert, _evaluate_insert),
    Operator("SequenceErase", _infer_erase, _evaluate_erase),
    Operator("SequenceAt", _infer_at, _evaluate_at),
    Operator("SequenceLength", _infer_length, lambda node, data: [np.array(len(data[0]), np.int64)]),
    Operator("SplitToSequence", _infer_split, _evaluate_split),
    Operator("ConcatFromSequence", _infer_concat, _evaluate_concat),
    Operator("SequenceMap", _infer_map, _evaluate_map),
    Operator("Optional", _infer_optional, lambda node, data: [data[0] if data else None]),
    Operator("OptionalGetElement", _infer_get, _evaluate_get),
    Operator(
        "OptionalHasElement",
        lambda ctx: [TensorType(dtypes.BOOL, ())],
        lambda node, data: [np.array(bool(data) and data[0] is not None)],
    ),
):
    register(operator)
