"""How a logical tensor lies in storage. A layout never changes a value's shape or meaning, only where elements are."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from graphc.errors import OptionError
from graphc.ir.symbolic import Dim, add, floordiv, mod, multiply


@dataclass(frozen=True)
class Layout:
    """A map from a logical index to a place in storage.

    Storage is row-major over the *storage axes*: the logical axes in `order` (each widened by its halo, the blocked
    axis divided by `block` rounding up), then, if blocked, one innermost axis of `block` lanes.

    Args:
        order: Logical axes from outermost to innermost; empty for the natural order.
        blocked_axis: The logical axis that is split into blocks, or None. NCHW16c is `blocked_axis=1, block=16`.
        block: Lanes of a block; 1 where nothing is blocked.
        halo: Cells before and after each logical axis, `((lo, hi), ...)`; empty for none.
        fill: What the producer writes into halo cells and into lanes past the logical extent on every run;
            None leaves them undefined, and a consumer must not read them.
    """

    order: tuple[int, ...] = ()
    blocked_axis: int | None = None
    block: int = 1
    halo: tuple[tuple[int, int], ...] = ()
    fill: float | None = None

    def __post_init__(self) -> None:
        if (self.blocked_axis is None) != (self.block == 1) or self.block < 1:
            raise OptionError(f"layout blocks axis {self.blocked_axis} by {self.block}")
        if self.order and sorted(self.order) != list(range(len(self.order))):
            raise OptionError(f"layout order {self.order} is not a permutation")
        if any(lo < 0 or hi < 0 for lo, hi in self.halo):
            raise OptionError(f"layout halo {self.halo} is negative")
        # One layout, one object: what changes nothing is left out, so that equality is sameness of storage.
        if not any(map(any, self.halo)):
            object.__setattr__(self, "halo", ())
            if self.blocked_axis is None:
                object.__setattr__(self, "fill", None)
        if self.order == tuple(range(len(self.order))):
            object.__setattr__(self, "order", ())
        ranks = {len(axes) for axes in (self.order, self.halo) if axes}
        if len(ranks) > 1:
            raise OptionError(f"layout order {self.order} and halo {self.halo} are of different ranks")
        if self.blocked_axis is not None and not 0 <= self.blocked_axis < min(ranks, default=self.blocked_axis + 1):
            raise OptionError(f"layout blocks axis {self.blocked_axis}, which is out of range")

    @property
    def rank(self) -> int | None:
        """Number of logical axes that the layout speaks of, None where it fits tensors of several ranks."""
        return len(self.order) or len(self.halo) or None

    def fits(self, rank: int) -> bool:
        """Whether tensors of `rank` axes can have the layout."""
        return self.rank in (None, rank) and (self.blocked_axis is None or self.blocked_axis < rank)

    @property
    def is_row_major(self) -> bool:
        """Whether storage is the plain C order of the logical shape."""
        return self == ROW_MAJOR

    def storage_shape(self, shape: Sequence[Dim]) -> tuple[Dim, ...]:
        """Extents of the storage axes of a tensor of logical `shape`."""
        result: list[Dim] = []
        for axis in self._order(len(shape)):
            lo, hi = self._halo(axis)
            extent = add(shape[axis], lo + hi)
            result.append(floordiv(add(extent, self.block - 1), self.block) if axis == self.blocked_axis else extent)
        if self.blocked_axis is not None:
            result.append(self.block)
        return tuple(result)

    def storage_index(self, index: Sequence[Dim]) -> tuple[Dim, ...]:
        """Index over the storage axes of the element at logical `index` (negative into a leading halo)."""
        result: list[Dim] = []
        lane: Dim = 0
        for axis in self._order(len(index)):
            place = add(index[axis], self._halo(axis)[0])
            if axis == self.blocked_axis:
                lane = mod(place, self.block)
                place = floordiv(place, self.block)
            result.append(place)
        if self.blocked_axis is not None:
            result.append(lane)
        return tuple(result)

    def storage_size(self, shape: Sequence[Dim]) -> Dim:
        """Elements of storage, halos and padding lanes included."""
        size: Dim = 1
        for extent in self.storage_shape(shape):
            size = multiply(size, extent)
        return size

    def pack(self, array: np.ndarray[Any, Any], *, undefined: Any = 0) -> np.ndarray[Any, Any]:
        """Storage of `array`: padding holds `fill`, or `undefined` where the fill is undefined."""
        halo = [self._halo(axis) for axis in range(array.ndim)]
        if self.blocked_axis is not None:
            lo, hi = halo[self.blocked_axis]
            hi += -(array.shape[self.blocked_axis] + lo + hi) % self.block
            halo[self.blocked_axis] = (lo, hi)
        value = undefined if self.fill is None else self.fill
        padded = np.pad(array, halo, constant_values=value) if any(map(any, halo)) else array
        moved = padded.transpose(self._order(array.ndim))
        if self.blocked_axis is not None:
            at = self._order(array.ndim).index(self.blocked_axis)
            split = (*moved.shape[:at], moved.shape[at] // self.block, self.block, *moved.shape[at + 1 :])
            moved = np.moveaxis(moved.reshape(split), at + 1, -1)
        return np.ascontiguousarray(moved).reshape(moved.shape)

    def unpack(self, storage: np.ndarray[Any, Any], shape: Sequence[int]) -> np.ndarray[Any, Any]:
        """The logical tensor of `shape` that `storage` (in this layout) holds."""
        rank = len(shape)
        order = self._order(rank)
        moved = storage
        if self.blocked_axis is not None:
            at = order.index(self.blocked_axis)
            moved = np.moveaxis(moved, -1, at + 1)
            moved = moved.reshape((*moved.shape[:at], moved.shape[at] * self.block, *moved.shape[at + 2 :]))
        moved = moved.transpose(np.argsort(order)) if rank else moved
        window = tuple(slice(self._halo(a)[0], self._halo(a)[0] + shape[a]) for a in range(rank))
        return np.ascontiguousarray(moved[window]).reshape(tuple(shape))

    def _order(self, rank: int) -> tuple[int, ...]:
        return self.order or tuple(range(rank))

    def _halo(self, axis: int) -> tuple[int, int]:
        return self.halo[axis] if self.halo else (0, 0)

    def __str__(self) -> str:
        parts = []
        if self.order:
            parts.append("order=" + ",".join(map(str, self.order)))
        if self.blocked_axis is not None:
            parts.append(f"block={self.blocked_axis}x{self.block}")
        if any(map(any, self.halo)):
            parts.append("halo=" + ",".join(f"{lo}:{hi}" for lo, hi in self.halo))
        if self.fill is not None:
            parts.append(f"fill={_number(self.fill)}")
        return " ".join(parts) or "row_major"


def _number(value: float) -> str:
    short = f"{value:g}"
    return short if float(short) == value else repr(value)


ROW_MAJOR = Layout()


def blocked(axis: int, block: int, *, halo: Sequence[tuple[int, int]] = (), fill: float | None = None) -> Layout:
    """The layout that splits logical `axis` into blocks of `block` innermost lanes, e.g. NCHW16c: `blocked(1, 16)`."""
    return Layout(blocked_axis=axis, block=block, halo=tuple(halo), fill=fill)


def channels_last(rank: int) -> Layout:
    """NHWC (NWC, NDHWC): axis 1 innermost."""
    return Layout(order=(0, *range(2, rank), 1))
