"""Shapes as data: constants, the extents of tensors, and tensors made from extents alone."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np

from graphc.ir import Dim, Node, Tensor, TensorType, Type, dtypes
from graphc.ir.dtypes import DType
from graphc.ir.symbolic import Bounds, add, interval, maximum, minimum, multiply, product, symbols
from graphc.ops.base import (
    Array,
    Datum,
    ExpressionContext,
    InferenceContext,
    Operator,
    register,
)
from graphc.ops.expr import (
    IndexValue,
    Scalar,
    TensorExpr,
    axes_of,
    call,
    cast,
    compare,
    const,
    index_value,
    load,
    select,
)
from graphc.ops.indexing import ceildiv, subtract


def at_least(value: Dim, low: Dim, bounds: Bounds | None = None) -> Dim:
    """`max(value, low)`, decided where the symbols' bounds allow; being extents, symbols are at least 1."""
    difference = subtract(value, low)
    if isinstance(difference, int):
        return value if difference >= 0 else low
    known = {name: (bounds or {}).get(name, (1, None)) for name in symbols(difference)}
    extent = interval(difference, known)
    if extent is not None and extent[0] >= 0:
        return value
    opposite = interval(multiply(-1, difference), known)
    return low if opposite is not None and opposite[0] >= 0 else maximum(value, low)


def at_most(value: Dim, high: Dim, bounds: Bounds | None = None) -> Dim:
    """`min(value, high)`, decided where the symbols' bounds allow; being extents, symbols are at least 1."""
    larger = at_least(value, high, bounds)
    if larger == high:
        return value
    return high if larger == value else minimum(value, high)


def requested_axes(ctx: InferenceContext, index: int, rank: int) -> tuple[int, ...] | None:
    """Axes that integer input `index` holds, counted from the front; None where they are not known."""
    dims, kind = ctx.dims(index), ctx.tensor(index)
    if kind.shape is not None and len(kind.shape) > 1:
        ctx.fail(f"axes must be a list of integers, not {kind}")
    if dims is None:
        return None
    axes = tuple(ctx.axis(axis, rank) for axis in dims if isinstance(axis, int))
    if len(axes) != len(dims) or len(set(axes)) != len(axes):
        ctx.fail(f"axes {list(dims)} are not distinct integers")
    return axes


def unknown_dims(ctx: InferenceContext, rank: int) -> tuple[Dim, ...]:
    """Extents of a tensor of which only the rank is known."""
    return tuple(ctx.fresh("d") for _ in range(rank))


def places(axes: Iterable[int], rank: int) -> tuple[int, ...]:
    """Axes at evaluation time, counted from the front.

    Raises:
        ValueError: One is out of range.
    """
    found = tuple(axes)
    for axis in found:
        if not -rank <= axis < rank:
            raise ValueError(f"axis {axis} is out of range for rank {rank}")
    return tuple(axis % rank for axis in found)


def integers(datum: Any) -> tuple[int, ...]:
    """An integer tensor at evaluation time as a tuple."""
    return tuple(int(element) for element in np.asarray(datum).reshape(-1))


# --- constants and shapes as data -------------------------------------------------------------------------------------


def constant_tensor(node: Node) -> Tensor:
    """The tensor of a Constant node, whichever attribute holds it."""
    value = node.attributes.get("value")
    if isinstance(value, Tensor):
        return value
    kinds: Sequence[tuple[str, DType]] = (
        ("value_int", dtypes.INT64),
        ("value_ints", dtypes.INT64),
        ("value_float", dtypes.FLOAT32),
        ("value_floats", dtypes.FLOAT32),
        ("value_string", dtypes.STRING),
        ("value_strings", dtypes.STRING),
    )
    for name, dtype in kinds:
        if name in node.attributes:
            return Tensor.of(node.attributes[name], dtype)
    raise ValueError("Constant has no value that is a dense tensor")


def _infer_constant(ctx: InferenceContext) -> Sequence[Type]:
    tensor = constant_tensor(ctx.node)
    return [TensorType(tensor.dtype, tensor.shape)]


