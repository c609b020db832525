"""Reductions: Reduce*, ArgMax and ArgMin, global pools, running sums. Narrow floats accumulate in float32."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import TypeAlias

import numpy as np

from graphc.ir import Dim, Node, TensorType, Type, dtypes
from graphc.ir.symbolic import product
from graphc.ops.base import Array, Datum, ExpressionContext, InferenceContext, Operator, Trait, register
from graphc.ops.elementwise import Domain, is_numeric, is_numeric_or_bool, widened
from graphc.ops.expr import (
    ArgReduce,
    Axis,
    IndexValue,
    Scalar,
    TensorExpr,
    axes_of,
    call,
    cast,
    const,
    reduce,
    select,
)
from graphc.ops.indexing import wide_load
from graphc.ops.render_numpy import truncated_division
from graphc.ops.shape import integers, places, requested_axes, unknown_dims

REDUCTION = frozenset({Trait.REDUCTION})

Read: TypeAlias = Callable[[], tuple[tuple[Axis, ...], Scalar]]
"""Answers fresh axes over what is reduced, and the element there in its accumulator type."""

Axes: TypeAlias = tuple[int, ...]


def number(value: Dim, like: Scalar) -> Scalar:
    """An extent as a scalar of the dtype of `like`."""
    return const(value, like.dtype) if isinstance(value, int) else cast(IndexValue(dtypes.INT64, value), like.dtype)


def total(x: Array, axes: Axes) -> Array:
    """Sum in float64 or in the integers' own width, axes kept."""
    wide = x.dtype if x.dtype.kind in "iub" else np.dtype(np.float64)
    return np.asarray(np.add.reduce(x, axis=axes, keepdims=True, dtype=wide))


def mean_of(x: Array, axes: Axes) -> Array:
    """Mean in float64, or truncated in integers, axes kept."""
    count = np.asarray(math.prod(x.shape[axis] for axis in axes))
    whole = total(x, axes)
    return truncated_division(whole, count.astype(x.dtype)) if x.dtype.kind in "iu" else whole / count


def shifted_exponentials(x: Array, axes: Axes) -> tuple[Array, Array]:
    """`exp(x - m)` and the finite shift `m` that keeps it from overflowing."""
    peak = np.maximum.reduce(x, axis=axes, keepdims=True, initial=-np.inf).astype(np.float64)
    peak = np.where(np.isfinite(peak), peak, 0.0)
    return np.exp(x - peak), peak


def _log_sum_exp(x: Array, axes: Axes) -> Array:
    grown, peak = shifted_exponentials(x.astype(np.float64, copy=False), axes)
    return np.log(total(grown, axes)) + peak


def _extreme(function: np.ufunc, sign: int) -> Callable[[Array, Axes], Array]:
    def meaning(x: Array, axes: Axes) -> Array:
        if x.dtype.kind == "b":
            initial: object = sign < 0
        elif x.dtype.kind in "iu":
            initial = np.iinfo(x.dtype).max if sign < 0 else np.iinfo(x.dtype).min
        else:
            initial = -sign * np.inf
        return np.asarray(function.reduce(x, axis=axes, keepdims=True, initial=initial))

    return meaning


def summed(read: Read, element: Callable[[Scalar], Scalar] = lambda x: x) -> Scalar:
    """The sum of a function of every element."""
    axes, x = read()
    return reduce("sum", axes, element(x))


def averaged(read: Read, count: Dim) -> Scalar:
    """The mean of `count` elements."""
    whole = summed(read)
    return call("div", whole, number(count, whole))


def squared(x: Scalar) -> Scalar:
    """`x * x`."""
    return call("mul", x, x)


def _root(x: Scalar) -> Scalar:
    return call("sqrt", _real(x))


def _real(x: Scalar) -> Scalar:
    """Integers in float64."""
    return cast(x, dtypes.FLOAT64) if x.dtype.is_integer else x


def largest(read: Read) -> Scalar:
    """The largest element; NaN if one is."""
    axes, x = read()
    return reduce("max", axes, x)


def _reduced(op: str, boolean: str) -> Callable[[Read, Dim], Scalar]:
    def form(read: Read, count: Dim) -> Scalar:
        axes, x = read()
        return reduce(boolean if x.dtype.kind == "bool" else op, axes, x)

    return form


def _log_sum_exp_form(read: Read, count: Dim) -> Scalar:
    peak = _real(largest(read))
    shift = select(call("isfinite", peak), peak, const(0, peak.dtype))
    return call("add", call("log", summed(read, lambda x: call("exp", call("sub", _real(x), shift)))), shift)


