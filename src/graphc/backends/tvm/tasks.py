"""Sharing work among threads: chunks of equal tasks, blocks of equal row tiles."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TypeVar

from graphc.backends.extents import ceildiv
from graphc.backends.tvm.loops import unravel
from graphc.backends.tvm.tir import KernelBuilder
from graphc.ir import Dim
from graphc.ir.symbolic import Bounds, floordiv, maximum, minimum, typical

Part = TypeVar("Part")

PARALLEL_MACS = 150_000
"""Multiply-adds under which a parallel region costs more than it saves (about 2 microseconds of one core)."""

STREAMED_MACS = 3
"""Multiply-adds in the time that an operand's element takes to come from L2: what it costs a product of fewer rows."""

IMBALANCE = 1.1
"""How much longer than the mean the busiest thread may work before tasks are cut smaller."""

CHUNKS_PER_CORE = 8
"""Chunks are few, so that each can have a workspace of its own, and enough for any number of threads to be balanced."""


def imbalance(tasks: int, threads: int) -> float:
    """The busiest thread's share of equal tasks over the mean share."""
    return -(-tasks // threads) * threads / tasks


def split_until_balanced(tasks: int, most: int, cores: int, least: int = 1) -> int:
    """Into how many parts to cut each of `tasks`, at least `least` and at most `most`, for threads to be balanced."""
    parts = least
    while parts < most and imbalance(tasks * parts, cores) > IMBALANCE:
        parts += 1
    return parts


@dataclass(frozen=True)
class Chunks:
    """Consecutive tasks in chunks of equal size; the last may have fewer.

    Args:
        tasks: How many there are.
        size: Tasks of a chunk.
        parallel: Whether threads share the chunks.
    """

    tasks: Dim
    size: Dim
    parallel: bool

    @property
    def count(self) -> Dim:
        """Number of chunks: one where nothing is shared."""
        return 1 if self.size == self.tasks else ceildiv(self.tasks, self.size)

    @contextmanager
    def each(self, builder: KernelBuilder) -> Iterator[tuple[Dim, Dim]]:
        """A loop over all tasks; gives the number of the chunk and of the task."""
        with builder.parallel(self.count, "chunk", enable=self.parallel) as chunk:
            even = self.count * self.size == self.tasks
            length: Dim = self.size if even else minimum(self.size, self.tasks - chunk * self.size)
            with builder.serial(length, "task") as task:
                yield chunk, builder.bind_index(chunk * self.size + task, 0, self.tasks - 1, "task")


def chunks_of(tasks: Dim, cores: int, *, parallel: bool) -> Chunks:
    """Chunks for `cores` threads, as even as may be."""
    if not parallel or tasks == 1:
        return Chunks(tasks, tasks, False)
    return Chunks(tasks, ceildiv(tasks, CHUNKS_PER_CORE * cores), True)


@dataclass(frozen=True)
class RowTiles:
    """Rows in tiles of equal height, tiles in blocks of equal size; what is left over is the last block's.

    Args:
        rows: How many there are.
        height: Rows of a tile.
        size: Tiles of a block.
        exact: Whether leftover rows of an open number are one tile; else they go by powers of two, which is less code.
    """

    rows: Dim
    height: int
    size: Dim
    exact: bool = False

    @property
    def blocks(self) -> Dim:
        """Number of blocks."""
        return 1 if self.size == ceildiv(self.rows, self.height) else ceildiv(self.rows, self.height * self.size)

    def each(self, builder: KernelBuilder, block: Dim, emit: Callable[[Dim, int], None]) -> None:
        """Calls `emit(first row, rows)` where a whole tile of the block stands, and where the leftover one does."""
        if not isinstance(self.rows, int) or not isinstance(self.size, int):
            self._each_open(builder, block, emit)
            return
        full, tail = divmod(self.rows, self.height)
        if full:
            first = block * self.size
            even = self.blocks * self.size == full
            count: Dim = self.size if even else minimum(self.size, full - first)
            with builder.serial(count, "tile") as tile:
                row = builder.bind_index((first + tile) * self.height, 0, (full - 1) * self.height, "row")
                emit(row, self.height)
        if tail:
            with only(builder, block, self.blocks, last=True):
                emit(full * self.height, tail)

    def _each_open(self, builder: KernelBuilder, block: Dim, emit: Callable[[Dim, int], None]) -> None:
        """As `each`, for a number of rows known only when the kernel runs."""
        full = builder.bind_index(floordiv(self.rows, self.height), 0, None, "full")
        first = block * self.size
        count = full if self.blocks == 1 else maximum(0, minimum(self.size, full - first))
        with builder.serial(count, "tile") as tile:
            row = builder.bind_index((first + tile) * self.height, 0, self.rows - self.height, "row")
            emit(row, self.height)
        if self.height == 1:
            return
        with only(builder, block, self.blocks, last=True):
            done = builder.bind_index(full * self.height, 0, self.rows, "done")
            rest = builder.bind_index(self.rows - done, 0, self.height - 1, "rest")
            if self.exact:
                for size in range(1, self.height):
                    with builder.when(builder.index(rest) == builder.index(size)):
                        emit(builder.bind_index(done, 0, self.rows - size, "row"), size)
                return
            for bit in reversed(range((self.height - 1).bit_length())):
                size = 1 << bit
                with builder.when(builder.index(rest // size % 2) == builder.index(1)):
                    at = builder.bind_index(done + rest // (2 * size) * (2 * size), 0, self.rows - size, "row")
                    emit(at, size)


def row_tiles(
    rows: Dim,
    height: int,
    blocks: int,
    bounds: Bounds | None = None,
    *,
    exact: bool = False,
    usual: int | None = None,
) -> RowTiles:
    """Tiles of `height` in about so many blocks; of open extents, in so many at their usual values.

    Args:
        rows: How many there are.
        height: Rows of a tile.
        blocks: Wanted.
        bounds: Of open extents.
        exact: As of `RowTiles`.
        usual: Rows that there are usually, where that is not what it is elsewhere.
    """
    if blocks == 1:
        return RowTiles(rows, height, ceildiv(rows, height), exact)
    tiles = ceildiv(typical(rows, bounds or {}) if usual is None else usual, height)
    return RowTiles(rows, height, ceildiv(tiles, blocks), exact)


@contextmanager
def only(
    builder: KernelBuilder, index: Dim, extent: Dim, *, below: int | None = None, last: bool = False
) -> Iterator[None]:
    """Statements for indices below a bound, or for the last one; without a condition where that is all of them."""
    if below == extent or (last and extent == 1):
        yield
        return
    place = builder.index(index)
    condition = place == builder.index(extent - 1) if below is None else place < builder.index(below)
    with builder.when(condition):
        yield


def whole_and_last(
    builder: KernelBuilder,
    index: Dim,
    extent: Dim,
    full: int,
    parts: tuple[Part, Part],
    emit: Callable[[Dim, Part], None],
) -> None:
    """Writes what is done with whole pieces of an axis, and with the last one, which is shorter.

    Args:
        builder: Of the kernel.
        index: Of a piece.
        extent: Pieces in all.
        full: Whole ones.
        parts: How much a whole piece is, and how much the last one; falsy where there is none that is shorter.
        emit: Writes it for the index of a piece, and how much that is.
    """
    whole, tail = parts
    if full:
        with only(builder, index, extent, below=full):
            emit(index, whole)
    if tail:
        with only(builder, index, extent, last=True):
            emit(full, tail)


def channel_tasks(
    builder: KernelBuilder,
    extents: tuple[Dim, int, Dim],
    lanes: int,
    emit: Callable[[Dim, Dim, Dim, int | None], None],
    *,
    parallel: bool,
) -> None:
    """Writes a loop over images, blocks of channels and parts of the rows.

    Args:
        builder: Of the kernel.
        extents: Images, channels, and parts of the rows.
        lanes: Channels of a block.
        emit: Writes a task: of an image, a block, a part; and how many channels the block has, None for all.
        parallel: Whether threads share them.
    """
    images, channels, parts = extents
    full, tail = divmod(channels, lanes)
    blocks = full + (tail > 0)
    with builder.parallel(images * blocks * parts, "task", enable=parallel) as task:
        image, block, part = unravel(builder, task, (images, blocks, parts))

        def channel_block(index: Dim, count: int | None) -> None:
            inside = builder.bind_index(index, 0, full - 1, "block") if count is None and full > 1 else index
            emit(image, 0 if count is None and full == 1 else inside, part, count)

        whole_and_last(builder, block, blocks, full, (None, tail or None), channel_block)
