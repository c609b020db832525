"""Constant tensors whose data is read only when asked for, so that a model over 2 GB is never copied as a whole."""

from __future__ import annotations

import hashlib
import weakref
from collections.abc import Callable
from typing import Any

import numpy as np

from graphc.ir import dtypes
from graphc.ir.dtypes import DType

SAMPLES = 64
"""Elements of a sample, at least, of a tensor that has so many."""


class Tensor:
    """A constant: dtype and shape at hand, elements behind a loader.

    Args:
        dtype: Element type.
        shape: Extents.
        load: Answers the elements as an array of that dtype and shape; called at each `array()` unless `keep`.
        keep: Whether the loaded array stays in memory (small or already resident data).
    """

    __slots__ = ("_alive", "_array", "_digest", "_keep", "_load", "_sample", "dtype", "shape")

    def __init__(
        self, dtype: DType, shape: tuple[int, ...], load: Callable[[], np.ndarray[Any, Any]], *, keep: bool = False
    ) -> None:
        self.dtype = dtype
        self.shape = shape
        self._load = load
        self._keep = keep
        self._array: np.ndarray[Any, Any] | None = None
        self._alive: weakref.ref[np.ndarray[Any, Any]] | None = None
        self._digest: bytes | None = None
        self._sample: np.ndarray[Any, Any] | None = None

    @staticmethod
    def of(value: Any, dtype: DType | None = None) -> Tensor:
        """A tensor of an array, a number or a nested list; NumPy's dtype unless one is given."""
        array = np.asarray(value, dtype=None if dtype is None else dtype.numpy)
        if dtype is None and array.dtype.kind in "UST":
            array = array.astype(object)
        found = dtype or dtypes.from_numpy(array.dtype)
        array = array if array.flags.c_contiguous else np.ascontiguousarray(array)
        return Tensor(found, array.shape, lambda: array, keep=True)

    def array(self) -> np.ndarray[Any, Any]:
        """The elements, to be treated as read-only."""
        if self._array is not None:
            return self._array
        # What somebody holds need not be loaded twice: loading may mean to convert, or to copy.
        array = None if self._alive is None else self._alive()
        if array is not None:
            return array
        array = self._load()
        assert array.shape == self.shape and array.dtype == self.dtype.numpy, (array.shape, array.dtype, self)
        if self._keep:
            self._array = array
        else:
            self._alive = weakref.ref(array)
        return array

    def sample(self) -> np.ndarray[Any, Any]:
        """A few elements, spread over all of it; equal tensors have equal samples, which are kept."""
        if self._sample is None:
            flat = self.array().reshape(-1)
            self._sample = flat[:: max(1, flat.size // SAMPLES)].copy()
        return self._sample

    @property
    def size(self) -> int:
        """Number of elements."""
        return int(np.prod(self.shape, dtype=object)) if self.shape else 1

    @property
    def nbytes(self) -> int:
        """Bytes of the elements in memory."""
        return self.size * self.dtype.itemsize

    def digest(self) -> bytes:
        """Hash of dtype, shape and elements; equal tensors have equal digests."""
        if self._digest is None:
            state = hashlib.sha256(f"{self.dtype}{self.shape}".encode())
            array = self.array()
            if array.dtype == object:
                state.update(repr(array.tolist()).encode())
            else:
                state.update(np.ascontiguousarray(array).reshape(-1).view(np.uint8).data)
            self._digest = state.digest()
        return self._digest

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Tensor):
            return NotImplemented
        return self is other or (
            self.dtype == other.dtype and self.shape == other.shape and self.digest() == other.digest()
        )

    def __hash__(self) -> int:
        return hash((self.dtype, self.shape))

    def __repr__(self) -> str:
        return f"Tensor({self.dtype}{list(self.shape)})"
