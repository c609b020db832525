"""Shapes as data, and operators that change a tensor's shape but not its row-major bytes."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np

from graphc.ir import Dim, Node, Tensor, TensorType, Type, dtypes
from graphc.ir.dtypes import DType
from graphc.ir.symbolic import add, floordiv, interval, maximum, minimum, mod, multiply, product, simplify, symbols
from graphc.ops.base import (
    Array,
    Datum,
    ExpressionContext,
    InferenceContext,
    Operator,
    Trait,
    broadcast_dims,
    register,
)
from graphc.ops.expr import (
    Axis,
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
from graphc.ops.indexing import broadcast_load, ceildiv, indices_of, subtract

VIEW = frozenset({Trait.VIEW, Trait.MOVEMENT})


def at_least(value: Dim, low: Dim) -> Dim:
    """`max(value, low)`, decided where symbols, being extents, are at least 1."""
    difference = subtract(value, low)
    if isinstance(difference, int):
        return value if difference >= 0 else low
    bounds = {name: (1, None) for name in symbols(difference)}
    extent = interval(difference, bounds)
    if extent is not None and extent[0] >= 0:
        return value
    opposite = interval(multiply(-1, difference), bounds)
    return low if opposite is not None and opposite[0] >= 0 else maximum(value, low)


def at_most(value: Dim, high: Dim) -> Dim:
    """`min(value, high)`, decided where symbols, being extents, are at least 1."""
    larger = at_least(value, high)
    if larger == high:
        return value
    return high if larger == value else minimum(value, high)


def requested_axes(ctx: InferenceContext, index: int, rank: int) -> tuple[int, ...] | None:
    """Axes that integer input `index` holds, counted from the front; None where they are not known."""
    dims = ctx.dims(index)
    if dims is None:
        return None
    axes = tuple(ctx.axis(axis, rank) for axis in dims if isinstance(axis, int))
    if len(axes) != len(dims) or len(set(axes)) != len(axes):
        ctx.fail(f"axes {list(dims)} are not distinct integers")
    return axes


def unknown_dims(ctx: InferenceContext, rank: int) -> tuple[Dim, ...]:
    """Extents of a tensor of which only the rank is known."""
    return tuple(ctx.fresh("d") for _ in range(rank))


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
    if tensor.size != 1 or tensor.dtype.kind in ("string", "complex"):
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
    if output.dtype.kind in ("string", "complex"):
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
        return max(0, int(math.ceil((limit - start) / delta)))
    bounds = [ctx.dims(index) for index in range(3)]
    if any(dims is None or len(dims) != 1 for dims in bounds):
        return ctx.fresh("n")
    start, limit, delta = (dims[0] for dims in bounds if dims is not None)
    if not isinstance(delta, int) or delta <= 0:
        return ctx.fresh("n")
    return at_least(ceildiv(subtract(limit, start), delta), 0)


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

# --- views ------------------------------------------------------------------------------------------------------------


def reshaped_indices(source: Sequence[Dim], axes: Sequence[Axis]) -> tuple[Dim, ...]:
    """Where a row-major tensor of shape `source` is read for an element of the same bytes under other axes.

    The two shapes are cut into groups of equal products first, so that untouched axes keep their plain index.
    """
    bounds = {axis.name: (0, axis.extent - 1 if isinstance(axis.extent, int) else None) for axis in axes}
    target = [axis.extent for axis in axes]
    indices: list[Dim] = []
    for left, right in _groups(source, target):
        flat: Dim = 0
        for axis in axes[right]:
            flat = add(multiply(flat, axis.extent), axis.index)
        found: list[Dim] = []
        extents = source[left]
        for position, extent in enumerate(extents):
            inner = product(extents[position + 1 :])
            place = flat if inner == 1 else floordiv(flat, inner, bounds)
            found.append(0 if extent == 1 else place if position == 0 else mod(place, extent, bounds))
        indices.extend(simplify(place, bounds) for place in found)
    return tuple(indices)


def _groups(source: Sequence[Dim], target: Sequence[Dim]) -> list[tuple[slice, slice]]:
    """Runs of axes of two shapes with equal products, shortest first; the last takes what is left."""
    if any(extent == 0 for extent in (*source, *target)):
        # Nothing is read; any index that does not divide by an extent of zero will do.
        return [(slice(i, i + 1), slice(0, 0)) for i in range(len(source))]
    groups: list[tuple[slice, slice]] = []
    i = j = 0
    while i < len(source) and j < len(target):
        end = _next_cut(source, target, i, j)
        if end is None:
            break
        groups.append((slice(i, end[0]), slice(j, end[1])))
        i, j = end
    groups.append((slice(i, len(source)), slice(j, len(target))))
    return groups


def _next_cut(source: Sequence[Dim], target: Sequence[Dim], i: int, j: int) -> tuple[int, int] | None:
    products: dict[Dim, int] = {}
    total: Dim = 1
    for a in range(i, len(source)):
        total = multiply(total, source[a])
        products.setdefault(total, a + 1)
    total = 1
    for b in range(j, len(target)):
        total = multiply(total, target[b])
        if total in products:
            return products[total], b + 1
    return None


def _express_view(ctx: ExpressionContext) -> Sequence[TensorExpr] | None:
    kind = ctx.tensor(0)
    axes = axes_of(ctx.outputs[0].dims)
    return [TensorExpr(axes, load(0, kind.dtype, reshaped_indices(kind.dims, axes)))]


def _contents(ctx: InferenceContext) -> tuple[Dim, ...] | None:
    return ctx.dims(0)


def _infer_reshape(ctx: InferenceContext) -> Sequence[Type]:
    kind, dims = ctx.tensor(0), ctx.dims(1)
    if dims is None:
        (rank,) = ctx.shape(1)
        return [TensorType(kind.dtype, unknown_dims(ctx, rank) if isinstance(rank, int) else None)]
    wanted = list(dims)
    if not ctx.node.int_attribute("allowzero", 0):
        for axis, extent in enumerate(dims):
            if extent == 0:
                if kind.shape is None:
                    wanted[axis] = ctx.fresh("d")
                elif axis >= len(kind.shape):
                    ctx.fail(f"shape {list(dims)} copies axis {axis}, which input {list(kind.shape)} has not")
                else:
                    wanted[axis] = kind.shape[axis]
    open_axes = [axis for axis, extent in enumerate(wanted) if extent == -1]
    if len(open_axes) > 1 or any(isinstance(d, int) and d < -1 for d in wanted):
        ctx.fail(f"shape {list(dims)} is not valid")
    if kind.shape is None:
        return [TensorType(kind.dtype, tuple(ctx.fresh("d") if d == -1 else d for d in wanted))]
    total, rest = product(kind.shape), product(d for d in wanted if d != -1)
    fits = True
    if open_axes:
        if rest == 0:
            ctx.fail(f"shape {list(dims)} leaves an axis open beside an extent of 0")
        fits = not (isinstance(total, int) and isinstance(rest, int)) or total % rest == 0
        wanted[open_axes[0]] = floordiv(total, rest)
    elif isinstance(total, int) and isinstance(rest, int):
        fits = total == rest
    if not fits:
        ctx.fail(f"cannot reshape {list(kind.shape)} ({total} elements) to {list(dims)}")
    return [TensorType(kind.dtype, tuple(wanted))]


def _evaluate_reshape(node: Node, arrays: Sequence[Datum]) -> Sequence[Datum]:
    data, wanted = arrays[0], [int(d) for d in arrays[1]]
    if not node.int_attribute("allowzero", 0):
        wanted = [data.shape[axis] if extent == 0 else extent for axis, extent in enumerate(wanted)]
    return [data.reshape(wanted)]


register(
    Operator("Reshape", _infer_reshape, _evaluate_reshape, traits=VIEW, expression=_express_view, propagate=_contents)
)


def _infer_flatten(ctx: InferenceContext) -> Sequence[Type]:
    shape = ctx.shape(0)
    axis = ctx.node.int_attribute("axis", 1)
    if not -len(shape) <= axis <= len(shape):
        ctx.fail(f"axis {axis} is out of range for rank {len(shape)}")
    axis += len(shape) if axis < 0 else 0
    return [TensorType(ctx.tensor(0).dtype, (product(shape[:axis]), product(shape[axis:])))]


def _evaluate_flatten(node: Node, arrays: Sequence[Datum]) -> Sequence[Datum]:
    shape = arrays[0].shape
    axis = node.int_attribute("axis", 1)
    axis += len(shape) if axis < 0 else 0
    return [arrays[0].reshape(math.prod(shape[:axis]), math.prod(shape[axis:]))]


register(Operator("Flatten", _infer_flatten, _evaluate_flatten, traits=VIEW, expression=_express_view))


def _infer_squeeze(ctx: InferenceContext) -> Sequence[Type]:
    kind = ctx.tensor(0)
    if kind.shape is None:
        return [kind.with_shape(None)]
    if not ctx.has(1):
        return [kind.with_shape(d for d in kind.shape if d != 1)]
    axes = requested_axes(ctx, 1, len(kind.shape))
    if axes is None:
        (count,) = ctx.shape(1)
        return [kind.with_shape(unknown_dims(ctx, len(kind.shape) - count) if isinstance(count, int) else None)]
    for axis in axes:
        if isinstance(kind.shape[axis], int) and kind.shape[axis] != 1:
            ctx.fail(f"axis {axis} of shape {list(kind.shape)} is not 1")
    return [kind.with_shape(d for axis, d in enumerate(kind.shape) if axis not in axes)]


def _evaluate_squeeze(node: Node, arrays: Sequence[Datum]) -> Sequence[Datum]:
    axes = arrays[1] if len(arrays) > 1 else None
    return [np.squeeze(arrays[0], None if axes is None else tuple(int(a) for a in axes))]


register(
    Operator("Squeeze", _infer_squeeze, _evaluate_squeeze, traits=VIEW, expression=_express_view, propagate=_contents)
)


def _infer_unsqueeze(ctx: InferenceContext) -> Sequence[Type]:
    kind = ctx.tensor(0)
    (count,) = ctx.shape(1) or (1,)
    if kind.shape is None or not isinstance(count, int):
        return [kind.with_shape(None)]
    rank = len(kind.shape) + count
    axes = requested_axes(ctx, 1, rank)
    if axes is None:
        return [kind.with_shape(unknown_dims(ctx, rank))]
    remaining = iter(kind.shape)
    return [kind.with_shape(1 if axis in axes else next(remaining) for axis in range(rank))]


def _evaluate_unsqueeze(node: Node, arrays: Sequence[Datum]) -> Sequence[Datum]:
    return [np.expand_dims(arrays[0], tuple(int(axis) for axis in arrays[1].reshape(-1)))]


register(
    Operator(
        "Unsqueeze", _infer_unsqueeze, _evaluate_unsqueeze, traits=VIEW, expression=_express_view, propagate=_contents
    )
)

# --- broadcasting -----------------------------------------------------------------------------------------------------


def _infer_expand(ctx: InferenceContext) -> Sequence[Type]:
    kind, dims = ctx.tensor(0), ctx.dims(1)
    if kind.shape is None:
        return [kind.with_shape(None)]
    if dims is None:
        (rank,) = ctx.shape(1)
        known = unknown_dims(ctx, max(rank, len(kind.shape))) if isinstance(rank, int) else None
        return [kind.with_shape(known)]
    found = broadcast_dims([kind.shape, dims])
    if found is None:
        ctx.fail(f"shape {list(kind.shape)} does not broadcast with {list(dims)}")
    return [kind.with_shape(found)]


def _evaluate_expand(node: Node, arrays: Sequence[Datum]) -> Sequence[Datum]:
    data, wanted = arrays[0], tuple(int(d) for d in arrays[1])
    return [np.broadcast_to(data, np.broadcast_shapes(data.shape, wanted)).copy()]


def _express_expand(ctx: ExpressionContext) -> Sequence[TensorExpr] | None:
    axes = axes_of(ctx.outputs[0].dims)
    return [TensorExpr(axes, broadcast_load(0, ctx.tensor(0), indices_of(axes)))]


def _propagate_expand(ctx: InferenceContext) -> tuple[Dim, ...] | None:
    found, dims = ctx.dims(0), ctx.dims(1)
    if found is None or dims is None or len(found) != 1 or not all(isinstance(d, int) for d in dims):
        return None
    return found * math.prod(d for d in dims if isinstance(d, int))


register(
    Operator(
        "Expand",
        _infer_expand,
        _evaluate_expand,
        traits=frozenset({Trait.MOVEMENT}),
        expression=_express_expand,
        propagate=_propagate_expand,
    )
)


def integers(datum: Any) -> tuple[int, ...]:
    """An integer tensor at evaluation time as a tuple."""
    return tuple(int(element) for element in np.asarray(datum).reshape(-1))
