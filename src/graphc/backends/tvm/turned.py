"""Reading across the grain: squares of vectors that are loaded along one axis and turned in registers to another.

Where the innermost axis of an output steps through an input from row to row, a vector of it is as many cache lines of
which one element each is used. Loaded along the axis in which the input lies together, and turned, all of them are.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

from graphc.backends.problem import Problem
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
        extent: Iterations of that loop.
        lanes: Side of a square.
    """

    loads: tuple[Load, ...]
    position: int
    extent: int
    lanes: int

    def squares(self, name: str) -> Iterator[Square]:
        """The loop `name` in whole squares, then what is left of it."""
        inner = f"{name}q"
        whole, rest = divmod(self.extent, self.lanes)
        if whole:
            yield Square(self.loads, whole, symbol(name) * self.lanes + symbol(inner), inner, self.lanes)
        if rest:
            yield Square(self.loads, 1, symbol(name) + symbol(inner) + whole * self.lanes, inner, rest)


def find_turn(
    problem: Problem, names: Sequence[str], extents: Sequence[Dim], index: Mapping[str, Dim], lanes: int
) -> Turn | None:
    """The loads that lie together along a loop other than the innermost, all along the same one.

    Args:
        problem: What the nest computes.
        names: Symbols of its loops, the innermost last.
        extents: Their iterations.
        index: Each axis of the problem over the loops.
        lanes: Width of the innermost loop's vectors.
    """
    lanes = min(lanes, MOST_LANES)
    scalars = problem.scalars()
    if lanes < 4 or any(isinstance(scalar, Reduce | ArgReduce | Select) for scalar in scalars):
        return None
    # A square less than half of which is inside costs as much as a whole one.
    wide = {at: e for at, e in enumerate(extents) if isinstance(e, int) and 2 * e >= lanes}
    last = len(names) - 1
    found: dict[int, list[Load]] = {}
    for scalar in scalars:
        offset = _offset(problem.inputs[scalar.input], scalar.indices, index) if isinstance(scalar, Load) else None
        if offset is None or not isinstance(scalar, Load):
            continue
        along = [linear_coefficient(offset, name) for name in names]
        if last in wide and along[last] not in (None, 0, 1) and 1 in along[:last]:
            found.setdefault(along.index(1), []).append(scalar)
    positions = [position for position in found if position in wide]
    if not positions:
        return None
    position = max(positions, key=lambda at: len(found[at]))
    return Turn(tuple(found[position]), position, wide[position], lanes)


def _offset(kind: TensorType, indices: Sequence[Scalar | Dim], index: Mapping[str, Dim]) -> Dim | None:
    """Where a load reads, in elements over the loops; None where data tells."""
    places: list[Dim] = []
    for place in indices:
        if isinstance(place, Scalar):
            return None
        places.append(substitute(place, index))
    storage = kind.layout.storage_shape(kind.dims)
    offset: Dim = 0
    for position, place in enumerate(kind.layout.storage_index(places)):
        offset = offset + place * product(storage[position + 1 :])
    return offset
