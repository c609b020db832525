"""Convolutions of images as products on a GPU: rows are pixels, columns output channels; taps and channels are summed.

The matrix of pixels is never stored: each step of the product reads, for a block of pixels, what one tap sees of a
block of channels (implicit GEMM). Where an image has few channels, a step goes across taps and gathers. What lies
beside an image is masked. Small images with many channels are cut along the inner axis too; a second launch adds up.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from graphc.backends.base import Kernel
from graphc.backends.triton import conv_tiles
from graphc.backends.triton.conv_launches import ConvWriter
from graphc.backends.triton.conv_plan import accepted, arithmetic_of, plan_of, products_of
from graphc.backends.triton.conv_tiles import MEASURED, TILES
from graphc.backends.triton.matmul_tiles import Tile
from graphc.ir import Graph
from graphc.target import CudaTarget


def lower(body: Graph, target: CudaTarget, constants: frozenset[int], options: Mapping[str, Any]) -> Kernel:
    """The kernel of a body around a Conv or ConvInteger along one or two axes with constant weights.

    Args:
        body: One convolution and its epilogue.
        target: The GPU.
        constants: Numbers of the body's inputs that are constants.
        options: `precision`: "tf32" rounds float32 to what tensor cores take; `conv_tile` overrides the choice of
            tiles: rows, columns, depth, stages, warps, splits.

    Raises:
        BackendError: The body is something else; the message says what.
    """
    body, problem = accepted(body, constants)
    plan = plan_of(body, problem, target, options)
    return ConvWriter(body, plan).kernel(target)


def alternatives(
    body: Graph, target: CudaTarget, constants: frozenset[int], options: Mapping[str, Any], most: int = 16
) -> list[dict[str, Any]]:
    """Options of `lower` worth measuring, the more promising ones first; those of eight warps are among the last.

    Raises:
        BackendError: As of `lower`.
    """
    body, problem = accepted(body, constants)
    arithmetic = arithmetic_of(body.inputs[problem.data].tensor_type, options)
    products = products_of(body, problem, arithmetic)
    ranked: list[Tile] = []
    for tiles in (TILES[arithmetic], MEASURED.get(arithmetic, ())):
        found = sorted(conv_tiles.fitting(target, tiles, products), key=lambda choice: choice[0])
        ranked += list(dict.fromkeys(tile for _, tile, _ in found))[:most]
    return [{"conv_tile": [t.rows, t.columns, t.depth, t.stages, t.warps, t.splits]} for t in ranked]
