"""Tensors as bytes: row-major, little-endian, strings behind their lengths."""

from __future__ import annotations

import math
import struct
from collections.abc import Sequence
from typing import Any

import numpy as np

from graphc.errors import RequestError, RequestTooLargeError
from graphc.serve.protocol.datatypes import BYTES, numpy_of
from graphc.serve.protocol.limits import DEFAULT_LIMITS, RequestLimits

Array = np.ndarray[Any, Any]
Buffer = bytes | bytearray | memoryview

_LENGTH = struct.Struct("<I")
_ALIGNMENT = 64
_ALIGNED = 16 << 10
"""Bytes from which it is worth asking where they lie."""


def joined(parts: Sequence[bytes], place: int) -> Buffer:
    """The parts as one, in memory that is aligned at one place: a tensor that begins there need not be moved again."""
    size = sum(map(len, parts))
    if size < _ALIGNED:
        return parts[0] if len(parts) == 1 else b"".join(parts)
    room: Array = np.empty(size + _ALIGNMENT, np.uint8)
    start = -(room.__array_interface__["data"][0] + place) % _ALIGNMENT
    whole = room.data[start : start + size]
    at = 0
    for part in parts:
        whole[at : (at := at + len(part))] = part
    return whole.toreadonly()


def check_shape(name: str, shape: Any, limits: RequestLimits) -> tuple[int, ...]:
    """The shape that a request gives a tensor.

    Raises:
        RequestError: No list of non-negative whole numbers.
        RequestTooLargeError: More dimensions or elements than the limits allow.
    """
    if not isinstance(shape, Sequence) or isinstance(shape, str | bytes):
        raise RequestError(f"input {name!r}: shape must be a list of whole numbers, got {shape!r:.80}")
    if len(shape) > limits.rank:
        raise RequestTooLargeError(f"input {name!r}: rank {len(shape)} is above the server's limit of {limits.rank}")
    for extent in shape:
        if type(extent) is not int or extent < 0:
            raise RequestError(f"input {name!r}: an extent must be a whole number from 0 on, got {extent!r:.80}")
    # Zeros hide no other extent: NumPy's strides are products of all of them.
    if math.prod([extent for extent in shape if extent]) > limits.elements:
        raise RequestTooLargeError(
            f"input {name!r}: shape {list(shape)} is above the server's limit of {limits.elements} elements"
        )
    return tuple(shape)


def decode(
    name: str, datatype: str, shape: tuple[int, ...], data: Buffer, *, strings: int = DEFAULT_LIMITS.strings
) -> Array:
    """The tensor that the bytes are: a view of them, read-only where they are; strings are objects of type str.

    Strings that are not UTF-8 keep their bytes as surrogate escapes, which `encode` writes back.

    Args:
        name: Of the input, for errors.
        datatype: Of the protocol.
        shape: Checked by `check_shape`.
        data: The tensor's bytes.
        strings: How many strings a tensor may have.

    Raises:
        RequestError: An unknown datatype, or another number of bytes than datatype and shape take.
        RequestTooLargeError: More strings than that.
    """
    dtype = numpy_of(datatype)
    count = math.prod(shape)
    if datatype == BYTES:
        return _decode_strings(name, data, count, strings).reshape(shape)
    if len(data) != count * dtype.itemsize:
        raise RequestError(
            f"input {name!r}: {datatype} of shape {list(shape)} takes {count * dtype.itemsize} bytes, got {len(data)}"
        )
    if datatype == "BOOL" and count:
        # A byte that is neither 0 nor 1 is no bool, whatever a kernel made of it.
        octets = np.frombuffer(data, np.uint8)
        if octets.max() > 1:
            return np.not_equal(octets, 0).reshape(shape)
    return np.frombuffer(data, dtype).reshape(shape)


def _decode_strings(name: str, data: Buffer, count: int, strings: int) -> Array:
    if count > strings:
        raise RequestTooLargeError(f"input {name!r}: {count} strings are above the server's limit of {strings}")
    # Four bytes of length each, so that a shape cannot ask for more objects than bytes came.
    if len(data) < 4 * count:
        raise RequestError(f"input {name!r}: {count} strings take at least {4 * count} bytes, got {len(data)}")
    found: list[str] = []
    place, end = 0, len(data)
    view = memoryview(data)
    while place + 4 <= end and len(found) < count:
        start = place + 4
        place = start + _LENGTH.unpack_from(data, place)[0]
        if place > end:
            raise RequestError(f"input {name!r}: string {len(found)} ends {place - end} bytes behind the tensor's end")
        found.append(str(view[start:place], "utf-8", "surrogateescape"))
    if len(found) != count or place != end:
        raise RequestError(f"input {name!r}: expected {count} strings, got {len(found)} and {end - place} more bytes")
    array = np.empty(count, object)
    array[:] = found
    return array


def encode(array: Array) -> Buffer:
    """The tensor's bytes: a view where it is contiguous."""
    if array.dtype == object:
        return _encode_strings(array)
    if array.dtype.byteorder == ">":
        array = array.astype(array.dtype.newbyteorder("="))
    # Types of ml_dtypes have no buffer format; bytes have.
    return np.ascontiguousarray(array).reshape(-1).view(np.uint8).data


def _encode_strings(array: Array) -> bytes:
    parts: list[bytes] = []
    for item in array.reshape(-1).tolist():
        text = item if isinstance(item, bytes) else str(item).encode("utf-8", "surrogateescape")
        parts.append(_LENGTH.pack(len(text)))
        parts.append(text)
    return b"".join(parts)
