"""Views: operators that change a tensor's shape but not its row-major bytes; and Expand, which repeats along axes."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

from graphc.ir import Dim, Node, TensorType, Type
from graphc.ir.symbolic import Bounds, add, floordiv, interval, mod, multiply, product, simplify, symbols
from graphc.ops.base import (
    Datum,
    ExpressionContext,
    InferenceContext,
    Operator,
    Trait,
    broadcast_dims,
    is_unknown,
    register,
)
from graphc.ops.expr import Axis, TensorExpr, axes_of, load
from graphc.ops.indexing import broadcast_load, indices_of
from graphc.ops.shape import requested_axes, unknown_dims

VIEW = frozenset({Trait.VIEW, Trait.MOVEMENT})


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
        declared = ctx.node.outputs[0].type
        if isinstance(declared, TensorType) and declared.is_static and kind.is_static and declared.numel != kind.numel:
            ctx.fail(f"{kind.numel} elements cannot have the declared shape {list(declared.dims)}")
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
        # An extent that the data tells, or a call, may be 1 as well.
        open_rank = any(_may_be_one(extent, ctx.bounds) for extent in kind.shape)
        return [kind.with_shape(None if open_rank else (d for d in kind.shape if d != 1))]
    axes = requested_axes(ctx, 1, len(kind.shape))
    if axes is None:
        (count,) = ctx.shape(1)
        return [kind.with_shape(unknown_dims(ctx, len(kind.shape) - count) if isinstance(count, int) else None)]
    for axis in axes:
        if isinstance(kind.shape[axis], int) and kind.shape[axis] != 1:
            ctx.fail(f"axis {axis} of shape {list(kind.shape)} is not 1")
    return [kind.with_shape(d for axis, d in enumerate(kind.shape) if axis not in axes)]


def _may_be_one(extent: Dim, bounds: Bounds) -> bool:
    if isinstance(extent, int):
        return False
    found = interval(extent, {name: bounds.get(name, (1, None)) for name in symbols(extent)})
    return is_unknown(extent) or found is None or found[0] <= 1


def _evaluate_squeeze(node: Node, arrays: Sequence[Datum]) -> Sequence[Datum]:
    axes = arrays[1] if len(arrays) > 1 else None
    return [np.squeeze(arrays[0], None if axes is None else tuple(int(a) for a in axes))]


register(
    Operator("Squeeze", _infer_squeeze, _evaluate_squeeze, traits=VIEW, expression=_express_view, propagate=_contents)
)


def _infer_unsqueeze(ctx: InferenceContext) -> Sequence[Type]:
    kind = ctx.tensor(0)
    (count,) = ctx.shape(1) or (1,)
    if kind.shape is None or (ctx.dims(1) is None and not isinstance(count, int)):
        return [kind.with_shape(None)]
    assert isinstance(count, int), "elements are followed where there is a number of them"
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
