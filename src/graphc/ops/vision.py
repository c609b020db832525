"""Pictures: regions of interest, deformable windows, columns to images, decoding."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

from graphc.ir import Dim, Node, TensorType, Type, dtypes
from graphc.ir.symbolic import floordiv
from graphc.ops.base import Array, Datum, InferenceContext, Operator, Trait, register
from graphc.ops.contraction import wide
from graphc.ops.convolution import conv_window, infer_conv_shape
from graphc.ops.grid_sample import sample_linear
from graphc.ops.indexing import last_axes
from graphc.ops.window import window_of


def _infer_roi_align(ctx: InferenceContext) -> Sequence[Type]:
    x, rois = ctx.shape(0), ctx.shape(1)
    if len(x) != 4 or len(rois) != 2:
        ctx.fail(f"an input of shape {list(x)} and regions of shape {list(rois)}")
    height, width = (ctx.node.int_attribute(f"output_{name}", 1) for name in ("height", "width"))
    return [ctx.tensor(0).with_shape((rois[0], x[1], height, width))]


def _samples(low: float, size: float, parts: int, ratio: int, extent: int) -> tuple[Array, Array, Array, int]:
    """Sampling places of a region along one axis: lower elements, fractions, whether inside, and how many per part."""
    step = size / parts
    count = ratio if ratio > 0 else max(math.ceil(step), 0)
    part, sample = np.divmod(np.arange(parts * count), max(count, 1))
    place = low + part * step + (sample + 0.5) * step / max(count, 1)
    inside = (place >= -1) & (place <= extent)
    place = np.clip(place, 0, extent - 1)
    lower = np.minimum(place.astype(np.int64), max(extent - 2, 0))
    return lower, place - lower, inside, count


def _evaluate_roi_align(node: Node, inputs: Sequence[Datum]) -> Sequence[Datum]:
    x, rois, batches = inputs
    parts = tuple(node.int_attribute(f"output_{name}", 1) for name in ("height", "width"))
    half = node.str_attribute("coordinate_transformation_mode", "half_pixel") == "half_pixel"
    scale, ratio = node.float_attribute("spatial_scale", 1.0), node.int_attribute("sampling_ratio", 0)
    largest = node.str_attribute("mode", "avg") == "max"
    result = np.zeros((len(rois), x.shape[1], *parts), wide(x).dtype)
    for number, (roi, batch) in enumerate(zip(rois.astype(np.float64), batches, strict=True)):
        left, top, right, bottom = roi * scale - (0.5 if half else 0.0)
        height, width = bottom - top, right - left
        if not half:
            height, width = max(height, 1.0), max(width, 1.0)
        y, fy, in_y, rows = _samples(top, height, parts[0], ratio, x.shape[2])
        z, fz, in_z, columns = _samples(left, width, parts[1], ratio, x.shape[3])
        if not rows * columns:
            continue
        picture = wide(x[int(batch)])
        inside = in_y[:, None] & in_z
        corners = [
            # Along an axis of one element both corners are that element.
            picture[:, np.minimum(y + i, x.shape[2] - 1)[:, None], np.minimum(z + j, x.shape[3] - 1)]
            * (np.where(i, fy, 1 - fy)[:, None] * np.where(j, fz, 1 - fz) * inside)
            for i in (0, 1)
            for j in (0, 1)
        ]
        # The maximum is that of the weighted corners, as ONNX Runtime has it and the operator's tests expect.
        samples = np.maximum.reduce(corners) if largest else sum(corners)
        tiles = np.asarray(samples).reshape(-1, parts[0], rows, parts[1], columns)
        result[number] = tiles.max(axis=(2, 4)) if largest else tiles.mean(axis=(2, 4))
    return [result.astype(x.dtype, copy=False)]


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


def _infer_image(ctx: InferenceContext) -> Sequence[Type]:
    grey = ctx.node.str_attribute("pixel_format", "RGB") == "Grayscale"
    return [TensorType(dtypes.UINT8, (ctx.fresh("height"), ctx.fresh("width"), 1 if grey else 3))]


for operator in (
    Operator("RoiAlign", _infer_roi_align, _evaluate_roi_align),
    Operator("MaxRoiPool", _infer_max_roi_pool, _evaluate_max_roi_pool),
    Operator("DeformConv", _infer_deform_conv, _evaluate_deform_conv),
    Operator("Col2Im", _infer_col2im, _evaluate_col2im),
    Operator("ImageDecoder", _infer_image, traits=frozenset({Trait.DATA_DEPENDENT})),
):
    register(operator)
