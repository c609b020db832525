"""Element types as the Open Inference Protocol names them, and as NumPy has them."""

from __future__ import annotations

from typing import Any

import ml_dtypes
import numpy as np

from graphc.errors import RequestError, UnsupportedError

BYTES = "BYTES"
"""Strings: what NumPy holds as objects."""

_NUMPY: dict[str, np.dtype[Any]] = {
    "BOOL": np.dtype(np.bool_),
    "INT8": np.dtype(np.int8),
    "INT16": np.dtype(np.int16),
    "INT32": np.dtype(np.int32),
    "INT64": np.dtype(np.int64),
    "UINT8": np.dtype(np.uint8),
    "UINT16": np.dtype(np.uint16),
    "UINT32": np.dtype(np.uint32),
    "UINT64": np.dtype(np.uint64),
    "FP16": np.dtype(np.float16),
    "BF16": np.dtype(ml_dtypes.bfloat16),
    "FP32": np.dtype(np.float32),
    "FP64": np.dtype(np.float64),
    BYTES: np.dtype(object),
}
_DATATYPES = {dtype: name for name, dtype in _NUMPY.items()}
_OF_GRAPHC = {"string": BYTES} | {dtype.name: name for dtype, name in _DATATYPES.items() if name != BYTES}

NAMES = tuple(_NUMPY)


def numpy_of(datatype: str) -> np.dtype[Any]:
    """NumPy's type of a protocol's datatype, e.g. float32 of `FP32`.

    Raises:
        RequestError: The protocol has no such datatype.
    """
    try:
        return _NUMPY[datatype]
    except (KeyError, TypeError):
        raise RequestError(f"unknown datatype {datatype!r:.80}", hint=f"it is one of {', '.join(NAMES)}") from None


def datatype_of(dtype: np.dtype[Any]) -> str:
    """The protocol's datatype of an array's element type.

    Raises:
        UnsupportedError: The protocol has none, e.g. for complex numbers.
    """
    try:
        return _DATATYPES[dtype]
    except KeyError:
        raise UnsupportedError(
            f"the Open Inference Protocol has no datatype for {dtype}",
            hint="end the model in a Cast to a type that it has",
        ) from None


def datatype_of_name(name: str) -> str:
    """The protocol's datatype of graphc's name of a type: `FP32` of `float32`; the name in capitals if none."""
    return _OF_GRAPHC.get(name, name.upper())
