"""Whether a 3x3 convolution is transformed, how large its tiles are, and what threads share.

Tiles of the image are taken in blocks. With order "tiles" a thread transforms a block, multiplies it by the filters of
all output channels and transforms the results back: transformed inputs stay in its L2, filters are read once a block.
With order "channels" all tiles are transformed first, then every thread takes some output channels: filters are read
once, transformed inputs by every thread.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from graphc.backends.conv_problem import Convolution
from graphc.backends.tvm.conv_tiles import Sweep, Tile, choose_schedule, choose_tile, sweep_cost
from graphc.backends.tvm.tasks import PARALLEL_MACS
from graphc.backends.tvm.winograd_transforms import F2, F4, Transform
from graphc.ir import dtypes
from graphc.target import Target

BYTES_PER_STEP = 4
"""Bytes of weights that arrive from memory in the time of one vector multiply-add."""

STREAM_BYTES_PER_STEP = 16
"""Bytes that arrive from L2, or from beyond it where they are read in order and only read."""

SHARED_BYTES_PER_STEP = 8
"""Bytes that were written a while ago, perhaps by another core, and do not fit L2."""

READ_BY_ALL = 1.25
"""What it takes that every thread reads the same bytes from memory, over one of them reading them."""

LEAST_MACS = 4 * PARALLEL_MACS
"""Multiply-adds under which three passes cost more than they save."""

LINE = 64
"""Bytes of a cache line."""

Order = Literal["tiles", "channels"]


@dataclass(frozen=True)
class WinogradPlan:
    """How a convolution is transformed and cut.

    Args:
        transform: Size of the tiles.
        order: What a thread takes: a block of tiles, or some output channels.
        tiles: Tiles of all images; where extents are open, of one usual image.
        block: Tiles of a block; all of them for order "channels". The most of a block where extents are open.
        slots: Threads' shares, each with a workspace of its own.
        tile: Results in registers: tiles by channel blocks.
        cost: Estimated time in vector multiply-adds.
    """

    transform: Transform
    order: Order
    tiles: int
    block: int
    slots: int
    tile: Tile
    cost: float

    @property
    def blocks(self) -> int:
        """Blocks of tiles."""
        return -(-self.tiles // self.block)

    def describe(self) -> dict[str, str]:
        """What is worth showing."""
        size = self.transform.size
        return {
            "transform": f"F({size}x{size}, 3x3)",
            "tile": f"{self.tile.columns} x {self.tile.vectors} blocks",
            "tasks": f"{self.order} first",
            "block": f"{self.block} of {self.tiles} tiles",
        }


def grid(problem: Convolution, size: int) -> tuple[int, int]:
    """Rows and columns of tiles of one image, where extents are open of a usual one."""
    rows, columns = problem.window.output
    return -(-rows // size), -(-columns // size)


def padded_vectors(vectors: int, lanes: int) -> int:
    """At least `vectors`, so that neighbours at this distance do not fall into one set of the cache."""
    per_line = max(1, LINE // (lanes * 4))
    lines = -(-vectors // per_line)
    return (lines + 1 - lines % 2) * per_line


def choose_plan(
    problem: Convolution, target: Target, *, size: int | None = None, order: Order | None = None
) -> WinogradPlan | None:
    """The plan that takes the least time, or None where a direct convolution takes less.

    Args:
        problem: A 3x3 convolution of stride 1.
        target: The CPU.
        size: Takes tiles of this size, whatever the cost.
        order: Takes this order, whatever the cost.
    """
    sizes = (F2, F4) if size is None else ({2: F2, 4: F4}[size],)
    orders: tuple[Order, ...] = ("tiles", "channels") if order is None else (order,)
    best = min((_plan(problem, target, t, o) for t in sizes for o in orders), key=lambda plan: plan.cost)
    if size is not None or order is not None:
        return best
    worth_it = problem.inputs >= target.lanes(dtypes.FLOAT32) and problem.macs >= LEAST_MACS
    return best if worth_it and best.cost < direct_cost(problem, target) else None


def direct_cost(problem: Convolution, target: Target) -> float:
    """Estimated time of the same convolution without transforms."""
    lanes = target.lanes(dtypes.FLOAT32)
    blocks = -(-problem.outputs // lanes)
    weight_bytes = problem.inputs * 9 * blocks * lanes * 4
    rows, columns = problem.window.output
    plane = Sweep(
        rows,
        columns,
        blocks,
        problem.batch,
        problem.inputs * 9,
        weight_bytes,
        problem.inputs * problem.height * problem.width * 4,
    )
    tile = choose_schedule(target, plane).tile
    return sweep_cost(tile, plane) * problem.batch / target.cores + weight_bytes / BYTES_PER_STEP


def _plan(problem: Convolution, target: Target, transform: Transform, order: Order) -> WinogradPlan:
    lanes = target.lanes(dtypes.FLOAT32)
    rows, columns = grid(problem, transform.size)
    tiles = problem.batch * rows * columns
    is_open = problem.plane.is_open or not isinstance(problem.plane.batch, int)
    threads = target.cores if is_open else max(1, min(target.cores, tiles))
    inputs, outputs = -(-problem.inputs // lanes), -(-problem.outputs // lanes)
    tile_bytes = transform.points * problem.inputs * 4
    filter_bytes = transform.points * problem.inputs * outputs * lanes * 4
    if order == "tiles":
        # Half of L2 holds the block, the rest the filters and results that pass.
        rounds = -(-tiles * tile_bytes // (threads * (target.l2_bytes // 2)))
        block = -(-tiles // (threads * rounds))
    else:
        rounds, block = 1, tiles
    plane = Sweep(1, block, outputs, 1, problem.inputs, 0, 0)
    tile = choose_tile(target, plane)
    blocks = -(-tiles // block)
    products = sweep_cost(tile, plane) * transform.points * blocks
    moves = tiles * (inputs * _input_steps(transform) + outputs * _output_steps(transform))
    compute = (products + moves) / threads
    groups = -(-outputs // tile.vectors)
    if order == "tiles":
        # Every block of tiles reads all filters; the first reading comes from memory.
        again = (rounds - 1) * filter_bytes / STREAM_BYTES_PER_STEP
        traffic = READ_BY_ALL * filter_bytes / BYTES_PER_STEP + again
    else:
        moved = tiles * tile_bytes * (1 + groups / threads)
        result_bytes = transform.points * tiles * tile.vectors * lanes * 4
        if result_bytes > target.l2_bytes // 4:
            moved += 2 * result_bytes * groups / threads
        fits = tiles * tile_bytes <= target.l2_bytes
        traffic = filter_bytes / BYTES_PER_STEP + moved / (STREAM_BYTES_PER_STEP if fits else SHARED_BYTES_PER_STEP)
    return WinogradPlan(transform, order, tiles, block, threads, tile, compute + traffic)


def _input_steps(transform: Transform) -> float:
    """Vector operations that transform one channel block of a tile: loads, sums along both axes, stores."""
    sums = {2: 4, 4: 14}[transform.size]
    return 2 * transform.points + 2 * transform.reach * sums


def _output_steps(transform: Transform) -> float:
    sums = {2: 4, 4: 11}[transform.size]
    return transform.points + (transform.reach + transform.size) * sums + 3 * transform.size**2
