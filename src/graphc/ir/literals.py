"""Numbers and tensor elements as text that reads back to the same bits."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Sequence
from typing import Any, TypeAlias

import numpy as np

from graphc.ir import dtypes
from graphc.ir.dtypes import DType
from graphc.ir.layout import Layout
from graphc.ir.tensor import Tensor

Array: TypeAlias = np.ndarray[Any, Any]

LARGEST_SPLAT = 1 << 16
"""Elements up to which a tensor of one repeated element is written as that element."""


def string_text(value: str) -> str:
    """A quoted string on one line, in JSON's notation."""
    return json.dumps(value, ensure_ascii=not value.isprintable())


def bytes_text(value: bytes) -> str:
    r"""Bytes as `b"..."`, printable ASCII as it is and the rest as `\xNN`."""
    return 'b"' + "".join(chr(c) if 32 <= c < 127 and c not in b'"\\' else f"\\x{c:02x}" for c in value) + '"'


def float_text(value: float) -> str:
    """A Python float exactly; one that float32 holds in fewer digits is written with suffix `f`."""
    if not math.isfinite(value):
        return repr(value)
    exact = repr(value)
    if abs(value) <= float(np.finfo(np.float32).max) and float(np.float32(value)) == value:
        short = _shortest(value, lambda v: float(np.float32(v)))
        if len(short) + 1 < len(exact):
            return short + "f"
    return exact


def parse_float(text: str) -> float:
    """What `float_text` writes.

    Raises:
        ValueError: `text` is no number, or one that is out of range.
    """
    with np.errstate(over="ignore"):
        value = float(np.float32(text[:-1])) if text[-1:] == "f" and text[-3:] != "inf" else float(text)
    if math.isinf(value) and "inf" not in text:
        raise ValueError(f"{text} is out of range")
    return value


def parse_layout(text: str) -> Layout:
    """What `str` of a layout writes.

    Raises:
        ValueError: `text` is no layout.
        OptionError: Its parts contradict each other.
    """
    facts: dict[str, Any] = {}
    for part in text.split():
        name, _, value = part.partition("=")
        match name:
            case "order":
                facts["order"] = tuple(map(int, value.split(",")))
            case "block":
                axis, _, lanes = value.partition("x")
                facts |= {"blocked_axis": int(axis), "block": int(lanes)}
            case "halo":
                sides = [pair.partition(":") for pair in value.split(",")]
                facts["halo"] = tuple((int(low), int(high)) for low, _, high in sides)
            case "fill":
                facts["fill"] = float(value)
            case _:
                raise ValueError(f"a layout has order, block, halo and fill, not {name}")
    return Layout(**facts)


def _shortest(value: float, cast: Callable[[float], float]) -> str:
    """The fewest decimal digits that `cast` brings back to `value`, which it can hold."""
    for digits in range(1, 18):
        text = f"{value:.{digits}g}"
        if cast(float(text)) == value:
            break
    return text if any(c in text for c in ".en") else f"{text}.0"


def tensor_text(tensor: Tensor, limit: int) -> str | None:
    """The elements between angle brackets, None where there are more than `limit` and they are not all the same."""
    size = tensor.size
    if size > max(limit, LARGEST_SPLAT):
        return None
    flat = tensor.array().reshape(-1)
    if size > limit:
        first = flat[:1]
        if tensor.dtype is dtypes.STRING or first.tobytes() * size != flat.tobytes():
            return None
        return f"<splat {_elements(tensor.dtype, first)}>"
    return f"<{_elements(tensor.dtype, flat)}>"


def _elements(dtype: DType, flat: Array) -> str:
    if dtype is dtypes.STRING:
        return ", ".join(bytes_text(v) if isinstance(v, bytes) else string_text(str(v)) for v in flat.tolist())
    if dtype is dtypes.BOOL:
        return ", ".join("true" if v else "false" for v in flat.tolist())
    if dtype.is_integer:
        return ", ".join(str(int(v)) for v in flat)
    if dtype.is_float:
        texts = [_element_float(dtype, float(v)) for v in flat]
        if decode(dtype, texts).tobytes() == flat.tobytes():
            return ", ".join(texts)
    # Complex numbers, and bits that no decimal stands for (payloads of NaN).
    return f"bits {_little_endian(flat).hex()}"


def _element_float(dtype: DType, value: float) -> str:
    if not math.isfinite(value):
        return repr(value)
    # Candidates of few digits may round past the type's largest value, which is only to say that they will not do.
    with np.errstate(over="ignore"):
        return _shortest(value, lambda v: float(np.float64(v).astype(dtype.numpy)))


def _little_endian(flat: Array) -> bytes:
    return flat.astype(flat.dtype.newbyteorder("<"), copy=False).tobytes()


def decode(dtype: DType, texts: Sequence[str]) -> Array:
    """Elements of a numeric or bool type from their texts.

    Raises:
        ValueError: A text is no element of `dtype`, or is out of its range.
    """
    if dtype is dtypes.BOOL:
        known = {"true": True, "false": False}
        unknown = [text for text in texts if text not in known]
        if unknown:
            raise ValueError(f"{unknown[0]} is neither true nor false")
        return np.array([known[text] for text in texts], dtype=np.bool_)
    if dtype.is_integer:
        low = -(1 << dtype.bits - 1) if dtype.kind == "int" else 0
        numbers = [_integer(dtype, text) for text in texts]
        outside = [number for number in numbers if not low <= number < low + (1 << dtype.bits)]
        if outside:
            raise ValueError(f"{outside[0]} is out of the range of {dtype}")
        return np.array(numbers, dtype=np.uint64 if dtype.kind == "uint" else np.int64).astype(dtype.numpy)
    if dtype.is_float:
        values = [parse_float(text) for text in texts]
        with np.errstate(over="ignore"):
            array = np.array(values, dtype=np.float64).astype(dtype.numpy)
        for text, value, held in zip(texts, values, array.astype(np.float64).tolist(), strict=True):
            if math.isfinite(value) != math.isfinite(held):
                raise ValueError(f"{text} is out of the range of {dtype}")
        return array
    raise ValueError(f"elements of {dtype} are written as bits")


def _integer(dtype: DType, text: str) -> int:
    try:
        return int(text)
    except ValueError:
        raise ValueError(f"{text} is no element of {dtype}") from None


def decode_bits(dtype: DType, data: bytes, size: int) -> Array:
    """`size` elements from their bytes in little-endian order.

    Raises:
        ValueError: There are not as many bytes as the elements take.
    """
    if len(data) != size * dtype.itemsize:
        raise ValueError(f"{size} elements of {dtype} take {size * dtype.itemsize} bytes, not {len(data)}")
    array = np.frombuffer(data, dtype=dtype.numpy.newbyteorder("<"))
    return array.astype(dtype.numpy)


def encode_bits(tensor: Tensor) -> bytes:
    """Bytes of the elements in little-endian order."""
    return _little_endian(tensor.array().reshape(-1))
