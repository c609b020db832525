"""Weights as one region of a safetensors file: 8 bytes of header size, a JSON header, then the tensors' bytes.

The format allows no holes between tensors, so what aligns a tensor to 64 bytes is a named filler tensor before it. See
https://github.com/huggingface/safetensors#format.
"""

from __future__ import annotations

import hashlib
import json
import struct
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import ml_dtypes
import numpy as np

from graphc.errors import PackageError
from graphc.package.archive import ALIGNMENT
from graphc.package.tensor import Location

_FILLER = "pad."
_CHUNK = 1 << 24
_MAX_HEADER = 100_000_000
_DTYPES: dict[np.dtype[Any], str] = {
    np.dtype(dtype): name
    for dtype, name in (
        (np.bool_, "BOOL"),
        (np.uint8, "U8"),
        (np.int8, "I8"),
        (np.uint16, "U16"),
        (np.int16, "I16"),
        (np.uint32, "U32"),
        (np.int32, "I32"),
        (np.uint64, "U64"),
        (np.int64, "I64"),
        (np.float16, "F16"),
        (ml_dtypes.bfloat16, "BF16"),
        (np.float32, "F32"),
        (np.float64, "F64"),
        (ml_dtypes.float8_e4m3fn, "F8_E4M3"),
        (ml_dtypes.float8_e5m2, "F8_E5M2"),
    )
}
_BY_NAME = {name: dtype for dtype, name in _DTYPES.items()}


@dataclass(frozen=True)
class Blob:
    """A tensor of the region: `nbytes` bytes at `offset`."""

    name: str
    dtype: np.dtype[Any]
    shape: tuple[int, ...]
    offset: int
    nbytes: int


class WeightsBuilder:
    """Collects arrays and gives each its place at once; equal arrays share one.

    Arrays are kept, not copied: memory-mapped ones stay on disk until the package is written.

    Args:
        alignment: Bytes to which each is aligned from the start of the region; a multiple of 64.
    """

    def __init__(self, alignment: int = ALIGNMENT) -> None:
        self._alignment = alignment
        self._arrays: list[np.ndarray[Any, Any]] = []
        self.blobs: list[Blob] = []
        self.size = 0
        self._known: dict[tuple[object, ...], Location] = {}

    def add(self, array: np.ndarray[Any, Any], name: str | None = None) -> Location:
        """Where `array` (any shape; stored in C order, aligned) will lie in the weights region.

        Raises:
            PackageError: An array of Python objects.
        """
        if array.dtype.hasobject:
            raise PackageError(f"weights of dtype {array.dtype} cannot be stored")
        array = np.ascontiguousarray(array).reshape(array.shape)
        key = (array.dtype, array.shape, hashlib.sha256(_bytes_of(array)).digest())
        if (known := self._known.get(key)) is not None:
            return known
        offset = -(-self.size // self._alignment) * self._alignment
        if offset > self.size:
            filler = np.zeros(offset - self.size, np.uint8)
            self._append(f"{_FILLER}{len(self.blobs)}", filler, self.size)
        location = Location("weight", 0, offset)
        self._append(name or f"w{len(self._known)}", array, offset)
        self._known[key] = location
        return location

    def _append(self, name: str, array: np.ndarray[Any, Any], offset: int) -> None:
        self._arrays.append(array)
        self.blobs.append(Blob(name, array.dtype, array.shape, offset, array.nbytes))
        self.size = offset + array.nbytes

    def chunks(self) -> Iterator[bytes | memoryview]:
        """The file's bytes in pieces."""
        header: dict[str, object] = {}
        for blob in self.blobs:
            dtype = _DTYPES.get(blob.dtype, "U8")
            header[blob.name] = {
                "dtype": dtype,
                "shape": list(blob.shape) if blob.dtype in _DTYPES else [blob.nbytes],
                "data_offsets": [blob.offset, blob.offset + blob.nbytes],
            }
        text = json.dumps(header, separators=(",", ":")).encode("ascii")
        text += b" " * (-(8 + len(text)) % ALIGNMENT)
        yield struct.pack("<Q", len(text)) + text
        for array in self._arrays:
            flat = _bytes_of(array)
            for start in range(0, len(flat), _CHUNK):
                yield flat[start : start + _CHUNK]


def _bytes_of(array: np.ndarray[Any, Any]) -> memoryview:
    return array.reshape(-1).view(np.uint8).data


def read_header(data: np.ndarray[Any, np.dtype[np.uint8]]) -> tuple[dict[str, Blob], int]:
    """Its tensors by name (fillers left out) and where the region starts in `data`, the file's bytes.

    Raises:
        PackageError: Not a safetensors file, or one with tensors outside of it.
    """
    length = int.from_bytes(bytes(data[:8]), "little")
    start = 8 + length
    if len(data) < 8 or length > _MAX_HEADER or start > len(data):
        raise _damaged("its header is cut short")
    try:
        tensors = json.loads(bytes(data[8:start]))
        tensors.pop("__metadata__", None)
        blobs = {name: _blob(name, entry, len(data) - start) for name, entry in tensors.items()}
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise _damaged(f"its header is not understood: {error!r}") from error
    return {name: blob for name, blob in blobs.items() if not name.startswith(_FILLER)}, start


def _blob(name: str, entry: dict[str, Any], limit: int) -> Blob:
    first, last = entry["data_offsets"]
    dtype, shape = _BY_NAME[entry["dtype"]], tuple(entry["shape"])
    if not 0 <= first <= last <= limit or any(type(extent) is not int or extent < 0 for extent in shape):
        raise _damaged(f"tensor {name!r} lies outside of the file")
    size = dtype.itemsize
    for extent in shape:
        size *= extent
    if size != last - first:
        raise _damaged(f"tensor {name!r}: {last - first} bytes for {entry['dtype']}{list(shape)}")
    return Blob(name, dtype, shape, first, size)


def _damaged(why: str) -> PackageError:
    return PackageError(f"weights.safetensors: {why}", hint="the package is damaged; compile it again")
