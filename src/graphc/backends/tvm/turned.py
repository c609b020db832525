"""Reading across the grain: squares of vectors that are loaded along one axis and turned in registers to another.

Where the innermost axis of an output steps through an input from row to row, a vector of it is as many cache lines of
which one element each is used. Loaded along the axis in which the input lies together, and turned, all of them are.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

from graphc.backends.tvm.problem import Problem
from graphc.ir import Dim, TensorType, symbol
from graphc.ir.symbolic import linear_coefficient, product, substitute
from graphc.ops.expr import ArgReduce, Load, Reduce, Scalar, Select

MOST_LANES = 16
"""Vectors in a square: as many again are under way while it is turned, and 32 registers there are."""


@dataclass(frozen=True)
class Square:
    """A stretch of the loop along which loads lie together, in steps of a square's side.

    Args:
        loads: What is turned.
        blocks: Iterations of the loop.
        place: Where along the stretch's axis an iteration stands, over the loop's symbol and `inner`.
        inner: Symbol of the place within a square.
        width: Places that a square has.
    """

    loads: tuple[Load, ...]
    blocks: int
    place: Dim
    inner: str
    width: int


@dataclass(frozen=True)
class Turn:
    """What a nest loads along another axis than it stores.

    Args:
        loads: What is turned.
        position: The loop, by its place in the nest, along which they are loaded.
        lanes: Side of a square.
    """

    loads: tuple[Load, ...]
    position: int
    lanes: int

    def squares(self, name: str, extent: int) -> Iterator[Square]:
        """The loop `name` in whole squares, then what is left of it."""
        inner = f"{name}q"
        whole, rest = divmod(extent, self.lanes)
        if whole:
            yield Square(self.loads, whole, symbol(name) * self.lanes + symbol(inner), inner, self.lanes)
        if rest:
            yield Square(self.loads, 1, symbol(name) + symbol(inner) + whole * self.lanes, inner, rest)


def find_turn(problem: Problem, loops: Sequence[tuple[str, Dim]], index: Mapping[str, Dim], lanes: int) -> Turn | None:
    """The loads that lie together along a loop other than the innermost, all along the same one.

    Args:
        problem: What the nest computes.
        loops: Name and extent of its loops, the innermost last.
        index: Each axis of the problem over the loops.
        lanes: Width of the innermost loop's vectors.
    """
    lanes = min(lanes, MOST_LANES)
    scalars = problem.scalars()
    if lanes < 4 or len(loops) < 2 or any(isinstance(s, Reduce | ArgReduce | Select) for s in scalars):
        return None
    extents = [extent for _, extent in loops]
    names = [name for name, _ in loops]
    if not isinstance(extents[-1], int) or 2 * extents[-1] < lanes:
        return None
    found: dict[int, list[Load]] = {}
    for scalar in scalars:
        if (
            isinstance(scalar, Load)
            and (offset := _offset(problem.inputs[scalar.input], scalar.indices, index)) is not None
        ):
            along = [linear_coefficient(offset, name) for name in names]
            if along[-1] not in (None, 0, 1) and 1 in along[:-1]:
                found.setdefault(along.index(1), []).append(scalar)
    wide = {at: loads for at, loads in found.items() if isinstance(extents[at], int) and 2 * int(extents[at]) >= lanes}
    if not wide:
        return None
    position, loads = max(wide.items(), key=lambda item: len(item[1]))
    return Turn(tuple(loads), position, lanes)


def _offset(kind: TensorType, indices: Sequence[Scalar | Dim], index: Mapping[str, Dim]) -> Dim | None:
    """Where a load reads, in elements over the loops; None where data tells."""
    places: list[Dim] = []
    for place in indices:
        if isinstance(place, Scalar):
            return None
        places.append(substitute(place, index))
    storage = kind.layout.storage_shape(kind.dims)
    parts = (p * product(storage[at + 1 :]) for at, p in enumerate(kind.layout.storage_index(places)))
    return sum(parts, start=0)
