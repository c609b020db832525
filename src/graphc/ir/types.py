"""Types of values: tensors (dtype, logical shape, layout), and ONNX's sequences, optionals and maps."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace
from typing import TypeAlias

from graphc.ir.dtypes import DType
from graphc.ir.layout import ROW_MAJOR, Layout
from graphc.ir.symbolic import Dim, product, symbols


@dataclass(frozen=True)
class TensorType:
    """Type of a tensor.

    Args:
        dtype: Element type.
        shape: Logical extents, known or symbolic; None where even the rank is unknown.
        layout: Where elements lie in storage.
    """

    dtype: DType
    shape: tuple[Dim, ...] | None
    layout: Layout = ROW_MAJOR

    @property
    def rank(self) -> int | None:
        """Number of axes, None where unknown."""
        return None if self.shape is None else len(self.shape)

    @property
    def is_static(self) -> bool:
        """Whether every extent is a known integer."""
        return self.shape is not None and all(isinstance(d, int) for d in self.shape)

    @property
    def dims(self) -> tuple[Dim, ...]:
        """The shape of a tensor whose rank is known (a caller's precondition)."""
        assert self.shape is not None, "rank is unknown"
        return self.shape

    @property
    def static_shape(self) -> tuple[int, ...]:
        """The shape of a tensor whose extents are all known (a caller's precondition)."""
        assert self.shape is not None and self.is_static, f"shape {self.shape} is not static"
        return tuple(int(d) for d in self.shape if isinstance(d, int))

    @property
    def numel(self) -> Dim:
        """Number of logical elements of a tensor whose rank is known."""
        return product(self.dims)

    @property
    def storage_bytes(self) -> Dim:
        """Bytes of storage, layout padding included."""
        return self.layout.storage_size(self.dims) * self.dtype.itemsize

    def symbols(self) -> frozenset[str]:
        """Symbols of the shape."""
        return frozenset().union(*(symbols(d) for d in self.shape)) if self.shape else frozenset()

    def with_shape(self, shape: Iterable[Dim] | None) -> TensorType:
        """This type with another shape, row-major."""
        return TensorType(self.dtype, None if shape is None else tuple(shape))

    def with_dtype(self, dtype: DType) -> TensorType:
        """This type with another element type."""
        return replace(self, dtype=dtype)

    def with_layout(self, layout: Layout) -> TensorType:
        """This type with another layout."""
        return replace(self, layout=layout)

    def __str__(self) -> str:
        separator = "x" if self.is_static else ", "
        shape = "?" if self.shape is None else separator.join(map(str, self.shape))
        text = f"{self.dtype}[{shape}]"
        return text if self.layout == ROW_MAJOR else f"{text}{{{self.layout}}}"


@dataclass(frozen=True)
class SequenceType:
    """ONNX sequence of values of one type."""

    element: Type

    def __str__(self) -> str:
        return f"seq({self.element})"


@dataclass(frozen=True)
class OptionalType:
    """ONNX optional: a value of the element type, or nothing."""

    element: Type

    def __str__(self) -> str:
        return f"optional({self.element})"


@dataclass(frozen=True)
class MapType:
    """ONNX map from keys of `key` to values of `value`."""

    key: DType
    value: Type

    def __str__(self) -> str:
        return f"map({self.key}, {self.value})"


Type: TypeAlias = TensorType | SequenceType | OptionalType | MapType
