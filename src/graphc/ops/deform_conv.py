"""Deformable convolution: a convolution whose taps read where offsets, which are data, move them.

    DeformConv(x, w, offset, b, mask) = Conv1x1(DeformColumns(x, offset, mask), w, b)

The compiler's DeformColumns interpolates what every tap reads, once for all output channels. It is itself the
deformable convolution with one output channel for each tap of each channel, whose weights pick that tap.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np

from graphc.ir import GRAPHC_DOMAIN, Builder, Dim, Node, Type, dtypes
from graphc.ir.symbolic import floordiv, mod
from graphc.ops.base import Datum, ExpressionContext, InferenceContext, Operator, Trait, register
from graphc.ops.contraction import wide
from graphc.ops.contrib import Values, given, kept, needed, numbers
from graphc.ops.convolution import conv_window, infer_conv_shape, kernel_of
from graphc.ops.decomposition import decomposed
from graphc.ops.expr import Scalar, TensorExpr, axes_of, call, cast, index_value, load
from graphc.ops.grid_sample import interpolated, sample_linear, zero_outside
from graphc.ops.indexing import accumulator, indices_of, wide_load
from graphc.ops.window import window_of

_GEOMETRY = ("strides", "pads", "dilations", "offset_group")


def _infer_deform_conv(ctx: InferenceContext) -> Sequence[Type]:
    return [ctx.tensor(0).with_shape(infer_conv_shape(ctx, 0, 1))]


def _evaluate_deform_conv(node: Node, inputs: Sequence[Datum]) -> Sequence[Datum]:
    x, w, offset, bias, mask = [*inputs, None, None][:5]
    window, group = conv_window(node, x.shape, w.shape).static(), node.int_attribute("group", 1)
    parts = node.int_attribute("offset_group", 1)
    batch, channels, rank, taps = x.shape[0], x.shape[1], x.ndim - 2, math.prod(window.kernel)
    moves = wide(offset).reshape(batch, parts, taps, rank, *window.output)
    weighing = None if mask is None else wide(mask).reshape(batch, parts, taps, *window.output)
    # Channels that share their offsets are sampled together.
    pictures = wide(x).reshape(batch * parts, channels // parts, *x.shape[2:])
    kernels = wide(w).reshape(group, w.shape[0] // group, w.shape[1], taps)
    lattice = np.meshgrid(*(np.arange(extent) for extent in window.output), indexing="ij")
    total = np.zeros((batch, group, w.shape[0] // group, math.prod(window.output)), pictures.dtype)
    for number, tap in enumerate(window.taps()):
        places = []
        for axis in range(rank):
            start = lattice[axis] * window.strides[axis] - window.pads_begin[axis] + tap[axis] * window.dilations[axis]
            places.append((start + moves[:, :, number, axis]).reshape(batch * parts, *window.output))
        read = sample_linear(pictures, places).reshape(batch, parts, channels // parts, *window.output)
        if weighing is not None:
            read = read * weighing[:, :, number, None]
        total += kernels[..., number] @ read.reshape(batch, group, channels // group, -1)
    result = total.reshape(batch, w.shape[0], *window.output)
    if bias is not None:
        result = result + wide(bias).reshape(-1, *(1,) * rank)
    return [result.astype(x.dtype, copy=False)]


def _expand(b: Builder, node: Node, x: Values) -> Values | None:
    data, weights = needed(x, 0), needed(x, 1)
    taps = kernel_of(node, weights.tensor_type.dims)
    if accumulator(data.tensor_type.dtype) != dtypes.FLOAT32 or len(taps) != len(data.tensor_type.dims) - 2:
        return None
    channels, outputs = data.tensor_type.dims[1], weights.tensor_type.dims[0]
    if weights.constant is not None and _are_picks(weights.constant.array()):
        # Columns are defined by this operator: where they have no kernel, it is what they stand for.
        return None
    spatial = node.output.tensor_type.dims[2:]
    if not isinstance(channels, int) or not all(isinstance(extent, int) for extent in (outputs, *spatial)):
        return None
    columns = b.op(
        "DeformColumns",
        *(data, needed(x, 2), given(x, 4)),
        domain=GRAPHC_DOMAIN,
        kernel_shape=taps,
        **kept(node, *_GEOMETRY),
    )
    # A picture of one row is as good as any: the taps are channels by now.
    flat = b.op("Reshape", columns, numbers(b, 0, channels * math.prod(taps), 1, -1))
    kernel = b.op("Reshape", weights, numbers(b, 0, -1, 1, 1))
    made = b.op("Conv", flat, kernel, given(x, 3), kernel_shape=(1, 1), group=node.int_attribute("group", 1))
    return [b.op("Reshape", made, numbers(b, 0, 0, *(extent for extent in spatial if isinstance(extent, int))))]


def _picks(channels: int, kernel: Sequence[int], dtype: np.dtype[Any]) -> np.ndarray[Any, Any]:
    """Weights of a depthwise convolution with an output channel for each tap of each channel."""
    count = math.prod(kernel)
    return np.tile(np.eye(count, dtype=dtype), (channels, 1)).reshape(channels * count, 1, *kernel)


def _are_picks(weights: np.ndarray[Any, Any]) -> bool:
    count = math.prod(weights.shape[2:])
    whole = count > 0 and weights.shape[1] == 1 and len(weights) % count == 0
    return whole and np.array_equal(weights, _picks(len(weights) // count, weights.shape[2:], weights.dtype))


def _columns(b: Builder, node: Node, x: Values) -> Values | None:
    """(batch, channels, taps, spatial...), as a convolution with an output channel for each tap of each channel."""
    data, offset, kernel = needed(x, 0), needed(x, 1), node.ints_attribute("kernel_shape") or ()
    channels, dtype = data.tensor_type.dims[1], data.tensor_type.dtype
    spatial = offset.tensor_type.dims[2:]
    if not isinstance(channels, int) or not all(isinstance(extent, int) for extent in spatial):
        return None
    count = math.prod(kernel)
    picks = _picks(channels, kernel, dtype.numpy)
    geometry = kept(node, *_GEOMETRY)
    made = b.op("DeformConv", data, b.constant(picks), offset, None, given(x, 2), group=channels, **geometry)
    extents = [extent for extent in spatial if isinstance(extent, int)]
    return [b.op("Reshape", made, numbers(b, 0, channels, count, *extents))]


def _express_columns(ctx: ExpressionContext) -> Sequence[TensorExpr]:
    x, offset, node = ctx.tensor(0), ctx.tensor(1), ctx.node
    spatial, kernel = x.dims[2:], node.ints_attribute("kernel_shape") or ()
    window, count = window_of(node, spatial, kernel), math.prod(kernel)
    axes = axes_of(ctx.outputs[0].dims)
    batch, channel, tap, *outputs = indices_of(axes)
    part = floordiv(channel, floordiv(x.dims[1], node.int_attribute("offset_group", 1)))
    taps: list[Dim] = []
    rest = tap
    for extent in reversed(kernel):
        taps.insert(0, mod(rest, extent))
        rest = floordiv(rest, extent)
    places: list[Scalar] = []
    for axis, start in enumerate(window.positions(outputs, taps)):
        number = (part * count + tap) * len(kernel) + axis
        moved = cast(load(1, offset.dtype, (batch, number, *outputs)), dtypes.FLOAT32)
        places.append(call("add", cast(index_value(start), dtypes.FLOAT32), moved))

    def read(at: Sequence[Scalar]) -> Scalar:
        return zero_outside(cast(load(0, x.dtype, (batch, channel, *at)), accumulator(x.dtype)), at, spatial)

    value = interpolated(read, places)
    mask = ctx.inputs[2] if len(ctx.inputs) > 2 else None
    if mask is not None:
        value = call("mul", value, wide_load(2, mask, (batch, part * count + tap, *outputs)))
    return [TensorExpr(axes, cast(value, x.dtype))]


register(Operator("DeformConv", _infer_deform_conv, _evaluate_deform_conv, traits=frozenset({Trait.CONTRACTION})))
decomposed("DeformConv", _expand, define=False)
decomposed("DeformColumns", _columns, domain=GRAPHC_DOMAIN, traits={Trait.WINDOW}, expression=_express_columns)
