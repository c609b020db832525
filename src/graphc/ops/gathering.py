"""Gather and scatter: operators whose places are chosen by index tensors, and those whose extent the data tells."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np

from graphc.ir import Dim, Node, TensorType, Type, dtypes
from graphc.ops.base import Array, Datum, ExpressionContext, InferenceContext, Operator, Trait, register
from graphc.ops.expr import (
    Index,
    Load,
    Scalar,
    TensorExpr,
    axes_of,
    call,
    cast,
    compare,
    index_value,
    load,
    select,
)
from graphc.ops.indexing import indices_of

GATHER = frozenset({Trait.MOVEMENT})
SCATTER = frozenset({Trait.DATA_DEPENDENT})


def wrapped(index: Scalar, extent: Dim) -> Scalar:
    """An index tensor's element as int64, negative ones counted from the end."""
    wide = cast(index, dtypes.INT64)
    if index.dtype.kind != "int":
        return wide
    return select(compare("lt", wide, 0), call("add", wide, index_value(extent)), wide)


def index_load(ctx: ExpressionContext, place: Sequence[Dim], extent: Dim, number: int = 1) -> Scalar:
    """Element of index tensor `number` at `place`, as a checked index into an axis of `extent`."""
    return wrapped(load(number, ctx.tensor(number).dtype, place), extent)


def _require_integers(ctx: InferenceContext, index: int) -> None:
    if not ctx.tensor(index).dtype.is_integer:
        ctx.fail(f"input {index} must hold integers, not {ctx.tensor(index).dtype}")


def checked_indices(indices: Array, extent: int) -> Array:
    """Indices with negative ones counted from the end.

    Raises:
        IndexError: One is out of range.
    """
    wide = indices.astype(np.int64)
    outside = (wide < -extent) | (wide >= extent)
    if outside.any():
        raise IndexError(f"index {wide[outside].flat[0]} is out of range for extent {extent}")
    return np.where(wide < 0, wide + extent, wide)


# --- Gather -----------------------------------------------------------------------------------------------------------


def _infer_gather(ctx: InferenceContext) -> Sequence[Type]:
    kind, indices = ctx.tensor(0), ctx.tensor(1)
    _require_integers(ctx, 1)
    if kind.shape is None or indices.shape is None:
        return [kind.with_shape(None)]
    axis = ctx.axis(ctx.node.int_attribute("axis", 0), len(kind.shape))
    return [kind.with_shape((*kind.shape[:axis], *indices.shape, *kind.shape[axis + 1 :]))]


def _evaluate_gather(node: Node, arrays: Sequence[Datum]) -> Sequence[Datum]:
    data, indices = arrays
    axis = node.int_attribute("axis", 0)
    return [np.take(data, checked_indices(indices, data.shape[axis]), axis=axis)]


def _express_gather(ctx: ExpressionContext) -> Sequence[TensorExpr] | None:
    kind, rank = ctx.tensor(0), len(ctx.tensor(1).dims)
    axis = ctx.node.int_attribute("axis", 0) % len(kind.dims)
    axes = axes_of(ctx.outputs[0].dims)
    place = indices_of(axes)
    constant = ctx.constant(1)
    found: Index
    checked = True
    extent = kind.dims[axis]
    number = int(constant.reshape(())) if constant is not None and constant.size == 1 else None
    if number is not None and isinstance(extent, int) and -extent <= number < extent:
        found, checked = number % extent, False
    else:
        found = index_load(ctx, place[axis : axis + rank], kind.dims[axis])
    full = (*place[:axis], found, *place[axis + rank :])
    return [TensorExpr(axes, Load(kind.dtype, 0, full, checked))]


def _propagate_gather(ctx: InferenceContext) -> tuple[Dim, ...] | None:
    elements, indices = ctx.dims(0), ctx.dims(1)
    if elements is None or indices is None or ctx.tensor(0).rank != 1:
        return None
    found = []
    for index in indices:
        if not isinstance(index, int) or not -len(elements) <= index < len(elements):
            return None
        found.append(elements[index])
    return tuple(found)


