"""What elements are computed in, on every backend that rounds narrow ones only where they are stored."""

from __future__ import annotations

from graphc.ir import dtypes
from graphc.ir.dtypes import DType


def compute_dtype(dtype: DType) -> DType:
    """The type in which values of `dtype` are computed."""
    if dtype.is_float and dtype.bits < 32:
        return dtypes.FLOAT32
    if dtype.is_integer and dtype.bits < 8:
        return dtypes.INT8 if dtype.kind == "int" else dtypes.UINT8
    return dtype


def is_narrow_float(dtype: DType) -> bool:
    """Whether values are rounded from float32 when they are stored."""
    return dtype.is_float and dtype.bits < 32
