"""CenterCropPad: axes brought to a wanted extent, the middle kept."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from graphc.ir import Dim, Node, Type
from graphc.ir.symbolic import add, floordiv, maximum
from graphc.ops.base import Datum, ExpressionContext, InferenceContext, Operator, Trait, register
from graphc.ops.expr import Scalar, TensorExpr, all_of, axes_of, const, load, select
from graphc.ops.indexing import indices_of, subtract, within


def _axes(node: Node, rank: int) -> list[int]:
    return [axis % rank for axis in node.ints_attribute("axes", range(rank)) or ()]


def _infer(ctx: InferenceContext) -> Sequence[Type]:
    shape = list(ctx.shape(0))
    axes, wanted = _axes(ctx.node, len(shape)), ctx.dims(1)
    if wanted is not None and len(wanted) != len(axes):
        ctx.fail(f"shape {list(wanted)} for axes {axes}")
    for position, axis in enumerate(axes):
        shape[axis] = ctx.fresh("crop") if wanted is None else wanted[position]
    return [ctx.tensor(0).with_shape(shape)]


def _evaluate(node: Node, inputs: Sequence[Datum]) -> Sequence[Datum]:
    x, wanted = inputs
    crops, places, shape = [slice(None)] * x.ndim, [slice(None)] * x.ndim, list(x.shape)
    for axis, extent in zip(_axes(node, x.ndim), np.asarray(wanted).tolist(), strict=True):
        crop, pad = max(shape[axis] - extent, 0) // 2, max(extent - shape[axis], 0) // 2
        kept = min(shape[axis], extent)
        crops[axis], places[axis], shape[axis] = slice(crop, crop + kept), slice(pad, pad + kept), extent
    result = np.zeros(shape, x.dtype)
    result[tuple(places)] = x[tuple(crops)]
    return [result]


def _express(ctx: ExpressionContext) -> Sequence[TensorExpr]:
    x, wanted = ctx.tensor(0), ctx.outputs[0].dims
    axes = axes_of(wanted)
    at: list[Dim] = []
    conditions: list[Scalar] = []
    for axis, index in enumerate(indices_of(axes)):
        less = subtract(x.dims[axis], wanted[axis])
        crop = floordiv(maximum(less, 0), 2)
        pad = floordiv(maximum(subtract(wanted[axis], x.dims[axis]), 0), 2)
        at.append(add(index, subtract(crop, pad)))
        padded = pad != 0 or not isinstance(less, int) or less < 0
        inside = within(at[-1], x.dims[axis], low=padded, high=padded)
        conditions += [] if inside is None else [inside]
    value: Scalar = load(0, x.dtype, at)
    if conditions:
        value = select(all_of(*conditions), value, const(0, x.dtype))
    return [TensorExpr(axes, value)]


register(Operator("CenterCropPad", _infer, _evaluate, expression=_express, traits=frozenset({Trait.MOVEMENT})))
