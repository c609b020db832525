"""Extents and the index axes over them: what must be bound, what is never zero, how many places there are."""

from __future__ import annotations

from collections.abc import Sequence

from graphc.errors import BackendError
from graphc.ir import Dim
from graphc.ir.symbolic import Bounds, add, floordiv, interval, mod, product
from graphc.ops.expr import Axis


def ceildiv(left: Dim, right: Dim) -> Dim:
    """`left / right` rounded up, for a positive `right`."""
    return floordiv(add(left, right - 1), right)


def bound(extent: Dim) -> int:
    """An extent that must be known.

    Raises:
        BackendError: It is not.
    """
    if not isinstance(extent, int):
        raise BackendError(f"its code depends on the extent {extent}, which is not bound")
    return extent


def bounds_of(axes: Sequence[Axis]) -> dict[str, tuple[int, int | None]]:
    """Inclusive bounds of axes, for simplification of offsets over them."""
    return {axis.name: (0, axis.extent - 1 if isinstance(axis.extent, int) else None) for axis in axes}


def unflatten(axes: Sequence[Axis], flat: Dim, bounds: Bounds) -> dict[str, Dim]:
    """The place of each of `axes` at a position in their row-major order."""
    places: dict[str, Dim] = {}
    for number, axis in enumerate(reversed(axes)):
        last = number == len(axes) - 1
        places[axis.name] = flat if last else mod(flat, axis.extent, bounds)
        flat = floordiv(flat, axis.extent, bounds)
    return places


def count_of(axes: Sequence[Axis]) -> Dim:
    """Number of index values of `axes`."""
    return product(axis.extent for axis in axes)


def extent_of(axes: Sequence[Axis]) -> int:
    """Number of index values of `axes`, all of which must be bound.

    Raises:
        BackendError: One is not.
    """
    return bound(count_of(axes))


def is_positive(extent: Dim, bounds: Bounds) -> bool:
    """Whether an extent is never zero."""
    found = interval(extent, bounds)
    return found is not None and found[0] > 0
