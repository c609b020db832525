"""Slice: a window on every axis, with Python's rules for negative and large bounds."""

from __future__ import annotations

from collections.abc import Sequence

from graphc.ir import Dim, Type, dtypes
from graphc.ir.symbolic import Bounds, add, multiply
from graphc.ops.base import Datum, ExpressionContext, InferenceContext, Operator, Trait, register
from graphc.ops.expr import (
    Index,
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
from graphc.ops.indexing import ceildiv, subtract
from graphc.ops.shape import at_least, at_most, integers, requested_axes

FURTHEST = 1 << 31
"""Bounds of a slice beyond this mean "to the end", as exporters write it."""


def slice_start(start: Dim, extent: Dim, step: int, bounds: Bounds | None = None) -> Dim:
    """First index of a slice, with Python's rules for negative and large bounds."""
    if isinstance(start, int):
        start = add(extent, start) if start < 0 else start
    last = extent if step > 0 else subtract(extent, 1)
    return at_most(at_least(start, 0, bounds), last, bounds)


def slice_end(end: Dim, extent: Dim, step: int, bounds: Bounds | None = None) -> Dim:
    """Index after the last of a slice (before the first, for a negative step)."""
    floor = 0 if step > 0 else -1
    if isinstance(end, int):
        if end >= FURTHEST - 1:
            # As in ONNX Runtime, the largest integer means "to the end" in either direction.
            return extent if step > 0 else -1
        if end <= -(FURTHEST - 1):
            return floor
        end = add(extent, end) if end < 0 else end
    return at_most(at_least(end, floor, bounds), extent if step > 0 else subtract(extent, 1), bounds)


def slice_extent(start: Dim, end: Dim, step: int, bounds: Bounds | None = None) -> Dim:
    """Number of elements of a slice with clamped bounds."""
    length = ceildiv(subtract(end, start), step) if step > 0 else ceildiv(subtract(start, end), -step)
    return at_least(length, 0, bounds)


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
    kind, _, _ = (ctx.tensor(index) for index in range(3))
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
        first, last = slice_start(start, extent, step, ctx.bounds), slice_end(end, extent, step, ctx.bounds)
        shape[axis] = slice_extent(first, last, step, ctx.bounds)
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
        traits=frozenset({Trait.MOVEMENT}),
        expression=_express_slice,
        propagate=_propagate_slice,
    )
)