register(
    Operator(
        "Gather",
        _infer_gather,
        _evaluate_gather,
        traits=GATHER,
        expression=_express_gather,
        propagate=_propagate_gather,
    )
)


def _infer_gather_elements(ctx: InferenceContext) -> Sequence[Type]:
    kind, indices = ctx.tensor(0), ctx.tensor(1)
    _require_integers(ctx, 1)
    if kind.shape is not None:
        ctx.axis(ctx.node.int_attribute("axis", 0), len(kind.shape))
        if indices.shape is not None and len(indices.shape) != len(kind.shape):
            ctx.fail(f"indices have {len(indices.shape)} axes, but the data has {len(kind.shape)}")
    return [kind.with_shape(indices.shape)]


def _elements_place(shape: Sequence[int], axis: int, indices: Array) -> tuple[Array, ...]:
    """Open grid over `indices`, with the indices themselves along `axis`."""
    grid = list(np.ogrid[tuple(slice(extent) for extent in indices.shape)])
    grid[axis] = checked_indices(indices, shape[axis])
    return tuple(grid)


def _evaluate_gather_elements(node: Node, arrays: Sequence[Datum]) -> Sequence[Datum]:
    data, indices = arrays
    return [data[_elements_place(data.shape, node.int_attribute("axis", 0) % data.ndim, indices)]]


def _express_gather_elements(ctx: ExpressionContext) -> Sequence[TensorExpr] | None:
    kind = ctx.tensor(0)
    axis = ctx.node.int_attribute("axis", 0) % len(kind.dims)
    axes = axes_of(ctx.outputs[0].dims)
    place: list[Index] = list(indices_of(axes))
    place[axis] = index_load(ctx, indices_of(axes), kind.dims[axis])
    return [TensorExpr(axes, Load(kind.dtype, 0, tuple(place), True))]


register(
    Operator(
        "GatherElements",
        _infer_gather_elements,
        _evaluate_gather_elements,
        traits=GATHER,
        expression=_express_gather_elements,
    )
)


def _tuple_length(ctx: InferenceContext | ExpressionContext) -> int | None:
    """Length of the index tuples that the last axis of the second input holds."""
    shape = ctx.tensor(1).shape
    last = shape[-1] if shape else None
    return last if isinstance(last, int) else None


def _infer_gather_nd(ctx: InferenceContext) -> Sequence[Type]:
    kind, indices = ctx.tensor(0), ctx.tensor(1)
    _require_integers(ctx, 1)
    length, batch = _tuple_length(ctx), ctx.node.int_attribute("batch_dims", 0)
    if kind.shape is None or indices.shape is None or length is None:
        return [kind.with_shape(None)]
    if not 0 <= batch < len(indices.shape) or batch + length > len(kind.shape):
        ctx.fail(f"indices of shape {list(indices.shape)} address more axes than {list(kind.shape)} has")
    return [kind.with_shape((*indices.shape[:-1], *kind.shape[batch + length :]))]


def _nd_place(shape: Sequence[int], indices: Array, batch: int) -> tuple[Array, ...]:
    outer = indices.shape[:-1]
    grid = [
        np.arange(outer[axis]).reshape([-1 if i == axis else 1 for i in range(len(outer))]) for axis in range(batch)
    ]
    places = [checked_indices(indices[..., i], shape[batch + i]) for i in range(indices.shape[-1])]
    return (*grid, *places)


def _evaluate_gather_nd(node: Node, arrays: Sequence[Datum]) -> Sequence[Datum]:
    data, indices = arrays
    batch = node.int_attribute("batch_dims", 0)
    found = data[_nd_place(data.shape, indices, batch)]
    return [np.broadcast_to(found, (*indices.shape[:-1], *data.shape[batch + indices.shape[-1] :])).copy()]