def _express_constant(ctx: ExpressionContext) -> Sequence[TensorExpr] | None:
    tensor = constant_tensor(ctx.node)
    if tensor.size != 1 or tensor.dtype == dtypes.STRING:
        return None
    return [TensorExpr(axes_of(tensor.shape), const(tensor.array().reshape(()).item(), tensor.dtype))]


register(
    Operator(
        "Constant",
        _infer_constant,
        lambda node, arrays: [constant_tensor(node).array()],
        expression=_express_constant,
    )
)


def _shape_window(node: Node, rank: int) -> slice:
    return slice(*slice(node.int_attribute("start", 0), node.attributes.get("end")).indices(rank))


def _infer_shape(ctx: InferenceContext) -> Sequence[Type]:
    shape = ctx.tensor(0).shape
    extent = ctx.fresh("rank") if shape is None else len(shape[_shape_window(ctx.node, len(shape))])
    return [TensorType(dtypes.INT64, (extent,))]


def _propagate_shape(ctx: InferenceContext) -> tuple[Dim, ...] | None:
    shape = ctx.tensor(0).shape
    return None if shape is None else shape[_shape_window(ctx.node, len(shape))]


def _express_shape(ctx: ExpressionContext) -> Sequence[TensorExpr] | None:
    shape = ctx.tensor(0).dims
    window = shape[_shape_window(ctx.node, len(shape))]
    (axis,) = axes_of([len(window)])
    body: Scalar = const(0, dtypes.INT64)
    for position in reversed(range(len(window))):
        here = IndexValue(dtypes.INT64, window[position])
        body = here if position == len(window) - 1 else select(compare("eq", axis.index, position), here, body)
    return [TensorExpr((axis,), body)]


register(
    Operator(
        "Shape",
        _infer_shape,
        lambda node, arrays: [np.array(np.shape(arrays[0])[_shape_window(node, np.ndim(arrays[0]))], np.int64)],
        expression=_express_shape,
        propagate=_propagate_shape,
    )
)


def _propagate_size(ctx: InferenceContext) -> tuple[Dim, ...] | None:
    shape = ctx.tensor(0).shape
    return None if shape is None else (product(shape),)


def _infer_size(ctx: InferenceContext) -> Sequence[Type]:
    ctx.tensor(0)
    return [TensorType(dtypes.INT64, ())]


register(
    Operator(
        "Size",
        _infer_size,
        lambda node, arrays: [np.array(np.size(arrays[0]), np.int64)],
        expression=lambda ctx: [TensorExpr((), IndexValue(dtypes.INT64, ctx.tensor(0).numel))],
        propagate=_propagate_size,
    )
)


def _fill(node: Node) -> Array:
    value = node.attributes.get("value")
    return value.array().reshape(-1)[:1] if isinstance(value, Tensor) else np.zeros(1, np.float32)


def _infer_constant_of_shape(ctx: InferenceContext) -> Sequence[Type]:
    dtype = dtypes.from_numpy(_fill(ctx.node).dtype)
    dims = ctx.dims(0)
    if dims is None:
        (rank,) = ctx.shape(0)
        return [TensorType(dtype, unknown_dims(ctx, rank) if isinstance(rank, int) else None)]
    if any(isinstance(d, int) and d < 0 for d in dims):
        ctx.fail(f"shape {list(dims)} has a negative extent")
    return [TensorType(dtype, dims)]


def _express_constant_of_shape(ctx: ExpressionContext) -> Sequence[TensorExpr] | None:
    output = ctx.outputs[0]
    if output.dtype == dtypes.STRING:
        return None
    return [TensorExpr(axes_of(output.dims), const(_fill(ctx.node)[0].item(), output.dtype))]


def _propagate_constant_of_shape(ctx: InferenceContext) -> tuple[Dim, ...] | None:
    dims, fill = ctx.dims(0), _fill(ctx.node)
    if dims is None or fill.dtype.kind not in "iu" or not all(isinstance(d, int) for d in dims):
        return None
    return (int(fill[0]),) * math.prod(d for d in dims if isinstance(d, int))


