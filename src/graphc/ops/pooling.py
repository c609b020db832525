"""Pools and local normalization: MaxPool, AveragePool, LpPool, GlobalLpPool, MaxUnpool, LRN."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Literal, TypeAlias

import numpy as np

from graphc.ir import Dim, Node, TensorType, Type, dtypes
from graphc.ir.dtypes import DType
from graphc.ir.symbolic import add, multiply, product
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
    lowest,
    reduce,
    select,
)
from graphc.ops.indexing import accumulator, indices_of, subtract, wide_load, within
from graphc.ops.window import StaticWindow, Window, window_of

WINDOW = frozenset({Trait.WINDOW, Trait.REDUCTION})

_Finish: TypeAlias = Callable[[Scalar, Sequence[Dim]], Scalar]
"""The element of a pool from the reduction over its window and the window's index."""


def pool_window(node: Node, x: Sequence[Dim]) -> Window:
    """Windows of a pool over an input of shape `x` (N, C, spatial...).

    Raises:
        TypeInferenceError: Attributes and shape disagree.
    """
    return window_of(node, x[2:], node.ints_attribute("kernel_shape") or ())


def _infer_pool(ctx: InferenceContext) -> Sequence[Type]:
    if ctx.node.op_type == "LpPool" and _order(ctx.node) < 1:
        ctx.fail(f"p is {_order(ctx.node)}; expected at least 1")
    x = ctx.shape(0)
    if len(x) < 3:
        ctx.fail(f"input of shape {list(x)} has no spatial axes")
    shape = (*x[:2], *pool_window(ctx.node, x).output)
    kind = ctx.tensor(0).with_shape(shape)
    indices = TensorType(dtypes.INT64, shape)
    return [kind, indices][: max(len(ctx.node.outputs), 1)]


def _lowest(dtype: np.dtype[np.generic]) -> float | int | bool:
    return lowest(dtypes.from_numpy(dtype))


def _evaluate_max_pool(node: Node, inputs: Sequence[Datum]) -> Sequence[Datum]:
    (x,) = inputs
    window = pool_window(node, x.shape).static()
    if len(node.outputs) > 1 and node.outputs[1].name:
        return _max_with_indices(x, window, node.int_attribute("storage_order", 0))
    result: Array | None = None
    for _, view in window.views(x, _lowest(x.dtype)):
        result = view.copy() if result is None else np.maximum(result, view)
    assert result is not None, "a window has at least one tap"
    return [result]


def _max_with_indices(x: Array, window: StaticWindow, storage_order: int) -> Sequence[Datum]:
    """Maxima and where they lie: flat positions in the whole tensor, spatial axes column-major if asked."""
    spatial = x.shape[2:]
    order: Literal["C", "F"] = "F" if storage_order else "C"
    planes = np.arange(math.prod(x.shape[:2]), dtype=np.int64).reshape((*x.shape[:2], *(1,) * len(spatial)))
    places = np.arange(math.prod(spatial), dtype=np.int64).reshape(spatial, order=order) + planes * math.prod(spatial)
    best: Array | None = None
    where: Array | None = None
    positions = window.views(places, -1)
    for (_, view), (_, place) in zip(window.views(x, _lowest(x.dtype)), positions, strict=True):
        if best is None or where is None:
            best, where = view.copy(), place.copy()
            continue
        # Padding never wins over an element, even over one that equals the padding's value.
        better = (place >= 0) & ((view > best) | (where < 0))
        best, where = np.where(better, view, best), np.where(better, place, where)
    return [best, where]


def _express_max_pool(ctx: ExpressionContext) -> Sequence[TensorExpr]:
    x = ctx.tensor(0)
    expressions = [_pool(ctx, "max", lambda value, _: value, lowest(x.dtype), x.dtype)]
    if len(ctx.outputs) > 1:
        expressions.append(_express_positions(ctx))
    return expressions