def _express_gather_nd(ctx: ExpressionContext) -> Sequence[TensorExpr] | None:
    kind, length = ctx.tensor(0), _tuple_length(ctx)
    batch, outer = ctx.node.int_attribute("batch_dims", 0), len(ctx.tensor(1).dims) - 1
    if length is None:
        return None
    axes = axes_of(ctx.outputs[0].dims)
    place = indices_of(axes)
    found = [index_load(ctx, (*place[:outer], i), kind.dims[batch + i]) for i in range(length)]
    return [TensorExpr(axes, Load(kind.dtype, 0, (*place[:batch], *found, *place[outer:]), True))]


register(Operator("GatherND", _infer_gather_nd, _evaluate_gather_nd, traits=GATHER, expression=_express_gather_nd))

# --- OneHot -----------------------------------------------------------------------------------------------------------


def _infer_one_hot(ctx: InferenceContext) -> Sequence[Type]:
    indices, _, values = (ctx.tensor(index) for index in range(3))
    if indices.shape is None:
        return [values.with_shape(None)]
    rank = len(indices.shape) + 1
    axis = ctx.axis(ctx.node.int_attribute("axis", -1), rank)
    depth = ctx.dims(1)
    extent = ctx.fresh("depth") if depth is None else depth[0]
    if isinstance(extent, int) and extent < 0:
        ctx.fail(f"the depth is {extent}")
    return [values.with_shape((*indices.shape[:axis], extent, *indices.shape[axis:]))]


def _evaluate_one_hot(node: Node, arrays: Sequence[Datum]) -> Sequence[Datum]:
    indices, depth, (off, on) = arrays[0].astype(np.int64), int(np.asarray(arrays[1]).reshape(())), arrays[2]
    axis = node.int_attribute("axis", -1) % (indices.ndim + 1)
    if depth < 0:
        raise ValueError(f"the depth is {depth}")
    within = (indices >= -depth) & (indices < depth)
    place = np.where(within, indices % max(depth, 1), -1)
    positions = np.arange(depth).reshape([-1 if i == axis else 1 for i in range(indices.ndim + 1)])
    return [np.where(np.expand_dims(place, axis) == positions, on, off).astype(arrays[2].dtype)]


def _express_one_hot(ctx: ExpressionContext) -> Sequence[TensorExpr] | None:
    output = ctx.outputs[0]
    axis = ctx.node.int_attribute("axis", -1) % len(output.dims)
    axes = axes_of(output.dims)
    place = indices_of(axes)
    index = cast(load(0, ctx.tensor(0).dtype, (*place[:axis], *place[axis + 1 :])), dtypes.INT64)
    here = call("eq", wrapped(index, output.dims[axis]), index_value(place[axis]))
    off, on = (load(2, output.dtype, (i,)) for i in (0, 1))
    return [TensorExpr(axes, select(here, on, off))]


register(Operator("OneHot", _infer_one_hot, _evaluate_one_hot, traits=GATHER, expression=_express_one_hot))

# --- scatter ----------------------------------------------------------------------------------------------------------

_UPDATES: dict[str, Callable[[Array, tuple[Array, ...], Array], None]] = {
    "add": np.add.at,
    "mul": np.multiply.at,
    "max": np.maximum.at,
    "min": np.minimum.at,
}


def _differs(left: Dim, right: Dim) -> bool:
    return isinstance(left, int) and isinstance(right, int) and left != right


def _check_scatter_elements(ctx: InferenceContext) -> None:
    shape, indices, updates = (ctx.tensor(i).shape for i in range(3))
    if shape is None:
        return
    axis = ctx.axis(ctx.node.int_attribute("axis", 0), len(shape))
    for what, found in (("indices", indices), ("updates", updates)):
        if found is not None and len(found) != len(shape):
            ctx.fail(f"the {what} have {len(found)} axes, but the data has {len(shape)}")
    if indices is None or updates is None:
        return
    if any(map(_differs, indices, updates)):
        ctx.fail(f"updates of shape {list(updates)} do not fit indices of shape {list(indices)}")
    for place, (inner, outer) in enumerate(zip(indices, shape, strict=True)):
        if place != axis and isinstance(inner, int) and isinstance(outer, int) and inner > outer:
            ctx.fail(f"indices of shape {list(indices)} do not fit data of shape {list(shape)}")


