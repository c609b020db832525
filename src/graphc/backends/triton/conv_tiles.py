"""How a convolution is cut into blocks for a GPU: the candidates, and the choice among them.

A convolution is a product whose rows are pixels and whose columns are output channels; the cost model is that of
products. Its blocks have four warps: for eight, wrong results of such loops have been reported (pytorch#173068), so
those wait for a measurement that also checks them.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from types import MappingProxyType
from typing import TypeAlias

from graphc.backends.triton import matmul_tiles
from graphc.backends.triton.conv_weights import ConvWeights
from graphc.backends.triton.matmul_tiles import Problem, Tile, blocks_of, fitted, parts_of, seconds
from graphc.backends.triton.occupancy import Arithmetic, rates_of
from graphc.errors import BackendError
from graphc.target.cuda import WARP, CudaTarget

_HALF = (
    Tile(128, 128, 64, 3, 4),
    Tile(128, 128, 32, 4, 4),
    Tile(128, 64, 64, 4, 4),
    Tile(128, 64, 32, 4, 4),
    Tile(64, 128, 64, 4, 4),
    Tile(64, 64, 64, 4, 4),
    Tile(64, 64, 32, 5, 4),
    Tile(128, 32, 64, 4, 4),
    Tile(128, 32, 32, 4, 4),
    Tile(64, 32, 64, 4, 4),
    Tile(32, 64, 64, 4, 4),
    Tile(128, 16, 64, 4, 4),
    Tile(128, 64, 16, 4, 4),
    Tile(128, 32, 16, 4, 4),
    Tile(64, 64, 16, 5, 4),
    Tile(64, 16, 16, 4, 4),
)
_TF32 = (
    Tile(128, 64, 32, 3, 4),
    Tile(64, 128, 32, 3, 4),
    Tile(64, 64, 32, 4, 4),
    Tile(128, 32, 32, 4, 4),
    Tile(64, 32, 32, 4, 4),
    Tile(32, 64, 32, 4, 4),
    Tile(128, 64, 16, 4, 4),
    Tile(64, 32, 16, 4, 4),
    Tile(64, 16, 16, 4, 4),
)
_SINGLE = (
    Tile(64, 128, 16, 3, 4),
    Tile(128, 64, 16, 3, 4),
    Tile(64, 64, 16, 4, 4),
    Tile(64, 32, 16, 4, 4),
    Tile(32, 64, 16, 4, 4),
    Tile(32, 32, 32, 3, 4),
    Tile(64, 16, 16, 4, 4),
)
_BYTE = (
    Tile(128, 64, 64, 4, 4),
    Tile(64, 64, 128, 4, 4),
    Tile(64, 64, 64, 4, 4),
    Tile(64, 32, 64, 4, 4),
    Tile(128, 64, 32, 4, 4),
    Tile(64, 32, 32, 4, 4),
)
TILES: Mapping[Arithmetic, tuple[Tile, ...]] = MappingProxyType(
    {"half": _HALF, "tf32": _TF32, "single": _SINGLE, "byte": _BYTE}
)
"""Candidates by what multiplies."""

MEASURED: Mapping[Arithmetic, tuple[Tile, ...]] = MappingProxyType(
    {
        "half": (
            Tile(128, 256, 32, 3, 8),
            Tile(256, 128, 32, 3, 8),
            Tile(128, 128, 64, 3, 8),
            Tile(256, 64, 64, 3, 8),
            Tile(64, 256, 32, 3, 8),
        ),
        "tf32": (Tile(128, 128, 32, 3, 8), Tile(256, 64, 32, 3, 8)),
        "byte": (Tile(128, 256, 64, 3, 8), Tile(128, 128, 128, 3, 8)),
    }
)
"""Those that are worth measuring on a GPU, once their results are found right there."""

_LEAST_STAGES = 2
_MOST_PARTS, _LEAST_STEPS, _BLOCKS_EACH = 16, 8, 1
"""Parts of the inner axis, steps of one, and blocks for each processor from which there are none."""

GATHERED = 2.0
"""What a step costs whose elements are gathered one by one, over one that copies whole vectors."""

_WALK_CLOCKS = 40
"""Of a step, for addresses and conditions, as far as other blocks do not multiply meanwhile: an estimate."""

_GATHERING_REGISTERS = 176
"""Of a thread, for its sums and for the address and condition of each element that it gathers."""


def can_gather(tile: Tile, arithmetic: Arithmetic) -> bool:
    """Whether a block whose elements are gathered one by one has registers for it."""
    threads = WARP * tile.warps
    # Lanes that multiply have their operands in registers too.
    sums = tile.columns * (2 if arithmetic == "single" else 1)
    return tile.rows * (sums + 3 * tile.depth) < _GATHERING_REGISTERS * threads


Products: TypeAlias = Callable[[Tile], Iterator[tuple[Problem, ConvWeights, float]]]
"""The products as which a tile may compute a convolution: each with its weights and a factor of its cost."""


def choose(
    target: CudaTarget, arithmetic: Arithmetic, products: Products, given: Tile | None = None
) -> tuple[Tile, ConvWeights]:
    """The tile of least estimated time, and the weights as it reads them; the first of equals.

    Args:
        target: The GPU.
        arithmetic: What multiplies.
        products: What a tile may compute.
        given: The only tile to look at.

    Raises:
        BackendError: None fits the target.
    """
    tiles = TILES[arithmetic] if given is None else (given,)
    found = min(fitting(target, tiles, products, split=given is None), key=lambda choice: choice[0], default=None)
    if found is None:
        raise BackendError(f"no tile of a convolution fits {target}")
    return found[1:]


def fitting(
    target: CudaTarget, tiles: Iterable[Tile], products: Products, *, split: bool = True
) -> Iterator[tuple[float, Tile, ConvWeights]]:
    """Tiles that fit, with fewer stages where they do not otherwise, cut along the inner axis where that pays.

    Args:
        target: The GPU.
        tiles: Candidates.
        products: What a tile may compute.
        split: Whether to try parts of the inner axis; a tile's own otherwise.

    Yields:
        The estimated time, the tile, and the weights as it reads them.
    """
    for tile in tiles:
        for problem, weights, factor in products(tile):
            room = fitted(tile, problem, target, least_stages=_LEAST_STAGES)
            if room is None:
                continue
            parts = matmul_tiles.split(
                room, problem, target, most=_MOST_PARTS, least_steps=_LEAST_STEPS, each=_BLOCKS_EACH
            )
            for choice in parts if split else (room,):
                time = seconds(choice, problem, target) * factor + _walking(choice, problem, target)
                yield time, choice, weights


def _walking(tile: Tile, problem: Problem, target: CudaTarget) -> float:
    """Seconds for finding out, at every step, where the next tap lies and what of it is beside the image."""
    steps = parts_of(problem.depth, tile.depth * tile.splits)
    return parts_of(blocks_of(tile, problem), target.processors) * steps * _WALK_CLOCKS / rates_of(target).clock
