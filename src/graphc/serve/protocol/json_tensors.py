"""Tensors as JSON: lists of values, flat or nested as the shape says."""

from __future__ import annotations

import json
import math
from itertools import chain
from typing import Any

import numpy as np

from graphc.errors import RequestError
from graphc.serve.protocol import json_text
from graphc.serve.protocol.datatypes import BYTES, numpy_of
from graphc.serve.protocol.tensors import Array

_NUMBERS = {int, float}


def decode(name: str, datatype: str, shape: tuple[int, ...], data: Any) -> Array:
    """The tensor that a JSON value is.

    Raises:
        RequestError: An unknown datatype, another number of values than the shape has, values nested otherwise, or of
            another kind or range than the datatype's.
    """
    dtype = numpy_of(datatype)
    values = _flatten(name, shape, data)
    kinds = set(map(type, values))
    if datatype == BYTES:
        if kinds - {str}:
            raise _wrong(name, datatype, "strings")
        array = np.empty(len(values), object)
        array[:] = values
        return array.reshape(shape)
    if datatype == "BOOL":
        if kinds - {bool, int} or any(value not in (0, 1) for value in set(values)):
            raise _wrong(name, datatype, "true and false")
        return np.array(values, dtype).reshape(shape)
    try:
        if dtype.kind in "iu":
            if kinds - {int}:
                raise _wrong(name, datatype, "whole numbers")
            return np.array(values, dtype).reshape(shape)
        if kinds - _NUMBERS:
            raise _wrong(name, datatype, "numbers")
        wide = np.array(values, np.float64)
    except OverflowError:
        raise RequestError(f"input {name!r}: a value is out of the range of {datatype}") from None
    with np.errstate(over="ignore"):
        array = wide.astype(dtype)
    if np.isinf(array).sum() > np.isinf(wide).sum():
        raise RequestError(f"input {name!r}: a value is out of the range of {datatype}")
    return array.reshape(shape)


def _flatten(name: str, shape: tuple[int, ...], data: Any) -> list[Any]:
    if not isinstance(data, list):
        if shape or isinstance(data, dict):
            raise RequestError(f"input {name!r}: data must be a list, got {type(data).__name__}")
        data = [data]
    count = math.prod(shape)
    level: list[Any] = data
    # Flat data is data of any shape; nested data must be nested as the shape is.
    if level and type(level[0]) is list:
        for axis, extent in enumerate(shape):
            if len(level) != math.prod(shape[: axis + 1]):
                raise RequestError(f"input {name!r}: data nested otherwise than its shape {list(shape)}")
            if axis == len(shape) - 1:
                break
            if any(type(item) is not list or len(item) != shape[axis + 1] for item in level):
                raise RequestError(
                    f"input {name!r}: data nested otherwise than its shape {list(shape)} at dimension {axis + 1} "
                    f"(lists of {shape[axis + 1]} in a list of {extent})"
                )
            level = list(chain.from_iterable(level))
    if len(level) != count:
        raise RequestError(f"input {name!r}: shape {list(shape)} has {count} values, got {len(level)}")
    return level


def _wrong(name: str, datatype: str, wanted: str) -> RequestError:
    return RequestError(f"input {name!r}: values of {datatype} are {wanted}")


def encode(name: str, array: Array) -> Any:
    """A flat JSON list, as `json_text.dumps` takes it.

    Raises:
        RequestError: Strings that are not UTF-8.
    """
    if array.dtype == object:
        return [_text(name, item) for item in array.reshape(-1).tolist()]
    if array.dtype.kind not in "biuf" or (array.dtype.itemsize == 2 and array.dtype.kind == "f"):
        array = array.astype(np.float32)
    flat = np.ascontiguousarray(array).reshape(-1)
    if flat.dtype.kind == "f" and not np.isfinite(flat).all():
        # JSON has no word for these; NaN and Infinity are what the protocol's servers and clients say.
        return json_text.raw(json.dumps(flat.tolist()))
    return flat


def _text(name: str, item: Any) -> str:
    if isinstance(item, str):
        try:
            item.encode()
        except UnicodeEncodeError:
            pass
        else:
            return item
    elif not isinstance(item, bytes):
        return str(item)
    else:
        try:
            return item.decode()
        except UnicodeDecodeError:
            pass
    raise RequestError(f"output {name!r} holds bytes that are not UTF-8, which JSON cannot", hint="ask for binary_data")