def _check_scatter_nd(ctx: InferenceContext) -> None:
    shape, indices, updates = (ctx.tensor(i).shape for i in range(3))
    length = _tuple_length(ctx)
    if shape is None or indices is None or updates is None or length is None:
        return
    if length > len(shape):
        ctx.fail(f"indices of shape {list(indices)} address more axes than {list(shape)} has")
    wanted = (*indices[:-1], *shape[length:])
    if len(wanted) != len(updates) or any(map(_differs, wanted, updates)):
        ctx.fail(f"updates of shape {list(updates)} should have shape {list(wanted)}")


def _infer_scatter(ctx: InferenceContext) -> Sequence[Type]:
    kind, updates = ctx.tensor(0), ctx.tensor(2)
    _require_integers(ctx, 1)
    if kind.dtype != updates.dtype:
        ctx.fail(f"the updates are {updates.dtype}, but the data is {kind.dtype}")
    if ctx.node.op_type == "ScatterND":
        _check_scatter_nd(ctx)
    else:
        _check_scatter_elements(ctx)
    return [kind.with_shape(kind.shape)]


def _update(node: Node, data: Array, place: tuple[Array, ...], updates: Array) -> Array:
    result = data.copy()
    how = _UPDATES.get(node.str_attribute("reduction", "none"))
    if how is None:
        result[place] = updates
    else:
        how(result, place, updates)
    return result


def _evaluate_scatter_elements(node: Node, arrays: Sequence[Datum]) -> Sequence[Datum]:
    data, indices, updates = arrays
    place = _elements_place(data.shape, node.int_attribute("axis", 0) % data.ndim, indices)
    return [_update(node, data, place, updates)]


def _evaluate_scatter_nd(node: Node, arrays: Sequence[Datum]) -> Sequence[Datum]:
    data, indices, updates = arrays
    return [_update(node, data, _nd_place(data.shape, indices, 0), updates)]


for _name in ("Scatter", "ScatterElements"):
    register(Operator(_name, _infer_scatter, _evaluate_scatter_elements, traits=SCATTER))
register(Operator("ScatterND", _infer_scatter, _evaluate_scatter_nd, traits=SCATTER))

# --- extents that the data tells --------------------------------------------------------------------------------------


def _infer_compress(ctx: InferenceContext) -> Sequence[Type]:
    kind = ctx.tensor(0)
    if kind.shape is None:
        return [kind.with_shape(None)]
    if ctx.tensor(1).dtype != dtypes.BOOL:
        ctx.fail(f"the condition must be bool, not {ctx.tensor(1).dtype}")
    known = ctx.constant(1)
    extent: Dim = ctx.fresh("count") if known is None else int(np.count_nonzero(known))
    if "axis" not in ctx.node.attributes:
        return [kind.with_shape((extent,))]
    axis = ctx.axis(ctx.node.int_attribute("axis", 0), len(kind.shape))
    return [kind.with_shape((*kind.shape[:axis], extent, *kind.shape[axis + 1 :]))]


def _evaluate_compress(node: Node, arrays: Sequence[Datum]) -> Sequence[Datum]:
    axis = node.int_attribute("axis", 0) if "axis" in node.attributes else None
    return [np.compress(arrays[1], arrays[0], axis=axis)]


register(Operator("Compress", _infer_compress, _evaluate_compress, traits=SCATTER))


def _infer_non_zero(ctx: InferenceContext) -> Sequence[Type]:
    shape = ctx.tensor(0).shape
    rank: Dim = ctx.fresh("rank") if shape is None else len(shape)
    return [TensorType(dtypes.INT64, (rank, ctx.fresh("count")))]


def _evaluate_non_zero(node: Node, arrays: Sequence[Datum]) -> Sequence[Datum]:
    data = np.asarray(arrays[0])
    if data.ndim == 0:
        return [np.zeros((0, int(bool(data))), np.int64)]
    return [np.array(np.nonzero(data), np.int64)]


register(Operator("NonZero", _infer_non_zero, _evaluate_non_zero, traits=SCATTER))
