"""Movement: operators whose output elements are input elements at other places, chosen by position alone."""

from __future__ import annotations

import functools
from collections.abc import Sequence

import numpy as np

from graphc.ir import Dim, Node, TensorType, Type, dtypes
from graphc.ir.symbolic import add, floordiv, mod, multiply
from graphc.ops.base import Datum, ExpressionContext, InferenceContext, Operator, Trait, broadcast_dims, register
from graphc.ops.expr import (
    Scalar,
    TensorExpr,
    axes_of,
    call,
    cast,
    compare,
    const,
    index_value,
    load,
    select,
)
from graphc.ops.indexing import ceildiv, indices_of, subtract
from graphc.ops.shape import integers, unknown_dims

MOVEMENT = frozenset({Trait.MOVEMENT})
# --- Transpose --------------------------------------------------------------------------------------------------------


def permutation(node: Node, rank: int) -> tuple[int, ...]:
    """Input axis of every output axis of a Transpose."""
    return node.ints_attribute("perm") or tuple(reversed(range(rank)))


def _infer_transpose(ctx: InferenceContext) -> Sequence[Type]:
    kind = ctx.tensor(0)
    if kind.shape is None:
        return [kind.with_shape(None)]
    order = permutation(ctx.node, len(kind.shape))
    if sorted(order) != list(range(len(kind.shape))):
        ctx.fail(f"perm {list(order)} is not a permutation of {len(kind.shape)} axes")
    return [kind.with_shape(kind.shape[axis] for axis in order)]


def _express_transpose(ctx: ExpressionContext) -> Sequence[TensorExpr] | None:
    kind = ctx.tensor(0)
    axes = axes_of(ctx.outputs[0].dims)
    order = permutation(ctx.node, len(axes))
    return [TensorExpr(axes, load(0, kind.dtype, [axes[order.index(axis)].index for axis in range(len(axes))]))]


register(
    Operator(
        "Transpose",
        _infer_transpose,
        lambda node, arrays: [arrays[0].transpose(permutation(node, arrays[0].ndim))],
        traits=MOVEMENT,
        expression=_express_transpose,
    )
)

# --- Concat and Split -------------------------------------------------------------------------------------------------


def _infer_concat(ctx: InferenceContext) -> Sequence[Type]:
    kinds = [ctx.tensor(index) for index in range(len(ctx.node.inputs))]
    if not kinds:
        ctx.fail("has no inputs")
    first = kinds[0]
    for index, kind in enumerate(kinds):
        if kind.dtype != first.dtype:
            ctx.fail(f"input {index} is {kind.dtype}, but input 0 is {first.dtype}")
    ranked = [kind.shape for kind in kinds if kind.shape is not None]
    if not ranked:
        return [first.with_shape(None)]
    rank = len(ranked[0])
    axis = ctx.axis(ctx.node.int_attribute("axis", 0), rank)
    if any(len(shape) != rank for shape in ranked):
        ctx.fail(f"inputs of shapes {', '.join(str(list(shape)) for shape in ranked)} differ in rank")
    rest = broadcast_dims([tuple(1 if i == axis else d for i, d in enumerate(shape)) for shape in ranked])
    for position in range(rank):
        extents = {shape[position] for shape in ranked if isinstance(shape[position], int)}
        if position != axis and len(extents) > 1:
            ctx.fail(f"inputs of shapes {', '.join(str(list(shape)) for shape in ranked)} differ beside axis {axis}")
    assert rest is not None
    whole: Dim = ctx.fresh("d")
    if len(ranked) == len(kinds):
        whole = functools.reduce(add, (shape[axis] for shape in ranked))
    return [first.with_shape(whole if i == axis else d for i, d in enumerate(rest))]


def _express_concat(ctx: ExpressionContext) -> Sequence[TensorExpr] | None:
    axes = axes_of(ctx.outputs[0].dims)
    axis = ctx.node.int_attribute("axis", 0) % len(axes)
    offsets: list[Dim] = [0]
    for index in range(len(ctx.inputs)):
        offsets.append(add(offsets[-1], ctx.tensor(index).dims[axis]))
    body: Scalar | None = None
    for index in reversed(range(len(ctx.inputs))):
        place = [a.index for a in axes]
        place[axis] = subtract(place[axis], offsets[index])
        piece = load(index, ctx.tensor(index).dtype, place)
        body = piece if body is None else select(compare("lt", axes[axis].index, offsets[index + 1]), piece, body)
    assert body is not None
    return [TensorExpr(axes, body)]


