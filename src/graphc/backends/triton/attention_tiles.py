"""How attention is cut on a GPU: tiles as data, and which of them a problem takes.

The tiles are those of FlashAttention-2 (Dao, 2023) and of Triton's tutorial on it, which keep a tile of the result, its
scores and the statistics in registers; rows that do not fill the processors are cut along the keys too, as in
Flash-Decoding (Dao, Haziza, Massa and Sizov, 2023).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

from graphc.backends.triton.tiles import power_above
from graphc.target.cuda import CudaTarget


@dataclass(frozen=True)
class Tile:
    """How a block walks its part of an attention.

    Args:
        height: Queries (or queries of several heads) of a tile.
        width: Keys of a step.
        stages: Steps whose keys and values are under way.
        warps: Warps of a block.
    """

    height: int
    width: int
    stages: int
    warps: int


HALF: tuple[tuple[int, Sequence[Tile]], ...] = (
    (64, (Tile(128, 64, 3, 4), Tile(64, 64, 3, 4), Tile(32, 64, 3, 4), Tile(16, 64, 3, 4))),
    (128, (Tile(128, 64, 3, 8), Tile(64, 64, 3, 4), Tile(32, 64, 3, 4), Tile(16, 64, 3, 4))),
    (256, (Tile(64, 32, 2, 8), Tile(32, 32, 2, 4), Tile(16, 32, 2, 4))),
    (512, (Tile(64, 32, 2, 8), Tile(32, 16, 2, 8), Tile(16, 16, 2, 8))),
)
"""By the most elements of a head, tiles for 16-bit floats, tallest first."""

SINGLE: tuple[tuple[int, Sequence[Tile]], ...] = (
    (64, (Tile(64, 32, 2, 8), Tile(32, 32, 2, 4), Tile(16, 32, 2, 4))),
    (128, (Tile(64, 16, 2, 8), Tile(32, 16, 2, 4), Tile(16, 32, 2, 4))),
    (256, (Tile(32, 16, 2, 8), Tile(16, 16, 2, 4))),
    (512, (Tile(16, 16, 2, 8),)),
)
"""The same for float32, multiplied exactly: multiply-adds take their operands from registers."""

ROUNDED: tuple[tuple[int, Sequence[Tile]], ...] = (
    (64, (Tile(128, 32, 2, 4), Tile(64, 32, 2, 4), Tile(32, 32, 2, 4), Tile(16, 32, 2, 4))),
    (128, (Tile(128, 32, 2, 8), Tile(64, 32, 2, 4), Tile(32, 32, 2, 4), Tile(16, 32, 2, 4))),
    (256, (Tile(64, 16, 2, 8), Tile(32, 16, 2, 4), Tile(16, 16, 2, 4))),
)
"""The same for float32 that tensor cores round."""

WARP_GROUP_ROWS = 64
"""Rows that the four warps of a Hopper tensor core product have between them."""

FULL_REGISTERS = 8192
"""Elements of a tile of results that leave four warps no registers for masks."""

_SPARE = 4096
"""Bytes of shared memory for what warps exchange."""

LEAST_STRETCH = 128
"""Keys that a part has at least, where keys are cut."""

MOST_PARTS = 64
"""Parts that the second launch joins in one block."""


@dataclass(frozen=True)
class Schedule:
    """What was chosen.

    Args:
        tile: Of each block.
        packed: Heads that share keys and are rows of one tile.
        blocks: Tiles of the rows of a pair of batch and heads.
        parts: Into how many the keys are cut.
        stretch: Keys of a part, whole steps.
    """

    tile: Tile
    packed: int
    blocks: int
    parts: int
    stretch: int

    def describe(self) -> dict[str, Any]:
        """What is worth showing."""
        tile = self.tile
        cut = {"keys": f"in {self.parts} parts"} if self.parts > 1 else {}
        heads = {"heads": f"{self.packed} in a tile"} if self.packed > 1 else {}
        return {"tile": f"{tile.height}x{tile.width}", "stages": tile.stages, "warps": tile.warps, **heads, **cut}


def tiles_of(itemsize: int, size: int, *, rounded: bool) -> Sequence[Tile]:
    """Tiles for elements of `itemsize` bytes and heads of at most `size` elements, tallest first; none if too many."""
    table = HALF if itemsize == 2 else ROUNDED if rounded else SINGLE
    return next((tiles for most, tiles in table if size <= most), ())


def fitted(tile: Tile, target: CudaTarget, itemsize: int, size: int, masked: int) -> Tile | None:
    """A tile as a GPU has room for it: with fewer steps under way where shared memory is small; None where it is less.

    Keys and values of all steps under way lie in shared memory, the masks of all but one, and on some architectures
    queries and weights.
    """
    width = sum(cut(size))
    if masked and tile.height * width >= FULL_REGISTERS:
        # Masks are in the registers beside scores and sums: more threads share them.
        tile = replace(tile, warps=8)
    step, scores = 2 * tile.width * width * itemsize, tile.height * tile.width
    fixed = tile.height * width * itemsize + (scores * itemsize if itemsize == 4 else 0)
    for stages in range(tile.stages, 0, -1):
        if stages * step + fixed + (stages - 1) * scores * masked + _SPARE <= target.shared_bytes:
            return replace(tile, stages=stages)
    return None


def choose(
    target: CudaTarget,
    itemsize: int,
    size: int,
    *,
    rounded: bool,
    masked: int,
    pairs: int,
    ratio: int,
    queries: int,
    keys: int,
) -> Schedule | None:
    """The schedule of an attention; None where a head has too many elements.

    Args:
        target: The GPU.
        itemsize: Bytes of an element.
        size: Elements of the larger of a key's and a value's head.
        masked: Bytes of an element of the mask that differs from query to query; 0 for none.
        rounded: Whether float32 may be rounded to what tensor cores take.
        pairs: Of batch and head of the query.
        ratio: Heads of the query that share a head of the key.
        queries: Of each head.
        keys: Of each head.
    """
    known = tiles_of(itemsize, size, rounded=rounded)
    roomy = [tile for tile in (fitted(tile, target, itemsize, size, masked) for tile in known) if tile is not None]
    # A tile whose loads nothing hides is worse than a smaller one.
    tiles = [tile for tile in roomy if tile.stages > 1] or roomy
    if not tiles:
        return None
    # Heads that share keys share a tile where one head's queries leave most of the lowest tile empty.
    packed = ratio if queries * 2 <= tiles[-1].height else 1
    rows, groups = queries * packed, pairs // packed
    fitting = [tile for tile in tiles if tile.height < 2 * rows] or [tiles[-1]]
    # A tile that leaves processors idle is halved, as long as the tensor cores of a whole block still share it.
    shared = [tile for tile in fitting if tile.height >= WARP_GROUP_ROWS] or fitting[:1]
    tile = next((tile for tile in shared if -(-rows // tile.height) * groups >= target.processors), shared[-1])
    blocks = -(-rows // tile.height)
    parts = 1
    if blocks * groups * 2 <= target.processors:
        parts = max(min(-(-2 * target.processors // (blocks * groups)), keys // LEAST_STRETCH, MOST_PARTS), 1)
    stretch = -(-keys // (parts * tile.width)) * tile.width
    return Schedule(tile, packed, blocks, -(-keys // stretch), stretch)


def cut(size: int) -> tuple[int, ...]:
    """Widths, powers of two of at least 16, that hold `size` elements: one, or two where that wastes a quarter less."""
    whole = max(16, power_above(size))
    first = whole // 2
    if first < 16 or size <= first:
        return (whole,)
    second = max(16, power_above(size - first))
    return (first, second) if 4 * (first + second) <= 3 * whole else (whole,)