def _express_positions(ctx: ExpressionContext) -> TensorExpr:
    """Where the maxima lie: the first tap that reads one, as a flat position in the whole tensor."""
    x, node = ctx.tensor(0), ctx.node
    window = pool_window(node, x.dims)
    axes = axes_of(ctx.outputs[1].dims)
    batch, channel, *outputs = indices_of(axes)

    def read() -> tuple[tuple[Axis, ...], tuple[Dim, ...], Scalar, Scalar | None]:
        taps = axes_of(window.kernel, "k")
        at = window.positions(outputs, indices_of(taps))
        return taps, at, load(0, x.dtype, (batch, channel, *at)), window.inside(at)

    taps, _, value, inside = read()
    padded = value if inside is None else select(inside, value, const(lowest(x.dtype), x.dtype))
    best = reduce("max", taps, padded)
    taps, at, value, inside = read()
    found = call("eq", value, best)
    if x.dtype.is_float:
        found = call("or", found, call("and", call("isnan", value), call("isnan", best)))
    # Padding is never where a maximum lies, even where an element equals what stands for it.
    chosen = found if inside is None else select(inside, found, const(False, dtypes.BOOL))
    here: Dim = 0
    for extent, place in zip(x.dims[2:], at, strict=True):
        here = add(multiply(here, extent), place)
    none = const((1 << 63) - 1, dtypes.INT64)
    # Within a window positions ascend with the taps, so the least one is the first.
    first = reduce("min", taps, select(chosen, index_value(here), none))
    if node.int_attribute("storage_order", 0):
        first = _column_major(first, x.dims[2:])
    plane = multiply(add(multiply(batch, x.dims[1]), channel), product(x.dims[2:]))
    return TensorExpr(axes, call("add", first, index_value(plane)))


def _column_major(position: Scalar, extents: Sequence[Dim]) -> Scalar:
    """A row-major position in a tensor of `extents` as the column-major one of the same element."""
    result: Scalar | None = None
    for axis in reversed(range(len(extents))):
        extent = index_value(extents[axis])
        digit, position = call("mod", position, extent), call("floordiv", position, extent)
        stride = index_value(product(extents[:axis]))
        term = call("mul", digit, stride)
        result = term if result is None else call("add", result, term)
    assert result is not None, "there is a spatial axis"
    return result


def _evaluate_average_pool(node: Node, inputs: Sequence[Datum]) -> Sequence[Datum]:
    (x,) = inputs
    values = wide(x)
    window = pool_window(node, x.shape)
    static = window.static()
    total = np.zeros((*x.shape[:2], *static.output), values.dtype)
    for _, view in static.views(values, 0):
        total += view
    counts = np.ones((), values.dtype)
    include = bool(node.int_attribute("count_include_pad", 0))
    for axis, output in enumerate(static.output):
        taps = [counted_taps(window, axis, o, include=include) for o in range(output)]
        counts = np.multiply.outer(counts, np.array(taps, values.dtype))
    return [(total / counts).astype(x.dtype, copy=False)]


def counted_taps(window: Window, axis: int, output: Dim, *, include: bool) -> Dim:
    """Taps that an average divides by: those on the input, or on its padding too."""
    begin, end = (window.pads_begin[axis], window.pads_end[axis]) if include else (0, 0)
    return window.valid_taps(axis, output, begin=begin, end=end)


def _express_average_pool(ctx: ExpressionContext) -> Sequence[TensorExpr]:
    x, node = ctx.tensor(0), ctx.node
    window = pool_window(node, x.dims)
    include = bool(node.int_attribute("count_include_pad", 0))

    def divide(total: Scalar, outputs: Sequence[Dim]) -> Scalar:
        count = product(counted_taps(window, axis, o, include=include) for axis, o in enumerate(outputs))
        divisor = const(count, total.dtype) if isinstance(count, int) else cast(index_value(count), total.dtype)
        return call("div", total, divisor)

    return [_pool(ctx, "sum", divide, 0, accumulator(x.dtype))]


def _pool(ctx: ExpressionContext, op: str, finish: _Finish, fill: float | int | bool, dtype: DType) -> TensorExpr:
    """`finish(op over the window of the input, outputs)` with `fill` in the padding."""
    x = ctx.tensor(0)
    window = pool_window(ctx.node, x.dims)
    axes = axes_of(ctx.outputs[0].dims)
    batch, channel, *outputs = indices_of(axes)
    taps = axes_of(window.kernel, "k")
    positions = window.positions(outputs, indices_of(taps))
    value = cast(load(0, x.dtype, (batch, channel, *positions)), dtype)
    if ctx.node.op_type == "LpPool":
        value = _power(value, _order(ctx.node))
    inside = window.inside(positions)
    if inside is not None:
        value = select(inside, value, const(fill, dtype))
    return TensorExpr(axes, cast(finish(reduce(op, taps, value), outputs), x.dtype))


