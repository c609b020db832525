"""Resize: sampling an image at other places, by nearest, linear or cubic interpolation.

Where a sample lies follows from the ratio of extents, so its index is a quotient of integers:
`floordiv(numerator, denominator)` with a numerator that is linear in the output's index. ONNX Runtime computes the same
place in float32, which now and then falls on the other side of a tie; an expression is answered only where both agree.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from fractions import Fraction
from typing import Any

import numpy as np

from graphc.ir import Dim, Node, Type, dtypes
from graphc.ir.symbolic import add, floordiv, maximum, minimum, mod, multiply, substitute
from graphc.ops.base import Array, Datum, ExpressionContext, InferenceContext, Operator, Trait, register
from graphc.ops.elementwise import widened
from graphc.ops.expr import Axis, IndexValue, Scalar, TensorExpr, axes_of, call, cast, compare, const, select
from graphc.ops.indexing import accumulator, subtract, wide_load
from graphc.ops.resize_places import Sampling, Taps, common_scale, limits_in, output_extents, resized_axes
from graphc.ops.shape import unknown_dims

_LARGEST_DENOMINATOR = 4096


def mode_of(node: Node) -> str:
    """How the node interpolates: `nearest`, `linear` or `cubic`."""
    return node.str_attribute("mode", "nearest")


def _transform(node: Node) -> str:
    return node.str_attribute("coordinate_transformation_mode", "half_pixel")


def _given(inputs: Sequence[Any], index: int) -> bool:
    return index < len(inputs) and inputs[index] is not None


def _array(data: Sequence[Datum], index: int) -> Array | None:
    """An optional input; an empty tensor stands for an absent one."""
    found = data[index] if _given(data, index) else None
    return None if found is None or np.size(found) == 0 else np.asarray(found)


def _scaled_extent(extent: Dim, scale: float, ctx: InferenceContext) -> Dim:
    if scale <= 0:
        ctx.fail(f"scale {scale} is not positive")
    if isinstance(extent, int):
        return math.floor(np.float32(extent) * np.float32(scale))
    ratio = Fraction(scale).limit_denominator(_LARGEST_DENOMINATOR)
    if float(ratio) != scale:
        return ctx.fresh("d")
    return floordiv(multiply(extent, ratio.numerator), ratio.denominator)


def _infer_resize(ctx: InferenceContext) -> Sequence[Type]:
    kind = ctx.tensor(0)
    if kind.shape is None:
        return [kind.with_shape(None)]
    shape = list(kind.shape)
    rank = len(shape)
    for axis in ctx.node.ints_attribute("axes") or ():
        ctx.axis(axis, rank)
    axes = resized_axes(ctx.node, rank)
    sizes = ctx.dims(3) if ctx.has(3) else None
    if ctx.has(3) and sizes != ():
        return [kind.with_shape(_infer_sizes(ctx, shape, axes, sizes))]
    scales = ctx.constant(2) if ctx.has(2) else None
    if not ctx.has(2):
        ctx.fail("neither scales nor sizes are given")
    if scales is None:
        fresh = unknown_dims(ctx, rank)
        return [kind.with_shape(fresh[i] if i in axes else d for i, d in enumerate(shape))]
    if scales.size != len(axes):
        ctx.fail(f"{scales.size} scales do not fit {len(axes)} axes")
    for axis, scale in zip(axes, scales.tolist(), strict=True):
        shape[axis] = _scaled_extent(shape[axis], scale, ctx)
    return [kind.with_shape(shape)]


def _infer_sizes(
    ctx: InferenceContext, shape: list[Dim], axes: Sequence[int], sizes: Sequence[Dim] | None
) -> Sequence[Dim]:
    policy = ctx.node.str_attribute("keep_aspect_ratio_policy", "stretch")
    if sizes is not None and len(sizes) != len(axes):
        ctx.fail(f"{len(sizes)} sizes do not fit {len(axes)} axes")
    if sizes is not None and policy == "stretch":
        for axis, size in zip(axes, sizes, strict=True):
            shape[axis] = size
        return shape
    wanted = [size for size in sizes or () if isinstance(size, int)]
    extents = [shape[axis] for axis in axes]
    known = [extent for extent in extents if isinstance(extent, int)]
    if wanted and len(wanted) == len(known) == len(axes):
        common = common_scale(ctx.node, wanted, known)
        for axis, extent in zip(axes, known, strict=True):
            shape[axis] = math.floor((common or 1.0) * extent + 0.5)
        return shape
    fresh = unknown_dims(ctx, len(shape))
    return [fresh[i] if i in axes else d for i, d in enumerate(shape)]


def samplings(
    node: Node, shape: Sequence[int], roi: Array | None, scales: Array | None, sizes: Array | None
) -> list[Sampling]:
    """How every axis of an input of `shape` is sampled."""
    extents = output_extents(node, shape, scales, sizes)
    axes = resized_axes(node, len(shape))
    regions = {axis: (0.0, 1.0) for axis in range(len(shape))}
    transform = _transform(node)
    if transform == "tf_crop_and_resize" and roi is not None:
        half = len(axes)
        regions.update((axis, (float(roi[i]), float(roi[i + half]))) for i, axis in enumerate(axes))
    return [
        # An axis that is not resized has no region: it stays as it is.
        Sampling(source, output, scale, transform if axis in axes else "asymmetric", regions[axis])
        for axis, (source, (output, scale)) in enumerate(zip(shape, extents, strict=True))
    ]


def taps_of(node: Node, sampling: Sampling) -> Taps:
    """The taps of an axis in the node's mode, linear or cubic."""
    return sampling.taps(
        mode_of(node),
        cubic=node.float_attribute("cubic_coeff_a", -0.75),
        exclude=bool(node.int_attribute("exclude_outside", 0)),
        antialias=bool(node.int_attribute("antialias", 0)),
    )


