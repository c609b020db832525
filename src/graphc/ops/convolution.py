"""Convolutions over any number of spatial axes: Conv, ConvTranspose and the integer Conv."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from graphc.ir import Dim, Node, TensorType, Type, dtypes
from graphc.ir.symbolic import add, floordiv, maximum, mod, multiply
from graphc.ops.base import Array, Datum, ExpressionContext, InferenceContext, Operator, Trait, register
from graphc.ops.contraction import centred, wide
from graphc.ops.expr import (
    Axis,
    Scalar,
    TensorExpr,
    all_of,
    axes_of,
    call,
    cast,
    compare,
    const,
    load,
    reduce,
    select,
)
from graphc.ops.indexing import indices_of, last_axes, subtract, wide_load, within
from graphc.ops.window import StaticWindow, Window, window_attribute, window_of

WINDOWED_CONTRACTION = frozenset({Trait.CONTRACTION, Trait.WINDOW})


def conv_window(node: Node, x: Sequence[Dim], w: Sequence[Dim]) -> Window:
    """Windows of a Conv over an input of shape `x` with weights of shape `w` (N, C, spatial... / M, C/group, taps...).

    Raises:
        TypeInferenceError: Attributes and shapes disagree, or the taps are not known numbers.
    """
    return window_of(node, x[2:], kernel_of(node, w))


def kernel_of(node: Node, w: Sequence[Dim]) -> tuple[int, ...]:
    """Taps per spatial axis of a convolution: the weights' extents, else `kernel_shape`; empty where neither tells."""
    taps = tuple(extent for extent in w[2:] if isinstance(extent, int))
    return taps if len(taps) == len(w) - 2 else (node.ints_attribute("kernel_shape") or ())


def _check_conv(ctx: InferenceContext, data: int = 0, weights: int = 1) -> tuple[tuple[Dim, ...], tuple[Dim, ...], int]:
    """Shapes of input and weights, and the group count, once they are known to fit."""
    x, w, group = ctx.shape(data), ctx.shape(weights), ctx.node.int_attribute("group", 1)
    if len(x) != len(w) or len(x) < 3:
        ctx.fail(f"input of shape {list(x)} and weights of shape {list(w)} must have equal rank, 3 or more")
    if group < 1:
        ctx.fail(f"group is {group}")
    declared = ctx.node.ints_attribute("kernel_shape")
    if declared is not None and any(isinstance(d, int) and d != k for d, k in zip(w[2:], declared, strict=False)):
        ctx.fail(f"kernel_shape {list(declared)} contradicts weights of shape {list(w)}")
    return x, w, group


def _infer_conv(ctx: InferenceContext) -> Sequence[Type]:
    return [ctx.tensor(0).with_shape(infer_conv_shape(ctx, 0, 1))]


def infer_conv_shape(ctx: InferenceContext, data: int, weights: int) -> tuple[Dim, ...]:
    """Output shape of a convolution whose input and weights are inputs number `data` and `weights`."""
    x, w, group = _check_conv(ctx, data, weights)
    _check_channels(ctx, x[1], multiply(w[1], group))
    if isinstance(w[0], int) and w[0] % group:
        ctx.fail(f"{w[0]} output channels do not divide into {group} groups")
    if len(kernel_of(ctx.node, w)) != len(x) - 2:
        return (x[0], w[0], *(ctx.fresh("window") for _ in x[2:]))
    return (x[0], w[0], *conv_window(ctx.node, x, w).output)


def _check_channels(ctx: InferenceContext, found: Dim, expected: Dim) -> None:
    if isinstance(found, int) and isinstance(expected, int) and found != expected:
        ctx.fail(f"the input has {found} channels, the weights expect {expected}")