def _propagate_concat(ctx: InferenceContext) -> tuple[Dim, ...] | None:
    parts = [ctx.dims(index) for index in range(len(ctx.node.inputs))]
    if any(part is None for part in parts) or any(ctx.tensor(i).rank != 1 for i in range(len(parts))):
        return None
    return tuple(element for part in parts if part is not None for element in part)


register(
    Operator(
        "Concat",
        _infer_concat,
        lambda node, arrays: [np.concatenate(arrays, axis=node.int_attribute("axis", 0))],
        traits=MOVEMENT,
        expression=_express_concat,
        propagate=_propagate_concat,
    )
)


def _split_extents(node: Node, extent: Dim, lengths: Sequence[Dim] | None) -> tuple[Dim, ...]:
    """Extents of the parts: those given, or equal ones of which the last may be shorter."""
    if lengths is not None:
        return tuple(lengths)
    count = len(node.outputs)
    chunk = ceildiv(extent, count)
    return (*[chunk] * (count - 1), subtract(extent, multiply(chunk, count - 1)))


def _infer_split(ctx: InferenceContext) -> Sequence[Type]:
    kind = ctx.tensor(0)
    count = len(ctx.node.outputs)
    if kind.shape is None:
        return [kind.with_shape(None)] * count
    axis = ctx.axis(ctx.node.int_attribute("axis", 0), len(kind.shape))
    lengths = ctx.dims(1)
    if ctx.has(1) and lengths is None:
        _check_declared_parts(ctx, axis, kind.shape[axis])
        lengths = unknown_dims(ctx, count)
    parts = _split_extents(ctx.node, kind.shape[axis], lengths)
    total = functools.reduce(add, parts)
    if len(parts) != count or any(isinstance(part, int) and part < 0 for part in parts):
        ctx.fail(f"cannot split extent {kind.shape[axis]} into {count} parts of {list(parts)}")
    if isinstance(total, int) and isinstance(kind.shape[axis], int) and total != kind.shape[axis]:
        ctx.fail(f"parts {list(parts)} do not add up to extent {kind.shape[axis]} of axis {axis}")
    return [kind.with_shape((*kind.shape[:axis], part, *kind.shape[axis + 1 :])) for part in parts]


def _check_declared_parts(ctx: InferenceContext, axis: int, extent: Dim) -> None:
    """Refuses declared parts that cannot make up the axis, whatever the lengths turn out to be."""
    kinds = [value.type for value in ctx.node.outputs]
    parts = [
        kind.dims[axis] for kind in kinds if isinstance(kind, TensorType) and kind.shape and axis < len(kind.shape)
    ]
    known = [part for part in parts if isinstance(part, int)]
    if len(known) == len(kinds) and isinstance(extent, int) and sum(known) != extent:
        ctx.fail(f"declared parts {known} do not add up to extent {extent} of axis {axis}")


def _evaluate_split(node: Node, arrays: Sequence[Datum]) -> Sequence[Datum]:
    data = arrays[0]
    axis = node.int_attribute("axis", 0)
    lengths = integers(arrays[1]) if len(arrays) > 1 and arrays[1] is not None else None
    parts = [int(part) for part in _split_extents(node, data.shape[axis], lengths) if isinstance(part, int)]
    return np.split(data, np.cumsum(parts)[:-1].tolist(), axis=axis)


def _express_split(ctx: ExpressionContext) -> Sequence[TensorExpr] | None:
    kind = ctx.tensor(0)
    axis = ctx.node.int_attribute("axis", 0) % len(kind.dims)
    expressions = []
    offset: Dim = 0
    for output in ctx.outputs:
        axes = axes_of(output.dims)
        place = [a.index for a in axes]
        place[axis] = add(place[axis], offset)
        expressions.append(TensorExpr(axes, load(0, kind.dtype, place)))
        offset = add(offset, output.dims[axis])
    return expressions


register(Operator("Split", _infer_split, _evaluate_split, traits=MOVEMENT, expression=_express_split))

# --- Tile -----------------------------------------------------------------------------------------------------


