"""Movement: operators whose output elements are input elements at other places, chosen by position alone."""

from __future__ import annotations

import functools
from collections.abc import Sequence

import numpy as np

from graphc.ir import Dim, Node, TensorType, Type, dtypes
from graphc.ir.symbolic import add, floordiv, maximum, minimum, mod, multiply
from graphc.ops.base import Datum, ExpressionContext, InferenceContext, Operator, Trait, broadcast_dims, register
from graphc.ops.expr import (
    Index,
    Scalar,
    TensorExpr,
    all_of,
    axes_of,
    call,
    cast,
    compare,
    const,
    index_value,
    load,
    select,
)
from graphc.ops.indexing import ceildiv, indices_of, subtract, within
from graphc.ops.shape import at_least, at_most, integers, requested_axes, unknown_dims

MOVEMENT = frozenset({Trait.MOVEMENT})
FURTHEST = 1 << 31
"""Bounds of a slice beyond this mean "to the end", as exporters write it."""


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
        lengths = unknown_dims(ctx, count)
    parts = _split_extents(ctx.node, kind.shape[axis], lengths)
    total = functools.reduce(add, parts)
    if len(parts) != count or any(isinstance(part, int) and part < 0 for part in parts):
        ctx.fail(f"cannot split extent {kind.shape[axis]} into {count} parts of {list(parts)}")
    if isinstance(total, int) and isinstance(kind.shape[axis], int) and total != kind.shape[axis]:
        ctx.fail(f"parts {list(parts)} do not add up to extent {kind.shape[axis]} of axis {axis}")
    return [kind.with_shape((*kind.shape[:axis], part, *kind.shape[axis + 1 :])) for part in parts]


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

# --- Slice ------------------------------------------------------------------------------------------------------------


def slice_start(start: Dim, extent: Dim, step: int) -> Dim:
    """First index of a slice, with Python's rules for negative and large bounds."""
    if isinstance(start, int):
        start = add(extent, start) if start < 0 else start
    last = extent if step > 0 else subtract(extent, 1)
    return at_most(at_least(start, 0), last)


def slice_end(end: Dim, extent: Dim, step: int) -> Dim:
    """Index after the last of a slice (before the first, for a negative step)."""
    floor = 0 if step > 0 else -1
    if isinstance(end, int):
        if end >= FURTHEST - 1:
            # As in ONNX Runtime, the largest integer means "to the end" in either direction.
            return extent if step > 0 else -1
        if end <= -(FURTHEST - 1):
            return floor
        end = add(extent, end) if end < 0 else end
    return at_most(at_least(end, floor), extent if step > 0 else subtract(extent, 1))


def slice_extent(start: Dim, end: Dim, step: int) -> Dim:
    """Number of elements of a slice with clamped bounds."""
    length = ceildiv(subtract(end, start), step) if step > 0 else ceildiv(subtract(start, end), -step)
    return at_least(length, 0)


def _slice_steps(ctx: InferenceContext, rank: int) -> dict[int, tuple[Dim, Dim, int]] | None:
    """Start, end and step of every sliced axis; None where one of them is not known."""
    starts, ends = ctx.dims(1), ctx.dims(2)
    steps = ctx.dims(4) if ctx.has(4) else None
    if starts is None or ends is None or (ctx.has(4) and steps is None):
        return None
    axes = requested_axes(ctx, 3, rank) if ctx.has(3) else tuple(range(len(starts)))
    if axes is None:
        return None
    steps = steps or (1,) * len(starts)
    if not len(axes) == len(starts) == len(ends) == len(steps):
        ctx.fail(f"has {len(starts)} starts, {len(ends)} ends, {len(axes)} axes and {len(steps)} steps")
    if any(not isinstance(step, int) or step == 0 for step in steps):
        ctx.fail(f"steps {list(steps)} must be non-zero integers")
    return {
        axis: (start, end, step)
        for axis, start, end, step in zip(axes, starts, ends, steps, strict=True)
        if isinstance(step, int)
    }


def _infer_slice(ctx: InferenceContext) -> Sequence[Type]:
    kind = ctx.tensor(0)
    if kind.shape is None:
        return [kind.with_shape(None)]
    steps = _slice_steps(ctx, len(kind.shape))
    if steps is None:
        axes = requested_axes(ctx, 3, len(kind.shape)) if ctx.has(3) else None
        touched = range(len(kind.shape)) if axes is None else axes
        return [kind.with_shape(ctx.fresh("d") if i in touched else d for i, d in enumerate(kind.shape))]
    shape = list(kind.shape)
    for axis, (start, end, step) in steps.items():
        extent = shape[axis]
        shape[axis] = slice_extent(slice_start(start, extent, step), slice_end(end, extent, step), step)
    return [kind.with_shape(shape)]