def convolve(x: Array, w: Array, window: StaticWindow, group: int) -> Array:
    """Sum over taps of one batched matmul each; `x` and `w` in the accumulator's type.

    Args:
        x: Input (N, C, spatial...).
        w: Weights (M, C/group, taps...).
        window: Geometry.
        group: Number of groups.
    """
    batch, outputs = x.shape[0], w.shape[0]
    inner = w.shape[1]
    weights = w.reshape(group, outputs // group, inner, *w.shape[2:])
    total = np.zeros((batch, group, outputs // group, int(np.prod(window.output, dtype=np.int64))), x.dtype)
    for tap, view in window.views(x, 0):
        columns = view.reshape(batch, group, inner, total.shape[-1])
        kernel = weights[last_axes(tap)]
        total += kernel * columns if inner == 1 else np.matmul(kernel, columns)
    return total.reshape(batch, outputs, *window.output)


def _evaluate_conv(node: Node, inputs: Sequence[Datum]) -> Sequence[Datum]:
    x, w, bias = (*inputs, None)[:3]
    window = conv_window(node, x.shape, w.shape).static()
    result = convolve(wide(x), wide(w), window, node.int_attribute("group", 1))
    if bias is not None:
        result = result + wide(bias).reshape(-1, *(1,) * len(window.output))
    return [result.astype(x.dtype, copy=False)]


def _express_conv(ctx: ExpressionContext) -> Sequence[TensorExpr] | None:
    x, w, node = ctx.tensor(0), ctx.tensor(1), ctx.node
    if len(kernel_of(node, w.dims)) != len(w.dims) - 2:
        return None
    window = conv_window(node, x.dims, w.dims)
    axes = axes_of(ctx.outputs[0].dims)
    batch, channel, *outputs = indices_of(axes)
    inner, *taps = axes_of([w.dims[1], *window.kernel], "k")
    positions = window.positions(outputs, [tap.index for tap in taps])
    source = _group_base(channel, w.dims[0], w.dims[1], node.int_attribute("group", 1))
    value = wide_load(0, x, (batch, add(source, inner.index), *positions))
    inside = window.inside(positions)
    if inside is not None:
        value = select(inside, value, const(0, value.dtype))
    weight = wide_load(1, w, (channel, inner.index, *(tap.index for tap in taps)))
    total = reduce("sum", [inner, *taps], call("mul", value, weight))
    return [TensorExpr(axes, cast(_with_bias(ctx, total, channel), x.dtype))]


def _group_base(channel: Dim, outputs: Dim, inner: Dim, group: int) -> Dim:
    """First input channel of the group that output `channel` belongs to."""
    if group == 1:
        return 0
    return multiply(floordiv(channel, floordiv(outputs, group)), inner)


def _with_bias(ctx: ExpressionContext, total: Scalar, channel: Dim) -> Scalar:
    bias = ctx.inputs[2] if len(ctx.inputs) > 2 else None
    return total if bias is None else call("add", total, wide_load(2, bias, (channel,)))


@dataclass(frozen=True)
class TransposedWindow:
    """Geometry of a ConvTranspose: input position `i` writes outputs `i*stride - pad_begin + k*dilation`.

    Args:
        kernel: Taps per spatial axis.
        strides: Distance between what neighbouring inputs write.
        dilations: Distance between neighbouring taps.
        pads_begin: Leading positions cut off the result.
        output: Extents of the result.
    """

    kernel: tuple[int, ...]
    strides: tuple[int, ...]
    dilations: tuple[int, ...]
    pads_begin: tuple[Dim, ...]
    output: tuple[Dim, ...]


def transposed_window(node: Node, x: Sequence[Dim], w: Sequence[Dim]) -> TransposedWindow:
    """Windows of a ConvTranspose over an input of shape `x` with weights of shape `w` (C, M/group, taps...).

    Raises:
        TypeInferenceError: Attributes and shapes disagree.
    """
    rank, kernel = len(x) - 2, kernel_of(node, w)
    strides, dilations = window_attribute(node, "strides", rank), window_attribute(node, "dilations", rank)
    pads = node.ints_attribute("pads") or (0,) * (2 * rank)
    extra = node.ints_attribute("output_padding") or (0,) * rank
    wanted = node.ints_attribute("output_shape")
    auto = node.str_attribute("auto_pad", "NOTSET")
    begins: list[Dim] = []
    outputs: list[Dim] = []
    for axis, extent in enumerate(x[2:]):
        reach = dilations[axis] * (kernel[axis] - 1) + 1
        full = add(multiply(strides[axis], subtract(extent, 1)), extra[axis] + reach)
        output: Dim
        if wanted is not None or auto in ("SAME_UPPER", "SAME_LOWER"):
            output = wanted[axis - rank] if wanted is not None else multiply(extent, strides[axis])
            total = maximum(subtract(full, output), 0)
            half = floordiv(total, 2)
            begins.append(half if auto == "SAME_UPPER" else subtract(total, half))
        else:
            begin, end = (0, 0) if auto == "VALID" else (pads[axis], pads[rank + axis])
            output = subtract(full, begin + end)
            begins.append(begin)
        outputs.append(output)
    return TransposedWindow(kernel, strides, dilations, tuple(begins), tuple(outputs))


def _infer_conv_transpose(ctx: InferenceContext) -> Sequence[Type]:
    x, w, group = _check_conv(ctx)
    _check_channels(ctx, x[1], w[0])
    rank = len(x) - 2
    for name, lengths in (
        ("pads", (2 * rank,)),
        ("output_padding", (rank,)),
        ("output_shape", (rank, rank + 2)),
        ("kernel_shape", (rank,)),
    ):
        found = ctx.node.ints_attribute(name)
        if found is not None and len(found) not in lengths:
            ctx.fail(f"{name} {list(found)} does not fit {rank} spatial axes")
    channels = multiply(w[1], group)
    if len(kernel_of(ctx.node, w)) != rank:
        return [ctx.tensor(0).with_shape((x[0], channels, *(ctx.fresh("window") for _ in x[2:])))]
    window = transposed_window(ctx.node, x, w)
    if any(isinstance(extent, int) and extent < 0 for extent in window.output):
        ctx.fail(f"pads leave an output of extents {list(window.output)}")
    return [ctx.tensor(0).with_shape((x[0], channels, *window.output))]


def _evaluate_conv_transpose(node: Node, inputs: Sequence[Datum]) -> Sequence[Datum]:
    data, weights, bias = (*inputs, None)[:3]
    x, w, group = wide(data), wide(weights), node.int_attribute("group", 1)
    window = transposed_window(node, x.shape, w.shape)
    batch, channels, spatial = x.shape[0], x.shape[1], x.shape[2:]
    begin = [b for b in window.pads_begin if isinstance(b, int)]
    output = [o for o in window.output if isinstance(o, int)]
    geometry = list(zip(spatial, window.kernel, window.strides, window.dilations, strict=True))
    full = [
        max(s * (e - 1) + d * (k - 1) + 1, b + o) for (e, k, s, d), b, o in zip(geometry, begin, output, strict=True)
    ]
    columns = x.reshape(batch, group, channels // group, -1)
    kernels = np.swapaxes(w.reshape(group, channels // group, *w.shape[1:]), 1, 2)
    buffer = np.zeros((batch, group, w.shape[1], *full), x.dtype)
    for tap in np.ndindex(*window.kernel):
        # Each tap adds the whole input, scaled by its weights, at the positions that it writes.
        region = tuple(slice(t * d, t * d + s * (e - 1) + 1, s) for t, (e, _, s, d) in zip(tap, geometry, strict=True))
        product = np.matmul(kernels[last_axes(tap)], columns)
        buffer[last_axes(region)] += product.reshape(batch, group, w.shape[1], *spatial)
    cut = tuple(slice(b, b + o) for b, o in zip(begin, output, strict=True))
    result = buffer.reshape(batch, group * w.shape[1], *full)[last_axes(cut)]
    if bias is not None:
        result = result + wide(bias).reshape(-1, *(1,) * len(cut))
    return [np.ascontiguousarray(result).astype(data.dtype, copy=False)]


def _express_conv_transpose(ctx: ExpressionContext) -> Sequence[TensorExpr] | None:
    x, w, node = ctx.tensor(0), ctx.tensor(1), ctx.node
    if len(kernel_of(node, w.dims)) != len(w.dims) - 2:
        return None
    window, group = transposed_window(node, x.dims, w.dims), node.int_attribute("group", 1)
    axes = axes_of(ctx.outputs[0].dims)
    batch, channel, *outputs = indices_of(axes)
    inner, *taps = axes_of([floordiv(x.dims[1], group), *window.kernel], "k")
    sources: list[Dim] = []
    conditions: list[Scalar] = []
    for axis, (output, tap) in enumerate(zip(outputs, taps, strict=True)):
        stride = window.strides[axis]
        offset = subtract(add(output, window.pads_begin[axis]), multiply(tap.index, window.dilations[axis]))
        source = floordiv(offset, stride)
        inside = within(source, x.dims[2 + axis], low=True, high=True)
        assert inside is not None
        conditions += [inside] if stride == 1 else [inside, compare("eq", mod(offset, stride), 0)]
        sources.append(source)
    source_channel = add(multiply(floordiv(channel, w.dims[1]), inner.extent) if group > 1 else 0, inner.index)
    value = wide_load(0, x, (batch, source_channel, *sources))
    value = select(all_of(*conditions), value, const(0, value.dtype))
    own = mod(channel, w.dims[1]) if group > 1 else channel
    weight = wide_load(1, w, (source_channel, own, *(tap.index for tap in taps)))
    total = reduce("sum", [inner, *taps], call("mul", value, weight))
    return [TensorExpr(axes, cast(_with_bias(ctx, total, channel), x.dtype))]


def _infer_conv_integer(ctx: InferenceContext) -> Sequence[Type]:
    return [TensorType(dtypes.INT32, infer_conv_shape(ctx, 0, 1))]


def centred_weights(w: Array, zero_point: Array | None) -> Array:
    """Weights less their zero point, one number or one per output channel, in int32."""
    if zero_point is None or zero_point.size == 1:
        return centred(w, None if zero_point is None else zero_point.reshape(()), rows=False)
    return w.astype(np.int32) - zero_point.astype(np.int32).reshape(-1, *(1,) * (w.ndim - 1))


def _evaluate_conv_integer(node: Node, inputs: Sequence[Datum]) -> Sequence[Datum]:
    x, w, x_zero, w_zero = (*inputs, None, None)[:4]
    window = conv_window(node, x.shape, w.shape).static()
    values = centred(x, None if x_zero is None else x_zero.reshape(()), rows=False)
    return [convolve(values, centred_weights(w, w_zero), window, node.int_attribute("group", 1))]


def integer_products(
    ctx: ExpressionContext, operands: tuple[int, int], zero_points: tuple[int, int]
) -> tuple[tuple[Axis, ...], Scalar]:
    """Axes of an integer convolution's output, and its int32 sum of products.

    Args:
        ctx: Context of the node.
        operands: Numbers of the input and the weights.
        zero_points: Numbers of their zero points, which may be absent; one number or one per output channel.
    """
    x, w = ctx.tensor(operands[0]), ctx.tensor(operands[1])
    window = conv_window(ctx.node, x.dims, w.dims)
    axes = axes_of(ctx.outputs[0].dims)
    batch, channel, *outputs = indices_of(axes)
    inner, *taps = axes_of([w.dims[1], *window.kernel], "k")
    positions = window.positions(outputs, [tap.index for tap in taps])
    source = add(_group_base(channel, w.dims[0], w.dims[1], ctx.node.int_attribute("group", 1)), inner.index)

    def centre(side: int, at: Sequence[Dim]) -> Scalar:
        number, zero_number = operands[side], zero_points[side]
        value = cast(load(number, ctx.tensor(number).dtype, at), dtypes.INT32)
        zero = ctx.inputs[zero_number] if zero_number < len(ctx.inputs) else None
        if zero is None:
            return value
        position = [channel if extent != 1 else 0 for extent in zero.dims]
        return call("sub", value, cast(load(zero_number, zero.dtype, position), dtypes.INT32))

    value = centre(0, (batch, source, *positions))
    inside = window.inside(positions)
    if inside is not None:
        value = select(inside, value, const(0, dtypes.INT32))
    weight = centre(1, (channel, inner.index, *(tap.index for tap in taps)))
    return axes, reduce("sum", [inner, *taps], call("mul", value, weight))


def _express_conv_integer(ctx: ExpressionContext) -> Sequence[TensorExpr] | None:
    if len(kernel_of(ctx.node, ctx.tensor(1).dims)) != len(ctx.tensor(1).dims) - 2:
        return None
    return [TensorExpr(*integer_products(ctx, (0, 1), (2, 3)))]


for operator in (
    Operator("Conv", _infer_conv, _evaluate_conv, expression=_express_conv, traits=WINDOWED_CONTRACTION),
    Operator(
        "ConvTranspose",
        _infer_conv_transpose,
        _evaluate_conv_transpose,
        expression=_express_conv_transpose,
        traits=WINDOWED_CONTRACTION,
    ),
    Operator(
        "ConvInteger",
        _infer_conv_integer,
        _evaluate_conv_integer,
        expression=_express_conv_integer,
        traits=WINDOWED_CONTRACTION,
    ),
):
    register(operator)