_TABLE: Sequence[tuple[str, Domain, Callable[[Array, Axes], Array], Callable[[Read, Dim], Scalar]]] = (
    ("ReduceSum", is_numeric, total, lambda read, count: summed(read)),
    ("ReduceMean", is_numeric, mean_of, averaged),
    ("ReduceMax", is_numeric_or_bool, _extreme(np.maximum, 1), _reduced("max", "any")),
    ("ReduceMin", is_numeric_or_bool, _extreme(np.minimum, -1), _reduced("min", "all")),
    (
        "ReduceProd",
        is_numeric,
        lambda x, axes: np.multiply.reduce(x, axis=axes, keepdims=True, dtype=x.dtype),
        _reduced("prod", "all"),
    ),
    (
        "ReduceL1",
        is_numeric,
        lambda x, axes: total(np.abs(x), axes),
        lambda read, count: summed(read, lambda x: call("abs", x)),
    ),
    (
        "ReduceL2",
        is_numeric,
        lambda x, axes: np.sqrt(total(x * x, axes)),
        lambda read, count: _root(summed(read, squared)),
    ),
    ("ReduceSumSquare", is_numeric, lambda x, axes: total(x * x, axes), lambda read, count: summed(read, squared)),
    (
        "ReduceLogSum",
        is_numeric,
        lambda x, axes: np.log(total(x, axes)),
        lambda read, count: call("log", _real(summed(read))),
    ),
    ("ReduceLogSumExp", is_numeric, _log_sum_exp, _log_sum_exp_form),
)


def _keeps(node: Node) -> bool:
    return bool(node.int_attribute("keepdims", 1))


def _all_axes(node: Node, axes: Axes, rank: int) -> Axes:
    """No axes mean all of them, unless the node says that they mean none."""
    return axes if axes or node.int_attribute("noop_with_empty_axes", 0) else tuple(range(rank))


def reduced_shape(shape: Sequence[Dim], axes: Axes, *, keep: bool) -> tuple[Dim, ...]:
    """`shape` with `axes` of extent 1, or without them."""
    return tuple(1 if i in axes else d for i, d in enumerate(shape) if keep or i not in axes)


def _infer_reduce(domain: Domain) -> Callable[[InferenceContext], Sequence[Type]]:
    def infer(ctx: InferenceContext) -> Sequence[Type]:
        kind = ctx.tensor(0)
        if not domain(kind.dtype):
            ctx.fail(f"does not take {kind.dtype}")
        if kind.shape is None:
            return [kind.with_shape(None)]
        rank = len(kind.shape)
        axes = requested_axes(ctx, 1, rank) if ctx.has(1) else ()
        if axes is not None:
            axes = _all_axes(ctx.node, axes, rank)
            return [kind.with_shape(reduced_shape(kind.shape, axes, keep=_keeps(ctx.node)))]
        if _keeps(ctx.node):
            return [kind.with_shape(ctx.fresh("d") for _ in kind.shape)]
        (count,) = ctx.shape(1)
        if not isinstance(count, int) or count == 0:
            return [kind.with_shape(None)]
        return [kind.with_shape(unknown_dims(ctx, rank - count))]

    return infer


def _evaluate_reduce(meaning: Callable[[Array, Axes], Array]) -> Callable[[Node, Sequence[Datum]], Sequence[Datum]]:
    def evaluate(node: Node, arrays: Sequence[Datum]) -> Sequence[Datum]:
        data = arrays[0]
        given = integers(arrays[1]) if len(arrays) > 1 and arrays[1] is not None else ()
        axes = _all_axes(node, places(given, data.ndim), data.ndim)
        result = meaning(widened(data), axes).astype(data.dtype, copy=False)
        return [result.reshape(integers(reduced_shape(data.shape, axes, keep=_keeps(node))))]

    return evaluate


def reader(number: int, kind: TensorType, outer: Sequence[Dim], over: Axes) -> Read:
    """Reads input `number` at `outer` (one index per axis) with fresh axes in the places `over`."""

    def read() -> tuple[tuple[Axis, ...], Scalar]:
        inner = axes_of([kind.dims[axis] for axis in over], "r")
        place = list(outer)
        for axis, bound in zip(over, inner, strict=True):
            place[axis] = bound.index
        return inner, wide_load(number, kind, place)

    return read


def kept_indices(axes: Sequence[Axis], over: Axes, rank: int, *, keep: bool) -> tuple[Dim, ...]:
    """Index of the input for an output at `axes`; 0 in the places that are reduced."""
    if keep:
        return tuple(0 if i in over else axis.index for i, axis in enumerate(axes))
    remaining = iter(axes)
    return tuple(0 if i in over else next(remaining).index for i in range(rank))


def _express_reduce(
    form: Callable[[Read, Dim], Scalar],
) -> Callable[[ExpressionContext], Sequence[TensorExpr] | None]:
    def express(ctx: ExpressionContext) -> Sequence[TensorExpr] | None:
        kind = ctx.tensor(0)
        rank = len(kind.dims)
        given: Axes = ()
        if len(ctx.inputs) > 1 and ctx.inputs[1] is not None:
            constant = ctx.constant(1)
            if constant is None:
                return None
            given = tuple(axis % rank for axis in integers(constant))
        over = _all_axes(ctx.node, given, rank)
        axes = axes_of(ctx.outputs[0].dims)
        read = reader(0, kind, kept_indices(axes, over, rank, keep=_keeps(ctx.node)), over)
        body = form(read, product(kind.dims[axis] for axis in over))
        return [TensorExpr(axes, cast(body, kind.dtype))]

    return express


