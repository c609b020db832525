"""How a product of matrices is cut into blocks for a GPU: the candidates, and a cost model that picks among them.

The tiles are those that public Triton kernels are tuned to, and smaller ones for small products; each must fit the
shared memory and the registers of the architecture. The model counts what a block's steps take where they are limited
by multiplying, by what L2 hands out, or by the latency of the loads in flight; a wave of blocks at a time.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from types import MappingProxyType
from typing import Literal, TypeAlias

from graphc.backends.triton.occupancy import (
    FILL_CLOCKS,
    LATENCY_CLOCKS,
    LAUNCH_SECONDS,
    Arithmetic,
    rates_of,
    resident_blocks,
)
from graphc.errors import BackendError
from graphc.target.cuda import WARP, CudaTarget

Form: TypeAlias = Literal["tiles", "rows", "descriptors"]
"""`tiles`: a block multiplies a tile of rows by one of columns. `rows`: a few rows by lanes, without tensor cores, at
the bandwidth of the weights. `descriptors`: tiles that the copy engine brings, in blocks that stay."""


@dataclass(frozen=True)
class Tile:
    """How one product is cut.

    Args:
        rows: Rows of a block's result; in the form `rows` those of the whole product.
        columns: Columns of a block's result.
        depth: Elements of the inner axis of one step.
        stages: Steps whose operands are in flight.
        warps: Of a block.
        splits: Parts into which the inner axis is cut, each the work of another block.
        form: Which kernel.
    """

    rows: int
    columns: int
    depth: int
    stages: int
    warps: int
    splits: int = 1
    form: Form = "tiles"

    def values(self) -> tuple[int | str, ...]:
        """What `Tile` takes, as a tuning database keeps it."""
        return (self.rows, self.columns, self.depth, self.stages, self.warps, self.splits, self.form)

    def __str__(self) -> str:
        split = f", {self.splits} parts of k" if self.splits > 1 else ""
        return f"{self.rows}x{self.columns}x{self.depth}, {self.stages} stages, {self.warps} warps{split}"


@dataclass(frozen=True)
class Problem:
    """What a choice depends on.

    Args:
        batch: Independent products.
        rows: Rows of the left operand.
        columns: Columns of the right one.
        depth: Extent of the inner axis.
        arithmetic: What multiplies.
        bytes: Of an element as it is multiplied.
        left_bytes: Of all that is read for the left operand.
        right_bytes: Of all that is read for the right operand.
        result_bytes: Of what is stored, and of what the epilogue reads.
        neighbours: Axis along which elements of the right operand are neighbours.
        copies: Whether both operands go to shared memory as they are; what is computed on its way waits in registers.
        splits: Whether the inner axis may be cut into parts.
        engine: Whether the copy engine can bring both operands, where there is one.
    """

    batch: int
    rows: int
    columns: int
    depth: int
    arithmetic: Arithmetic
    bytes: int
    left_bytes: int
    right_bytes: int
    result_bytes: int
    neighbours: Literal["inner", "column"] = "column"
    copies: bool = True
    splits: bool = True
    engine: bool = False


_HALF = (
    Tile(128, 256, 64, 4, 8),
    Tile(128, 256, 64, 3, 8),
    Tile(256, 128, 64, 4, 8),
    Tile(256, 128, 64, 3, 8),
    Tile(128, 128, 128, 3, 8),
    Tile(128, 128, 64, 4, 8),
    Tile(128, 128, 64, 3, 8),
    Tile(128, 128, 64, 5, 4),
    Tile(128, 64, 64, 4, 4),
    Tile(64, 128, 64, 4, 4),
    Tile(64, 64, 64, 5, 4),
    Tile(64, 32, 64, 5, 4),
    Tile(32, 128, 64, 5, 4),
    Tile(32, 64, 64, 6, 4),
    Tile(16, 128, 64, 5, 4),
    Tile(16, 64, 128, 5, 4),
    Tile(16, 32, 256, 4, 4),
)
_TF32 = (
    Tile(128, 256, 32, 3, 8),
    Tile(128, 128, 32, 4, 8),
    Tile(128, 128, 32, 3, 8),
    Tile(128, 64, 32, 4, 4),
    Tile(64, 128, 32, 4, 4),
    Tile(64, 64, 32, 5, 4),
    Tile(32, 64, 64, 4, 4),
    Tile(16, 64, 64, 5, 4),
    Tile(16, 32, 128, 4, 4),
)
_SINGLE = (
    Tile(128, 128, 16, 3, 8),
    Tile(128, 64, 16, 4, 8),
    Tile(64, 128, 16, 4, 8),
    Tile(64, 64, 16, 4, 4),
    Tile(64, 32, 32, 3, 4),
    Tile(32, 64, 32, 3, 4),
    Tile(32, 32, 32, 4, 4),
    Tile(16, 64, 32, 4, 4),
    Tile(16, 32, 64, 4, 4),
)
_DOUBLE = (
    Tile(128, 64, 16, 3, 8),
    Tile(64, 64, 16, 3, 8),
    Tile(64, 32, 16, 4, 4),
    Tile(32, 64, 16, 4, 4),
    Tile(32, 32, 16, 4, 4),
    Tile(16, 32, 32, 4, 4),
)
_BYTE = (
    Tile(128, 256, 128, 3, 8),
    Tile(128, 128, 128, 4, 8),
    Tile(128, 128, 128, 3, 8),
    Tile(128, 64, 128, 4, 4),
    Tile(64, 128, 128, 4, 4),
    Tile(64, 64, 128, 5, 4),
    Tile(32, 64, 128, 5, 4),
    Tile(16, 64, 128, 5, 4),
    Tile(16, 32, 256, 4, 4),
)

TILES: Mapping[Arithmetic, tuple[Tile, ...]] = MappingProxyType(
    {"half": _HALF, "tf32": _TF32, "single": _SINGLE, "double": _DOUBLE, "byte": _BYTE}
)
"""Candidates by what multiplies, before any is left out for a target."""

_ROWS = {
    "inner": (Tile(1, 4, 1024, 1, 4), Tile(1, 8, 512, 1, 4), Tile(1, 16, 256, 1, 4)),
    "column": (Tile(1, 32, 128, 1, 4), Tile(1, 64, 64, 1, 4), Tile(1, 128, 32, 1, 4)),
}
"""Shapes of the block of weights that a step of the form `rows` reads, by the axis along which they are neighbours."""

MOST_ROWS = 4
"""Rows up to which lanes keep up with memory."""

_SPLITS = (1, 2, 3, 4, 6, 8, 12, 16, 24, 32)
_ACCUMULATORS = 128
"""Registers of a thread that may hold sums: beyond, what else it needs is spilled."""


def candidates(problem: Problem, target: CudaTarget) -> Iterator[Tile]:
    """Every way to cut a product that fits the target, splits included."""
    least = 32 if problem.arithmetic == "byte" else 16
    for tile in TILES[problem.arithmetic]:
        depth = min(tile.depth, max(least, 1 << (problem.depth - 1).bit_length()))
        fitting = fitted(replace(tile, depth=depth), problem, target)
        if fitting is not None:
            yield from split(fitting, problem, target)
        if problem.engine and target.has_tensor_memory_access and tile.rows >= 64:
            brought = fitted(replace(tile, depth=depth, form="descriptors"), problem, target)
            if brought is not None:
                yield brought
    if problem.rows <= MOST_ROWS and problem.arithmetic != "byte":
        for tile in _ROWS[problem.neighbours]:
            yield from split(replace(tile, rows=problem.rows, form="rows"), problem, target)


def choose(problem: Problem, target: CudaTarget) -> Tile:
    """The candidate of least estimated time; the first of equals.

    Tiles by the copy engine are left to tuning: the estimates do not tell them apart, and they were run on no GPU yet.

    Raises:
        BackendError: None fits the target.
    """
    known = (tile for tile in candidates(problem, target) if tile.form != "descriptors")
    found = min(known, key=lambda tile: seconds(tile, problem, target), default=None)
    if found is None:
        raise BackendError(f"no tile of a product fits {target}")
    return found


def shared_bytes(tile: Tile, problem: Problem, target: CudaTarget) -> int:
    """Shared memory of a block."""
    if tile.form == "rows":
        return 0
    # What lanes and the tensor cores before sm_90 multiply is in registers by then, and its place is free again.
    reads_shared = target.capability >= 90 and tile.rows >= 64 and problem.arithmetic not in ("single", "double")
    kept = tile.stages if reads_shared and problem.copies else tile.stages - 1
    size = (tile.rows + tile.columns) * tile.depth * problem.bytes * max(1, kept)
    # Results on their way to memory have a place of their own where the next tile is loaded meanwhile.
    return size + (tile.rows * tile.columns * problem.bytes if tile.form == "descriptors" else 0)


def fitted(tile: Tile, problem: Problem, target: CudaTarget, *, least_stages: int = 3) -> Tile | None:
    """A tile with as many stages as shared memory has room for; None where it is too large for the target.

    Args:
        tile: The tile.
        problem: What it cuts.
        target: The GPU.
        least_stages: Below which it is another tile's turn.
    """
    words = 2 if problem.arithmetic == "double" else 1
    if tile.rows * tile.columns * words > _ACCUMULATORS * WARP * tile.warps:
        return None
    while shared_bytes(tile, problem, target) > target.shared_bytes:
        if tile.stages <= least_stages:
            return None
        tile = replace(tile, stages=tile.stages - 1)
    return tile


def split(
    tile: Tile, problem: Problem, target: CudaTarget, *, most: int = _SPLITS[-1], least_steps: int = 4, each: int = 2
) -> Iterator[Tile]:
    """A tile, and with the inner axis cut into parts where it leaves processors idle.

    Args:
        tile: Of one part.
        problem: What it cuts.
        target: The GPU.
        most: Parts.
        least_steps: Steps of a part below which it is all start and end.
        each: Blocks for each processor from which none is idle.
    """
    steps = parts_of(problem.depth, tile.depth)
    fills = not problem.splits or blocks_of(tile, problem) >= each * target.processors
    for splits in (1,) if fills else _SPLITS:
        if splits == 1 or (splits <= most and splits * least_steps <= steps):
            yield replace(tile, splits=splits)


def blocks_of(tile: Tile, problem: Problem) -> int:
    """Blocks of the launch that multiplies."""
    row_tiles = 1 if tile.form == "rows" else parts_of(problem.rows, tile.rows)
    return problem.batch * row_tiles * parts_of(problem.columns, tile.columns) * tile.splits


def seconds(tile: Tile, problem: Problem, target: CudaTarget) -> float:
    """What a product is estimated to take on a target."""
    rates = rates_of(target)
    blocks = blocks_of(tile, problem)
    steps = parts_of(parts_of(problem.depth, tile.depth), tile.splits)
    words = 2 if problem.arithmetic == "double" else 1
    registers = min(255, 48 + tile.rows * tile.columns * words // (WARP * tile.warps))
    resident = max(1, resident_blocks(target, shared_bytes(tile, problem, target), tile.warps, registers))
    held = min(resident, parts_of(blocks, target.processors))

    if tile.form == "rows":
        # Products of lanes: the conversions of narrow elements cost as much as the multiply-adds.
        rate = rates.macs["double" if problem.arithmetic == "double" else "single"] / 2
        step_bytes = tile.columns * tile.depth * problem.bytes
        in_flight = step_bytes
    else:
        rate = rates.macs[problem.arithmetic]
        if problem.arithmetic in ("single", "double"):
            # A lane that sums s x s results reads 2s numbers for s*s multiply-adds.
            sums = tile.rows * tile.columns / (WARP * tile.warps)
            rate = rate * sums / (sums + 2 * sums**0.5)
        else:
            # Instructions of fewer rows leave part of a tensor core idle.
            rate = rate * min(tile.rows, 64) / 64
        step_bytes = (tile.rows + tile.columns) * tile.depth * problem.bytes
        in_flight = step_bytes * max(1, tile.stages - 1) if problem.copies else step_bytes
    macs = tile.rows * tile.columns * tile.depth
    work = max(macs / rate, step_bytes / rates.cache)
    latency = LATENCY_CLOCKS * step_bytes / in_flight
    waves = parts_of(blocks, target.processors * held)
    ends = held * (work + 4 * tile.rows * tile.columns / rates.cache)
    clocks = waves * (steps * max(held * work, latency) + FILL_CLOCKS + ends)

    partial = 4 * problem.batch * problem.rows * problem.columns * tile.splits if tile.splits > 1 else 0
    moved = problem.left_bytes + problem.right_bytes + problem.result_bytes + 2 * partial
    again = LAUNCH_SECONDS if tile.splits > 1 else 0.0
    works, waits = clocks / rates.clock, moved / rates.memory
    # Neither hides the other entirely.
    return max(works, waits) + min(works, waits) / 8 + again


def parts_of(extent: int, size: int) -> int:
    """Parts of `size` that cover `extent`."""
    return -(-extent // size)
