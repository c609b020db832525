"""ONNX's raw bytes of elements narrower than a byte: one stream of bits, the first element in the lowest bits."""

from __future__ import annotations

import math
from typing import Any, TypeAlias

import numpy as np

from graphc.ir.dtypes import DType

Codes: TypeAlias = np.ndarray[Any, np.dtype[np.uint8]]


def packed_bytes(dtype: DType, count: int) -> int:
    """Bytes that `count` elements take."""
    return -(-count * dtype.bits // 8)


def unpack_codes(data: memoryview | bytes, bits: int, count: int) -> Codes:
    """Bit patterns of `count` elements, one a byte."""
    octets, elements = _group(bits)
    stream = np.frombuffer(data, np.uint8)
    stream = np.concatenate([stream, np.zeros(-len(stream) % octets, np.uint8)]) if len(stream) % octets else stream
    words = stream.reshape(-1, octets).astype(np.uint32 if octets > 1 else np.uint8)
    word = np.bitwise_or.reduce(words << _shifts(octets, 8, words.dtype), axis=1)
    codes = word[:, None] >> _shifts(elements, bits, word.dtype) & (2**bits - 1)
    flat: Codes = codes.reshape(-1)[:count].astype(np.uint8)
    return flat


def pack_codes(codes: Codes, bits: int) -> bytes:
    """What `unpack_codes` reads."""
    octets, elements = _group(bits)
    rows = np.concatenate([codes, np.zeros(-len(codes) % elements, np.uint8)]).reshape(-1, elements)
    wide = rows.astype(np.uint32 if octets > 1 else np.uint8)
    word = np.bitwise_or.reduce(wide << _shifts(elements, bits, wide.dtype), axis=1)
    stream: Codes = (word[:, None] >> _shifts(octets, 8, word.dtype) & 0xFF).astype(np.uint8)
    return stream.tobytes()[: -(-len(codes) * bits // 8)]


def _group(bits: int) -> tuple[int, int]:
    """The fewest whole bytes that hold whole elements: their number, and how many elements."""
    whole = math.lcm(bits, 8)
    return whole // 8, whole // bits


def _shifts(count: int, width: int, dtype: np.dtype[Any]) -> np.ndarray[Any, Any]:
    return (np.arange(count) * width).astype(dtype)
