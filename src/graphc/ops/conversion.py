"""Conversion between element types in NumPy: the rules that `graphc.ops.expr` states for casts, on every machine.

What a float out of an integer's range becomes is what C compiled for x86-64 gives, and so NumPy and ONNX Runtime there.
Formats of 8 and fewer bits follow the tables of ONNX's Cast (onnx.ai/onnx/operators/onnx__Cast.html).
"""

from __future__ import annotations

from typing import Any

import ml_dtypes
import numpy as np

from graphc.ir import dtypes
from graphc.ir.dtypes import DType
from graphc.ops.base import Array
from graphc.ops.expr import ScaleRounding

SMALLEST_SCALE, ONE_AND_A_HALF_SMALLEST, SMALLEST_NORMAL = 0x00400000, 0x00600000, 0x00800000
"""Bits, in float32, of 2**-127 (the least float8_e8m0fnu), of one and a half times that, and of 2**-126."""


def working(dtype: DType) -> np.dtype[Any]:
    """NumPy's type in which values of `dtype` are held between roundings."""
    if dtype.is_float and dtype.bits < 32:
        return np.dtype(np.float32)
    if dtype.is_integer and dtype.bits < 8:
        return np.dtype(np.int8 if dtype.kind == "int" else np.uint8)
    return dtype.numpy


def convert(array: Array, dtype: DType, *, saturate: bool = False, rounding: ScaleRounding = "nearest") -> Array:
    """`array`, of any numeric type, as elements of a numeric `dtype`.

    Args:
        array: Numbers or truth values.
        dtype: The type to convert to.
        saturate: Whether what lies beyond an 8-bit float's range becomes its largest number, not NaN or infinity.
        rounding: How float8_e8m0fnu rounds.
    """
    source = dtypes.from_numpy(array.dtype)
    if source == dtype:
        return array
    held = array.astype(working(source), copy=False)
    with np.errstate(all="ignore"):
        if dtype.kind == "bool":
            return np.asarray(held != held.dtype.type(0))
        if dtype.is_integer and source.is_float:
            return _truncated(held, dtype)
        if dtype == dtypes.FLOAT8E8M0:
            return _power_of_two(held.astype(np.float32), saturate=saturate, rounding=rounding)
        if dtype.is_float and dtype.bits == 8 and saturate:
            limits: Any = ml_dtypes.finfo(dtype.numpy)  # type: ignore[no-untyped-call]
            held = np.clip(held.astype(np.float32), np.float32(limits.min), np.float32(limits.max))
        if dtype.bits < 8:
            held = held.astype(working(dtype), copy=False)
        return np.asarray(held.astype(dtype.numpy))


def _truncated(values: Array, dtype: DType) -> Array:
    """Floats truncated toward zero and then wrapped; out of range of the type it goes through, that type's lowest."""
    narrow = dtype.bits < 32 or dtype == dtypes.INT32
    through, limit = (np.int32, 2.0**31) if narrow else (np.int64, 2.0**63)
    limit = values.dtype.type(limit)
    lowest = np.iinfo(through).min
    inside = np.abs(values) < limit
    whole = np.where(inside, np.where(inside, values, 0).astype(through), lowest)
    if dtype == dtypes.UINT64:
        upper = (values >= limit) & (values < 2 * limit)
        # The upper half of uint64 is the lower half with the sign bit set.
        whole = np.where(upper, np.where(upper, values - limit, 0).astype(np.int64) ^ lowest, whole)
    return np.asarray(whole.astype(working(dtype)).astype(dtype.numpy))


def _power_of_two(values: Array, *, saturate: bool, rounding: ScaleRounding) -> Array:
    """The exponents of float32 magnitudes as float8_e8m0fnu."""
    bits = np.ascontiguousarray(values).view(np.uint32) & 0x7FFFFFFF
    rounds = {"up": 0x7FFFFF, "nearest": 0x400000, "down": 0}[rounding]
    code = (bits + np.uint32(rounds)) >> 23
    # Below 2**-126 a float32 has no leading one, so what is above 2**-127 is told by comparison.
    threshold = {"up": SMALLEST_SCALE + 1, "nearest": ONE_AND_A_HALF_SMALLEST, "down": SMALLEST_NORMAL}[rounding]
    code = np.where(bits < SMALLEST_NORMAL, (bits >= threshold).astype(np.uint32), code)
    low, high = (0, 254) if saturate else (255, 255)
    code = np.where(bits < SMALLEST_SCALE, low, np.where(code > 254, high, code))
    code = np.where(bits > 0x7F800000, 255, code)
    return np.asarray(code.astype(np.uint8)).reshape(values.shape).view(dtypes.FLOAT8E8M0.numpy)
