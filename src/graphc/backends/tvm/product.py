"""A matrix product cut into panels of columns and blocks of rows, and one tile of it from operands to outputs."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from graphc.backends.contraction import Contraction, flat_stride
from graphc.backends.extents import bound, ceildiv, unflatten
from graphc.backends.regions import Expander
from graphc.backends.tvm.element_types import from_storage, number
from graphc.backends.tvm.epilogue import Epilogue
from graphc.backends.tvm.gemm_tiles import Tile, choose_tile, multiply
from graphc.backends.tvm.partial_sums import Parts, cut, uncut
from graphc.backends.tvm.render import Renderer
from graphc.backends.tvm.scope import Lane, Scope
from graphc.backends.tvm.tasks import PARALLEL_MACS, STREAMED_MACS, RowTiles, only, row_tiles, split_until_balanced
from graphc.backends.tvm.tir import Expr, KernelBuilder, broadcast
from graphc.backends.tvm.widening import WideLeft
from graphc.errors import BackendError
from graphc.ir import Dim, Graph, symbol
from graphc.ir.dtypes import DType
from graphc.ir.symbolic import Bounds, floordiv, typical
from graphc.ops.expr import Axis, cast, loads
from graphc.target import Target


@dataclass(frozen=True)
class Schedule:
    """How one product is cut.

    Args:
        rows: Rows of the left operand.
        columns: Columns of the right one.
        depth: Extent of the inner axis.
        lanes: Width of a vector.
        tile: Results in registers.
        blocks: Tiles of rows, in blocks.
        parts: The inner axis, in the parts that it is summed in.
        parallel: Whether threads share the tasks.
    """

    rows: Dim
    columns: Dim
    depth: Dim
    lanes: int
    tile: Tile
    blocks: RowTiles
    parts: Parts
    parallel: bool

    @property
    def width(self) -> int:
        """Columns of a panel."""
        return self.tile.vectors * self.lanes

    @property
    def full_panels(self) -> Dim:
        """Panels without columns past the end."""
        return floordiv(self.columns, self.width)

    @property
    def tail_vectors(self) -> int:
        """Vectors of the last panel where it is narrower, or of open width; 0 where there is none."""
        if not isinstance(self.columns, int):
            return self.tile.vectors
        return -(-(self.columns % self.width) // self.lanes)

    @property
    def panels(self) -> Dim:
        """All panels."""
        return ceildiv(self.columns, self.width)

    @property
    def packed_elements(self) -> Dim:
        """Elements of all panels, zeros past the last column included."""
        if not isinstance(self.columns, int):
            return self.panels * self.width * self.depth
        return ceildiv(self.columns, self.lanes) * self.lanes * self.depth

    def unflatten(self, builder: KernelBuilder, task: Dim) -> tuple[Dim, Dim]:
        """The block of rows and the panel of a task, rows outermost."""
        blocks = self.blocks.blocks
        block, panel = builder.simplify(task // self.panels), builder.simplify(task % self.panels)
        if blocks != 1 and self.panels != 1:
            block = builder.bind_index(block, 0, blocks - 1, "block")
            panel = builder.bind_index(panel, 0, self.panels - 1, "panel")
        return block, panel

    def each_panel(self, builder: KernelBuilder, panel: Dim, emit: Callable[[Dim, int, bool], None]) -> None:
        """Calls `emit(panel, vectors, ends)` where a whole panel stands, and where the one that columns end in does."""
        if not isinstance(self.columns, int):
            place = builder.bind_index(panel, 0, self.panels - 1, "panel")
            with builder.when(builder.index(place) < builder.index(self.full_panels)):
                emit(builder.bind_index(place, 0, self.full_panels - 1, "panel"), self.tile.vectors, False)
            with builder.when(builder.index(place) >= builder.index(self.full_panels)):
                emit(place, self.tile.vectors, True)
            return
        full = bound(self.full_panels)
        if full:
            with only(builder, panel, self.panels, below=full):
                emit(panel, self.tile.vectors, False)
        if self.tail_vectors:
            with only(builder, panel, self.panels, last=True):
                emit(full, self.tail_vectors, True)

    def inside(self, column: Dim, ends: bool) -> Dim | None:
        """How many lanes of the vector at `column` are inside, or more of them than there are; None for all.

        Args:
            column: Of its first lane.
            ends: Whether columns end in its panel.
        """
        left = self.columns - column
        whole = isinstance(left, int) and left >= self.lanes
        return left if ends and not whole else None

    def describe(self) -> dict[str, Any]:
        """What is worth showing."""
        return {
            "tile": f"{self.tile.rows}x{self.width}" + (f", {self.tile.ways} sums" if self.tile.ways > 1 else ""),
            **self.parts.describe(),
            "tasks": f"{self.blocks.blocks} row blocks x {self.panels} panels" if self.parallel else "serial",
        }


MANY_ROWS = 840
"""Rows that stand for an open number of them where a tile is chosen: a multiple of most heights, so tails weigh 0."""

MOST_HEIGHTS = 9
"""Height of tiles up to which there is code for every smaller one, where the number of rows is open."""

PASSED_ROWS = 3
"""Rows for each column of a panel that it meets at least before the next panel comes, where there are as many."""


def choose_schedule(
    target: Target,
    dtype: DType,
    rows: Dim,
    columns: Dim,
    depth: Dim,
    tile: Tile | None = None,
    *,
    part: int | None = None,
    stride: int | None = None,
    products: Dim = 1,
    bounds: Bounds | None = None,
) -> Schedule:
    """The schedule of `products` equal products of these extents in `dtype`, with the tile given or the best one.

    Args:
        target: The CPU.
        dtype: Type of sums.
        rows: Rows of the left operand.
        columns: Columns of the right one.
        depth: Extent of the inner axis.
        tile: Results in registers; the best if None.
        part: Most steps of the inner axis that are summed in registers; chosen if None.
        stride: Bytes between rows of the left operand, if it is read in place.
        products: How many there are.
        bounds: Of the symbols of open extents, which are weighed at their usual values.
    """
    bounds = bounds or {}
    lanes = target.lanes(dtype)
    width = typical(columns, bounds)
    tile = tile or choose_tile(target, typical(rows, bounds, MANY_ROWS), -(-width // lanes), stride)
    panels = -(-width // (tile.vectors * lanes))
    height, length, count = (typical(extent, bounds) for extent in (rows, depth, products))
    tiles = -(-height // tile.rows)
    parallel = count * max(height, STREAMED_MACS) * width * length >= PARALLEL_MACS
    # Half of L2 holds a block of rows, the other half the panel that passes. But every block gets its panels from
    # beyond L2: they have to meet some rows there.
    fit = max(target.l2_bytes // 2 // (length * dtype.itemsize), PASSED_ROWS * tile.vectors * lanes)
    blocks = min(tiles, -(-height // fit))
    if parallel:
        blocks = split_until_balanced(count * panels, tiles, target.cores, blocks)
    parts = cut(depth, bounds, part) if dtype.is_float else uncut(depth)
    # Code for every height is worth its size where a tile has one form, and few heights.
    exact = isinstance(columns, int) and not isinstance(rows, int) and tile.rows <= MOST_HEIGHTS
    cut_rows = row_tiles(rows, tile.rows, blocks, bounds, exact=exact)
    return Schedule(rows, columns, depth, lanes, tile, cut_rows, parts, parallel)


def read_by(body: Graph, problem: Contraction) -> tuple[set[int], set[int]]:
    """Numbers of the body inputs that the product reads, and of those that what follows it reads.

    Raises:
        BackendError: The left operand has no constant stride along the inner axis.
    """
    if problem.left.stride(problem.inner) is None:
        raise BackendError("the left operand is not read at a constant stride along the inner axis")
    number = len(body.inputs)
    expander = Expander(body, {problem.anchor.output: number})
    elements = [expander.output(value).body for value in body.outputs]
    if problem.addend is not None:
        elements.append(problem.addend)
    after = {load.input for element in elements for load in loads(element)} - {number}
    return {problem.left.input, problem.right.input}, after


def row_stride(problem: Contraction, rows: Sequence[Axis]) -> int | None:
    """Bytes between rows of the left operand as a product reads them; None where they change, or with the call."""
    if WideLeft.needed(problem):
        depth = problem.inner.extent
        return depth * problem.dtype.itemsize if isinstance(depth, int) else None
    stride = flat_stride(problem.left, rows)
    return None if stride is None else stride * problem.dtype.itemsize


def packed_panel(
    builder: KernelBuilder, schedule: Schedule, operand: int, dtype: DType, start: Dim, panel: Dim, vectors: int
) -> Callable[[Dim, int], Expr]:
    """Vectors of one panel of an operand of `dtype` packed at `start`, by step of the inner axis and vector."""
    base = start + panel * (schedule.depth * schedule.width)
    step = vectors * schedule.lanes

    def right(k: Dim, v: int) -> Expr:
        return from_storage(builder.load(operand, base + k * step + v * schedule.lanes, schedule.lanes), dtype)

    return right


class Product:
    """Emits tiles of one product, with the epilogue of its region.

    Args:
        builder: The kernel under construction.
        body: The region's body.
        problem: Its contraction.
        schedule: Its extents and tiles.
        operands: Pointer argument of each body input that the kernel reads; the outputs follow them.
        rows: Axes whose row-major order the rows are numbered in.
        alpha: Factor of every sum.
        wide_left: Where the left operand was widened, if it was: what tells places there, and the pointer argument.
    """

    def __init__(
        self,
        builder: KernelBuilder,
        body: Graph,
        problem: Contraction,
        schedule: Schedule,
        operands: Mapping[int, int],
        rows: Sequence[Axis],
        *,
        alpha: float = 1.0,
        wide_left: tuple[WideLeft, int] | None = None,
    ) -> None:
        self.builder = builder
        self.problem = problem
        self.schedule = schedule
        self.left = operands[problem.left.input]
        self.rows = rows
        self.alpha = alpha
        self.wide_left = wide_left
        outputs = range(len(operands), len(operands) + len(body.outputs))
        self.epilogue = Epilogue(builder, body, problem.anchor, operands, outputs)
        self._renderer = Renderer(builder, [value.tensor_type for value in body.inputs], operands)
        self._row_stride = flat_stride(problem.left, rows)

    def tile(
        self,
        row: Dim,
        rows: int,
        column: Dim,
        vectors: int,
        right: Callable[[Dim, int], Expr],
        batch: Mapping[str, Dim] | None = None,
        *,
        ends: bool = False,
    ) -> None:
        """Multiplies one tile and hands it to the epilogue.

        Args:
            row: First row.
            rows: Rows.
            column: First column.
            vectors: Vectors of columns.
            right: A vector of the right operand, by step of the inner axis and vector.
            batch: Places of the axes that are neither rows nor columns.
            ends: Whether columns may end inside the tile.
        """
        plan, builder, problem = self.schedule, self.builder, self.problem
        batch = batch or {}
        starts = [self._row_start(row + r, batch) for r in range(rows)]
        stride = problem.left.stride(problem.inner) if self.wide_left is None else 1
        operand = self.left if self.wide_left is None else self.wide_left[1]
        assert stride is not None, "read_by refuses others"

        def left(r: int, k: Dim) -> Expr:
            return builder.load(operand, starts[r] + k * stride)

        sums = multiply(builder, plan.tile.cut(rows, vectors), plan.lanes, plan.parts, left, right, problem.dtype)
        for r in range(rows):
            places = {**batch, **unflatten(self.rows, row + r, builder.bounds)}
            for v in range(vectors):
                at = column + v * plan.lanes
                self._store(sums[r][v], places, at, plan.inside(at, ends))

    def _row_start(self, row: Dim, batch: Mapping[str, Dim]) -> Dim:
        """Offset of a row of the left operand."""
        if self.wide_left is not None:
            places = {**batch, **unflatten(self.rows, row, self.builder.bounds)}
            return self.builder.bind_index(self.wide_left[0].start(places), 0, None, "start")
        left, builder = self.problem.left, self.builder
        origin = {**batch, **{axis.name: 0 for axis in (*self.rows, self.problem.inner)}}
        if self._row_stride is not None:
            return left.at(origin, builder.bounds) + row * self._row_stride
        places = {**origin, **unflatten(self.rows, row, builder.bounds)}
        return builder.bind_index(left.at(places, builder.bounds), 0, None, "start")

    def _store(self, value: Expr, places: Mapping[str, Dim], column: Dim, count: Dim | None) -> None:
        plan, builder, problem = self.schedule, self.builder, self.problem
        if self.alpha != 1.0:
            value = value * number(self.alpha, problem.dtype, plan.lanes)
        with builder.lanes(plan.lanes) as name:
            lane = Lane(name, plan.lanes, count)
            at = {**places, problem.column.name: column + symbol(name)}
            if problem.addend is not None:
                addend = cast(problem.addend, problem.dtype)
                value = value + broadcast(self._renderer.render(addend, lane, Scope(at)), plan.lanes)
            self.epilogue.store(value, [at[axis.name] for axis in problem.axes], lane)