def _infer_tile(ctx: InferenceContext) -> Sequence[Type]:
    kind, repeats = ctx.tensor(0), ctx.dims(1)
    ctx.tensor(1)
    if kind.shape is None:
        return [kind.with_shape(None)]
    if repeats is None:
        return [kind.with_shape(unknown_dims(ctx, len(kind.shape)))]
    if len(repeats) != len(kind.shape) or any(isinstance(r, int) and r < 0 for r in repeats):
        ctx.fail(f"repeats {list(repeats)} do not fit shape {list(kind.shape)}")
    return [kind.with_shape(multiply(d, r) for d, r in zip(kind.shape, repeats, strict=True))]


def _express_tile(ctx: ExpressionContext) -> Sequence[TensorExpr] | None:
    kind = ctx.tensor(0)
    axes = axes_of(ctx.outputs[0].dims)
    place = [
        0 if extent in (0, 1) else axis.index if extent == axis.extent else mod(axis.index, extent)
        for axis, extent in zip(axes, kind.dims, strict=True)
    ]
    return [TensorExpr(axes, load(0, kind.dtype, place))]


register(
    Operator(
        "Tile",
        _infer_tile,
        lambda node, arrays: [np.tile(arrays[0], integers(arrays[1]))],
        traits=MOVEMENT,
        expression=_express_tile,
    )
)


# --- blocks of space and depth ----------------------------------------------------------------------------------------


def _image(ctx: InferenceContext) -> tuple[Dim, Dim, Dim, Dim]:
    shape = ctx.shape(0)
    if len(shape) != 4:
        ctx.fail(f"input must have 4 axes, not {len(shape)}")
    if ctx.node.int_attribute("blocksize", 0) < 1:
        ctx.fail(f"blocksize {ctx.node.int_attribute('blocksize', 0)} is not positive")
    return shape[0], shape[1], shape[2], shape[3]


def _infer_space_to_depth(ctx: InferenceContext) -> Sequence[Type]:
    n, c, h, w = _image(ctx)
    block = ctx.node.int_attribute("blocksize", 1)
    if any(isinstance(d, int) and d % block for d in (h, w)):
        ctx.fail(f"blocksize {block} does not divide {h}x{w}")
    return [ctx.tensor(0).with_shape((n, multiply(c, block * block), floordiv(h, block), floordiv(w, block)))]


def _columns_first(node: Node) -> bool:
    return node.str_attribute("mode", "DCR") == "CRD"


