"""How a direct convolution is cut: the tile of results in registers, and the tasks that threads share.

A tile is `rows` x `columns` pixels of `vectors` channel blocks. Each step over an input channel and a tap loads
`vectors` vectors of weights, broadcasts one input element per pixel and does one multiply-add for each of them (the
direct convolution of NeoCPU: Liu et al., "Optimizing CNN Model Inference on CPUs", USENIX ATC 2019).
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

from graphc.backends.tvm.tasks import PARALLEL_MACS
from graphc.target import Target

IN_FLIGHT = 10
"""Fused multiply-adds that must be independent to fill the units: latency 4 times 2 a cycle, and some slack."""

TILE_OVERHEAD = 20
"""Multiply-adds that one more tile costs: clearing, addresses, the epilogue's start."""

MOST_VECTORS = 6
"""Channel blocks of a tile; more leave no registers for pixels."""

BYTES_PER_STEP = 8
"""Bytes from beyond L2 that move in the time of one vector multiply-add."""

Order = Literal["rows", "channels"]
ORDERS: tuple[Order, ...] = ("rows", "channels")


@dataclass(frozen=True)
class Tile:
    """Results held in registers."""

    rows: int
    columns: int
    vectors: int

    def __str__(self) -> str:
        pixels = f"{self.rows}x{self.columns}" if self.rows > 1 else str(self.columns)
        return f"{pixels} pixels x {self.vectors} blocks"


@dataclass(frozen=True)
class Sweep:
    """What is computed for one image, and how often.

    Args:
        rows: Output rows.
        columns: Output columns.
        blocks: Output channel blocks.
        repeats: Images.
        depth: Multiply-adds per result.
        weight_bytes: Packed weights.
        input_bytes: Input of one image.
        is_open: Whether rows and columns are only the usual ones.
    """

    rows: int
    columns: int
    blocks: int
    repeats: int
    depth: int
    weight_bytes: int
    input_bytes: int
    is_open: bool = False


@dataclass(frozen=True)
class Schedule:
    """How a convolution is cut.

    Args:
        tile: Results in registers.
        order: What neighbouring tasks share: "rows" runs all channels over a few rows before the next rows,
            "channels" runs all rows for a few channels before the next channels.
        task_rows: Full rows of tiles in one task.
        task_columns: Tiles of a row in one task, where a row is cut; 0 where it is not.
        parallel: Whether threads share the tasks.
        cost: Relative time expected.
    """

    tile: Tile
    order: Order
    task_rows: int
    parallel: bool
    cost: float
    task_columns: int = 0


def tile_cost(rows: int, columns: int, vectors: int) -> float:
    """Relative time of one step of a tile: multiply-adds and loads overlap; weights come from L2."""
    results = rows * columns * vectors
    return max(results, rows * columns + vectors, IN_FLIGHT) + 0.25 * vectors


def sweep_cost(tile: Tile, plane: Sweep) -> float:
    """Relative time of all tiles of a plane, tails included."""
    total = 0.0
    for rows, row_count in _parts(plane.rows, tile.rows):
        for columns, column_count in _parts(plane.columns, tile.columns):
            for vectors, vector_count in _parts(plane.blocks, tile.vectors):
                one = tile_cost(rows, columns, vectors) * plane.depth + TILE_OVERHEAD
                total += row_count * column_count * vector_count * one
    return total


def _parts(extent: int, size: int) -> Iterator[tuple[int, int]]:
    """Sizes that cover `extent` and how many there are of each."""
    full, tail = divmod(extent, size)
    if full:
        yield size, full
    if tail:
        yield tail, 1


def fitting(target: Target, plane: Sweep) -> Iterator[Tile]:
    """Every tile whose accumulators, one step's weights and one broadcast fit the registers."""
    for vectors in range(1, min(plane.blocks, MOST_VECTORS) + 1):
        pixels = (target.vector_registers - vectors - 1) // vectors
        if vectors == 1 and not target.has_masks:
            # Where a broadcast is no operand of a multiply-add, LLVM puts each sum in the register of the broadcast
            # used last, and needs two registers a sum.
            pixels //= 2
        for columns in range(1, min(pixels, plane.columns) + 1):
            # Tiles of several rows make code of several shapes: only where rows are too short to fill the registers.
            short = columns == plane.columns and not plane.is_open
            rows = min(pixels // columns, plane.rows) if short else 1
            yield Tile(max(1, rows), columns, vectors)


def choose_tile(target: Target, plane: Sweep, *, vectors: int | None = None) -> Tile:
    """The tile that takes the least time; of equals, the one with fewest shapes of code.

    Args:
        target: The CPU.
        plane: What is tiled.
        vectors: Channel blocks of the tile, where they are given.
    """

    def cost(tile: Tile) -> tuple[float, int, int]:
        variants = 1
        for extent, size in ((plane.rows, tile.rows), (plane.columns, tile.columns), (plane.blocks, tile.vectors)):
            variants *= 1 + (extent % size > 0 and extent > size)
        return round(sweep_cost(tile, plane) * (1 + 0.005 * variants), 3), variants, -tile.columns

    return min((tile for tile in fitting(target, plane) if vectors in (None, tile.vectors)), key=cost)


def choose_schedule(target: Target, plane: Sweep, tile: Tile | None = None, order: Order | None = None) -> Schedule:
    """The schedule that takes the least time on the target's cores, with the tile and the order given or the best."""
    tile = tile or choose_tile(target, plane)
    macs = plane.rows * plane.columns * plane.blocks * plane.repeats * plane.depth * target.vector_bytes // 4
    parallel = macs >= PARALLEL_MACS
    # The one row of an open image is all its pixels: it is cut instead.
    cut = plane.is_open and plane.rows == 1
    height = max(1, plane.columns // tile.columns if cut else plane.rows // tile.rows)
    groups = -(-plane.blocks // tile.vectors)
    work = sweep_cost(tile, plane) * plane.repeats
    threads = target.cores if parallel else 1

    def cost(order: Order, task_rows: int) -> float:
        slices = -(-height // task_rows)
        tasks = plane.repeats * slices * (groups if order == "channels" else 1)
        busiest = -(-tasks // threads)
        compute = work * busiest / tasks
        if order == "rows":
            sweeps = busiest if plane.weight_bytes > target.l2_bytes // 2 else 1
            moved = plane.weight_bytes * sweeps + plane.input_bytes * plane.repeats / threads
        else:
            sweeps = busiest if plane.input_bytes > target.l2_bytes // 2 else 1
            moved = plane.input_bytes * min(sweeps, groups) + plane.weight_bytes / threads
        return compute + moved / BYTES_PER_STEP

    options: list[tuple[Order, int]] = [("channels", height)]
    if groups * plane.repeats < 2 * threads:
        options += [("channels", rows) for rows in _slices(height, threads)]
    options += [("rows", rows) for rows in _slices(height, threads)]
    allowed = [option for option in options if order in (None, option[0])]
    found, task_rows = min(allowed, key=lambda option: (cost(*option), -option[1]))
    expected = round(cost(found, task_rows), 3)
    if cut:
        return Schedule(tile, found, 1, parallel, expected, task_rows)
    return Schedule(tile, found, task_rows, parallel, expected)


def _slices(height: int, threads: int) -> list[int]:
    """Rows of tiles per task worth trying: from one task a thread to several."""
    return sorted({-(-height // count) for count in range(1, min(height, 6 * threads) + 1)}, reverse=True)
