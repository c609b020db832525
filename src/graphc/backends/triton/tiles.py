"""Blocks over the axes of a problem: which axes they extend along, how far, and where a program finds its own.

Threads next to each other should touch elements next to each other, in what they store and in what they load. So a
block extends along the innermost axis, or, where loads lie together along another axis, along both: what was loaded
along one is stored along the other, by way of shared memory, which Triton arranges.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from graphc.backends.contraction import storage_offset
from graphc.backends.extents import bound, bounds_of, unflatten
from graphc.backends.problem import FreeSymbols, Problem
from graphc.backends.triton.element_types import storage_dtype
from graphc.backends.triton.scope import Code, Dims, Mask, Place, Scope
from graphc.ir import Dim, symbol
from graphc.ir.symbolic import linear_coefficient
from graphc.ops.expr import ArgReduce, Axis, Load, Reduce, Scalar
from graphc.target import CudaTarget

VECTOR_BYTES = 16
"""Bytes that a thread loads or stores at once."""

THREADS = 128
"""Threads of a block that moves memory."""

MOST_WASTE = 1.15
"""How many places of blocks there may be for each element where a cheaper index is worth it."""

TURNED_SIDE = 32
"""Elements of 4 bytes along each side of a block that is loaded along one axis and stored along another."""

LEAST_TURNED = 8
"""Axes shorter than this are not worth a side of such a block."""

WAVES = 2
"""Blocks for each multiprocessor below which smaller ones are better."""


@dataclass(frozen=True)
class Side:
    """One dimension of a block.

    Args:
        axes: Axes that it walks as one, the last fastest.
        extent: Their elements.
        size: Elements in a block, a power of two.
    """

    axes: tuple[Axis, ...]
    extent: int
    size: int

    @property
    def blocks(self) -> int:
        """Blocks along it."""
        return -(-self.extent // self.size)

    @property
    def is_whole(self) -> bool:
        """Whether every block is full."""
        return self.extent % self.size == 0


@dataclass(frozen=True)
class Tile:
    """How a problem's axes are cut into blocks.

    Args:
        sides: Dimensions of a block, the innermost last.
        outer: Axes along which a block has one element.
    """

    sides: tuple[Side, ...]
    outer: tuple[Axis, ...] = ()

    @property
    def programs(self) -> int:
        """Blocks in all."""
        return math.prod([side.blocks for side in self.sides] + [bound(axis.extent) for axis in self.outer])

    @property
    def shape(self) -> tuple[int, ...]:
        """Extents of a block."""
        return tuple(side.size for side in self.sides)


def tile_of(problem: Problem, target: CudaTarget) -> Tile:
    """Blocks for a problem without reductions over rows.

    Args:
        problem: Of merged axes, its outputs row-major.
        target: The GPU.
    """
    axes = problem.axes
    if not axes:
        return Tile(())
    per_thread = _per_thread(problem)
    points = math.prod(bound(axis.extent) for axis in axes)
    enough = max(THREADS, _power_below(points // (WAVES * target.processors)))
    size = min(THREADS * per_thread, enough)
    turned = _turned(problem)
    if turned is not None:
        return _turned_tile(problem, turned)
    inner = bound(axes[-1].extent)
    if len(axes) == 1:
        return Tile((Side(axes, inner, min(size, power_above(inner))),))
    width = _width(inner, size)
    if width is None:
        return Tile((Side(axes, points, size),))
    rows = points // max(inner, 1)
    height = min(max(size // width, 1), power_above(rows))
    if height == 1 and rows > 1:
        return Tile((Side(axes[-1:], inner, width),), axes[:-1])
    return Tile((Side(axes[:-1], rows, height), Side(axes[-1:], inner, width)))


def power_above(value: int) -> int:
    """The least power of two that is not less."""
    return 1 << max(value - 1, 0).bit_length()


def _power_below(value: int) -> int:
    """The greatest power of two that is not more; 1 for less than 1."""
    return 1 << max(value.bit_length() - 1, 0)


def _per_thread(problem: Problem) -> int:
    """Elements of a block for each thread: what its widest tensor moves at once, twice that where there are few."""
    inner = problem.axes[-1].name
    free = FreeSymbols(problem.elements)
    # What is the same all along the innermost axis, such as the index of a row, is no stream.
    read = {node.input for node in problem.scalars() if isinstance(node, Load) and inner in free[node]}
    kinds = [*(problem.inputs[number] for number in read), *problem.outputs]
    widest = max(storage_dtype(kind.dtype).itemsize for kind in kinds)
    repeated = any(isinstance(node, Reduce | ArgReduce) for node in problem.scalars())
    count = max(VECTOR_BYTES // widest, 1)
    if repeated:
        return min(count, 4)
    return count if len(kinds) > 3 else 2 * count


def _width(extent: int, size: int) -> int | None:
    """Elements of a block along the innermost axis; None where blocks along it alone would be mostly air."""
    fits = []
    width = min(size, power_above(extent))
    while width >= min(32, power_above(extent)):
        if -(-extent // width) * width <= MOST_WASTE * extent:
            fits.append(width)
        width //= 2
    return fits[0] if fits else None


def _turned(problem: Problem) -> int | None:
    """The axis along which most loads lie together that the innermost one steps through."""
    inner = problem.axes[-1]
    if bound(inner.extent) < LEAST_TURNED:
        return None
    bounds = bounds_of(problem.axes)
    found: dict[int, int] = {}
    for node in problem.scalars():
        if not isinstance(node, Load) or any(isinstance(index, Scalar) for index in node.indices):
            continue
        type_ = problem.inputs[node.input]
        offset = storage_offset(type_, [index for index in node.indices if not isinstance(index, Scalar)], bounds)
        if linear_coefficient(offset, inner.name) in (0, 1):
            continue
        for position, axis in enumerate(problem.axes[:-1]):
            if linear_coefficient(offset, axis.name) == 1 and bound(axis.extent) >= LEAST_TURNED:
                found[position] = found.get(position, 0) + 1
    return max(found, key=lambda at: (found[at], at)) if found else None


def _turned_tile(problem: Problem, position: int) -> Tile:
    widest = max(storage_dtype(kind.dtype).itemsize for kind in problem.outputs)
    side = max(16, min(64, TURNED_SIDE * 4 // widest))
    axis, inner = problem.axes[position], problem.axes[-1]
    sides = [Side((a,), bound(a.extent), min(side, power_above(bound(a.extent)))) for a in (axis, inner)]
    return Tile(tuple(sides), tuple(a for a in problem.axes[:-1] if a is not axis))


def enter(code: Code, tile: Tile) -> Scope:
    """Writes where a program's block stands, and answers the scope of what is computed in it."""
    rank = len(tile.sides)
    wide = tile.programs * math.prod(tile.shape) >= 1 << 31
    places: dict[str, Place] = {}
    axes: dict[str, Dim] = {}
    masks: list[Mask] = []
    counts = [*(bound(axis.extent) for axis in tile.outer), *(side.blocks for side in tile.sides)]
    numbers = _split(code, counts, wide)
    for axis, number in zip(tile.outer, numbers, strict=False):
        places[f"{number}@"] = Place(number, 0, bound(axis.extent) - 1, wide=wide)
        axes[axis.name] = symbol(f"{number}@")
    for dim, (side, number) in enumerate(zip(tile.sides, numbers[len(tile.outer) :], strict=True)):
        name = code.bind(_range(number, side.size, dim, rank), "p")
        dims: Dims = frozenset({dim})
        # Places of the only block along a side do not come from the program's number.
        places[f"{name}@"] = Place(name, 0, side.extent - 1, dims, wide and side.blocks > 1)
        axes.update(unflatten(side.axes, symbol(f"{name}@"), {f"{name}@": (0, side.extent - 1)}))
        if not side.is_whole:
            masks.append(Mask(code.bind(f"{name} < {side.extent}", "in_range"), dims))
    return Scope(axes, places, masks, tuple(str(size) for size in tile.shape))


def _split(code: Code, counts: Sequence[int], wide: bool) -> list[str]:
    """Numbers of a program's block along each of `counts`, the last fastest."""
    number = code.bind("tl.program_id(0)" + (".to(tl.int64)" if wide else ""), "block")
    found: list[str] = []
    for position in range(len(counts) - 1, -1, -1):
        rest = math.prod(counts[:position])
        if counts[position] == 1:
            found.append("0")
        elif rest == 1:
            found.append(number)
        else:
            found.append(code.bind(f"{number} % {counts[position]}", "b"))
            number = code.bind(f"{number} // {counts[position]}", "block")
    return found[::-1]


def _range(number: str, size: int, dim: int, rank: int) -> str:
    text = f"tl.arange(0, {size})" if number == "0" else f"{number} * {size} + tl.arange(0, {size})"
    if rank == 1:
        return text
    spread = ", ".join(":" if i == dim else "None" for i in range(rank))
    return f"({text})[{spread}]"
