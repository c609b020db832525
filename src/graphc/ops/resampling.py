"""Resample of domain `graphc`: an axis whose elements become weighted sums of a few of its elements.

    y[..., o, ...] = sum over t of weights[t, o] * x[..., index[t, o], ...]

Linear and cubic interpolation along one axis is that, with tables that only the geometry decides. So an image is
resized one axis after the other, as its filter is separable.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from graphc.ir import GRAPHC_DOMAIN, Builder, Dim, Node, Type, Value
from graphc.ops.base import Datum, ExpressionContext, InferenceContext, Operator, Trait, register
from graphc.ops.contrib import Values, needed, numbers
from graphc.ops.decomposition import decomposed, rank_of
from graphc.ops.elementwise import widened
from graphc.ops.expr import TensorExpr, axes_of, call, cast, load, reduce
from graphc.ops.indexing import accumulator, indices_of, wide_load


def _infer(ctx: InferenceContext) -> Sequence[Type]:
    shape = list(ctx.shape(0))
    axis = ctx.axis(ctx.node.int_attribute("axis", -1), len(shape))
    if len(ctx.shape(1)) != 2 or ctx.shape(1) != ctx.shape(2):
        ctx.fail(f"indices of shape {list(ctx.shape(1))} and weights of shape {list(ctx.shape(2))}")
    shape[axis] = ctx.shape(1)[1]
    return [ctx.tensor(0).with_shape(shape)]


def _evaluate(node: Node, inputs: Sequence[Datum]) -> Sequence[Datum]:
    x, index, weights = inputs
    axis = node.int_attribute("axis", -1) % x.ndim
    along = [-1 if i == axis else 1 for i in range(x.ndim)]
    total = np.zeros((*x.shape[:axis], index.shape[1], *x.shape[axis + 1 :]))
    for places, factors in zip(index, weights, strict=True):
        total += np.take(widened(x), places, axis) * factors.reshape(along)
    return [total.astype(x.dtype)]


def _express(ctx: ExpressionContext) -> Sequence[TensorExpr]:
    kind, index, weights = (ctx.tensor(i) for i in range(3))
    axes = axes_of(ctx.outputs[0].dims)
    at: list[Dim] = list(indices_of(axes))
    axis = ctx.node.int_attribute("axis", -1) % len(at)
    taps = axes_of([index.dims[0]], "t")
    entry = (taps[0].index, at[axis])
    place = load(1, index.dtype, entry)
    element = cast(load(0, kind.dtype, [*at[:axis], place, *at[axis + 1 :]]), accumulator(kind.dtype))
    weight = cast(wide_load(2, weights, entry), element.dtype)
    return [TensorExpr(axes, cast(reduce("sum", taps, call("mul", element, weight)), kind.dtype))]


def _decompose(b: Builder, node: Node, x: Values) -> Values:
    data, index, weights = (needed(x, i) for i in range(3))
    axis = node.int_attribute("axis", -1) % rank_of(data)
    after = rank_of(data) - 1 - axis
    taken = b.op("Gather", data, index, axis=axis)
    spread = b.op("Unsqueeze", weights, numbers(b, *range(2, 2 + after))) if after else weights
    product = b.op("Mul", taken, b.op("Cast", spread, to=data.tensor_type.dtype.onnx))
    return [b.op("ReduceSum", product, numbers(b, axis), keepdims=0)]


def resample(b: Builder, x: Value, axis: int, index: Value, weights: Value) -> Value:
    """Adds a Resample of `x` along `axis`.

    Args:
        b: Builder.
        x: Floats of any rank.
        axis: Not negative.
        index: Constant int32 places (taps, output), each inside the axis.
        weights: Constant weights of the same shape.
    """
    return b.op("Resample", x, index, weights, domain=GRAPHC_DOMAIN, axis=axis)


register(
    Operator(
        "Resample",
        _infer,
        _evaluate,
        domain=GRAPHC_DOMAIN,
        traits=frozenset({Trait.WINDOW}),
        expression=_express,
    )
)
decomposed("Resample", _decompose, domain=GRAPHC_DOMAIN, define=False)
