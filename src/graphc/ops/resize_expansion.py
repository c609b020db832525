"""Resize spelled out one axis after the other, where its places are known: gathers and resamplings by tables."""

from __future__ import annotations

import itertools
import math
from collections.abc import Mapping, Sequence

import numpy as np

from graphc.ir import Builder, Dim, Node, Value, dtypes
from graphc.ops.base import Array
from graphc.ops.contrib import Values, needed
from graphc.ops.decomposition import decomposed, rank_of, scalar_like
from graphc.ops.resampling import resample
from graphc.ops.resize import mode_of, samplings, taps_of
from graphc.ops.resize_places import Sampling, limits_in, resized_axes

GATHERING = 4
"""How much more an element costs that is not read beside its neighbours."""
MOST_ORDERS = 4
"""Axes of which every order is tried."""


def _known(node: Node, index: int) -> tuple[bool, Array | None]:
    """Whether an optional input is known, and its elements; an empty tensor stands for an absent one."""
    value = node.input(index)
    if value is None or value.tensor_type.shape == (0,):
        return True, None
    return value.constant is not None, None if value.constant is None else value.constant.array()


def _samplings(node: Node, x: Value) -> dict[int, Sampling] | None:
    """How each axis that changes is sampled; None where that is not known."""
    found = [_known(node, index) for index in (1, 2, 3)]
    regional = node.str_attribute("coordinate_transformation_mode", "half_pixel") == "tf_crop_and_resize"
    if not all(known for known, _ in found[0 if regional else 1 :]):
        return None
    shape = x.tensor_type.dims
    extents = [extent if isinstance(extent, int) else 1 for extent in shape]
    roi, scales, sizes = (array for _, array in found)
    resized = resized_axes(node, len(shape))
    if any(not isinstance(shape[axis], int) for axis in resized):
        unit = {axis for axis, scale in zip(resized, [] if scales is None else scales, strict=False) if scale == 1}
        if sizes is not None or any(not isinstance(shape[axis], int) and axis not in unit for axis in resized):
            return None
    every = samplings(node, extents, roi, scales, sizes)
    return {axis: every[axis] for axis in resized if not every[axis].is_identity}


def _expand(b: Builder, node: Node, x: Values) -> Values | None:
    data = needed(x, 0)
    changed = _samplings(node, data)
    if changed is None or not all(sampling.source for sampling in changed.values()):
        return None
    mode, dtype, rank = mode_of(node), data.tensor_type.dtype, rank_of(data)
    if mode != "nearest" and not (dtype.is_float or dtype.is_integer):
        return None
    work = dtype
    if mode != "nearest" and (dtype.is_integer or dtype.bits < 32):
        work = dtypes.FLOAT64 if dtype.is_integer and dtype.bits > 16 else dtypes.FLOAT32
    result = data if work == dtype else b.op("Cast", data, to=work.onnx)
    for axis in _order(changed, data.tensor_type.dims):
        sampling = changed[axis]
        if mode == "nearest":
            places = sampling.nearest(node.str_attribute("nearest_mode", "round_prefer_floor"))
            result = b.op("Gather", result, b.constant(places.astype(np.int64)), axis=axis)
        else:
            taps = taps_of(node, sampling)
            index, weights = taps.index.astype(np.int32), taps.weights.astype(work.numpy)
            result = resample(b, result, axis, b.constant(index), b.constant(weights))
    result = _extrapolated(b, node, result, changed, rank)
    if work == dtype:
        return [result]
    if dtype.is_integer:
        low, high = limits_in(work.numpy, dtype.numpy)
        result = b.op("Clip", result, scalar_like(b, low, result), scalar_like(b, high, result))
    return [b.op("Cast", result, to=dtype.onnx)]


def _order(changed: Mapping[int, Sampling], shape: Sequence[Dim]) -> Sequence[int]:
    """The axes in the order that makes the least work."""

    def work(order: Sequence[int]) -> int:
        extents = {axis: sampling.source for axis, sampling in changed.items()}
        total = 0
        for axis in order:
            extents[axis] = changed[axis].output
            # Neighbours on the innermost axis are gathered one by one, on the others a vector at a time.
            total += math.prod(extents.values()) * (GATHERING if axis == len(shape) - 1 else 1)
        return total

    if len(changed) > MOST_ORDERS:
        return sorted(changed, key=lambda axis: changed[axis].output / changed[axis].source)
    return min(itertools.permutations(changed), key=work)


def _extrapolated(b: Builder, node: Node, result: Value, changed: dict[int, Sampling], rank: int) -> Value:
    """The result with a given value wherever a place lies outside the input."""
    outside = np.zeros((1,) * rank, np.bool_)
    for axis, sampling in changed.items():
        outside = outside | sampling.is_outside().reshape([-1 if i == axis else 1 for i in range(rank)])
    if not outside.any():
        return result
    value = scalar_like(b, node.float_attribute("extrapolation_value", 0.0), result)
    return b.op("Where", b.constant(outside), value, result)


decomposed("Resize", _expand, define=False)