def _evaluate_resize(node: Node, data: Sequence[Datum]) -> Sequence[Datum]:
    x, mode = np.asarray(data[0]), mode_of(node)
    result = x if mode == "nearest" else widened(x).astype(np.float64)
    outside = np.zeros((1,) * x.ndim, np.bool_)
    for axis, sampling in enumerate(samplings(node, x.shape, *(_array(data, i) for i in (1, 2, 3)))):
        if sampling.is_identity:
            continue
        along = [-1 if i == axis else 1 for i in range(x.ndim)]
        outside = outside | sampling.is_outside().reshape(along)
        if mode == "nearest":
            result = np.take(result, sampling.nearest(node.str_attribute("nearest_mode", "round_prefer_floor")), axis)
            continue
        taps = taps_of(node, sampling)
        total = np.zeros((*result.shape[:axis], sampling.output, *result.shape[axis + 1 :]))
        for index, weights in zip(taps.index, taps.weights, strict=True):
            total += np.take(result, index, axis) * weights.reshape(along)
        result = total
    if outside.any():
        result = np.where(outside, node.float_attribute("extrapolation_value", 0.0), result)
    if mode != "nearest" and x.dtype.kind in "iu":
        result = np.clip(result, *limits_in(result.dtype, x.dtype))
    return [result.astype(x.dtype, copy=False)]


# --- as an expression -------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class _Place:
    """The place of a sample as `numerator / denominator`, the numerator linear in the output's index."""

    numerator: Dim
    denominator: int


def _ratio(source: Dim, output: Dim, scale: float | None) -> Fraction | None:
    """Input extent over output extent."""
    if scale is not None:
        return 1 / Fraction(scale).limit_denominator(_LARGEST_DENOMINATOR) if scale > 0 else None
    if isinstance(source, int) and isinstance(output, int):
        return Fraction(source, output) if output else None
    if mod(output, source) == 0:
        factor = floordiv(output, source)
        return Fraction(1, factor) if isinstance(factor, int) and factor > 0 else None
    return None