def _slices(arrays: Sequence[Datum]) -> tuple[slice, ...]:
    data, starts, ends = arrays[0], integers(arrays[1]), integers(arrays[2])
    axes = integers(arrays[3]) if len(arrays) > 3 and arrays[3] is not None else tuple(range(len(starts)))
    steps = integers(arrays[4]) if len(arrays) > 4 and arrays[4] is not None else (1,) * len(starts)
    found = [slice(None)] * data.ndim
    for axis, start, end, step in zip(axes, starts, ends, steps, strict=True):
        extent = data.shape[axis]
        first, last = slice_start(start, extent, step), slice_end(end, extent, step)
        assert isinstance(first, int) and isinstance(last, int)
        found[axis] = slice(first, None if last < 0 else last, step)
    return tuple(found)


def _computed_start(ctx: ExpressionContext, position: int, extent: Dim, step: int) -> Scalar:
    """The first index of a slice whose start the run time tells."""
    start = cast(load(1, ctx.tensor(1).dtype, (position,)), dtypes.INT64)
    whole, last = index_value(extent), index_value(extent if step > 0 else subtract(extent, 1))
    counted = select(compare("lt", start, 0), call("add", start, whole), start)
    return call("min", call("max", counted, const(0, dtypes.INT64)), last)


def _express_slice(ctx: ExpressionContext) -> Sequence[TensorExpr] | None:
    kind, starts = ctx.tensor(0), ctx.constant(1)
    (count,) = ctx.tensor(1).dims
    optional = [ctx.inputs[index] if index < len(ctx.inputs) else None for index in range(5)]
    given, strides = (ctx.constant(index) if optional[index] is not None else None for index in (3, 4))
    unknown = any(optional[index] is not None and found is None for index, found in ((3, given), (4, strides)))
    if unknown or not isinstance(count, int):
        return None
    sliced = range(count) if given is None else integers(given)
    steps = (1,) * count if strides is None else integers(strides)
    axes = axes_of(ctx.outputs[0].dims)
    place: list[Index] = [axis.index for axis in axes]
    for position, (axis, step) in enumerate(zip(sliced, steps, strict=True)):
        axis %= len(place)
        distance = multiply(axes[axis].index, step)
        if starts is None:
            first = _computed_start(ctx, position, kind.dims[axis], step)
            place[axis] = call("add", first, index_value(distance))
        else:
            place[axis] = add(slice_start(int(starts[position]), kind.dims[axis], step), distance)
    return [TensorExpr(axes, load(0, kind.dtype, place))]


def _propagate_slice(ctx: InferenceContext) -> tuple[Dim, ...] | None:
    elements, steps = ctx.dims(0), _slice_steps(ctx, 1) if ctx.tensor(0).rank == 1 else None
    if elements is None or steps is None:
        return None
    for start, end, step in steps.values():
        if not (isinstance(start, int) and isinstance(end, int)):
            return None
        first, last = slice_start(start, len(elements), step), slice_end(end, len(elements), step)
        assert isinstance(first, int) and isinstance(last, int)
        elements = elements[first : None if last < 0 else last : step]
    return elements


register(
    Operator(
        "Slice",
        _infer_slice,
        lambda node, arrays: [arrays[0][_slices(arrays)]],
        traits=MOVEMENT,
        expression=_express_slice,
        propagate=_propagate_slice,
    )
)

# --- Tile and Pad -----------------------------------------------------------------------------------------------------


def _infer_tile(ctx: InferenceContext) -> Sequence[Type]:
    kind, repeats = ctx.tensor(0), ctx.dims(1)
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


def pad_amounts(pads: Sequence[Dim], axes: Sequence[int], rank: int) -> tuple[tuple[Dim, Dim], ...]:
    """What is added before and after every axis; negative amounts crop."""
    amounts: list[tuple[Dim, Dim]] = [(0, 0)] * rank
    for position, axis in enumerate(axes):
        amounts[axis % rank] = (pads[position], pads[position + len(axes)])
    return tuple(amounts)


