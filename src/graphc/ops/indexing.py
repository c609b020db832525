"""Small pieces that tensor expressions of several families share: broadcast loads, accumulators, guarded loads."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from graphc.ir import Dim, TensorType, dtypes
from graphc.ir.dtypes import DType
from graphc.ir.symbolic import add, floordiv, multiply
from graphc.ops.expr import Axis, Scalar, all_of, cast, compare, load


def subtract(left: Dim, right: Dim) -> Dim:
    """`left - right`."""
    return add(left, multiply(-1, right))


def ceildiv(left: Dim, right: int) -> Dim:
    """`left / right` rounded up, for a positive `right`."""
    return floordiv(add(left, right - 1), right)


def accumulator(dtype: DType) -> DType:
    """The type in which sums of `dtype` are formed: 16-bit and narrower floats accumulate in float32."""
    return dtypes.FLOAT32 if dtype.is_float and dtype.bits < 32 else dtype


def broadcast_index(shape: Sequence[Dim], indices: Sequence[Dim]) -> tuple[Dim, ...]:
    """Where a tensor of `shape` is read for an element at `indices` of the shape that it broadcasts to."""
    tail = indices[len(indices) - len(shape) :]
    return tuple(0 if extent == 1 else index for extent, index in zip(shape, tail, strict=True))


def broadcast_load(number: int, kind: TensorType, indices: Sequence[Dim]) -> Scalar:
    """Element of input `number` for the element at `indices` of the shape that it broadcasts to."""
    return load(number, kind.dtype, broadcast_index(kind.dims, indices))


def wide_load(number: int, kind: TensorType, indices: Sequence[Dim]) -> Scalar:
    """Element of input `number` in its accumulator type."""
    return cast(load(number, kind.dtype, indices), accumulator(kind.dtype))


def indices_of(axes: Sequence[Axis]) -> tuple[Dim, ...]:
    """The axes as index expressions."""
    return tuple(axis.index for axis in axes)


def within(index: Dim, extent: Dim, *, low: bool, high: bool) -> Scalar | None:
    """The predicate `0 <= index < extent`, of which only the sides asked for are tested; None if neither is."""
    conditions = []
    if low:
        conditions.append(compare("ge", index, 0))
    if high:
        conditions.append(compare("lt", index, extent))
    return all_of(*conditions) if conditions else None


def last_axes(index: Sequence[Any]) -> tuple[Any, ...]:
    """A NumPy index that applies `index` to the last axes."""
    return (..., *index)
