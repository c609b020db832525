"""Pictures: sampling at computed places, regions of interest, deformable windows, columns to images, decoding."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

from graphc.ir import Dim, Node, TensorType, Type, dtypes
from graphc.ir.symbolic import floordiv
from graphc.ops.base import Datum, InferenceContext, Operator, Trait, register
from graphc.ops.convolution import infer_conv_shape


def _infer_grid_sample(ctx: InferenceContext) -> Sequence[Type]:
    x, grid = ctx.shape(0), ctx.shape(1)
    if len(x) != len(grid) or len(x) < 3 or (isinstance(grid[-1], int) and grid[-1] != len(x) - 2):
        ctx.fail(f"a grid of shape {list(grid)} does not fit an input of shape {list(x)}")
    return [ctx.tensor(0).with_shape((x[0], x[1], *grid[1:-1]))]


def _infer_affine_grid(ctx: InferenceContext) -> Sequence[Type]:
    size = ctx.dims(1)
    if size is None:
        count = ctx.shape(1)[0]
        if not isinstance(count, int):
            return [ctx.tensor(0).with_shape(None)]
        size = tuple(ctx.fresh("grid") for _ in range(count))
    if len(size) not in (4, 5):
        ctx.fail(f"size {list(size)} must have 4 or 5 numbers")
    return [ctx.tensor(0).with_shape((size[0], *size[2:], len(size) - 2))]


def _infer_roi_align(ctx: InferenceContext) -> Sequence[Type]:
    x, rois = ctx.shape(0), ctx.shape(1)
    if len(x) != 4 or len(rois) != 2:
        ctx.fail(f"an input of shape {list(x)} and regions of shape {list(rois)}")
    height, width = (ctx.node.int_attribute(f"output_{name}", 1) for name in ("height", "width"))
    return [ctx.tensor(0).with_shape((rois[0], x[1], height, width))]


def _infer_max_roi_pool(ctx: InferenceContext) -> Sequence[Type]:
    x, rois, pooled = ctx.shape(0), ctx.shape(1), ctx.node.ints_attribute("pooled_shape") or ()
    if len(x) != 4 or len(rois) != 2 or len(pooled) != 2:
        ctx.fail(f"an input of shape {list(x)}, regions of shape {list(rois)}, pooled_shape {list(pooled)}")
    return [ctx.tensor(0).with_shape((rois[0], x[1], *pooled))]


def _evaluate_max_roi_pool(node: Node, inputs: Sequence[Datum]) -> Sequence[Datum]:
    x, rois = inputs
    height, width = node.ints_attribute("pooled_shape") or (1, 1)
    scale = node.float_attribute("spatial_scale", 1.0)
    result = np.zeros((rois.shape[0], x.shape[1], height, width), x.dtype)
    for number, (batch, *corners) in enumerate(rois.astype(np.float64)):
        # Half away from zero, as C's round.
        left, top, right, bottom = (int(np.floor(c * scale + 0.5)) for c in corners)
        for row, column in np.ndindex(height, width):
            rows = _part(top, bottom, row, height, x.shape[2])
            columns = _part(left, right, column, width, x.shape[3])
            cell = x[int(batch), :, rows, columns]
            if cell.size:
                result[number, :, row, column] = cell.max(axis=(1, 2))
    return [result]


def _part(low: int, high: int, index: int, parts: int, extent: int) -> slice:
    """Positions of part `index` of the region `low..high`, cut off at the picture's border."""
    step = max(high - low + 1, 1) / parts
    begin, end = low + int(np.floor(index * step)), low + int(np.ceil((index + 1) * step))
    return slice(min(max(begin, 0), extent), min(max(end, 0), extent))


def _infer_deform_conv(ctx: InferenceContext) -> Sequence[Type]:
    return [ctx.tensor(0).with_shape(infer_conv_shape(ctx, 0, 1))]


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


def _infer_image(ctx: InferenceContext) -> Sequence[Type]:
    grey = ctx.node.str_attribute("pixel_format", "RGB") == "Grayscale"
    return [TensorType(dtypes.UINT8, (ctx.fresh("height"), ctx.fresh("width"), 1 if grey else 3))]


for operator in (
    Operator("GridSample", _infer_grid_sample),
    Operator("AffineGrid", _infer_affine_grid),
    Operator("RoiAlign", _infer_roi_align),
    Operator("MaxRoiPool", _infer_max_roi_pool, _evaluate_max_roi_pool),
    Operator("DeformConv", _infer_deform_conv),
    Operator("Col2Im", _infer_col2im),
    Operator("ImageDecoder", _infer_image, traits=frozenset({Trait.DATA_DEPENDENT})),
):
    register(operator)
