"""Pictures: columns to images, decoding."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

from graphc.ir import Dim, Node, TensorType, Type, dtypes
from graphc.ir.symbolic import add, floordiv, mod, multiply
from graphc.ops.base import Datum, ExpressionContext, InferenceContext, Operator, Trait, register
from graphc.ops.expr import Scalar, TensorExpr, all_of, axes_of, cast, compare, const, reduce, select
from graphc.ops.indexing import indices_of, last_axes, subtract, wide_load, within
from graphc.ops.window import window_of


def _infer_col2im(ctx: InferenceContext) -> Sequence[Type]:
    x, image, block = ctx.shape(0), ctx.dims(1), ctx.constant(2)
    if len(x) != 3:
        ctx.fail(f"columns of shape {list(x)} must have 3 axes")
    rank = ctx.shape(1)[0]
    if image is None:
        if not isinstance(rank, int):
            return [ctx.tensor(0).with_shape(None)]
        image = tuple(ctx.fresh("image") for _ in range(rank))
    channels: Dim = ctx.fresh("channels")
    if block is not None:
        taps = math.prod(int(extent) for extent in block.reshape(-1))
        if taps < 1 or (isinstance(x[1], int) and x[1] % taps):
            ctx.fail(f"{x[1]} rows of columns do not divide into blocks of {taps}")
        channels = floordiv(x[1], taps)
    return [ctx.tensor(0).with_shape((x[0], channels, *image))]


def _evaluate_col2im(node: Node, inputs: Sequence[Datum]) -> Sequence[Datum]:
    columns, image, block = inputs[0], [int(n) for n in inputs[1]], [int(n) for n in inputs[2]]
    window = window_of(node, image, block).static()
    channels = columns.shape[1] // math.prod(block)
    blocks = columns.reshape(columns.shape[0], channels, math.prod(block), *window.output)
    # Columns are added where a window over the image would have read them.
    picture = window.pad(np.zeros((columns.shape[0], channels, *image), columns.dtype), 0)
    for number, tap in enumerate(window.taps()):
        picture[last_axes(window.region(tap))] += blocks[:, :, number]
    inside = [slice(begin, begin + extent) for begin, extent in zip(window.pads_begin, image, strict=True)]
    return [np.ascontiguousarray(picture[last_axes(inside)])]


def _express_col2im(ctx: ExpressionContext) -> Sequence[TensorExpr] | None:
    """Each pixel gathers what the windows over it hold, so that nothing is scattered."""
    block, image = ctx.constant(2), ctx.outputs[0].dims[2:]
    if block is None or any(not isinstance(extent, int) for extent in image):
        return None
    kind = ctx.tensor(0)
    window = window_of(ctx.node, image, [int(extent) for extent in block.reshape(-1)])
    axes = axes_of(ctx.outputs[0].dims)
    batch, channel, *pixel = indices_of(axes)
    taps = axes_of(window.kernel, "k")
    row: Dim = channel
    column: Dim = 0
    inside: list[Scalar] = []
    for axis, (place, tap) in enumerate(zip(pixel, taps, strict=True)):
        row = add(multiply(row, window.kernel[axis]), tap.index)
        offset = subtract(add(place, window.pads_begin[axis]), multiply(tap.index, window.dilations[axis]))
        source, stride = floordiv(offset, window.strides[axis]), window.strides[axis]
        conditions = within(source, window.output[axis], low=True, high=True)
        assert conditions is not None, "both sides are asked for"
        inside += [conditions] if stride == 1 else [conditions, compare("eq", mod(offset, stride), 0)]
        column = add(multiply(column, window.output[axis]), source)
    value = wide_load(0, kind, (batch, row, column))
    value = select(all_of(*inside), value, const(0, value.dtype))
    return [TensorExpr(axes, cast(reduce("sum", taps, value), kind.dtype))]


def _infer_image(ctx: InferenceContext) -> Sequence[Type]:
    grey = ctx.node.str_attribute("pixel_format", "RGB") == "Grayscale"
    return [TensorType(dtypes.UINT8, (ctx.fresh("height"), ctx.fresh("width"), 1 if grey else 3))]


for operator in (
    Operator("Col2Im", _infer_col2im, _evaluate_col2im, expression=_express_col2im),
    Operator("ImageDecoder", _infer_image, traits=frozenset({Trait.DATA_DEPENDENT})),
):
    register(operator)