def _order(node: Node) -> int:
    return int(node.float_attribute("p", 2))


def _power(value: Scalar, order: int) -> Scalar:
    """`|value| ** order`."""
    if order == 2:
        return call("mul", value, value)
    magnitude = call("abs", value)
    return magnitude if order == 1 else call("pow", magnitude, const(order, value.dtype))


def _root(value: Scalar, order: int) -> Scalar:
    if order == 1:
        return value
    return call("sqrt", value) if order == 2 else call("pow", value, const(1 / order, value.dtype))


def _evaluate_lp_pool(node: Node, inputs: Sequence[Datum]) -> Sequence[Datum]:
    (x,) = inputs
    window, order = pool_window(node, x.shape).static(), _order(node)
    values = np.abs(wide(x)) ** order
    total = np.zeros((*x.shape[:2], *window.output), values.dtype)
    for _, view in window.views(values, 0):
        total += view
    return [(total ** total.dtype.type(1 / order)).astype(x.dtype, copy=False)]


def _express_lp_pool(ctx: ExpressionContext) -> Sequence[TensorExpr]:
    order = _order(ctx.node)
    return [_pool(ctx, "sum", lambda total, _: _root(total, order), 0, accumulator(ctx.tensor(0).dtype))]


def _infer_global_pool(ctx: InferenceContext) -> Sequence[Type]:
    x = ctx.shape(0)
    if len(x) < 3:
        ctx.fail(f"input of shape {list(x)} has no spatial axes")
    return [ctx.tensor(0).with_shape((*x[:2], *(1,) * (len(x) - 2)))]


def _evaluate_global_lp_pool(node: Node, inputs: Sequence[Datum]) -> Sequence[Datum]:
    (x,) = inputs
    order, values = _order(node), wide(x)
    total = np.sum(np.abs(values) ** order, axis=tuple(range(2, x.ndim)), keepdims=True)
    return [(total ** values.dtype.type(1 / order)).astype(x.dtype, copy=False)]


def _express_global_lp_pool(ctx: ExpressionContext) -> Sequence[TensorExpr]:
    x, order = ctx.tensor(0), _order(ctx.node)
    axes = axes_of(ctx.outputs[0].dims)
    inner = axes_of(x.dims[2:], "k")
    body = _power(wide_load(0, x, (axes[0].index, axes[1].index, *indices_of(inner))), order)
    return [TensorExpr(axes, cast(_root(reduce("sum", inner, body), order), x.dtype))]


def _infer_max_unpool(ctx: InferenceContext) -> Sequence[Type]:
    x = ctx.shape(0)
    kind = ctx.tensor(0)
    for name, count in (("kernel_shape", len(x) - 2), ("strides", len(x) - 2), ("pads", 2 * len(x) - 4)):
        given = ctx.node.ints_attribute(name)
        if given is None and name == "kernel_shape":
            ctx.fail("kernel_shape is missing")
        if given is not None and len(given) != count:
            ctx.fail(f"{name} has {len(given)} numbers; an input of rank {len(x)} needs {count}")
    if ctx.has(2):
        wanted = ctx.dims(2)
        if wanted is not None and len(wanted) != len(x):
            ctx.fail(f"output_shape has {len(wanted)} extents; the input has rank {len(x)}")
        return [kind.with_shape(wanted if wanted is not None else (ctx.fresh("unpool") for _ in x))]
    return [kind.with_shape((*x[:2], *unpooled(ctx.node, x[2:])))]


def unpooled(node: Node, spatial: Sequence[Dim]) -> tuple[Dim, ...]:
    """Spatial extents that a MaxUnpool of an input of extents `spatial` reaches."""
    rank = len(spatial)
    kernel = node.ints_attribute("kernel_shape") or ()
    strides = node.ints_attribute("strides") or (1,) * rank
    pads = node.ints_attribute("pads") or (0,) * (2 * rank)
    return tuple(
        add(multiply(subtract(extent, 1), strides[i]), kernel[i] - pads[i] - pads[rank + i])
        for i, extent in enumerate(spatial)
    )


