"""How a recurrence is cut: hidden units in panels of vectors, sequences in tiles of rows, and what threads share."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np

from graphc.backends.base import Packing
from graphc.backends.extents import bound
from graphc.backends.tvm.gemm_tiles import Tile, sweep_cost, with_ways
from graphc.backends.tvm.tasks import IMBALANCE, PARALLEL_MACS, RowTiles, imbalance, row_tiles, split_until_balanced
from graphc.ir import Dim
from graphc.ir.dtypes import DType
from graphc.ops.recurrent_cells import Phase
from graphc.target import Target

Share = Literal["nothing", "sequences", "units"]
"""What threads share: nothing; directions and blocks of sequences, from first step to last; or panels of hidden units
of every step, after each of which they wait for each other."""

SHARED_STEP = PARALLEL_MACS // 4
"""Multiply-adds from which threads share a step: between steps they do not sleep, and wait for each other shortly."""


@dataclass(frozen=True)
class Extents:
    """Sizes of a recurrence.

    Args:
        steps: Time steps.
        batch: Sequences.
        directions: One or two.
        hidden: Hidden units of a direction.
        gates: Gates of the cell.
        inputs: Elements of an input that each step multiplies itself; 0 where the input comes projected.
        batch_major: Whether sequences come before steps in memory, and before directions in the states.
    """

    steps: Dim
    batch: Dim
    directions: int
    hidden: int
    gates: int
    inputs: int
    batch_major: bool


@dataclass(frozen=True)
class Plan:
    """The schedule of a recurrence.

    Args:
        target: The CPU.
        extents: Its sizes.
        dtype: Element type.
        lanes: Width of a vector.
        products: Numbers of the gates of each phase's product.
        tile: Accumulators of the largest phase: rows are sequences.
        vectors: Vectors of hidden units in a panel.
        rows: Sequences in tiles and blocks.
        share: What threads share.
    """

    target: Target
    extents: Extents
    dtype: DType
    lanes: int
    products: tuple[tuple[int, ...], ...]
    tile: Tile
    vectors: int
    rows: RowTiles
    share: Share

    @property
    def all_vectors(self) -> int:
        """Vectors that hold the hidden units of one direction."""
        return -(-self.extents.hidden // self.lanes)

    @property
    def padded(self) -> int:
        """Hidden units rounded up to whole vectors."""
        return self.all_vectors * self.lanes

    @property
    def full_panels(self) -> int:
        """Panels all of whose lanes are hidden units."""
        return self.extents.hidden // (self.vectors * self.lanes)

    @property
    def tail_vectors(self) -> int:
        """Vectors of the last panel where it is narrower or has lanes past the end; 0 where there is none."""
        return self.all_vectors - self.full_panels * self.vectors

    @property
    def panels(self) -> int:
        """All panels."""
        return self.full_panels + (self.tail_vectors > 0)

    def accumulators(self, rows: int, vectors: int) -> Tile:
        """The tile of some sequences times some vectors of weights, with sums enough to hide the latency."""
        return with_ways(Tile(rows, vectors), self.target)

    def packed_elements(self, depth: int) -> int:
        """Elements of one direction's packed weights of a vector of `depth`."""
        return depth * self.padded * sum(map(len, self.products))

    def start(self, phase: int, depth: int) -> int:
        """Where a phase's panels start in a direction's packed weights."""
        return depth * self.padded * sum(map(len, self.products[:phase]))

    def describe(self) -> dict[str, Any]:
        """What is worth showing."""
        return {
            "tile": f"{self.tile.rows}x{self.tile.vectors * self.lanes}",
            "panels": self.panels,
            "shared": self.share,
        }

    def packing(self) -> Packing:
        """Weights as panels `[direction][phase][panel][k][gate][unit]`, zeros past the last unit."""
        parameters: dict[str, int | float | str] = {
            "lanes": self.lanes,
            "vectors": self.vectors,
            "gates": "/".join(",".join(map(str, product)) for product in self.products),
        }
        return Packing("recurrence_panels", tuple(parameters.items()), self.pack)

    def pack(self, weights: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
        """(directions, gates * hidden, depth) as `packing` says."""
        cut, extent = self.vectors * self.lanes, self.extents
        full = self.full_panels * cut
        parts = []
        for direction in weights.reshape(extent.directions, extent.gates, extent.hidden, weights.shape[2]):
            for product in self.products:
                matrix = np.zeros((weights.shape[2], len(product), self.padded), weights.dtype)
                matrix[:, :, : extent.hidden] = direction[list(product)].transpose(2, 0, 1)
                panels = matrix[:, :, :full].reshape(weights.shape[2], len(product), self.full_panels, cut)
                parts += [panels.transpose(2, 0, 1, 3).reshape(-1), matrix[:, :, full:].reshape(-1)]
        return np.concatenate(parts)


def choose_plan(extents: Extents, usual: Extents, dtype: DType, phases: Sequence[Phase], target: Target) -> Plan:
    """The plan of a recurrence.

    Args:
        extents: Its sizes.
        usual: The same where none is open: by them it is cut.
        dtype: Element type.
        phases: Of one direction.
        target: The CPU.
    """
    lanes = target.lanes(dtype)
    products = tuple(phase.gates for phase in phases)
    gates = max(map(len, products))
    vectors = -(-extents.hidden // lanes)
    steps, batch = bound(usual.steps), bound(usual.batch)
    share = _share(usual, steps, batch, sum(map(len, products)), dtype.itemsize, target)
    blocks = split_until_balanced(extents.directions, batch, target.cores) if share == "sequences" else 1
    rows = -(-batch // blocks)

    def cost(tile: Tile) -> tuple[float, int]:
        total = sweep_cost(tile, rows, gates * vectors)
        if share == "units":
            total *= imbalance(extents.directions * -(-vectors * gates // tile.vectors), target.cores)
        return total, tile.vectors

    tile = min(_tiles(target, gates, rows, vectors), key=cost)
    return Plan(
        target,
        extents,
        dtype,
        lanes,
        products,
        tile,
        tile.vectors // gates,
        row_tiles(extents.batch, tile.rows, blocks, usual=batch),
        share,
    )


def _tiles(target: Target, gates: int, rows: int, vectors: int) -> Iterator[Tile]:
    """Every tile of whole hidden vectors that fits the registers."""
    for count in range(1, max(1, min(vectors, 8 // gates)) + 1):
        most = (target.vector_registers - gates * count - 1) // (gates * count)
        for height in range(1, min(rows, most) + 1):
            yield with_ways(Tile(height, gates * count), target)


def _share(extents: Extents, steps: int, batch: int, gates: int, itemsize: int, target: Target) -> Share:
    """What threads share.

    Whole directions and sequences need no waiting, but every thread reads all weights of its direction in every step:
    where they do not stay in its cache, or there is one sequence, threads share the units of a step if it is long.
    """
    weights = gates * extents.hidden * (extents.hidden + extents.inputs)
    # A weight takes as long to come from L2 as two sequences take to multiply it.
    step = extents.directions * weights * max(2, batch)
    if target.cores == 1 or steps * step < PARALLEL_MACS:
        return "nothing"
    if imbalance(extents.directions, target.cores) <= IMBALANCE:
        return "sequences"
    enough = extents.directions * batch >= 2 * target.cores and weights * itemsize <= target.l2_bytes // 2
    if step >= SHARED_STEP and not enough:
        return "units"
    return "sequences" if extents.directions * batch > 1 else "nothing"