for _name, _domain, _meaning, _form in _TABLE:
    register(
        Operator(
            _name,
            _infer_reduce(_domain),
            _evaluate_reduce(_meaning),
            traits=REDUCTION,
            expression=_express_reduce(_form),
        )
    )

# --- positions of extremes --------------------------------------------------------------------------------------------


def _infer_arg(ctx: InferenceContext) -> Sequence[Type]:
    shape = ctx.tensor(0).shape
    if shape is None:
        return [TensorType(dtypes.INT64, None)]
    axis = ctx.axis(ctx.node.int_attribute("axis", 0), len(shape))
    return [TensorType(dtypes.INT64, reduced_shape(shape, (axis,), keep=_keeps(ctx.node)))]


def _evaluate_arg(node: Node, arrays: Sequence[Datum]) -> Sequence[Datum]:
    data, axis = arrays[0], node.int_attribute("axis", 0)
    find = np.argmax if node.op_type == "ArgMax" else np.argmin
    if node.int_attribute("select_last_index", 0):
        found = data.shape[axis] - 1 - find(np.flip(data, axis), axis=axis, keepdims=_keeps(node))
    else:
        found = find(data, axis=axis, keepdims=_keeps(node))
    return [np.asarray(found, np.int64)]


def _express_arg(ctx: ExpressionContext) -> Sequence[TensorExpr] | None:
    kind = ctx.tensor(0)
    over = ctx.node.int_attribute("axis", 0) % len(kind.dims)
    axes = axes_of(ctx.outputs[0].dims)
    read = reader(0, kind, kept_indices(axes, (over,), len(kind.dims), keep=_keeps(ctx.node)), (over,))
    (axis,), element = read()
    last = bool(ctx.node.int_attribute("select_last_index", 0))
    return [TensorExpr(axes, ArgReduce(dtypes.INT64, ctx.node.op_type.lower(), axis, element, last))]


for _name in ("ArgMax", "ArgMin"):
    register(Operator(_name, _infer_arg, _evaluate_arg, traits=REDUCTION, expression=_express_arg))

# --- pools over the whole image ---------------------------------------------------------------------------------------


def _infer_global(ctx: InferenceContext) -> Sequence[Type]:
    kind = ctx.tensor(0)
    if kind.shape is None:
        return [kind.with_shape(None)]
    if len(kind.shape) < 2:
        ctx.fail(f"input must have at least 2 axes, not {len(kind.shape)}")
    return [kind.with_shape((*kind.shape[:2], *(1 for _ in kind.shape[2:])))]


def _global_pool(name: str, meaning: Callable[[Array, Axes], Array], form: Callable[[Read, Dim], Scalar]) -> Operator:
    def evaluate(node: Node, arrays: Sequence[Datum]) -> Sequence[Datum]:
        data = arrays[0]
        return [meaning(widened(data), tuple(range(2, data.ndim))).astype(data.dtype)]

    def express(ctx: ExpressionContext) -> Sequence[TensorExpr] | None:
        kind = ctx.tensor(0)
        over = tuple(range(2, len(kind.dims)))
        axes = axes_of(ctx.outputs[0].dims)
        read = reader(0, kind, kept_indices(axes, over, len(axes), keep=True), over)
        return [TensorExpr(axes, cast(form(read, product(kind.dims[2:])), kind.dtype))]

    return register(Operator(name, _infer_global, evaluate, traits=REDUCTION, expression=express))


_global_pool("GlobalAveragePool", mean_of, averaged)
_global_pool("GlobalMaxPool", _extreme(np.maximum, 1), _reduced("max", "any"))

# --- running sums and products ----------------------------------------------------------------------------------------


def _infer_running(ctx: InferenceContext) -> Sequence[Type]:
    kind = ctx.tensor(0)
    ctx.tensor(1)
    axis = ctx.constant(1)
    if kind.shape is not None and axis is not None:
        ctx.axis(int(axis.reshape(())), len(kind.shape))
    return [kind.with_shape(kind.shape)]


def _evaluate_running(node: Node, arrays: Sequence[Datum]) -> Sequence[Datum]:
    data = arrays[0]
    (axis,) = places(integers(arrays[1]), data.ndim)
    product_of = node.op_type == "CumProd"
    turned = np.flip(data, axis) if node.int_attribute("reverse", 0) else data
    wide = widened(turned)
    found = (np.cumprod if product_of else np.cumsum)(wide, axis=axis, dtype=wide.dtype)
    if node.int_attribute("exclusive", 0) and found.shape[axis]:
        edge = np.full_like(np.take(found, [0], axis=axis), 1 if product_of else 0)
        found = np.concatenate([edge, np.take(found, range(found.shape[axis] - 1), axis=axis)], axis=axis)
    result = found.astype(data.dtype, copy=False)
    return [np.flip(result, axis) if node.int_attribute("reverse", 0) else result]


for _name in ("CumSum", "CumProd"):
    register(Operator(_name, _infer_running, _evaluate_running, traits=frozenset({Trait.SCAN})))