register(
    Operator(
        "ConstantOfShape",
        _infer_constant_of_shape,
        lambda node, arrays: [np.full(tuple(int(d) for d in arrays[0]), _fill(node)[0], _fill(node).dtype)],
        expression=_express_constant_of_shape,
        propagate=_propagate_constant_of_shape,
    )
)


def _range_extent(ctx: InferenceContext) -> Dim:
    known = [ctx.constant(index) for index in range(3)]
    if all(value is not None for value in known):
        start, limit, delta = (np.asarray(value).reshape(()).item() for value in known)
        if delta == 0:
            ctx.fail("delta is 0")
        count: int = math.ceil((limit - start) / delta)
        return max(0, count)
    bounds = [ctx.dims(index) for index in range(3)]
    if any(dims is None or len(dims) != 1 for dims in bounds):
        return ctx.fresh("n")
    start, limit, delta = (dims[0] for dims in bounds if dims is not None)
    if not isinstance(delta, int) or delta <= 0:
        return ctx.fresh("n")
    return at_least(ceildiv(subtract(limit, start), delta), 0, ctx.bounds)


def _infer_range(ctx: InferenceContext) -> Sequence[Type]:
    dtype = ctx.tensor(0).dtype
    for index in (1, 2):
        if ctx.tensor(index).dtype != dtype:
            ctx.fail(f"input {index} is {ctx.tensor(index).dtype}, but input 0 is {dtype}")
    return [TensorType(dtype, (_range_extent(ctx),))]


def _propagate_range(ctx: InferenceContext) -> tuple[Dim, ...] | None:
    extent = _range_extent(ctx)
    start, delta = ctx.dims(0), ctx.dims(2)
    if start is None or delta is None or not isinstance(extent, int):
        return None
    return tuple(add(start[0], multiply(i, delta[0])) for i in range(extent))


def _evaluate_range(node: Node, arrays: Sequence[Datum]) -> Sequence[Datum]:
    start, limit, delta = (np.asarray(array).reshape(()) for array in arrays)
    count = max(0, math.ceil((limit.item() - start.item()) / delta.item()))
    wide = start.dtype if start.dtype.kind in "iu" else np.dtype(np.float64)
    return [(start.astype(wide) + np.arange(count).astype(wide) * delta.astype(wide)).astype(start.dtype)]


def _express_range(ctx: ExpressionContext) -> Sequence[TensorExpr] | None:
    (axis,) = axes_of(ctx.outputs[0].dims)
    kinds = [ctx.tensor(index) for index in range(3)]
    start, delta = (load(i, kinds[i].dtype, (0,) * len(kinds[i].dims)) for i in (0, 2))
    return [TensorExpr((axis,), call("add", start, call("mul", cast(index_value(axis.index), delta.dtype), delta)))]


register(Operator("Range", _infer_range, _evaluate_range, expression=_express_range, propagate=_propagate_range))


def _eye_dtype(node: Node, like: DType) -> DType:
    found = node.attributes.get("dtype")
    return dtypes.from_onnx(found) if isinstance(found, int) else like


def _infer_eye(ctx: InferenceContext) -> Sequence[Type]:
    kind = ctx.tensor(0)
    if kind.shape is not None and len(kind.shape) != 2:
        ctx.fail(f"input must have 2 axes, not {len(kind.shape)}")
    return [TensorType(_eye_dtype(ctx.node, kind.dtype), kind.shape)]


def _evaluate_eye(node: Node, arrays: Sequence[Datum]) -> Sequence[Datum]:
    rows, columns = arrays[0].shape
    dtype = _eye_dtype(node, dtypes.from_numpy(arrays[0].dtype)).numpy
    return [np.eye(rows, columns, node.int_attribute("k", 0)).astype(dtype)]


def _express_eye(ctx: ExpressionContext) -> Sequence[TensorExpr] | None:
    row, column = axes = axes_of(ctx.outputs[0].dims)
    dtype = ctx.outputs[0].dtype
    on_diagonal = compare("eq", subtract(column.index, row.index), ctx.node.int_attribute("k", 0))
    return [TensorExpr(axes, select(on_diagonal, const(1, dtype), const(0, dtype)))]


register(Operator("EyeLike", _infer_eye, _evaluate_eye, expression=_express_eye))
