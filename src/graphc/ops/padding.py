"""Pad: elements around a tensor that are constant, or repeat, mirror or wrap what is inside; negative pads crop."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from graphc.ir import Dim, Node, Type
from graphc.ir.symbolic import add, maximum, minimum, mod, multiply
from graphc.ops.base import Datum, ExpressionContext, InferenceContext, Operator, Trait, register
from graphc.ops.expr import (
    Scalar,
    TensorExpr,
    all_of,
    axes_of,
    const,
    load,
    select,
)
from graphc.ops.indexing import subtract, within
from graphc.ops.shape import integers, places, requested_axes, unknown_dims


def pad_amounts(pads: Sequence[Dim], axes: Sequence[int], rank: int) -> tuple[tuple[Dim, Dim], ...]:
    """What is added before and after every axis; negative amounts crop."""
    amounts: list[tuple[Dim, Dim]] = [(0, 0)] * rank
    for position, axis in enumerate(axes):
        amounts[axis % rank] = (pads[position], pads[position + len(axes)])
    return tuple(amounts)


def _infer_pad(ctx: InferenceContext) -> Sequence[Type]:
    kind, pads = ctx.tensor(0), ctx.dims(1)
    ctx.tensor(1)
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
    has_axes = len(arrays) > 3 and arrays[3] is not None
    axes = places(integers(arrays[3]), data.ndim) if has_axes else tuple(range(data.ndim))
    if len(pads) != 2 * len(axes):
        raise ValueError(f"{len(pads)} pads do not fit {len(axes)} axes")
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
        assert isinstance(low, int) and isinstance(high, int)
        inner = subtract(axis.index, low)
        if mode == "constant":
            guard = within(inner, extent, low=low > 0, high=high > 0)
            guards.extend([] if guard is None else [guard])
        elif max(low, high) > 0:
            # What is cropped is gone before anything is clamped, mirrored or wrapped.
            cropped = add(extent, min(low, 0) + min(high, 0))
            once = mode != "reflect" or (isinstance(cropped, int) and max(low, high) < cropped)
            if not once or (isinstance(cropped, int) and cropped < 1):
                return None
            inner = _pad_source(mode, subtract(axis.index, max(low, 0)), cropped)
            inner = add(inner, max(-low, 0))
        place.append(inner)
    element: Scalar = load(0, kind.dtype, place)
    if guards:
        fill: Scalar = const(0, kind.dtype)
        if len(ctx.inputs) > 2 and ctx.inputs[2] is not None:
            fill = load(2, kind.dtype, (0,) * len(ctx.tensor(2).dims))
        element = select(all_of(*guards), element, fill)
    return [TensorExpr(axes, element)]


register(Operator("Pad", _infer_pad, _evaluate_pad, traits=frozenset({Trait.MOVEMENT}), expression=_express_pad))
