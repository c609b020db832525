"""Matmul of two activations: the right operand is read where it lies, or packed into panels as the kernel runs.

A right operand whose columns are neighbours can be read in place. It is packed, into the same panels as constant
weights, where they are not (a transposed operand), or where there are rows enough to pay for the copy.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from graphc.backends.base import Kernel
from graphc.backends.contraction import Contraction, contraction_of
from graphc.backends.extents import bound, count_of, unflatten
from graphc.backends.tvm.assemble import build_kernel
from graphc.backends.tvm.element_types import constant, from_storage
from graphc.backends.tvm.product import Product, Schedule, choose_schedule, packed_panel, read_by, row_stride
from graphc.backends.tvm.tasks import IMBALANCE, Chunks, chunks_of, imbalance
from graphc.backends.tvm.tir import Expr, KernelBuilder, broadcast
from graphc.backends.tvm.transpose import copy_transposed
from graphc.backends.tvm.widening import WideLeft
from graphc.ir import Dim, Graph
from graphc.ir.symbolic import Bounds, minimum, typical
from graphc.ops.expr import Axis
from graphc.target import Target

PACKED_ROWS = 256
"""Rows from which packing a right operand that could be read in place costs less than reading it scattered."""

SCATTERED_BYTES = 1024
"""Bytes between rows of the right operand from which its panels are scattered over many pages and cache sets."""


@dataclass(frozen=True)
class Plan:
    """How a batch of products is cut.

    Args:
        batch: Axes of independent products.
        rows: Axes of the left operand's rows.
        sources: Those of `batch` that the right operand changes along.
        product: The schedule of one product; its tasks are shared among threads unless `whole` is given.
        whole: Chunks of whole products, where there are enough of them to keep every thread busy.
        packs: Whether the right operand is packed.
        first: Chunks of the (product, panel) pairs packed before all else; None where each product packs its own.
    """

    batch: tuple[Axis, ...]
    rows: tuple[Axis, ...]
    sources: tuple[Axis, ...]
    product: Schedule
    whole: Chunks | None
    packs: bool
    first: Chunks | None

    @property
    def copies(self) -> Dim:
        """Packed right operands held at once."""
        if not self.packs:
            return 0
        return count_of(self.sources) if self.first is not None or self.whole is None else self.whole.count


def choose_plan(problem: Contraction, target: Target, bounds: Bounds) -> Plan:
    """The plan of a contraction; `bounds` are those of the symbols of open extents."""
    right = problem.right
    sources = tuple(axis for axis in problem.batch if axis.extent != 1 and right.depends_on(axis))
    batch = problem.batch if sources else ()
    rows = problem.axes[len(batch) : -1]
    count, height = count_of(batch), count_of(rows)
    columns, depth = problem.column.extent, problem.inner.extent
    schedule = choose_schedule(
        target,
        problem.dtype,
        height,
        columns,
        depth,
        stride=row_stride(problem, rows),
        products=count,
        bounds=bounds,
    )
    usual, high = typical(count, bounds), typical(height, bounds)
    stride = right.stride(problem.inner)
    scattered = stride is None or abs(stride) * right.type.dtype.itemsize >= SCATTERED_BYTES
    packs = right.stride(problem.column) != 1 or (high >= PACKED_ROWS and scattered)
    # Narrow floats are widened where they are packed, not once for every tile of rows.
    packs = packs or (right.type.dtype != problem.dtype and high > schedule.tile.rows)
    whole = None
    if not schedule.parallel or imbalance(usual, target.cores) <= IMBALANCE:
        whole = chunks_of(count, target.cores, parallel=schedule.parallel)
    first = None
    if packs and (whole is None or typical(count_of(sources), bounds) < usual):
        first = chunks_of(count_of(sources) * schedule.panels, target.cores, parallel=schedule.parallel)
    return Plan(batch, rows, sources, schedule, whole, packs, first)


def lower(body: Graph, target: Target, constants: frozenset[int], options: Mapping[str, Any]) -> Kernel:
    """The kernel of a body around a MatMul or Gemm whose right operand is computed by the model.

    Args:
        body: One anchor, its epilogue and movement before its operands.
        target: The CPU.
        constants: Numbers of the body's inputs that are constants; none is packed at compile time.
        options: None is read.

    Raises:
        BackendError: The body is something else; the message says what.
    """
    problem = contraction_of(body)
    operands, after = read_by(body, problem)
    plan = choose_plan(problem, target, body.bounds)
    if plan.packs and problem.right.stride(problem.column) != 1:
        # Squares are transposed in registers.
        bound(plan.product.depth)
    inputs = sorted(operands | after)
    size = problem.dtype.itemsize
    packed = plan.copies * plan.product.packed_elements
    wide = WideLeft(problem, problem.axes[:-1], plan.product.lanes) if WideLeft.needed(problem) else None

    def emit(builder: KernelBuilder) -> None:
        _BatchMatmul(builder, body, problem, plan, {i: number for number, i in enumerate(inputs)}, wide).emit()

    return build_kernel(
        "batch_matmul",
        body,
        target,
        [plan.product, plan.whole, plan.packs],
        emit,
        flops=2 * count_of(problem.axes) * plan.product.depth,
        schedule={
            **plan.product.describe(),
            "batch": str(count_of(plan.batch)),
            "right": "in place" if not plan.packs else "packed",
        },
        reads=inputs,
        workspaces=[*([packed * size] if plan.packs else []), *([] if wide is None else [wide.elements * size])],
        workspace_types=[problem.dtype] * (plan.packs + (wide is not None)),
    )


class _BatchMatmul:
    """Emits the loops of a batch of products."""

    def __init__(
        self,
        builder: KernelBuilder,
        body: Graph,
        problem: Contraction,
        plan: Plan,
        operands: Mapping[int, int],
        wide: WideLeft | None,
    ) -> None:
        self.builder = builder
        self.problem = problem
        self.plan = plan
        self.right = operands[problem.right.input]
        self.workspace = len(operands) + len(body.outputs)
        self.left = operands[problem.left.input]
        self.wide_left = None if wide is None else (wide, self.workspace + plan.packs)
        self.product = Product(
            builder, body, problem, plan.product, operands, plan.rows, alpha=problem.alpha, wide_left=self.wide_left
        )

    def emit(self) -> None:
        plan, builder, cut = self.plan, self.builder, self.plan.product
        if self.wide_left is not None:
            wide, operand = self.wide_left
            wide.emit(builder, self.left, operand, parallel=cut.parallel)
        if plan.first is not None:
            with plan.first.each(builder) as (_, task):
                source = builder.simplify(task // cut.panels)
                places = unflatten(plan.sources, source, builder.bounds)
                self._pack_panel(places, source * cut.packed_elements, builder.simplify(task % cut.panels))
        tasks = cut.blocks.blocks * cut.panels
        if plan.whole is not None:
            with plan.whole.each(builder) as (chunk, number):
                at = unflatten(plan.batch, number, builder.bounds)
                start = self._start(at, chunk)
                if plan.packs and plan.first is None:
                    with builder.serial(cut.panels, "panel") as panel:
                        self._pack_panel(at, start, panel)
                with builder.serial(tasks, "task") as task:
                    self._task(at, start, task)
        else:
            with builder.parallel(count_of(plan.batch) * tasks, "task", enable=cut.parallel) as task:
                at = unflatten(plan.batch, builder.simplify(task // tasks), builder.bounds)
                self._task(at, self._start(at, 0), builder.simplify(task % tasks))
        self.product.epilogue.finish()

    def _start(self, at: Mapping[str, Dim], chunk: Dim) -> Dim:
        """Where the packed right operand of a product starts."""
        number: Dim = chunk
        if self.plan.first is not None:
            number = 0
            for axis in self.plan.sources:
                number = number * axis.extent + at[axis.name]
        return number * self.plan.product.packed_elements

    def _task(self, at: Mapping[str, Dim], start: Dim, task: Dim) -> None:
        """One panel against one block of rows."""
        cut, builder = self.plan.product, self.builder
        block, panel = cut.unflatten(builder, task)

        def rows(panel: Dim, vectors: int, ends: bool) -> None:
            column = panel * cut.width
            if self.plan.packs:
                right = packed_panel(builder, cut, self.workspace, self.problem.dtype, start, panel, vectors)
            else:
                right = self._in_place(at, column, ends)

            def tile(row: Dim, count: int) -> None:
                self.product.tile(row, count, column, vectors, right, at, ends=ends)

            cut.blocks.each(builder, block, tile)

        cut.each_panel(builder, panel, rows)

    def _in_place(self, at: Mapping[str, Dim], column: Dim, ends: bool) -> Callable[[Dim, int], Expr]:
        cut, problem = self.plan.product, self.problem

        def right(k: Dim, v: int) -> Expr:
            place = column + v * cut.lanes
            count = cut.inside(place, ends)
            return self._load({**at, problem.inner.name: k, problem.column.name: place}, cut.lanes, count)

        return right

    def _load(self, places: Mapping[str, Dim], lanes: int, count: Dim | None = None) -> Expr:
        view = self.problem.right
        return from_storage(
            self.builder.load(self.right, view.at(places, self.builder.bounds), lanes, 1, count), view.type.dtype
        )

    def _pack_panel(self, at: Mapping[str, Dim], start: Dim, panel: Dim) -> None:
        def pack(panel: Dim, vectors: int, ends: bool) -> None:
            self._pack(at, start, panel, vectors, ends)

        self.plan.product.each_panel(self.builder, panel, pack)

    def _pack(self, at: Mapping[str, Dim], start: Dim, panel: Dim, vectors: int, ends: bool) -> None:
        """Copies one panel of the right operand; columns past the end are zero."""
        cut, builder, problem = self.plan.product, self.builder, self.problem
        base = start + panel * (cut.depth * cut.width)
        step = vectors * cut.lanes
        zero = constant(0.0, problem.dtype)
        if problem.right.stride(problem.column) == 1:
            with builder.serial(cut.depth, "k") as k:
                for v in range(vectors):
                    value = self._in_place(at, panel * cut.width, ends)(k, v)
                    count = cut.inside(panel * cut.width + v * cut.lanes, ends)
                    if count is not None:
                        value = builder.choose(builder.first_lanes(count, cut.lanes), value, broadcast(zero, cut.lanes))
                    builder.store(self.workspace, value, base + k * step + v * cut.lanes, cut.lanes)
            return
        inside = minimum(step, cut.columns - panel * cut.width) if ends else step
        if not isinstance(inside, int):
            inside = builder.bind_index(inside, 1, step, "inside")
        if problem.right.stride(problem.inner) == 1:

            def read(n: Dim, k: Dim, count: int | None) -> Expr:
                places = {**at, problem.inner.name: k, problem.column.name: panel * cut.width + n}
                return self._load(places, cut.lanes, count)

            copy_transposed(
                builder, read, inside, bound(cut.depth), cut.lanes, self.workspace, base, step, problem.dtype
            )
            return
        with builder.serial(cut.depth, "k") as k:
            with builder.serial(inside, "n") as n:
                value = self._load({**at, problem.inner.name: k, problem.column.name: panel * cut.width + n}, 1)
                builder.store(self.workspace, value, base + k * step + n)
            rest = step - inside
            if isinstance(rest, int) and rest:
                builder.store(self.workspace, broadcast(zero, rest), base + k * step + inside, rest)
