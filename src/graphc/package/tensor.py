"""Tensors as a package speaks of them: their types, their extents over symbols, and the places where they lie."""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cache
from typing import Any

import ml_dtypes
import numpy as np

from graphc.errors import PackageError
from graphc.package.expression import symbols_of

_MAX_RANK = 64
MAX_BYTES = 1 << 62
_INTEGERS = {f"{sign}int{bits}" for sign in ("", "u") for bits in (8, 16, 32, 64)}
_NUMPY_DTYPES = _INTEGERS | {"bool", "float16", "float32", "float64", "complex64", "complex128"}


@cache
def numpy_dtype(name: str) -> np.dtype[Any]:
    """The NumPy dtype of a dtype name of a manifest; `string` is an object array of `str`.

    Raises:
        PackageError: No such dtype.
    """
    if name == "string":
        return np.dtype(object)
    if name in _NUMPY_DTYPES:
        return np.dtype(name)
    scalar = getattr(ml_dtypes, name, None)
    if not (isinstance(scalar, type) and issubclass(scalar, np.generic)):
        raise PackageError(f"unknown dtype {name!r}")
    return np.dtype(scalar)


def check_extents(shape: tuple[int | str, ...], what: str) -> None:
    """Raises `PackageError` unless these are extents of a tensor that can exist."""
    if len(shape) > _MAX_RANK:
        raise PackageError(f"{what}: rank {len(shape)} is beyond NumPy's limit of {_MAX_RANK}")
    size = 1
    for extent in shape:
        if isinstance(extent, str):
            symbols_of(extent)
        elif extent < 0:
            raise PackageError(f"{what}: negative extent {extent}")
        else:
            size *= max(extent, 1)
    if size > MAX_BYTES:
        raise PackageError(f"{what}: {size} elements cannot be addressed")


def check_not_negative(what: str, value: int) -> None:
    """Raises `PackageError` unless `value` can be a size or an offset."""
    if not 0 <= value <= MAX_BYTES:
        raise PackageError(f"{what} is {value}; expected 0 to 2^62")


SEQUENCE, OPTIONAL = "sequence", "optional"
MAP_KEYS: dict[str, type] = {"map(string)": str} | {f"map({name})": int for name in sorted(_INTEGERS)}
"""What maps are called in `TensorSpec.wraps`, and the type of their keys in Python."""


@dataclass(frozen=True)
class TensorSpec:
    """One input or output of the model: a tensor, or a sequence, an optional or a map of tensors.

    Every type of ONNX is a tensor in so many wraps, so that a sequence of optional tensors needs no type of its own.

    Attributes:
        name: Its name in the model.
        dtype: A NumPy or ml_dtypes name, or `string`.
        shape: Extents of a tensor; text is an expression over symbols (`graphc.package.expression`). Empty in wraps.
        wraps: What the tensors are in, outermost first: `sequence` (a list), `optional` (the value or None), and
            `map(string)` or `map(int64)` and its like (a dict by such keys).
        elements: Extents of each tensor in there, None for any; None where even the rank is open.
        ranked: Whether the rank is known; of an output it may not be, and `shape` is empty then.
    """

    name: str
    dtype: str
    shape: tuple[int | str, ...]
    wraps: tuple[str, ...] = ()
    elements: tuple[int | None, ...] | None = None
    ranked: bool = True

    def __post_init__(self) -> None:
        numpy_dtype(self.dtype)
        check_extents(self.shape, f"tensor {self.name!r}")
        check_extents(tuple(extent or 0 for extent in self.elements or ()), f"tensors in {self.name!r}")
        for wrap in self.wraps:
            if wrap not in (SEQUENCE, OPTIONAL, *MAP_KEYS):
                raise PackageError(f"{self.name!r} is in the unknown wrap {wrap!r}")
        if self.wraps and self.shape:
            raise PackageError(f"{self.name!r} is a {self.wraps[0]}, which has no shape")
        if self.shape and not self.ranked:
            raise PackageError(f"{self.name!r} has a shape, but no rank")

    def __str__(self) -> str:
        return f"{self.name}: {self.describe(self.wraps)}"

    def describe(self, wraps: tuple[str, ...]) -> str:
        """The type in words that ONNX has for it: `optional(seq(float32[3, ?]))`."""
        if wraps:
            outer = {SEQUENCE: "seq(", OPTIONAL: "optional("}.get(wraps[0], f"{wraps[0][:-1]}, ")
            return f"{outer}{self.describe(wraps[1:])})"
        extents = self.shape if self.ranked else ("...",)
        if self.wraps:
            extents = ("...",) if self.elements is None else tuple("?" if e is None else e for e in self.elements)
        return f"{self.dtype}[{', '.join(str(extent) for extent in extents)}]"


@dataclass(frozen=True)
class SymbolRange:
    """Least and greatest value of a symbolic dimension, both inclusive; `maximum=None` is unbounded."""

    minimum: int = 0
    maximum: int | None = None

    def __post_init__(self) -> None:
        check_not_negative("minimum of a symbol", self.minimum)
        if self.maximum is not None and self.maximum < self.minimum:
            raise PackageError(f"symbol range {self.minimum}..{self.maximum} is empty")


KINDS = ("arena", "weight", "input", "output", "object", "slot", "buffer")


@dataclass(frozen=True, slots=True)
class Location:
    """A place that a step reads or writes.

    Attributes:
        kind: `arena` and `weight` are one region each (index 0); `input` and `output` are the call's arrays; `object`
            is a slot of the call holding what a host step made, where its size is known only at run time; `slot` is a
            place that the loop around sets; `buffer` is a piece of an open variant's arena, which gets its place with
            the binding.
        index: Which input, output or slot.
        offset: Bytes from the start of that region or array.
    """

    kind: str
    index: int = 0
    offset: int = 0

    def __post_init__(self) -> None:
        if self.kind not in KINDS:
            raise PackageError(f"unknown location kind {self.kind!r}; expected one of {', '.join(KINDS)}")
        check_not_negative("location index", self.index)
        check_not_negative("location offset", self.offset)


@dataclass(frozen=True)
class HostTensor:
    """A host step's operand: where it lies and how to see it as an array; `shape=None` is whatever the slot holds."""

    location: Location
    dtype: str
    shape: tuple[int, ...] | None = None

    def __post_init__(self) -> None:
        numpy_dtype(self.dtype)
        if self.shape is not None:
            check_extents(self.shape, "operand of a host step")
        elif self.location.kind in ("arena", "weight"):
            raise PackageError(f"an operand of a host step in the {self.location.kind} needs a shape")

    @property
    def nbytes(self) -> int:
        """Bytes it takes where its shape is known, else 0."""
        return math.prod(self.shape) * numpy_dtype(self.dtype).itemsize if self.shape is not None else 0