def _evaluate_space_to_depth(node: Node, arrays: Sequence[Datum]) -> Sequence[Datum]:
    (n, c, h, w), block = arrays[0].shape, node.int_attribute("blocksize", 1)
    split = arrays[0].reshape(n, c, h // block, block, w // block, block)
    moved = split.transpose(0, 1, 3, 5, 2, 4) if _columns_first(node) else split.transpose(0, 3, 5, 1, 2, 4)
    return [moved.reshape(n, c * block * block, h // block, w // block)]


def _express_space_to_depth(ctx: ExpressionContext) -> Sequence[TensorExpr] | None:
    kind, block = ctx.tensor(0), ctx.node.int_attribute("blocksize", 1)
    n, c, h, w = axes = axes_of(ctx.outputs[0].dims)
    taps = block * block
    if _columns_first(ctx.node):
        channel, tap = floordiv(c.index, taps), mod(c.index, taps)
    else:
        channel, tap = mod(c.index, kind.dims[1]), floordiv(c.index, kind.dims[1])
    row, column = add(multiply(h.index, block), floordiv(tap, block)), add(multiply(w.index, block), mod(tap, block))
    return [TensorExpr(axes, load(0, kind.dtype, (n.index, channel, row, column)))]


def _infer_depth_to_space(ctx: InferenceContext) -> Sequence[Type]:
    n, c, h, w = _image(ctx)
    block = ctx.node.int_attribute("blocksize", 1)
    if isinstance(c, int) and c % (block * block):
        ctx.fail(f"blocksize {block} squared does not divide {c} channels")
    return [ctx.tensor(0).with_shape((n, floordiv(c, block * block), multiply(h, block), multiply(w, block)))]


def _evaluate_depth_to_space(node: Node, arrays: Sequence[Datum]) -> Sequence[Datum]:
    (n, c, h, w), block = arrays[0].shape, node.int_attribute("blocksize", 1)
    depth = c // (block * block)
    if _columns_first(node):
        moved = arrays[0].reshape(n, depth, block, block, h, w).transpose(0, 1, 4, 2, 5, 3)
    else:
        moved = arrays[0].reshape(n, block, block, depth, h, w).transpose(0, 3, 4, 1, 5, 2)
    return [moved.reshape(n, depth, h * block, w * block)]


def _express_depth_to_space(ctx: ExpressionContext) -> Sequence[TensorExpr] | None:
    kind, block = ctx.tensor(0), ctx.node.int_attribute("blocksize", 1)
    n, c, h, w = axes = axes_of(ctx.outputs[0].dims)
    tap = add(multiply(mod(h.index, block), block), mod(w.index, block))
    if _columns_first(ctx.node):
        channel = add(multiply(c.index, block * block), tap)
    else:
        channel = add(multiply(tap, ctx.outputs[0].dims[1]), c.index)
    place = (n.index, channel, floordiv(h.index, block), floordiv(w.index, block))
    return [TensorExpr(axes, load(0, kind.dtype, place))]


register(
    Operator(
        "SpaceToDepth",
        _infer_space_to_depth,
        _evaluate_space_to_depth,
        traits=MOVEMENT,
        expression=_express_space_to_depth,
    )
)
register(
    Operator(
        "DepthToSpace",
        _infer_depth_to_space,
        _evaluate_depth_to_space,
        traits=MOVEMENT,
        expression=_express_depth_to_space,
    )
)

# --- triangles and reversed runs --------------------------------------------------------------------------------------


def _infer_same(ctx: InferenceContext) -> Sequence[Type]:
    kind = ctx.tensor(0)
    if kind.shape is not None and len(kind.shape) < 2:
        ctx.fail(f"input must have at least 2 axes, not {len(kind.shape)}")
    return [TensorType(kind.dtype, kind.shape)]


def _evaluate_trilu(node: Node, arrays: Sequence[Datum]) -> Sequence[Datum]:
    k = int(arrays[1].reshape(())) if len(arrays) > 1 and arrays[1] is not None else 0
    return [(np.triu if node.int_attribute("upper", 1) else np.tril)(arrays[0], k)]


def _express_trilu(ctx: ExpressionContext) -> Sequence[TensorExpr] | None:
    kind = ctx.tensor(0)
    axes = axes_of(kind.dims)
    diagonal = index_value(subtract(axes[-1].index, axes[-2].index))
    bound = const(0, dtypes.INT64)
    if len(ctx.inputs) > 1 and ctx.inputs[1] is not None:
        bound = load(1, dtypes.INT64, (0,) * len(ctx.tensor(1).dims))  # type: ignore[assignment]
    kept = call("ge" if ctx.node.int_attribute("upper", 1) else "le", diagonal, bound)
    element = load(0, kind.dtype, indices_of(axes))
    return [TensorExpr(axes, select(kept, element, const(0, kind.dtype)))]


register(Operator("Trilu", _infer_same, _evaluate_trilu, traits=MOVEMENT, expression=_express_trilu))


def _infer_reverse_sequence(ctx: InferenceContext) -> Sequence[Type]:
    ctx.tensor(1)
    return _infer_same(ctx)


def _evaluate_reverse_sequence(node: Node, arrays: Sequence[Datum]) -> Sequence[Datum]:
    data, lengths = arrays
    batch, time = node.int_attribute("batch_axis", 1), node.int_attribute("time_axis", 0)
    moved = np.moveaxis(data, (batch, time), (0, 1)).copy()
    for row, length in zip(moved, integers(lengths), strict=True):
        row[:length] = row[:length][::-1].copy()
    return [np.moveaxis(moved, (0, 1), (batch, time))]


def _express_reverse_sequence(ctx: ExpressionContext) -> Sequence[TensorExpr] | None:
    kind = ctx.tensor(0)
    batch, time = ctx.node.int_attribute("batch_axis", 1), ctx.node.int_attribute("time_axis", 0)
    axes = axes_of(kind.dims)
    here = index_value(axes[time].index)
    length = cast(load(1, ctx.tensor(1).dtype, (axes[batch].index,)), dtypes.INT64)
    mirrored = call("sub", call("sub", length, const(1, dtypes.INT64)), here)
    place: list[Dim | Scalar] = [axis.index for axis in axes]
    place[time] = select(call("lt", here, length), mirrored, here)
    return [TensorExpr(axes, load(0, kind.dtype, place))]


register(
    Operator(
        "ReverseSequence",
        _infer_reverse_sequence,
        _evaluate_reverse_sequence,
        traits=MOVEMENT,
        expression=_express_reverse_sequence,
    )
)
