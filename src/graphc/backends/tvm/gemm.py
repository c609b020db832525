"""Matmul with constant weights: a row-major left operand times panels of packed weights, and whatever follows.

The weights are packed once, at compile time, into panels `[N/nr][K][nr]`, the last one narrower, with zeros past the
last column. Tasks are (block of rows, panel) pairs, rows outermost: a block of rows stays in L2 while panels stream by.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from graphc.backends.base import Kernel, Packing
from graphc.backends.contraction import Contraction, contraction_of
from graphc.backends.extents import count_of, extent_of
from graphc.backends.tvm.assemble import build_kernel
from graphc.backends.tvm.gemm_tiles import Tile, fitting, sweep_cost, with_ways
from graphc.backends.tvm.partial_sums import LONG, SHORT_STEPS, cut
from graphc.backends.tvm.product import Product, Schedule, choose_schedule, packed_panel, read_by, row_stride
from graphc.backends.tvm.tir import KernelBuilder
from graphc.backends.tvm.widening import WideLeft
from graphc.errors import BackendError
from graphc.ir import Dim, Graph
from graphc.target import Target


def lower(body: Graph, target: Target, constants: frozenset[int], options: Mapping[str, Any]) -> Kernel:
    """The kernel of a body around a MatMul or Gemm with constant weights.

    Args:
        body: One anchor, its epilogue and movement before its left operand.
        target: The CPU.
        constants: Numbers of the body's inputs that are constants.
        options: `tile` overrides the register tile: `(rows, vectors)`; `part` how many steps of the inner axis are
            summed in registers at most.

    Raises:
        BackendError: The body is something else; the message says what.
    """
    problem = contraction_of(body)
    weight = problem.right.input
    read = _check(problem, body, constants)
    override = options.get("tile")
    rows = count_of(problem.axes[:-1])
    columns, depth = extent_of(problem.axes[-1:]), extent_of([problem.inner])
    tile = with_ways(Tile(*override), target) if override is not None else None
    schedule = choose_schedule(
        target,
        problem.dtype,
        rows,
        columns,
        depth,
        tile,
        part=options.get("part"),
        stride=row_stride(problem, problem.axes[:-1]),
        bounds=body.bounds,
    )
    packing = _packing(problem, schedule)
    inputs = sorted(read)
    numbers = {i: number for number, i in enumerate(inputs)}
    wide = WideLeft(problem, problem.axes[:-1], schedule.lanes) if WideLeft.needed(problem) else None
    workspace = len(inputs) + len(body.outputs)

    def emit(builder: KernelBuilder) -> None:
        wide_left = None if wide is None else (wide, workspace)
        # Narrow weights are scaled with their sums, so that no rounding of theirs comes between.
        alpha = 1.0 if wide is None else problem.alpha
        product = Product(
            builder, body, problem, schedule, numbers, problem.axes[:-1], alpha=alpha, wide_left=wide_left
        )
        if wide is not None:
            wide.emit(builder, numbers[problem.left.input], workspace, parallel=schedule.parallel)
        _emit(builder, product, schedule, numbers[weight])

    return build_kernel(
        "gemm",
        body,
        target,
        [schedule, packing],
        emit,
        flops=2 * rows * columns * depth,
        schedule=schedule.describe(),
        reads=inputs,
        packed={weight: (schedule.packed_elements * problem.right.type.dtype.itemsize, packing)},
        workspaces=[] if wide is None else [wide.elements * problem.dtype.itemsize],
    )


def alternatives(body: Graph, target: Target, constants: frozenset[int]) -> list[dict[str, Any]]:
    """Options of `lower` worth measuring: the best tile of each width, and other parts of a long sum.

    Raises:
        BackendError: As of `lower`.
    """
    problem = contraction_of(body)
    _check(problem, body, constants)
    rows, columns = extent_of(problem.axes[:-1]), extent_of(problem.axes[-1:])
    vectors = -(-columns // target.lanes(problem.right.type.dtype))
    best: dict[int, Tile] = {}
    for tile in sorted(fitting(target, rows, vectors), key=lambda tile: sweep_cost(tile, rows, vectors)):
        best.setdefault(tile.vectors, tile)
    found: list[dict[str, Any]] = [{"tile": [tile.rows, tile.vectors]} for tile in best.values()]
    parts = cut(extent_of([problem.inner]), body.bounds)
    if not parts.whole and not parts.compensated:
        found += [{**found[0], "part": size} for size in (SHORT_STEPS, LONG)]
    return found


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
    if problem.left.input == right.input:
        raise BackendError("both operands are one constant")
    operands, after = read_by(body, problem)
    if right.input in after:
        raise BackendError("the right operand is read again after the product")
    return operands | after


def _packing(problem: Contraction, schedule: Schedule) -> Packing:
    """Panels of the weights, scaled by alpha unless they are narrow."""
    right = problem.right
    step_k, step_n = right.stride(problem.inner), right.stride(problem.column)
    assert step_k is not None and step_n is not None, "_check refuses such operands"
    start = right.offset - step_k * problem.inner.index - step_n * problem.column.index
    assert isinstance(start, int), "the right operand depends on no other axis"
    depth, columns = extent_of([problem.inner]), extent_of([problem.column])
    alpha = 1.0 if WideLeft.needed(problem) else problem.alpha

    def apply(array: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
        scaled = array if alpha == 1.0 else array * array.dtype.type(alpha)
        # As words: NumPy has no strided views of types that it does not know.
        flat = np.ascontiguousarray(scaled).reshape(-1)[start:].view(f"u{array.dtype.itemsize}")
        strides = (step_k * flat.itemsize, step_n * flat.itemsize)
        matrix = np.lib.stride_tricks.as_strided(flat, (depth, columns), strides, writeable=False)
        return pack_panels(matrix, schedule.width, schedule.lanes).view(array.dtype)

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


def _emit(builder: KernelBuilder, product: Product, schedule: Schedule, weights: int) -> None:
    """The loops over blocks of rows and panels."""
    tasks = schedule.blocks.blocks * schedule.panels
    with builder.parallel(tasks, "task", enable=schedule.parallel) as task:
        block, panel = schedule.unflatten(builder, task)

        def rows(panel: Dim, vectors: int, ends: bool) -> None:
            dtype = product.problem.right.type.dtype
            right = packed_panel(builder, schedule, weights, dtype, 0, panel, vectors)

            def tile(row: Dim, count: int) -> None:
                product.tile(row, count, panel * schedule.width, vectors, right, ends=ends)

            schedule.blocks.each(builder, block, tile)

        schedule.each_panel(builder, panel, rows)
    product.epilogue.finish()
