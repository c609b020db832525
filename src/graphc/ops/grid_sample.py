"""Tensors read between their elements: GridSample and AffineGrid, and linear interpolation that others share.

Where a place lies outside, `zeros` reads zero, `border` the nearest element, `reflection` folds the place back at the
outermost elements (or, without `align_corners`, at their outer edges). Cubic weights are Keys' with a = -0.75.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence

import numpy as np

from graphc.ir import Dim, Node, Type, dtypes
from graphc.ir.dtypes import DType
from graphc.ir.symbolic import add, multiply
from graphc.ops.base import Array, Datum, ExpressionContext, InferenceContext, Operator, Trait, register
from graphc.ops.contraction import wide
from graphc.ops.expr import (
    Scalar,
    TensorExpr,
    all_of,
    axes_of,
    call,
    cast,
    compare,
    const,
    index_value,
    load,
    select,
)
from graphc.ops.indexing import accumulator, indices_of, wide_load

MODES = ("linear", "nearest", "cubic")
PADDINGS = ("zeros", "border", "reflection")
_CUBIC = -0.75


def _infer_grid_sample(ctx: InferenceContext) -> Sequence[Type]:
    x, grid = ctx.shape(0), ctx.shape(1)
    if len(x) != len(grid) or len(x) < 3 or (isinstance(grid[-1], int) and grid[-1] != len(x) - 2):
        ctx.fail(f"a grid of shape {list(grid)} does not fit an input of shape {list(x)}")
    for name, known, default in (("mode", MODES, "linear"), ("padding_mode", PADDINGS, "zeros")):
        if ctx.node.str_attribute(name, default) not in known:
            ctx.fail(f"{name} {ctx.node.str_attribute(name, default)!r} is none of {', '.join(known)}")
    return [ctx.tensor(0).with_shape((x[0], x[1], *grid[1:-1]))]


def gather(x: Array, places: Sequence[Array]) -> Array:
    """Elements of `x` (N, C, spatial...) at integer `places` (one array (N, ...) per axis), zero where outside."""
    spatial = x.shape[2:]
    inside = np.ones(places[0].shape, bool)
    flat = np.zeros(places[0].shape, np.int64)
    for place, extent in zip(places, spatial, strict=True):
        inside &= (place >= 0) & (place < extent)
        flat = flat * extent + np.clip(place, 0, extent - 1)
    rows = flat.reshape(x.shape[0], 1, -1)
    columns = x.reshape(*x.shape[:2], -1)
    found = np.take_along_axis(columns, np.broadcast_to(rows, (*x.shape[:2], rows.shape[2])), axis=2)
    return np.where(inside[:, None], found.reshape(*x.shape[:2], *flat.shape[1:]), 0).astype(x.dtype, copy=False)


def sample_linear(x: Array, places: Sequence[Array]) -> Array:
    """Linear interpolation of `x` (N, C, spatial...) at fractional `places`, with zeros around it."""
    lower = [np.floor(place) for place in places]
    total: Array = np.zeros((*x.shape[:2], *places[0].shape[1:]), x.dtype)
    for corner in itertools.product((0, 1), repeat=len(places)):
        weight = np.ones(places[0].shape, x.dtype)
        for place, low, side in zip(places, lower, corner, strict=True):
            weight = weight * (place - low if side else 1 - (place - low))
        read = gather(x, [_whole(low) + side for low, side in zip(lower, corner, strict=True)])
        total = total + read * weight[:, None]
    return total


def _whole(place: Array) -> Array:
    """Integers of whole floats; what no tensor reaches, NaN too, becomes a place far outside."""
    return np.where(np.abs(place) < 2**30, place, -(2**30)).astype(np.int64)


def _reflected(place: Array, low: float, high: float) -> Array:
    if high <= low:
        return np.zeros_like(place)
    span = high - low
    distance = np.abs(place - low)
    turns, rest = np.divmod(distance, span)
    return np.where(turns % 2 == 0, low + rest, high - rest).astype(place.dtype)


def _folded(place: Array, extent: int, padding: str, *, corners: bool) -> Array:
    """`place` brought inside as the padding says; with zeros it stays where it is."""
    if padding == "reflection":
        place = _reflected(place, *((0, extent - 1) if corners else (-0.5, extent - 0.5)))
    return place if padding == "zeros" else np.clip(place, 0, extent - 1)


def _evaluate_grid_sample(node: Node, inputs: Sequence[Datum]) -> Sequence[Datum]:
    x, grid = wide(inputs[0]), wide(inputs[1])
    mode, padding = node.str_attribute("mode", "linear"), node.str_attribute("padding_mode", "zeros")
    corners = bool(node.int_attribute("align_corners", 0))
    places = []
    for axis, extent in enumerate(x.shape[2:]):
        # The grid's last axis counts from the innermost spatial axis.
        normal = grid[..., x.ndim - 3 - axis]
        place = (normal + 1) / 2 * (extent - 1) if corners else ((normal + 1) * extent - 1) / 2
        places.append(place if mode == "cubic" else _folded(place, extent, padding, corners=corners))
    if mode == "cubic":
        result = _sample_cubic(x, places, lambda p, n: _folded(p, n, padding, corners=corners))
    elif mode == "nearest":
        result = gather(x, [_whole(np.rint(place)) for place in places])
    else:
        result = sample_linear(x, places)
    return [result.astype(inputs[0].dtype, copy=False)]


def _cubic_weights(t: Array) -> list[Array]:
    """Weights of the four elements around a place `t` past the second."""
    a = _CUBIC

    def near(d: Array) -> Array:
        return ((a + 2) * d - (a + 3)) * d * d + 1

    def far(d: Array) -> Array:
        return ((a * d - 5 * a) * d + 8 * a) * d - 4 * a

    return [far(t + 1), near(t), near(1 - t), far(2 - t)]


def _sample_cubic(x: Array, places: Sequence[Array], fold: Callable[[Array, int], Array]) -> Array:
    """Cubic interpolation along every axis; each of the elements read is folded inside by itself."""
    lower = [np.floor(place) for place in places]
    weights = [_cubic_weights(place - low) for place, low in zip(places, lower, strict=True)]
    total: Array = np.zeros((*x.shape[:2], *places[0].shape[1:]), x.dtype)
    for taps in itertools.product(range(4), repeat=len(places)):
        weight = np.ones(places[0].shape, x.dtype)
        at = []
        for axis, tap in enumerate(taps):
            weight = weight * weights[axis][tap]
            at.append(_whole(np.rint(fold(lower[axis] + (tap - 1), x.shape[2 + axis]))))
        total = total + gather(x, at) * weight[:, None]
    return total


def _express_grid_sample(ctx: ExpressionContext) -> Sequence[TensorExpr] | None:
    x, grid, node = ctx.tensor(0), ctx.tensor(1), ctx.node
    mode, padding = node.str_attribute("mode", "linear"), node.str_attribute("padding_mode", "zeros")
    if accumulator(grid.dtype) != dtypes.FLOAT32:
        return None
    corners = bool(node.int_attribute("align_corners", 0))
    axes = axes_of(ctx.outputs[0].dims)
    batch, channel, *window = indices_of(axes)
    spatial = x.dims[2:]
    places = []
    for axis, extent in enumerate(spatial):
        normal = wide_load(1, grid, (batch, *window, len(spatial) - 1 - axis))
        place = _place(normal, extent, corners=corners)
        places.append(place if mode == "cubic" else _folded_place(place, extent, padding, corners=corners))

    # Integers are weighted in the widest float there is; the nearest of them is taken as it is.
    element = accumulator(x.dtype) if x.dtype.is_float or mode == "nearest" else dtypes.FLOAT64

    def read(at: Sequence[Scalar]) -> Scalar:
        return zero_outside(cast(load(0, x.dtype, (batch, channel, *at)), element), at, spatial)

    if mode == "nearest":
        value = read([cast(call("round", place), dtypes.INT64) for place in places])
    elif mode == "linear":
        value = interpolated(read, places)
    else:
        value = _interpolated_cubic(read, places, spatial, padding, corners=corners)
    return [TensorExpr(axes, cast(value, x.dtype))]


def zero_outside(value: Scalar, at: Sequence[Scalar], spatial: Sequence[Dim]) -> Scalar:
    """`value`, read at integer places `at`; 0 where one of them lies outside its extent."""
    inside = [
        condition
        for place, extent in zip(at, spatial, strict=True)
        for condition in (compare("ge", place, 0), compare("lt", place, extent))
    ]
    return select(all_of(*inside), value, const(0, value.dtype))


def interpolated(read: Callable[[Sequence[Scalar]], Scalar], places: Sequence[Scalar]) -> Scalar:
    """Linear interpolation at fractional places.

    Args:
        read: The element at int64 places, which may lie outside.
        places: Where, float32, one for each axis.
    """
    one = const(1, dtypes.FLOAT32)
    sides: list[list[tuple[Scalar, Scalar]]] = []
    for place in places:
        low = call("floor", place)
        fraction = call("sub", place, low)
        first = cast(low, dtypes.INT64)
        second = call("add", first, const(1, dtypes.INT64))
        sides.append([(first, call("sub", one, fraction)), (second, fraction)])
    return _weighted(read, sides)


def _weighted(read: Callable[[Sequence[Scalar]], Scalar], sides: Sequence[Sequence[tuple[Scalar, Scalar]]]) -> Scalar:
    """The sum over all combinations of the axes' places, each with the product of its places' weights."""

    def along(axis: int, at: tuple[Scalar, ...]) -> Scalar:
        if axis == len(sides):
            return read(at)
        total: Scalar | None = None
        for place, weight in sides[axis]:
            element = along(axis + 1, (*at, place))
            term = call("mul", element, cast(weight, element.dtype))
            total = term if total is None else call("add", total, term)
        assert total is not None, "an axis has a place"
        return total

    return along(0, ())


def _interpolated_cubic(
    read: Callable[[Sequence[Scalar]], Scalar],
    places: Sequence[Scalar],
    spatial: Sequence[Dim],
    padding: str,
    *,
    corners: bool,
) -> Scalar:
    def number(value: float) -> Scalar:
        return const(value, dtypes.FLOAT32)

    def near(d: Scalar) -> Scalar:
        inner = call("sub", call("mul", number(_CUBIC + 2), d), number(_CUBIC + 3))
        return call("add", call("mul", call("mul", inner, d), d), number(1))

    def far(d: Scalar) -> Scalar:
        inner = call("sub", call("mul", number(_CUBIC), d), number(5 * _CUBIC))
        outer = call("add", call("mul", inner, d), number(8 * _CUBIC))
        return call("sub", call("mul", outer, d), number(4 * _CUBIC))

    sides: list[list[tuple[Scalar, Scalar]]] = []
    for place, extent in zip(places, spatial, strict=True):
        low = call("floor", place)
        t = call("sub", place, low)
        weights = [
            far(call("add", t, number(1))),
            near(t),
            near(call("sub", number(1), t)),
            far(call("sub", number(2), t)),
        ]
        taps = [
            cast(
                call("round", _folded_place(call("add", low, number(tap - 1)), extent, padding, corners=corners)),
                dtypes.INT64,
            )
            for tap in range(4)
        ]
        sides.append(list(zip(taps, weights, strict=True)))
    return _weighted(read, sides)


def _folded_place(place: Scalar, extent: Dim, padding: str, *, corners: bool) -> Scalar:
    """`_folded` as a scalar expression."""
    if padding == "zeros":
        return place
    zero, one, half = (const(value, dtypes.FLOAT32) for value in (0, 1, 0.5))
    last = call("sub", _float(extent), one)
    if padding == "reflection":
        if corners and extent == 1:
            return zero
        low = zero if corners else call("neg", half)
        high = last if corners else call("sub", _float(extent), half)
        span = call("sub", high, low)
        distance = call("abs", call("sub", place, low))
        turns = call("floor", call("div", distance, span))
        rest = call("sub", distance, call("mul", turns, span))
        pairs = call("mul", call("floor", call("mul", turns, half)), const(2, dtypes.FLOAT32))
        place = select(call("eq", turns, pairs), call("add", low, rest), call("sub", high, rest))
    return call("min", call("max", place, zero), last)


def _float(extent: Dim) -> Scalar:
    return const(extent, dtypes.FLOAT32) if isinstance(extent, int) else cast(index_value(extent), dtypes.FLOAT32)


def _place(normal: Scalar, extent: Dim, *, corners: bool) -> Scalar:
    """Where -1..1 lies on an axis: from the first element to the last, or from edge to edge."""
    one, half = const(1, dtypes.FLOAT32), const(0.5, dtypes.FLOAT32)
    moved = call("add", normal, one)
    if corners:
        return call("mul", call("mul", moved, half), call("sub", _float(extent), one))
    return call("mul", call("sub", call("mul", moved, _float(extent)), one), half)


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


def _evaluate_affine_grid(node: Node, inputs: Sequence[Datum]) -> Sequence[Datum]:
    theta, size = wide(inputs[0]), [int(extent) for extent in inputs[1]]
    spatial = size[2:]
    lines = []
    for extent in spatial:
        if node.int_attribute("align_corners", 0):
            lines.append(np.linspace(-1, 1, extent, dtype=theta.dtype) if extent > 1 else np.zeros(1, theta.dtype))
        else:
            lines.append(((2 * np.arange(extent) + 1) / extent - 1).astype(theta.dtype))
    places = np.meshgrid(*lines, indexing="ij")
    homogeneous = np.stack([*reversed(places), np.ones(spatial, theta.dtype)], axis=-1)
    grid = np.einsum("...j,nij->n...i", homogeneous, theta)
    return [grid.astype(inputs[0].dtype)]


def _express_affine_grid(ctx: ExpressionContext) -> Sequence[TensorExpr]:
    theta = ctx.tensor(0)
    wide_type = accumulator(theta.dtype)
    axes = axes_of(ctx.outputs[0].dims)
    batch, *window, line = indices_of(axes)
    total = wide_load(0, theta, (batch, line, len(window)))
    for axis, (index, extent) in enumerate(zip(window, ctx.outputs[0].dims[1:-1], strict=True)):
        place = _lattice(index, extent, wide_type, corners=bool(ctx.node.int_attribute("align_corners", 0)))
        factor = wide_load(0, theta, (batch, line, len(window) - 1 - axis))
        total = call("add", total, call("mul", factor, place))
    return [TensorExpr(axes, cast(total, theta.dtype))]


def _lattice(index: Dim, extent: Dim, dtype: DType, *, corners: bool) -> Scalar:
    """Where element `index` of a grid's axis lies in -1..1."""
    one = const(1, dtype)
    if corners and extent == 1:
        return const(0, dtype)
    steps = add(extent, -1) if corners else extent
    twice = multiply(2, index)
    place = index_value(twice if corners else add(twice, 1))
    return call("sub", call("div", cast(place, dtype), cast(index_value(steps), dtype)), one)


register(
    Operator(
        "GridSample",
        _infer_grid_sample,
        _evaluate_grid_sample,
        expression=_express_grid_sample,
        traits=frozenset({Trait.MOVEMENT}),
    )
)
register(Operator("AffineGrid", _infer_affine_grid, _evaluate_affine_grid, expression=_express_affine_grid))
