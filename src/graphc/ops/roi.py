"""Regions of interest: RoiAlign and MaxRoiPool.

How many samples or elements a part of a region has follows from the region, which is data: their expressions reduce
over as many as the region says.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

from graphc.ir import Dim, Node, Type, dtypes
from graphc.ops.base import Array, Datum, ExpressionContext, InferenceContext, Operator, Trait, register
from graphc.ops.contraction import wide
from graphc.ops.expr import (
    Axis,
    Scalar,
    TensorExpr,
    axes_of,
    call,
    cast,
    const,
    index_value,
    load,
    reduce,
    select,
)
from graphc.ops.indexing import accumulator, indices_of

MOST_SAMPLES = 1 << 16
"""A part of a region is sampled at most so many times along an axis, however large it is."""


def _infer_roi_align(ctx: InferenceContext) -> Sequence[Type]:
    x, rois = ctx.shape(0), ctx.shape(1)
    if len(x) != 4 or len(rois) != 2:
        ctx.fail(f"an input of shape {list(x)} and regions of shape {list(rois)}")
    height, width = (ctx.node.int_attribute(f"output_{name}", 1) for name in ("height", "width"))
    return [ctx.tensor(0).with_shape((rois[0], x[1], height, width))]


def _samples(low: float, size: float, parts: int, ratio: int, extent: int) -> tuple[Array, Array, Array, int]:
    """Sampling places of a region along one axis: lower elements, fractions, whether inside, and how many per part."""
    step = np.float32(size / parts)
    count = ratio if ratio > 0 else min(max(math.ceil(step), 0), MOST_SAMPLES)
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
    for number, (roi, batch) in enumerate(zip(rois.astype(np.float32), batches, strict=True)):
        left, top, right, bottom = roi * np.float32(scale) - np.float32(0.5 if half else 0.0)
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
    for number, (batch, *corners) in enumerate(rois.astype(np.float32)):
        left, top, right, bottom = (int(np.floor(c * np.float32(scale) + np.float32(0.5))) for c in corners)
        for row, column in np.ndindex(height, width):
            rows = _part(top, bottom, row, height, x.shape[2])
            columns = _part(left, right, column, width, x.shape[3])
            cell = x[int(batch), :, rows, columns]
            if cell.size:
                result[number, :, row, column] = cell.max(axis=(1, 2))
    return [result]


def _part(low: int, high: int, index: int, parts: int, extent: int) -> slice:
    """Positions of part `index` of the region `low..high`, cut off at the picture's border."""
    size = max(high - low + 1, 1)
    begin, end = low + index * size // parts, low - (index + 1) * -size // parts
    return slice(min(max(begin, 0), extent), min(max(end, 0), extent))


# --- as expressions ---------------------------------------------------------------------------------------------------


def _number(value: float) -> Scalar:
    return const(value, dtypes.FLOAT32)


def _whole(value: int) -> Scalar:
    return const(value, dtypes.INT64)


def _corners(ctx: ExpressionContext, region: Dim, first: int) -> list[Scalar]:
    """Left, top, right and bottom of a region in the picture's pixels."""
    rois = ctx.tensor(1)
    scale = _number(ctx.node.float_attribute("spatial_scale", 1.0))
    found = [cast(load(1, rois.dtype, (region, first + corner)), dtypes.FLOAT32) for corner in range(4)]
    return [call("mul", corner, scale) for corner in found]


def _clamped(value: Scalar, low: Scalar, high: Scalar) -> Scalar:
    return call("min", call("max", value, low), high)


def _sampled(
    low: Scalar, size: Scalar, part: Dim, parts: int, ratio: int, extent: int
) -> tuple[Axis, Scalar, Scalar, list[tuple[Scalar, Scalar]]]:
    """Samples of a part of a region along one axis: `_samples` as expressions.

    Returns:
        The axis of samples, how many there are, whether a sample lies inside, and its two elements with their weights.
    """
    step = call("div", size, _number(parts))
    if ratio > 0:
        (axis,) = axes_of([ratio], "s")
        count: Scalar = _whole(ratio)
    else:
        (axis,) = axes_of([MOST_SAMPLES], "s")
        count = _clamped(cast(call("ceil", step), dtypes.INT64), _whole(0), _whole(MOST_SAMPLES))
    spread = cast(call("max", count, _whole(1)), dtypes.FLOAT32)
    middle = call("add", cast(index_value(axis.index), dtypes.FLOAT32), _number(0.5))
    start = call("add", low, call("mul", cast(index_value(part), dtypes.FLOAT32), step))
    place: Scalar = call("add", start, call("div", call("mul", middle, step), spread))
    inside = call("and", call("ge", place, _number(-1)), call("le", place, _number(extent)))
    place = _clamped(place, _number(0), _number(extent - 1))
    lower = call("min", call("floor", place), _number(max(extent - 2, 0)))
    fraction = call("sub", place, lower)
    first = cast(lower, dtypes.INT64)
    # Along an axis of one element both corners are that element.
    second = call("min", call("add", first, _whole(1)), _whole(extent - 1))
    return axis, count, inside, [(first, call("sub", _number(1), fraction)), (second, fraction)]


