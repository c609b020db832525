"""Convolutions' inputs laid out for others to compute: Columns and Slabs of domain `graphc`.

- `Columns` (batch, channels * taps, output...) holds what each tap of each window reads, so that a convolution is a
  product with its weights as a matrix.
- `Slabs` (batch * depths, taps * channels, height, width) holds the slices of a volume that each window along the depth
  reads, one after the other among the channels, so that a convolution of volumes is one of images.

Outside of the input both read zeros.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

from graphc.ir import GRAPHC_DOMAIN, Builder, Dim, Node
from graphc.ir.symbolic import floordiv, mod
from graphc.ops.base import ExpressionContext, Trait
from graphc.ops.contrib import Values, kept, needed, numbers
from graphc.ops.decomposition import decomposed
from graphc.ops.expr import Scalar, TensorExpr, axes_of, const, load, select
from graphc.ops.indexing import indices_of
from graphc.ops.window import window_of

_GEOMETRY = ("kernel_shape", "strides", "dilations", "pads")


def _columns(b: Builder, node: Node, x: Values) -> Values | None:
    """A convolution with an output channel for each tap of each channel, whose weights pick that tap."""
    data, kernel = needed(x, 0), node.ints_attribute("kernel_shape") or ()
    channels, dtype = data.tensor_type.dims[1], data.tensor_type.dtype
    if not isinstance(channels, int):
        return None
    count = math.prod(kernel)
    picks = np.tile(np.eye(count, dtype=dtype.numpy), (channels, 1)).reshape(channels * count, 1, *kernel)
    return [b.op("Conv", data, b.constant(picks), group=channels, **kept(node, *_GEOMETRY))]


def _digits(number: Dim, extents: Sequence[int]) -> list[Dim]:
    """The index over axes of `extents` of place `number` in their row-major order."""
    found: list[Dim] = []
    for extent in reversed(extents):
        found.insert(0, mod(number, extent))
        number = floordiv(number, extent)
    return found


def _zero_outside(value: Scalar, inside: Scalar | None) -> Scalar:
    return value if inside is None else select(inside, value, const(0, value.dtype))


def _express_columns(ctx: ExpressionContext) -> list[TensorExpr]:
    x, kernel = ctx.tensor(0), ctx.node.ints_attribute("kernel_shape") or ()
    window, count = window_of(ctx.node, x.dims[2:], kernel), math.prod(kernel)
    axes = axes_of(ctx.outputs[0].dims)
    batch, row, *outputs = indices_of(axes)
    at = window.positions(outputs, _digits(mod(row, count), kernel))
    value = load(0, x.dtype, (batch, floordiv(row, count), *at))
    return [TensorExpr(axes, _zero_outside(value, window.inside(at)))]


def _slabs(b: Builder, node: Node, x: Values) -> Values | None:
    data, group = needed(x, 0), node.int_attribute("group", 1)
    if any(not isinstance(extent, int) for extent in data.tensor_type.dims):
        return None
    batch, channels, depth, height, width = (n for n in data.tensor_type.dims if isinstance(n, int))
    window = window_of(node, (depth,), node.ints_attribute("kernel_shape") or ()).static()
    (count,), (taps,) = window.output, window.kernel
    last = (count - 1) * window.strides[0] + window.dilations[0] * (taps - 1)
    before = window.pads_begin[0]
    padded = b.op("Pad", data, numbers(b, 0, 0, before, 0, 0, 0, 0, max(last + 1 - before - depth, 0), 0, 0))
    places = np.arange(count)[:, None] * window.strides[0] + np.arange(taps) * window.dilations[0]
    slices = b.op("Gather", padded, b.constant(places), axis=2)
    split = b.op("Reshape", slices, numbers(b, batch, group, channels // group, count, taps, height, width))
    moved = b.op("Transpose", split, perm=[0, 3, 1, 4, 2, 5, 6])
    return [b.op("Reshape", moved, numbers(b, batch * count, channels * taps, height, width))]


def _express_slabs(ctx: ExpressionContext) -> list[TensorExpr]:
    x = ctx.tensor(0)
    window = window_of(ctx.node, x.dims[2:3], ctx.node.ints_attribute("kernel_shape") or ())
    inner = floordiv(x.dims[1], ctx.node.int_attribute("group", 1))
    axes = axes_of(ctx.outputs[0].dims)
    image, row, *pixel = indices_of(axes)
    tap, part = mod(floordiv(row, inner), window.kernel[0]), floordiv(row, window.kernel[0] * inner)
    at = window.positions([mod(image, window.output[0])], [tap])
    value = load(0, x.dtype, (floordiv(image, window.output[0]), part * inner + mod(row, inner), *at, *pixel))
    return [TensorExpr(axes, _zero_outside(value, window.inside(at)))]


MOVEMENT = frozenset({Trait.MOVEMENT})
decomposed("Columns", _columns, domain=GRAPHC_DOMAIN, traits=MOVEMENT, expression=_express_columns)
decomposed("Slabs", _slabs, domain=GRAPHC_DOMAIN, traits=MOVEMENT, expression=_express_slabs)
