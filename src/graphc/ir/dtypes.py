"""Element types: one table that ties a name to NumPy's type, ONNX's number and the width in bits."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

import ml_dtypes
import numpy as np

from graphc.errors import OptionError

Kind = Literal["float", "int", "uint", "bool", "complex", "string"]


@dataclass(frozen=True)
class DType:
    """An element type.

    Args:
        name: The field's name for it, e.g. `float32`; NumPy's where NumPy has one.
        kind: What arithmetic it obeys.
        bits: Width of one element in bits as ONNX defines it (0 for strings).
        onnx: Number of the type in ONNX's TensorProto.DataType.
    """

    name: str
    kind: Kind
    bits: int
    onnx: int

    @property
    def numpy(self) -> np.dtype[Any]:
        """NumPy's type; 2-, 4- and 6-bit types take one byte an element in memory."""
        return _NUMPY[self.name]

    @property
    def itemsize(self) -> int:
        """Bytes of one element in memory."""
        return int(self.numpy.itemsize)

    @property
    def is_float(self) -> bool:
        """Whether values are real floating point numbers of any width."""
        return self.kind == "float"

    @property
    def is_integer(self) -> bool:
        """Whether values are signed or unsigned integers (not bool)."""
        return self.kind in ("int", "uint")

    def __str__(self) -> str:
        return self.name

    __repr__ = __str__


FLOAT32 = DType("float32", "float", 32, 1)
UINT8 = DType("uint8", "uint", 8, 2)
INT8 = DType("int8", "int", 8, 3)
UINT16 = DType("uint16", "uint", 16, 4)
INT16 = DType("int16", "int", 16, 5)
INT32 = DType("int32", "int", 32, 6)
INT64 = DType("int64", "int", 64, 7)
STRING = DType("string", "string", 0, 8)
BOOL = DType("bool", "bool", 8, 9)
FLOAT16 = DType("float16", "float", 16, 10)
FLOAT64 = DType("float64", "float", 64, 11)
UINT32 = DType("uint32", "uint", 32, 12)
UINT64 = DType("uint64", "uint", 64, 13)
COMPLEX64 = DType("complex64", "complex", 64, 14)
COMPLEX128 = DType("complex128", "complex", 128, 15)
BFLOAT16 = DType("bfloat16", "float", 16, 16)
FLOAT8E4M3FN = DType("float8_e4m3fn", "float", 8, 17)
FLOAT8E4M3FNUZ = DType("float8_e4m3fnuz", "float", 8, 18)
FLOAT8E5M2 = DType("float8_e5m2", "float", 8, 19)
FLOAT8E5M2FNUZ = DType("float8_e5m2fnuz", "float", 8, 20)
UINT4 = DType("uint4", "uint", 4, 21)
INT4 = DType("int4", "int", 4, 22)
FLOAT4E2M1 = DType("float4_e2m1fn", "float", 4, 23)
FLOAT8E8M0 = DType("float8_e8m0fnu", "float", 8, 24)
UINT2 = DType("uint2", "uint", 2, 25)
INT2 = DType("int2", "int", 2, 26)
FLOAT6E2M3 = DType("float6_e2m3fn", "float", 6, 27)
FLOAT6E3M2 = DType("float6_e3m2fn", "float", 6, 28)

ALL: tuple[DType, ...] = tuple(value for value in list(globals().values()) if isinstance(value, DType))

_NUMPY: dict[str, np.dtype[Any]] = {
    dtype.name: np.dtype(object)
    if dtype is STRING
    else np.dtype(getattr(np, {"bool": "bool_"}.get(dtype.name, dtype.name), None) or getattr(ml_dtypes, dtype.name))
    for dtype in ALL
}
_BY_NAME = {dtype.name: dtype for dtype in ALL}
_BY_ONNX = {dtype.onnx: dtype for dtype in ALL}
_BY_NUMPY = {numpy: _BY_NAME[name] for name, numpy in _NUMPY.items()}


def from_name(name: str) -> DType:
    """The type called `name`.

    Raises:
        OptionError: There is none.
    """
    try:
        return _BY_NAME[name]
    except KeyError:
        raise OptionError(f"unknown dtype {name!r}; known: {', '.join(sorted(_BY_NAME))}") from None


def from_onnx(number: int) -> DType:
    """The type of ONNX's TensorProto.DataType `number`.

    Raises:
        OptionError: The number is none of ONNX's types.
    """
    try:
        return _BY_ONNX[number]
    except KeyError:
        raise OptionError(f"unknown ONNX data type number {number}") from None


def from_numpy(dtype: np.dtype[Any] | type) -> DType:
    """The type of a NumPy dtype; any string or object dtype is `string`.

    Raises:
        OptionError: NumPy's type has no counterpart (e.g. datetime64).
    """
    dtype = np.dtype(dtype)
    if dtype.kind in "OUST":
        return STRING
    found = _BY_NUMPY.get(dtype.newbyteorder("="))
    if found is None:
        raise OptionError(f"NumPy dtype {dtype} has no ONNX counterpart")
    return found