def _express_roi_align(ctx: ExpressionContext) -> Sequence[TensorExpr] | None:
    x, node = ctx.tensor(0), ctx.node
    if accumulator(x.dtype) != dtypes.FLOAT32 or not all(isinstance(n, int) and n > 0 for n in x.dims[2:]):
        return None
    half = node.str_attribute("coordinate_transformation_mode", "half_pixel") == "half_pixel"
    largest = node.str_attribute("mode", "avg") == "max"
    axes = axes_of(ctx.outputs[0].dims)
    region, channel, *parts = indices_of(axes)
    corners = _corners(ctx, region, 0)
    if half:
        corners = [call("sub", corner, _number(0.5)) for corner in corners]
    batch = cast(load(2, ctx.tensor(2).dtype, (region,)), dtypes.INT64)
    samples, counts, insides, sides = [], [], [], []
    for axis in (0, 1):
        low, high = corners[1 - axis], corners[3 - axis]
        size = call("sub", high, low)
        if not half:
            size = call("max", size, _number(1))
        count, extent = ctx.outputs[0].dims[2 + axis], x.dims[2 + axis]
        assert isinstance(count, int) and isinstance(extent, int), "extents are known"
        sample, number, inside, pair = _sampled(
            low, size, parts[axis], count, node.int_attribute("sampling_ratio", 0), extent
        )
        samples.append(sample)
        counts.append(number)
        insides.append(inside)
        sides.append(pair)
    inside = call("and", *insides)
    terms = []
    for row, down in sides[0]:
        for column, across in sides[1]:
            element = cast(load(0, x.dtype, (batch, channel, row, column), checked=True), dtypes.FLOAT32)
            terms.append(call("mul", element, call("mul", down, across)))
    # The maximum is that of the weighted corners, as ONNX Runtime has it and the operator's tests expect.
    combine = "max" if largest else "add"
    value: Scalar = terms[0]
    for term in terms[1:]:
        value = call(combine, value, term)
    value = select(inside, value, _number(0))
    ragged = counts if node.int_attribute("sampling_ratio", 0) <= 0 else ()
    total = reduce("max" if largest else "sum", samples, value, ragged)
    number = call("mul", *counts)
    if not largest:
        total = call("div", total, cast(call("max", number, _whole(1)), dtypes.FLOAT32))
    elif ragged:
        total = select(call("eq", number, _whole(0)), _number(0), total)
    return [TensorExpr(axes, cast(total, x.dtype))]


def _covered(low: Scalar, high: Scalar, part: Dim, parts: int, extent: int) -> tuple[Scalar, Scalar]:
    """First element and number of elements of a part of the region `low..high`: `_part` as expressions."""
    size = call("max", call("add", call("sub", high, low), _whole(1)), _whole(1))

    def border(index: Dim, up: int) -> Scalar:
        scaled = call("add", call("mul", index_value(index), size), _whole(up))
        return _clamped(call("add", low, call("floordiv", scaled, _whole(parts))), _whole(0), _whole(extent))

    begin = border(part, 0)
    return begin, call("sub", border(part + 1, parts - 1), begin)


def _express_max_roi_pool(ctx: ExpressionContext) -> Sequence[TensorExpr] | None:
    x = ctx.tensor(0)
    if accumulator(x.dtype) != dtypes.FLOAT32 or not all(isinstance(n, int) and n > 0 for n in x.dims[2:]):
        return None
    axes = axes_of(ctx.outputs[0].dims)
    region, channel, *parts = indices_of(axes)
    rounded = [
        cast(call("floor", call("add", corner, _number(0.5))), dtypes.INT64) for corner in _corners(ctx, region, 1)
    ]
    batch = cast(cast(load(1, ctx.tensor(1).dtype, (region, 0)), dtypes.FLOAT32), dtypes.INT64)
    inner = axes_of(x.dims[2:], "k")
    at: list[Scalar] = []
    counts: list[Scalar] = []
    for axis, step in enumerate(inner):
        count, extent = ctx.outputs[0].dims[2 + axis], x.dims[2 + axis]
        assert isinstance(count, int) and isinstance(extent, int), "extents are known"
        begin, number = _covered(rounded[1 - axis], rounded[3 - axis], parts[axis], count, extent)
        at.append(call("add", begin, index_value(step.index)))
        counts.append(number)
    value = cast(load(0, x.dtype, (batch, channel, *at), checked=True), dtypes.FLOAT32)
    empty = call("le", call("min", *counts), _whole(0))
    found = select(empty, _number(0), reduce("max", inner, value, counts))
    return [TensorExpr(axes, cast(found, x.dtype))]


WINDOWED = frozenset({Trait.WINDOW, Trait.REDUCTION})
register(Operator("RoiAlign", _infer_roi_align, _evaluate_roi_align, expression=_express_roi_align, traits=WINDOWED))
register(
    Operator(
        "MaxRoiPool", _infer_max_roi_pool, _evaluate_max_roi_pool, expression=_express_max_roi_pool, traits=WINDOWED
    )
)