def _place(transform: str, index: Dim, source: Dim, output: Dim, ratio: Fraction) -> _Place | None:
    up, down = ratio.numerator, ratio.denominator
    match transform:
        case "asymmetric":
            return _Place(multiply(index, up), down)
        case "half_pixel":
            return _Place(subtract(multiply(add(multiply(2, index), 1), up), down), 2 * down)
        case "pytorch_half_pixel" if output != 1:
            return _Place(subtract(multiply(add(multiply(2, index), 1), up), down), 2 * down)
        case "align_corners" if isinstance(source, int) and isinstance(output, int) and output > 1:
            return _Place(multiply(index, source - 1), output - 1)
    return None


def _nearest_index(place: _Place, rounding: str, source: Dim) -> Dim:
    n, d = place.numerator, place.denominator
    match rounding:
        case "floor":
            found = floordiv(n, d)
        case "ceil":
            found = floordiv(add(n, d - 1), d)
        case "round_prefer_ceil":
            found = floordiv(add(multiply(2, n), d), 2 * d)
        case _:
            found = floordiv(add(multiply(2, n), d - 1), 2 * d)
    return minimum(maximum(found, 0), subtract(source, 1))


_TRIED_EXTENT = 1 << 14
"""Outputs along an axis up to which their indices are compared one by one with what floats give."""
_LARGEST_EXTENT = 1 << 31
"""Above it no table of an axis would fit in memory, and no tensor either."""


def _values(index: Dim, axis: Axis, extent: int) -> list[Dim]:
    return [substitute(index, {axis.name: i}) for i in range(extent)]


