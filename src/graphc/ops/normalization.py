"""Normalizations: softmax and its kin, and tensors scaled by their own or given statistics.

Statistics of 16-bit floats are formed in float32, as `stash_type` 1 says. Deviations are taken from the mean before
they are squared, so a large mean costs no precision.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from graphc.ir import Dim, Node, TensorType, Type, dtypes
from graphc.ir.symbolic import add, floordiv, multiply, product
from graphc.ops.base import Array, Datum, ExpressionContext, InferenceContext, Operator, Trait, broadcast_dims, register
from graphc.ops.elementwise import widened
from graphc.ops.expr import (
    ArgReduce,
    Axis,
    Scalar,
    TensorExpr,
    axes_of,
    call,
    cast,
    compare,
    const,
    load,
    select,
)
from graphc.ops.indexing import accumulator, broadcast_index, indices_of, wide_load
from graphc.ops.reduction import (
    Axes,
    Read,
    averaged,
    largest,
    mean_of,
    number,
    reader,
    reduced_shape,
    squared,
    summed,
    total,
)

NORMALIZATION = frozenset({Trait.NORMALIZATION})


# --- softmax ----------------------------------------------------------------------------------------------------------


def _infer_softmax(ctx: InferenceContext) -> Sequence[Type]:
    kind = ctx.tensor(0)
    if not kind.dtype.is_float:
        ctx.fail(f"does not take {kind.dtype}")
    if kind.shape is not None:
        ctx.axis(ctx.node.int_attribute("axis", -1), len(kind.shape))
    return [kind.with_shape(kind.shape)]


def _evaluate_softmax(node: Node, arrays: Sequence[Datum]) -> Sequence[Datum]:
    data = arrays[0]
    axes = (node.int_attribute("axis", -1) % data.ndim,)
    x = widened(data).astype(np.float64)
    peak = np.maximum.reduce(x, axis=axes, keepdims=True, initial=-np.inf)
    grown = np.exp(x - peak)
    if node.op_type == "Softmax":
        return [(grown / total(grown, axes)).astype(data.dtype)]
    return [(x - peak - np.log(total(grown, axes))).astype(data.dtype)]


def _express_softmax(ctx: ExpressionContext) -> Sequence[TensorExpr] | None:
    kind = ctx.tensor(0)
    axes = axes_of(kind.dims)
    over = (ctx.node.int_attribute("axis", -1) % len(axes),)
    read = reader(0, kind, indices_of(axes), over)
    peak = largest(read)
    weight = summed(read, lambda x: call("exp", call("sub", x, peak)))
    shifted = call("sub", wide_load(0, kind, indices_of(axes)), peak)
    if ctx.node.op_type == "Softmax":
        body = call("div", call("exp", shifted), weight)
    else:
        body = call("sub", shifted, call("log", weight))
    return [TensorExpr(axes, cast(body, kind.dtype))]


for _name in ("Softmax", "LogSoftmax"):
    register(Operator(_name, _infer_softmax, _evaluate_softmax, traits=NORMALIZATION, expression=_express_softmax))


def _evaluate_hardmax(node: Node, arrays: Sequence[Datum]) -> Sequence[Datum]:
    data, axis = arrays[0], node.int_attribute("axis", -1)
    result = np.zeros_like(data)
    np.put_along_axis(result, np.argmax(data, axis=axis, keepdims=True), 1, axis=axis)
    return [result]


def _express_hardmax(ctx: ExpressionContext) -> Sequence[TensorExpr] | None:
    kind = ctx.tensor(0)
    axes = axes_of(kind.dims)
    over = ctx.node.int_attribute("axis", -1) % len(axes)
    (inner,), element = reader(0, kind, indices_of(axes), (over,))()
    winner = ArgReduce(dtypes.INT64, "argmax", inner, element)
    body = select(compare("eq", axes[over].index, winner), const(1, kind.dtype), const(0, kind.dtype))
    return [TensorExpr(axes, body)]


register(Operator("Hardmax", _infer_softmax, _evaluate_hardmax, traits=NORMALIZATION, expression=_express_hardmax))

# --- layer normalization ----------------------------------------------------------------------------------------------


def _epsilon(node: Node) -> float:
    return node.float_attribute("epsilon", 1e-5)


def normalized_axes(node: Node, rank: int) -> Axes:
    """Axes over which a LayerNormalization or RMSNormalization takes its statistics: from `axis` to the last."""
    return tuple(range(node.int_attribute("axis", -1) % rank, rank))


def _check_scale(ctx: InferenceContext, index: int) -> None:
    shape, scale = ctx.tensor(0).shape, ctx.tensor(index).shape
    if shape is None or scale is None:
        return
    if broadcast_dims([shape, scale]) is None or len(scale) > len(shape):
        ctx.fail(f"input {index} of shape {list(scale)} does not broadcast to {list(shape)}")


def _infer_layer_norm(ctx: InferenceContext) -> Sequence[Type]:
    kind = ctx.tensor(0)
    stash = dtypes.from_onnx(ctx.node.int_attribute("stash_type", 1))
    if kind.shape is None:
        return [kind.with_shape(None), TensorType(stash, None), TensorType(stash, None)]
    ctx.axis(ctx.node.int_attribute("axis", -1), len(kind.shape))
    for index in range(1, max(2, len(ctx.node.inputs))):
        if index == 1 or ctx.has(index):
            _check_scale(ctx, index)
    statistics = TensorType(stash, reduced_shape(kind.shape, normalized_axes(ctx.node, len(kind.shape)), keep=True))
    dtype = ctx.tensor(1).dtype if ctx.node.op_type == "RMSNormalization" else kind.dtype
    return [TensorType(dtype, kind.shape), statistics, statistics][: 1 if ctx.node.op_type == "RMSNormalization" else 3]


def _evaluate_layer_norm(node: Node, arrays: Sequence[Datum]) -> Sequence[Datum]:
    data, scale = arrays[0], arrays[1]
    axes = normalized_axes(node, data.ndim)
    x = widened(data).astype(np.float64)
    if node.op_type == "RMSNormalization":
        y = x / np.sqrt(mean_of(x * x, axes) + _epsilon(node)) * widened(scale)
        return [y.astype(scale.dtype)]
    mean = mean_of(x, axes)
    inverse = 1.0 / np.sqrt(mean_of((x - mean) ** 2, axes) + _epsilon(node))
    y = (x - mean) * inverse * widened(scale)
    if len(arrays) > 2 and arrays[2] is not None:
        y = y + widened(arrays[2])
    stash = dtypes.from_onnx(node.int_attribute("stash_type", 1)).numpy
    return [y.astype(data.dtype), mean.astype(stash), inverse.astype(stash)]


def centred(read: Read, mean: Scalar) -> Scalar:
    """The sum of squared deviations from `mean`."""
    return summed(read, lambda x: squared(call("sub", x, mean)))


def _inverse_root(variance: Scalar, epsilon: float) -> Scalar:
    return call("rsqrt", call("add", variance, const(epsilon, variance.dtype)))


def _per_count(whole: Scalar, count: Dim) -> Scalar:
    return call("div", whole, number(count, whole))


def _parameter(ctx: ExpressionContext, index: int, place: Sequence[Dim], dtype: dtypes.DType) -> Scalar:
    kind = ctx.tensor(index)
    return cast(load(index, kind.dtype, broadcast_index(kind.dims, place)), dtype)


def _express_layer_norm(ctx: ExpressionContext) -> Sequence[TensorExpr] | None:
    kind, output = ctx.tensor(0), ctx.outputs[0]
    rank = len(kind.dims)
    over = normalized_axes(ctx.node, rank)
    count = product(kind.dims[axis] for axis in over)
    expressions = []
    for position, made in enumerate(ctx.outputs):
        axes = axes_of(made.dims)
        place = indices_of(axes)
        read = reader(0, kind, place, over)
        if ctx.node.op_type == "RMSNormalization":
            inverse = _inverse_root(_per_count(summed(read, squared), count), _epsilon(ctx.node))
            deviation = wide_load(0, kind, place)
        else:
            mean = averaged(read, count)
            inverse = _inverse_root(_per_count(centred(read, mean), count), _epsilon(ctx.node))
            if position:
                expressions.append(TensorExpr(axes, cast(mean if position == 1 else inverse, made.dtype)))
                continue
            deviation = call("sub", wide_load(0, kind, place), mean)
        y = call("mul", call("mul", deviation, inverse), _parameter(ctx, 1, place, inverse.dtype))
        if len(ctx.inputs) > 2 and ctx.inputs[2] is not None:
            y = call("add", y, _parameter(ctx, 2, place, inverse.dtype))
        expressions.append(TensorExpr(axes, cast(y, output.dtype)))
    return expressions


for _name in ("LayerNormalization", "RMSNormalization"):
    register(
        Operator(_name, _infer_layer_norm, _evaluate_layer_norm, traits=NORMALIZATION, expression=_express_layer_norm)
    )

# --- normalization of images ------------------------------------------------------------------------------------------


def _infer_channels(ctx: InferenceContext) -> Sequence[Type]:
    """Inputs after the first hold one number per channel (axis 1)."""
    kind = ctx.tensor(0)
    if kind.shape is not None:
        if len(kind.shape) < 2:
            ctx.fail(f"input must have at least 2 axes, not {len(kind.shape)}")
        for index in range(1, 5 if ctx.node.op_type == "BatchNormalization" else 3):
            shape = ctx.tensor(index).shape
            if shape is not None and (len(shape) != 1 or broadcast_dims([shape, (kind.shape[1],)]) is None):
                ctx.fail(f"input {index} of shape {list(shape)} does not fit {kind.shape[1]} channels")
    return [kind.with_shape(kind.shape)]


def _by_channel(parameter: Array, rank: int) -> Array:
    return widened(parameter).reshape(-1, *(1,) * (rank - 2))


def _evaluate_instance(node: Node, arrays: Sequence[Datum]) -> Sequence[Datum]:
    data = arrays[0]
    groups = node.int_attribute("num_groups", 1) if node.op_type == "GroupNormalization" else data.shape[1]
    x = widened(data).astype(np.float64).reshape(data.shape[0], groups, -1)
    mean = mean_of(x, (2,))
    y = (x - mean) / np.sqrt(mean_of((x - mean) ** 2, (2,)) + _epsilon(node))
    scale, bias = (_by_channel(parameter, data.ndim) for parameter in arrays[1:3])
    return [(y.reshape(data.shape) * scale + bias).astype(data.dtype)]


def _express_instance(ctx: ExpressionContext) -> Sequence[TensorExpr] | None:
    """Statistics over space, and over the channels of a group where there are groups."""
    kind = ctx.tensor(0)
    axes = axes_of(kind.dims)
    channel = axes[1].index
    width: Dim = 1
    if ctx.node.op_type == "GroupNormalization":
        width = floordiv(kind.dims[1], ctx.node.int_attribute("num_groups", 1))

    def read() -> tuple[tuple[Axis, ...], Scalar]:
        inner = axes_of([width, *kind.dims[2:]], "r")
        first = multiply(floordiv(channel, width), width)
        place = (axes[0].index, add(first, inner[0].index), *(axis.index for axis in inner[1:]))
        return inner, wide_load(0, kind, place)

    count = multiply(width, product(kind.dims[2:]))
    mean = averaged(read, count)
    inverse = _inverse_root(_per_count(centred(read, mean), count), _epsilon(ctx.node))
    scale, bias = (cast(load(i, ctx.tensor(i).dtype, (channel,)), inverse.dtype) for i in (1, 2))
    deviation = call("sub", wide_load(0, kind, indices_of(axes)), mean)
    body = call("add", call("mul", call("mul", deviation, inverse), scale), bias)
    return [TensorExpr(axes, cast(body, kind.dtype))]


def _infer_instance(ctx: InferenceContext) -> Sequence[Type]:
    shape, groups = ctx.tensor(0).shape, ctx.node.int_attribute("num_groups", 1)
    channels = shape[1] if shape is not None and len(shape) > 1 else groups
    if groups < 1 or (isinstance(channels, int) and channels % groups):
        ctx.fail(f"{channels} channels do not make {groups} groups")
    return _infer_channels(ctx)


for _name in ("InstanceNormalization", "GroupNormalization"):
    register(Operator(_name, _infer_instance, _evaluate_instance, traits=NORMALIZATION, expression=_express_instance))


def _infer_batch_norm(ctx: InferenceContext) -> Sequence[Type]:
    (y,) = _infer_channels(ctx)
    return [y, ctx.tensor(3).with_shape(ctx.tensor(3).shape), ctx.tensor(4).with_shape(ctx.tensor(4).shape)]


def _evaluate_batch_norm(node: Node, arrays: Sequence[Datum]) -> Sequence[Datum]:
    data = arrays[0]
    running: list[Datum] = []
    scale, bias, mean, variance = (_by_channel(p, data.ndim).astype(np.float64) for p in arrays[1:5])
    if node.int_attribute("training_mode", 0):
        over = (0, *range(2, data.ndim))
        x, momentum = widened(data).astype(np.float64), node.float_attribute("momentum", 0.9)
        current = mean_of(x, over), mean_of((x - mean_of(x, over)) ** 2, over)
        for old, new in zip(arrays[3:5], current, strict=True):
            running.append((old * momentum + new.reshape(-1) * (1 - momentum)).astype(old.dtype))
        mean, variance = (statistic.reshape(mean.shape) for statistic in current)
    y = (widened(data) - mean) / np.sqrt(variance + _epsilon(node)) * scale + bias
    return [y.astype(data.dtype), *running]


def _express_batch_norm(ctx: ExpressionContext) -> Sequence[TensorExpr] | None:
    if ctx.node.int_attribute("training_mode", 0) or len(ctx.outputs) > 1:
        return None
    kind = ctx.tensor(0)
    axes = axes_of(kind.dims)
    wide = accumulator(kind.dtype)
    scale, bias, mean, variance = (cast(load(i, ctx.tensor(i).dtype, (axes[1].index,)), wide) for i in range(1, 5))
    factor = call("mul", _inverse_root(variance, _epsilon(ctx.node)), scale)
    deviation = call("sub", wide_load(0, kind, indices_of(axes)), mean)
    return [TensorExpr(axes, cast(call("add", call("mul", deviation, factor), bias), kind.dtype))]


register(
    Operator(
        "BatchNormalization",
        _infer_batch_norm,
        _evaluate_batch_norm,
        traits=NORMALIZATION,
        expression=_express_batch_norm,
    )
)

# --- norms and moments ------------------------------------------------------------------------------------------------


def _evaluate_lp_norm(node: Node, arrays: Sequence[Datum]) -> Sequence[Datum]:
    data, axis = arrays[0], node.int_attribute("axis", -1) % arrays[0].ndim
    x = widened(data).astype(np.float64)
    whole = total(np.abs(x), (axis,)) if node.int_attribute("p", 2) == 1 else np.sqrt(total(x * x, (axis,)))
    return [np.where(whole == 0, 0, x / whole).astype(data.dtype)]


def _express_lp_norm(ctx: ExpressionContext) -> Sequence[TensorExpr] | None:
    kind = ctx.tensor(0)
    axes = axes_of(kind.dims)
    over = (ctx.node.int_attribute("axis", -1) % len(axes),)
    read = reader(0, kind, indices_of(axes), over)
    if ctx.node.int_attribute("p", 2) == 1:
        whole = summed(read, lambda x: call("abs", x))
    else:
        whole = call("sqrt", summed(read, squared))
    zero = const(0, whole.dtype)
    body = select(call("eq", whole, zero), zero, call("div", wide_load(0, kind, indices_of(axes)), whole))
    return [TensorExpr(axes, cast(body, kind.dtype))]


register(
    Operator("LpNormalization", _infer_softmax, _evaluate_lp_norm, traits=NORMALIZATION, expression=_express_lp_norm)
)

_MOMENT_EPSILON = 1e-9


def _moment_axes(node: Node, rank: int) -> Axes:
    return tuple(axis % rank for axis in node.ints_attribute("axes", (0, 2, 3)) or ())


def _infer_moments(ctx: InferenceContext) -> Sequence[Type]:
    kind = ctx.tensor(0)
    if kind.shape is not None:
        for axis in ctx.node.ints_attribute("axes", (0, 2, 3)) or ():
            ctx.axis(axis, len(kind.shape))
    return [kind.with_shape(kind.shape)]


def _evaluate_moments(node: Node, arrays: Sequence[Datum]) -> Sequence[Datum]:
    data, axes = arrays[0], _moment_axes(node, arrays[0].ndim)
    x = widened(data).astype(np.float64)
    deviation = x - mean_of(x, axes)
    return [(deviation / (np.sqrt(mean_of(deviation**2, axes)) + _MOMENT_EPSILON)).astype(data.dtype)]


def _express_moments(ctx: ExpressionContext) -> Sequence[TensorExpr] | None:
    kind = ctx.tensor(0)
    axes = axes_of(kind.dims)
    over = _moment_axes(ctx.node, len(axes))
    count = product(kind.dims[axis] for axis in over)
    read = reader(0, kind, indices_of(axes), over)
    mean = averaged(read, count)
    spread = call("sqrt", _per_count(centred(read, mean), count))
    deviation = call("sub", wide_load(0, kind, indices_of(axes)), mean)
    body = call("div", deviation, call("add", spread, const(_MOMENT_EPSILON, spread.dtype)))
    return [TensorExpr(axes, cast(body, kind.dtype))]


register(
    Operator(
        "MeanVarianceNormalization",
        _infer_moments,
        _evaluate_moments,
        traits=NORMALIZATION,
        expression=_express_moments,
    )
)
