"""Matmul with constant weights: a row-major left operand times panels of packed weights, and whatever follows.

The weights are packed once, at compile time, into panels `[N/nr][K][nr]`, the last one narrower, with zeros past the
last column. Tasks are (block of rows, panel) pairs, rows outermost: a block of rows stays in L2 while panels stream by.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np

from graphc.backends.base import Kernel, Operand, Packing, content_key
from graphc.backends.regions import Expander, signature
from graphc.backends.tvm import objects
from graphc.backends.tvm.contraction import Contraction, contraction_of, extent_of, flat_stride, unflatten
from graphc.backends.tvm.epilogue import Epilogue
from graphc.backends.tvm.gemm_tiles import Tile, choose_tile, multiply, with_ways
from graphc.backends.tvm.render import Lane, Renderer, Scope
from graphc.backends.tvm.tasks import PARALLEL_MACS, RowTiles, only, row_tiles, split_until_balanced
from graphc.backends.tvm.tir import Expr, KernelBuilder, broadcast
from graphc.errors import BackendError
from graphc.ir import Dim, Graph, dtypes, symbol
from graphc.ops.expr import loads
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
        parallel: Whether threads share the tasks.
    """

    rows: int
    columns: int
    depth: int
    lanes: int
    tile: Tile
    blocks: RowTiles
    parallel: bool

    @property
    def width(self) -> int:
        """Columns of a panel."""
        return self.tile.vectors * self.lanes

    @property
    def full_panels(self) -> int:
        """Panels without columns past the end."""
        return self.columns // self.width

    @property
    def tail_vectors(self) -> int:
        """Vectors of the last panel where it is narrower; 0 where there is none."""
        return -(-(self.columns - self.full_panels * self.width) // self.lanes)

    @property
    def panels(self) -> int:
        """All panels."""
        return self.full_panels + (self.tail_vectors > 0)

    def describe(self) -> dict[str, Any]:
        """What is worth showing."""
        return {
            "tile": f"{self.tile.rows}x{self.width}" + (f", {self.tile.ways} sums" if self.tile.ways > 1 else ""),
            "tasks": f"{self.blocks.blocks} row blocks x {self.panels} panels" if self.parallel else "serial",
        }


def choose_schedule(target: Target, rows: int, columns: int, depth: int, tile: Tile | None = None) -> Schedule:
    """The schedule of a product of these extents, with the tile given or the best one."""
    lanes = target.lanes(dtypes.FLOAT32)
    tile = tile or choose_tile(target, rows, -(-columns // lanes))
    panels = -(-columns // (tile.vectors * lanes))
    tiles = -(-rows // tile.rows)
    parallel = rows * columns * depth >= PARALLEL_MACS
    # Half of L2 holds a block of rows, the other half the panel that passes.
    blocks = min(tiles, max(1, -(-rows * depth * 4 // (target.l2_bytes // 2))))
    if parallel:
        blocks = split_until_balanced(panels, tiles, target.cores, blocks)
    return Schedule(rows, columns, depth, lanes, tile, row_tiles(rows, tile.rows, blocks), parallel)


def lower(body: Graph, target: Target, constants: frozenset[int], options: Mapping[str, Any]) -> Kernel:
    """The kernel of a body around a MatMul or Gemm with constant weights.

    Args:
        body: One anchor, its epilogue and movement before its left operand.
        target: The CPU.
        constants: Numbers of the body's inputs that are constants.
        options: `tile` overrides the register tile: `(rows, vectors)`.

    Raises:
        BackendError: The body is something else; the message says what.
    """
    problem = contraction_of(body)
    weight = problem.right.input
    read = _check(problem, body, constants)
    override = options.get("tile")
    rows = extent_of(problem.axes[:-1])
    columns, depth = extent_of(problem.axes[-1:]), extent_of([problem.inner])
    schedule = choose_schedule(
        target, rows, columns, depth, with_ways(Tile(*override), target) if override is not None else None
    )
    packing = _packing(problem, schedule)
    key = content_key(["gemm", signature(body), target, schedule, packing, objects.versions()])
    name = f"graphc_gemm_{key[:16]}"
    packed_bytes = (schedule.full_panels * schedule.width + schedule.tail_vectors * schedule.lanes) * depth * 4
    inputs = sorted(read)
    operands = [
        Operand("input", i, packed_bytes, packing)
        if i == weight
        else Operand("input", i, body.inputs[i].tensor_type.storage_bytes)
        for i in inputs
    ]
    operands += [Operand("output", i, value.tensor_type.storage_bytes) for i, value in enumerate(body.outputs)]

    def emit() -> Any:
        types = [value.tensor_type.dtype for value in (*(body.inputs[i] for i in inputs), *body.outputs)]
        with KernelBuilder(name, types, vector_bytes=target.vector_bytes, bounds=body.bounds) as builder:
            _Gemm(builder, body, problem, schedule, {i: number for number, i in enumerate(inputs)}).emit()
        return builder.function

    moved: Dim = 0
    for operand in operands:
        moved = moved + operand.size
    return Kernel(
        key=key,
        template="gemm",
        operands=tuple(operands),
        dims=(),
        flops=2 * rows * columns * depth,
        bytes=moved,
        schedule=schedule.describe(),
        compile=lambda: objects.compile_function(emit(), name, target),
    )


def _check(problem: Contraction, body: Graph, constants: frozenset[int]) -> set[int]:
    """Numbers of the body inputs that the kernel reads.

    Raises:
        BackendError: The template does not take the contraction.
    """
    right = problem.right
    if right.input not in constants:
        raise BackendError("the right operand is not a constant")
    if not right.type.layout.is_row_major:
        raise BackendError("the right operand is not row-major")
    if any(right.depends_on(axis) for axis in problem.batch):
        raise BackendError("every batch has a right operand of its own")
    if right.stride(problem.inner) is None or right.stride(problem.column) is None:
        raise BackendError("the right operand is not a matrix of constant strides")
    if problem.left.stride(problem.inner) is None:
        raise BackendError("the left operand is not read at a constant stride along the inner axis")
    if problem.left.input == right.input:
        raise BackendError("both operands are one constant")
    number = len(body.inputs)
    expander = Expander(body, {problem.anchor.output: number})
    elements = [expander.output(value).body for value in body.outputs]
    if problem.addend is not None:
        elements.append(problem.addend)
    read = {load.input for element in elements for load in loads(element)} - {number}
    if right.input in read:
        raise BackendError("the right operand is read again after the product")
    return read | {problem.left.input, right.input}


def _packing(problem: Contraction, schedule: Schedule) -> Packing:
    """Panels of the weights, scaled by alpha."""
    right = problem.right
    step_k, step_n = right.stride(problem.inner), right.stride(problem.column)
    assert step_k is not None and step_n is not None, "_check refuses such operands"
    start = right.offset - step_k * problem.inner.index - step_n * problem.column.index
    assert isinstance(start, int), "the right operand depends on no other axis"
    depth, columns, alpha = schedule.depth, schedule.columns, problem.alpha

    def apply(array: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
        flat = np.ascontiguousarray(array).reshape(-1)[start:]
        strides = (step_k * flat.itemsize, step_n * flat.itemsize)
        matrix = np.lib.stride_tricks.as_strided(flat, (depth, columns), strides, writeable=False)
        return pack_panels(matrix if alpha == 1.0 else matrix * np.float32(alpha), schedule.width, schedule.lanes)

    parameters = {
        "width": schedule.width,
        "lanes": schedule.lanes,
        "start": start,
        "stride_k": step_k,
        "stride_n": step_n,
        "alpha": alpha,
    }
    return Packing("gemm_panels", tuple(parameters.items()), apply)


def pack_panels(matrix: np.ndarray[Any, Any], width: int, lanes: int) -> np.ndarray[Any, Any]:
    """A [K, N] matrix as panels `[N/width][K][width]`; the last as narrow as whole vectors allow, zeros past N."""
    depth, columns = matrix.shape
    full = columns // width
    panels = [matrix[:, : full * width].reshape(depth, full, width).transpose(1, 0, 2).reshape(-1)]
    if rest := columns - full * width:
        tail = np.zeros((depth, -(-rest // lanes) * lanes), matrix.dtype)
        tail[:, :rest] = matrix[:, full * width :]
        panels.append(tail.reshape(-1))
    return np.concatenate(panels)


class _Gemm:
    """Emits the loops of one product."""

    def __init__(
        self,
        builder: KernelBuilder,
        body: Graph,
        problem: Contraction,
        schedule: Schedule,
        operands: Mapping[int, int],
    ) -> None:
        self.builder = builder
        self.problem = problem
        self.schedule = schedule
        self.row_axes = problem.axes[:-1]
        self.left, self.right = operands[problem.left.input], operands[problem.right.input]
        outputs = range(len(operands), len(operands) + len(body.outputs))
        self.epilogue = Epilogue(builder, body, problem.anchor, operands, outputs)
        self.renderer = Renderer(builder, [value.tensor_type for value in body.inputs], operands)
        self.row_stride = flat_stride(problem.left, self.row_axes)

    def emit(self) -> None:
        plan, builder = self.schedule, self.builder
        blocks = plan.blocks.blocks
        with builder.parallel(blocks * plan.panels, "task", enable=plan.parallel) as task:
            block = builder.simplify(task // plan.panels)
            panel = builder.simplify(task % plan.panels)
            if blocks > 1 and plan.panels > 1:
                block = builder.bind_index(block, 0, blocks - 1, "block")
                panel = builder.bind_index(panel, 0, plan.panels - 1, "panel")
            if plan.full_panels:
                with only(builder, panel, plan.panels, below=plan.full_panels):
                    plan.blocks.each(builder, block, partial(self._tile, panel, plan.tile.vectors))
            if plan.tail_vectors:
                with only(builder, panel, plan.panels, last=True):
                    plan.blocks.each(builder, block, partial(self._tile, plan.full_panels, plan.tail_vectors))
        self.epilogue.finish()

    def _tile(self, panel: Dim, vectors: int, row: Dim, rows: int) -> None:
        """One panel against one tile of rows."""
        plan, builder, problem = self.schedule, self.builder, self.problem
        base = panel * (plan.depth * plan.width)
        width = vectors * plan.lanes
        starts = [self._row_start(row + r) for r in range(rows)]
        stride = problem.left.stride(problem.inner)
        assert stride is not None

        def left(r: int, k: Dim) -> Expr:
            return builder.load(self.left, starts[r] + k * stride)

        def right(k: Dim, v: int) -> Expr:
            return builder.load(self.right, base + k * width + v * plan.lanes, plan.lanes)

        ways = plan.tile.ways if rows * vectors * plan.tile.ways <= plan.tile.rows * plan.tile.vectors * 4 else 1
        sums = multiply(builder, Tile(rows, vectors, ways), plan.lanes, plan.depth, left, right)
        for r in range(rows):
            places = unflatten(self.row_axes, row + r, builder.bounds)
            for v in range(vectors):
                self._store(sums[r][v], places, panel * plan.width + v * plan.lanes, v == vectors - 1)

    def _row_start(self, row: Dim) -> Dim:
        """Offset of a row of the left operand."""
        left, builder = self.problem.left, self.builder
        origin = {axis.name: 0 for axis in (*self.row_axes, self.problem.inner)}
        if self.row_stride is not None:
            return left.at(builder, origin) + row * self.row_stride
        places = {**origin, **unflatten(self.row_axes, row, builder.bounds)}
        return builder.bind_index(left.at(builder, places), 0, None, "start")

    def _store(self, value: Expr, places: Mapping[str, Dim], column: Dim, last: bool) -> None:
        plan, builder, problem = self.schedule, self.builder, self.problem
        count: int | None = None
        if last and isinstance(column, int) and column + plan.lanes > plan.columns:
            count = plan.columns - column
        with builder.lanes(plan.lanes) as name:
            lane = Lane(name, plan.lanes, count)
            at = {**places, problem.column.name: column + symbol(name)}
            if problem.addend is not None:
                value = value + broadcast(self.renderer.render(problem.addend, lane, Scope(at)), plan.lanes)
            self.epilogue.store(value, [at[axis.name] for axis in problem.axes], lane)