def _simplest(index: Dim, axis: Axis, source: Dim) -> Dim:
    """`index` without the clamp, where no output needs it."""
    extent = axis.extent
    if isinstance(source, int) and isinstance(extent, int) and extent <= _TRIED_EXTENT:
        values = _values(index, axis, extent)
        for step in range(1, max(2, extent // max(source, 1) + 1)):
            plain = floordiv(axis.index, step)
            if values == _values(plain, axis, extent):
                return plain
    return index


def _express_resize(ctx: ExpressionContext) -> Sequence[TensorExpr] | None:
    kind, output, mode = ctx.tensor(0), ctx.outputs[0], mode_of(ctx.node)
    policy = ctx.node.str_attribute("keep_aspect_ratio_policy", "stretch")
    regional = ctx.node.str_attribute("coordinate_transformation_mode", "half_pixel") == "tf_crop_and_resize"
    if regional and ctx.constant(1) is None:
        return None
    if any(isinstance(extent, int) and extent > _LARGEST_EXTENT for extent in output.dims):
        return None
    if mode == "cubic" or ctx.node.int_attribute("antialias", 0) or policy != "stretch":
        return None
    if mode == "linear" and not kind.dtype.is_float:
        return None
    scales = ctx.constant(2) if _given(ctx.inputs, 2) else None
    by_size = _given(ctx.inputs, 3) and ctx.tensor(3).shape != (0,)
    if not by_size and scales is None:
        return None
    axes = axes_of(output.dims)
    place: list[Dim] = [axis.index for axis in axes]
    blends: dict[int, _Blend] = {}
    resized = resized_axes(ctx.node, len(axes))
    for number, axis in enumerate(resized):
        scale = None if by_size or scales is None else float(scales[number])
        source = kind.dims[axis]
        if scale == 1.0 or (scale is None and source == output.dims[axis]):
            continue
        sample = _sample(ctx.node, axes[axis], source, scale, mode)
        if sample is None:
            return None
        if isinstance(sample, _Blend):
            blends[axis] = sample
        else:
            place[axis] = sample
    wide = accumulator(kind.dtype)

    def blend(pending: Sequence[int], at: tuple[Dim, ...]) -> Scalar:
        if not pending:
            return wide_load(0, kind, at)
        axis, *rest = pending
        found = blends[axis]

        def read(index: Dim) -> Scalar:
            return blend(rest, (*at[:axis], index, *at[axis + 1 :]))

        low_part = read(found.low)
        step = call("sub", read(found.high), low_part)
        value: Scalar = call("add", low_part, call("mul", step, cast(found.weight, wide)))
        # Beyond the outermost elements are those elements. Said as a choice, the stretch between has plain indices.
        if found.begin > 0:
            value = select(compare("lt", axes[axis].index, found.begin), read(0), value)
        if found.end is not None:
            value = select(compare("ge", axes[axis].index, found.end), read(subtract(kind.dims[axis], 1)), value)
        return value

    return [TensorExpr(axes, cast(blend(tuple(blends), tuple(place)), kind.dtype))]


@dataclass(frozen=True)
class _Blend:
    """Linear interpolation along one axis.

    Args:
        low: Place of the sample before.
        high: Place of the sample after.
        weight: That of the sample after, float32.
        begin: Outputs before this one are the first element.
        end: Outputs from this one on are the last element; None for none.
    """

    low: Dim
    high: Dim
    weight: Scalar
    begin: int = 0
    end: int | None = None


def _sample(node: Node, axis: Axis, source: Dim, scale: float | None, mode: str) -> Dim | _Blend | None:
    """The sample along one axis, the nearest or a blend; None where it is no quotient of integers."""
    ratio = _ratio(source, axis.extent, scale)
    found = None if ratio is None else _place(_transform(node), axis.index, source, axis.extent, ratio)
    tried = isinstance(source, int) and isinstance(axis.extent, int) and axis.extent <= _TRIED_EXTENT
    if found is None or not (_is_exact(scale, ratio) or tried):
        return None
    sampling = None
    if tried and isinstance(source, int) and isinstance(axis.extent, int):
        effective = scale if scale is not None else axis.extent / source if source else 1.0
        sampling = Sampling(source, axis.extent, effective, _transform(node))
    if mode == "nearest":
        rounding = node.str_attribute("nearest_mode", "round_prefer_floor")
        index = _nearest_index(found, rounding, source)
        if sampling is not None and _values(index, axis, sampling.output) != sampling.nearest(rounding).tolist():
            return None
        return _simplest(index, axis, source)
    if sampling is not None:
        if found.denominator & (found.denominator - 1):
            # Places repeat from vector to vector only where their period divides a vector; else tables are faster.
            return None
        low = floordiv(found.numerator, found.denominator)
        numerators = _values(found.numerator, axis, sampling.output)
        lows = [value for value in _values(low, axis, sampling.output) if isinstance(value, int)]
        begin = sum(value < 0 for value in numerators if isinstance(value, int))
        end = next((output for output, value in enumerate(lows) if value >= sampling.source - 1), None)
        return _Blend(low, add(low, 1), _fraction(found.numerator, found.denominator), begin, end)
    numerator = maximum(found.numerator, 0)
    low = minimum(floordiv(numerator, found.denominator), subtract(source, 1))
    high = minimum(add(low, 1), subtract(source, 1))
    return _Blend(low, high, _fraction(numerator, found.denominator))


def _fraction(numerator: Dim, denominator: int) -> Scalar:
    part = cast(IndexValue(dtypes.INT64, mod(numerator, denominator)), dtypes.FLOAT32)
    return call("div", part, const(denominator, dtypes.FLOAT32))


def _is_exact(scale: float | None, ratio: Fraction | None) -> bool:
    return scale is None or (ratio is not None and float(1 / ratio) == scale)


register(
    Operator(
        "Resize",
        _infer_resize,
        _evaluate_resize,
        traits=frozenset({Trait.MOVEMENT, Trait.WINDOW}),
        expression=_express_resize,
    )
)
