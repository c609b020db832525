"""Operators that pick elements by their values: TopK, Unique, NonMaxSuppression."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from graphc.ir import Dim, Node, TensorType, Type, dtypes
from graphc.ir.symbolic import product
from graphc.ops.base import Array, Datum, InferenceContext, Operator, Trait, register
from graphc.ops.elementwise import widened

DATA_DEPENDENT = frozenset({Trait.DATA_DEPENDENT})


def _infer_top_k(ctx: InferenceContext) -> Sequence[Type]:
    shape = ctx.shape(0)
    axis = ctx.node.int_attribute("axis", -1)
    if not -len(shape) <= axis < len(shape):
        ctx.fail(f"axis {axis} of an input of shape {list(shape)}")
    axis %= len(shape)
    count: Dim
    wanted = ctx.dims(1)
    count = ctx.fresh("k") if wanted is None else wanted[0]
    extent = shape[axis]
    if isinstance(count, int) and (count < 0 or (isinstance(extent, int) and count > extent)):
        ctx.fail(f"{count} elements of an axis of {extent}")
    kind = ctx.tensor(0).with_shape((*shape[:axis], count, *shape[axis + 1 :]))
    return [kind, kind.with_dtype(dtypes.INT64)]


def descending(x: Array, axis: int) -> Array:
    """Positions along `axis` from the largest element to the smallest; of equal ones the first stands first."""
    backwards = np.flip(np.argsort(np.flip(x, axis), axis, kind="stable"), axis)
    found: Array = x.shape[axis] - 1 - backwards
    return found


def _evaluate_top_k(node: Node, inputs: Sequence[Datum]) -> Sequence[Datum]:
    x, count = inputs[0], int(np.asarray(inputs[1]).reshape(()))
    axis = node.int_attribute("axis", -1)
    if not 0 <= count <= x.shape[axis]:
        raise ValueError(f"{count} elements of an axis of {x.shape[axis]}")
    largest = node.int_attribute("largest", 1)
    # Sorting puts NaN last among the floats that NumPy itself has.
    known = widened(x)
    order = descending(known, axis) if largest else np.argsort(known, axis, kind="stable")
    indices = np.take(order, np.arange(count), axis)
    return [np.take_along_axis(x, indices, axis), indices.astype(np.int64)]


def _infer_non_max(ctx: InferenceContext) -> Sequence[Type]:
    boxes, scores = ctx.shape(0), ctx.shape(1)
    if len(boxes) != 3 or len(scores) != 3:
        ctx.fail(f"boxes and scores must have 3 axes, not shapes {list(boxes)} and {list(scores)}")
    return [TensorType(dtypes.INT64, (ctx.fresh("selected"), 3))]


def _corners(boxes: Array, *, centred: bool) -> Array:
    """Boxes as (low, low, high, high), whatever corners or centres they were given by."""
    if centred:
        half = boxes[..., 2:] / 2
        low, high = boxes[..., :2] - half, boxes[..., :2] + half
    else:
        low, high = np.minimum(boxes[..., :2], boxes[..., 2:]), np.maximum(boxes[..., :2], boxes[..., 2:])
    return np.concatenate([low, high], axis=-1)


def overlapping(boxes: Array, others: Array, threshold: float) -> Array:
    """Which boxes overlap which others by more than a part of their union; none where the union has no area.

    Args:
        boxes: Sides (top, left, bottom, right, area) by number, (5, m).
        others: The same, (5, n).
        threshold: Intersection over union, from which on pairs are close.

    Returns:
        Booleans, (m, n).
    """
    top, left, bottom, right, area = boxes[:, :, None]
    shared, width = np.minimum(bottom, others[2]), np.minimum(right, others[3])
    shared -= np.maximum(top, others[0])
    width -= np.maximum(left, others[1])
    np.maximum(shared, 0, out=shared)
    shared *= np.maximum(width, 0, out=width)
    union = np.add(area, others[4], out=width)
    union -= shared
    found: Array = np.divide(shared, union, out=np.zeros_like(shared), where=union > 0) > threshold
    return found


_BLOCK = 64
"""Boxes whose overlaps with each other are computed at once."""

_MET = 256
"""Survivors that a block meets at once: their overlaps stay in a cache."""


def surviving(corners: Array, threshold: float, count: int) -> list[int]:
    """Places of up to `count` boxes, each of which overlaps none before it that survives by more than `threshold`.

    A block of boxes meets all survivors at once, then its own: few steps are left that wait for each other.

    Args:
        corners: Top, left, bottom and right of each box, (boxes, 4), those first that go first.
        threshold: Intersection over union beyond which the later of two goes.
        count: Most survivors.
    """
    # Side by side, not box by box: each step then runs along memory.
    sides = np.ascontiguousarray(corners.T)
    boxes = np.concatenate([sides, (sides[2:3] - sides[:1]) * (sides[3:] - sides[1:2])])
    kept: list[int] = []
    for start in range(0, boxes.shape[1], _BLOCK):
        block = boxes[:, start : start + _BLOCK]
        places = np.arange(block.shape[1])
        for first in range(0, len(kept), _MET):
            close = overlapping(boxes[:, kept[first : first + _MET]], block, threshold).any(axis=0)
            places, block = places[~close], block[:, ~close]
        # A box puts an end to those after it; most meet none.
        close = np.triu(overlapping(block, block, threshold), 1)
        left = np.ones(len(places), bool)
        for i in np.flatnonzero(close.any(axis=1)).tolist():
            if left[i]:
                left &= ~close[i]
        kept += (places[left] + start).tolist()
        if len(kept) >= count:
            break
    return kept[:count]


def _scalar(datum: Datum, default: float) -> float:
    return default if datum is None else float(np.asarray(datum).reshape(-1)[0])


def _evaluate_non_max(node: Node, inputs: Sequence[Datum]) -> Sequence[Datum]:
    boxes, scores, limit, overlap, least = [*inputs, *[None] * 3][:5]
    count = int(_scalar(limit, 0))
    threshold = _scalar(overlap, 0)
    corners = _corners(boxes, centred=bool(node.int_attribute("center_point_box", 0)))
    found: list[tuple[int, int, int]] = []
    for batch, category in np.ndindex(*scores.shape[:2]):
        values = scores[batch, category]
        candidates = np.arange(len(values))
        if least is not None:
            candidates = np.flatnonzero(values > np.float32(_scalar(least, 0)))
        candidates = candidates[descending(values[candidates], 0)]
        survivors = surviving(corners[batch, candidates], threshold, max(count, 0))
        found += [(batch, category, int(candidates[place])) for place in survivors]
    return [np.array(found, np.int64).reshape(-1, 3)]


def _infer_unique(ctx: InferenceContext) -> Sequence[Type]:
    kind, shape = ctx.tensor(0), ctx.shape(0)
    axis = ctx.node.attributes.get("axis")
    count = ctx.fresh("unique")
    if axis is None:
        found, total = kind.with_shape((count,)), product(shape)
    else:
        place = ctx.node.int_attribute("axis", 0) % len(shape)
        found, total = kind.with_shape((*shape[:place], count, *shape[place + 1 :])), shape[place]
    index = TensorType(dtypes.INT64, (count,))
    return [found, index, TensorType(dtypes.INT64, (total,)), index]


def _evaluate_unique(node: Node, inputs: Sequence[Datum]) -> Sequence[Datum]:
    (x,) = inputs
    axis = node.int_attribute("axis", 0) if "axis" in node.attributes else None
    # Sorting needs an order that NumPy knows; every narrow float has its place among float32.
    known = x.astype(np.float32) if dtypes.from_numpy(x.dtype).is_float and x.dtype.kind == "V" else x
    if x.dtype == object:
        known = x.astype(str)
    values, first, inverse, counts = np.unique(
        known, return_index=True, return_inverse=True, return_counts=True, axis=axis
    )
    inverse = inverse.reshape(-1)
    if not node.int_attribute("sorted", 1):
        order = np.argsort(first)
        first, counts = first[order], counts[order]
        rank = np.empty_like(order)
        rank[order] = np.arange(len(order))
        inverse = rank[inverse]
        values = values[order] if axis is None else np.take(values, order, axis)
    result = values.astype(x.dtype) if known is not x else values
    return [result, *(np.asarray(part, np.int64) for part in (first, inverse, counts))]


register(Operator("TopK", _infer_top_k, _evaluate_top_k))
register(Operator("Unique", _infer_unique, _evaluate_unique, traits=DATA_DEPENDENT))
register(Operator("NonMaxSuppression", _infer_non_max, _evaluate_non_max, traits=DATA_DEPENDENT))