def _evaluate_max_unpool(node: Node, inputs: Sequence[Datum]) -> Sequence[Datum]:
    x, indices, wanted = (*inputs, None)[:3]
    natural = (*x.shape[:2], *(d for d in unpooled(node, x.shape[2:]) if isinstance(d, int)))
    result = np.zeros(math.prod(natural), x.dtype)
    result[indices.reshape(-1)] = x.reshape(-1)
    result = result.reshape(natural)
    if wanted is not None:
        shape = tuple(int(extent) for extent in wanted)
        grown = np.zeros(shape, x.dtype)
        grown[tuple(map(slice, natural))] = result
        result = grown
    return [result]


def _lrn_span(node: Node) -> tuple[int, int]:
    """Channels before and after the own one that LRN sums over."""
    size = node.int_attribute("size", 1)
    return (size - 1) // 2, size - 1 - (size - 1) // 2


def _infer_like_input(ctx: InferenceContext) -> Sequence[Type]:
    return [ctx.tensor(0).with_shape(ctx.tensor(0).shape)]


def _evaluate_lrn(node: Node, inputs: Sequence[Datum]) -> Sequence[Datum]:
    (x,) = inputs
    before, after = _lrn_span(node)
    values = wide(x)
    squares = np.pad(values * values, [(0, 0), (before, after), *[(0, 0)] * (x.ndim - 2)])
    total = np.zeros_like(values)
    for shift in range(before + after + 1):
        total += squares[:, shift : shift + x.shape[1]]
    alpha, beta, bias = (node.float_attribute(*pair) for pair in (("alpha", 1e-4), ("beta", 0.75), ("bias", 1.0)))
    scale = values.dtype.type(alpha / (before + after + 1))
    return [(values / (values.dtype.type(bias) + scale * total) ** values.dtype.type(beta)).astype(x.dtype, copy=False)]


def _express_lrn(ctx: ExpressionContext) -> Sequence[TensorExpr]:
    x, node = ctx.tensor(0), ctx.node
    before, after = _lrn_span(node)
    dtype = accumulator(x.dtype)
    axes = axes_of(x.dims)
    index = indices_of(axes)
    (shift,) = axes_of([before + after + 1], "k")
    channel = add(subtract(index[1], before), shift.index)
    value = wide_load(0, x, (index[0], channel, *index[2:]))
    square: Scalar = call("mul", value, value)
    inside = within(channel, x.dims[1], low=before > 0, high=after > 0)
    if inside is not None:
        square = select(inside, square, const(0, dtype))
    scale = const(node.float_attribute("alpha", 1e-4) / (before + after + 1), dtype)
    total = call("mul", reduce("sum", [shift], square), scale)
    base = call("add", total, const(node.float_attribute("bias", 1.0), dtype))
    power = _quarters(base, node.float_attribute("beta", 0.75))
    return [TensorExpr(axes, cast(call("div", wide_load(0, x, index), power), x.dtype))]


def _quarters(base: Scalar, exponent: float) -> Scalar:
    """`base ** exponent`, by square roots where a few are enough."""
    root = call("sqrt", base)
    match exponent:
        case 1.0:
            return base
        case 0.5:
            return root
        case 0.75:
            return call("mul", root, call("sqrt", root))
    return call("pow", base, const(exponent, base.dtype))


for operator in (
    Operator("MaxPool", _infer_pool, _evaluate_max_pool, expression=_express_max_pool, traits=WINDOW),
    Operator("AveragePool", _infer_pool, _evaluate_average_pool, expression=_express_average_pool, traits=WINDOW),
    Operator("LpPool", _infer_pool, _evaluate_lp_pool, expression=_express_lp_pool, traits=WINDOW),
    Operator(
        "GlobalLpPool",
        _infer_global_pool,
        _evaluate_global_lp_pool,
        expression=_express_global_lp_pool,
        traits=frozenset({Trait.REDUCTION}),
    ),
    Operator("MaxUnpool", _infer_max_unpool, _evaluate_max_unpool),
    Operator("LRN", _infer_like_input, _evaluate_lrn, expression=_express_lrn, traits=WINDOW),
):
    register(operator)