def _infer_pad(ctx: InferenceContext) -> Sequence[Type]:
    kind, pads = ctx.tensor(0), ctx.dims(1)
    if kind.shape is None:
        return [kind.with_shape(None)]
    rank = len(kind.shape)
    axes = requested_axes(ctx, 3, rank) if ctx.has(3) else tuple(range(rank))
    if pads is None or axes is None:
        return [kind.with_shape(unknown_dims(ctx, rank))]
    if len(pads) != 2 * len(axes):
        ctx.fail(f"{len(pads)} pads do not fit {len(axes)} axes")
    if ctx.has(2) and ctx.tensor(2).dtype != kind.dtype:
        ctx.fail(f"the padding value is {ctx.tensor(2).dtype}, but the data is {kind.dtype}")
    amounts = pad_amounts(pads, axes, rank)
    shape = tuple(add(d, add(low, high)) for d, (low, high) in zip(kind.shape, amounts, strict=True))
    if any(isinstance(d, int) and d < 0 for d in shape):
        ctx.fail(f"pads {list(pads)} crop more than shape {list(kind.shape)} has")
    return [kind.with_shape(shape)]


def _evaluate_pad(node: Node, arrays: Sequence[Datum]) -> Sequence[Datum]:
    data, pads = arrays[0], integers(arrays[1])
    axes = integers(arrays[3]) if len(arrays) > 3 and arrays[3] is not None else tuple(range(data.ndim))
    amounts = [(int(low), int(high)) for low, high in pad_amounts(pads, axes, data.ndim)]  # type: ignore[arg-type]
    cropped = data[
        tuple(slice(max(0, -low), d - max(0, -high)) for d, (low, high) in zip(data.shape, amounts, strict=True))
    ]
    positive = [(max(0, low), max(0, high)) for low, high in amounts]
    mode = node.str_attribute("mode", "constant")
    if mode != "constant":
        return [np.pad(cropped, positive, mode=mode)]  # type: ignore[call-overload]
    given = len(arrays) > 2 and arrays[2] is not None
    value = arrays[2].reshape(()) if given else "" if data.dtype == object else data.dtype.type(0)
    result = np.full(
        [d + low + high for d, (low, high) in zip(cropped.shape, positive, strict=True)], value, data.dtype
    )
    result[tuple(slice(low, low + d) for d, (low, _) in zip(cropped.shape, positive, strict=True))] = cropped
    return [result]


def _pad_source(mode: str, place: Dim, extent: Dim) -> Dim:
    """Where a padded axis reads: `place` outside the input is clamped, mirrored once or wrapped."""
    if mode == "edge":
        return minimum(maximum(place, 0), subtract(extent, 1))
    if mode == "wrap":
        return mod(place, extent)
    mirrored = maximum(place, multiply(-1, place))
    return minimum(mirrored, subtract(multiply(2, subtract(extent, 1)), mirrored))


def _express_pad(ctx: ExpressionContext) -> Sequence[TensorExpr] | None:
    kind, pads = ctx.tensor(0), ctx.constant(1)
    given = ctx.constant(3) if len(ctx.inputs) > 3 and ctx.inputs[3] is not None else np.arange(len(kind.dims))
    if pads is None or given is None:
        return None
    mode = ctx.node.str_attribute("mode", "constant")
    amounts = pad_amounts(integers(pads), integers(given), len(kind.dims))
    axes = axes_of(ctx.outputs[0].dims)
    place: list[Dim] = []
    guards: list[Scalar] = []
    for axis, (low, high), extent in zip(axes, amounts, kind.dims, strict=True):
        inner = subtract(axis.index, low)
        assert isinstance(low, int) and isinstance(high, int)
        if mode == "constant":
            guard = within(inner, extent, low=low > 0, high=high > 0)
            guards.extend([] if guard is None else [guard])
        elif (low, high) != (0, 0):
            once = mode != "reflect" or (isinstance(extent, int) and max(low, high) < extent)
            if min(low, high) < 0 or not once:
                return None
            inner = _pad_source(mode, inner, extent)
        place.append(inner)
    element: Scalar = load(0, kind.dtype, place)
    if guards:
        fill: Scalar = const(0, kind.dtype)
        if len(ctx.inputs) > 2 and ctx.inputs[2] is not None:
            fill = load(2, kind.dtype, (0,) * len(ctx.tensor(2).dims))
        element = select(all_of(*guards), element, fill)
    return [TensorExpr(axes, element)]


register(Operator("Pad", _infer_pad, _evaluate_pad, traits=MOVEMENT, expression=_express_pad))

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
        _infer_same,
        _evaluate_reverse_sequence,
        traits=MOVEMENT,
        expression=_express_reverse_sequence,
    )
)
