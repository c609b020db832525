"""Regions that reduce along their innermost axis, where one pass over a row has something to keep for the next.

Each row is swept once per level of reductions, at vector width, and stays in L1 meanwhile. What a sweep keeps goes to a
row buffer. Threads share rows.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from tvm.tirx.script.builder import ir as T

from graphc.backends.base import Kernel
from graphc.backends.element_types import compute_dtype
from graphc.backends.extents import ceildiv, count_of, is_positive, unflatten
from graphc.backends.merging import merged
from graphc.backends.problem import Problem, build_problem
from graphc.backends.row_passes import Pass, Row, row_of, shifted_exponential
from graphc.backends.tvm import element_types, scalar_ops, vectormath
from graphc.backends.tvm.assemble import build_kernel
from graphc.backends.tvm.nest import PARALLEL_COST, cost_of
from graphc.backends.tvm.render import Renderer
from graphc.backends.tvm.scope import Lane, Scope
from graphc.backends.tvm.stores import store
from graphc.backends.tvm.tasks import Chunks, chunks_of
from graphc.backends.tvm.tir import Expr, KernelBuilder, Register, bind, broadcast, horizontal
from graphc.errors import BackendError
from graphc.ir import Dim, Graph, dtypes, symbol
from graphc.ir.symbolic import Bounds, floordiv
from graphc.ops.expr import REDUCE_IDENTITY, Call, IndexValue, Load, Reduce, Scalar
from graphc.target import Target

WAYS = 4
"""Partial results of a reduction, so that one need not wait for the last."""

_COMBINE = {"sum": "add", "prod": "mul", "max": "max", "min": "min"}


def lower(body: Graph, target: Target, constants: frozenset[int], options: Mapping[str, Any]) -> Kernel:
    """The kernel of a body with reductions along its innermost axis, e.g. a softmax and what surrounds it.

    Args:
        body: Operators with tensor expressions; all outputs of one shape.
        target: The CPU.
        constants: Numbers of the body's inputs that are constants; none is packed.
        options: None is read.

    Raises:
        BackendError: The body is something else; the message says what.
    """
    problem = merged(build_problem(body), reductions=True)
    _check(problem, body.bounds)
    row = row_of(problem)
    lanes = target.lanes(dtypes.FLOAT32)
    cost = cost_of(problem)
    rows = count_of(problem.axes[:-1])
    chunks = chunks_of(rows, target.cores, parallel=not isinstance(cost, int) or cost >= PARALLEL_COST)
    width = ceildiv(row.axis.extent, lanes) * lanes
    read = sorted({scalar.input for scalar in problem.scalars() if isinstance(scalar, Load)})

    def emit(builder: KernelBuilder) -> None:
        _Rows(builder, problem, row, chunks, {i: number for number, i in enumerate(read)}, lanes).emit()

    return build_kernel(
        "rows",
        body,
        target,
        [chunks],
        emit,
        flops=cost,
        schedule={
            "passes": len(row.passes),
            "kept": len(row.kept),
            "tasks": str(chunks.count) if chunks.parallel else "serial",
        },
        reads=read,
        workspaces=[chunks.count * len(row.kept) * width * 4],
    )


def _check(problem: Problem, bounds: Bounds) -> None:
    if not problem.axes:
        raise BackendError("the outputs have no rows")
    if not all(is_positive(axis.extent, bounds) for axis in problem.axes):
        raise BackendError("an extent may be zero")
    if not all(type_.layout.is_row_major for type_ in problem.outputs):
        raise BackendError("an output is not row-major")
    for scalar in problem.scalars():
        if compute_dtype(scalar.dtype).itemsize > 4 and not isinstance(scalar, IndexValue):
            raise BackendError(f"it computes with {scalar.dtype}")


class _Rows:
    """Emits the sweeps over every row."""

    def __init__(
        self,
        builder: KernelBuilder,
        problem: Problem,
        row: Row,
        chunks: Chunks,
        operands: Mapping[int, int],
        lanes: int,
    ) -> None:
        self.builder = builder
        self.problem = problem
        self.row = row
        self.chunks = chunks
        self.lanes = lanes
        self.first_output = len(operands)
        self.buffer = self.first_output + len(problem.outputs)
        self.extent = row.axis.extent
        self.width = ceildiv(self.extent, lanes) * lanes
        self.renderer = Renderer(builder, problem.inputs, operands)

    def emit(self) -> None:
        outer = self.problem.axes[:-1]
        with self.chunks.each(self.builder) as (chunk, number):
            scope = Scope(unflatten(outer, number, self.builder.bounds))
            base = chunk * (len(self.row.kept) * self.width)
            for sweep in self.row.passes:
                for value in sweep.invariant:
                    self.renderer.render(value, Lane(), scope)
                if sweep.reductions:
                    self._reduce(sweep, scope, base)
                else:
                    self._sweep(sweep, scope, base, 1, self._write)

    def _sweep(
        self, sweep: Pass, scope: Scope, base: Dim, ways: int, visit: Callable[[Lane, Scope, int], None]
    ) -> None:
        """Calls `visit` for every vector of the row, with the values that the sweep makes and reads at hand."""
        builder, lanes = self.builder, self.lanes

        def step(start: Dim, way: int, count: Dim | None) -> None:
            with builder.lanes(lanes) as name:
                lane = Lane(name, lanes, count)
                inner = scope.inner({self.row.axis.name: start + symbol(name)})
                for value in sweep.reads:
                    inner.values[id(value)] = bind(builder.load(self.buffer, self._place(value, base, start), lanes))
                for value in sweep.makes:
                    made = bind(broadcast(self._make(value, lane, inner), lanes))
                    inner.values[id(value)] = made
                    builder.store(self.buffer, made, self._place(value, base, start), lanes)
                visit(lane, inner, way)

        if not isinstance(self.extent, int):
            vectors = builder.bind_index(floordiv(self.extent, lanes), 0, None, "vectors")
            blocks = floordiv(vectors, ways)
            with builder.serial(blocks, "v") as block:
                for way in range(ways):
                    step(self._start((block * ways + way) * lanes), way, None)
            with builder.serial(vectors - blocks * ways, "v") as vector:
                step(self._start((blocks * ways + vector) * lanes), 0, None)
            rest = builder.bind_index(self.extent - vectors * lanes, 0, lanes - 1, "rest")
            with builder.when(builder.index(rest) > T.int64(0)):
                # As an expression, so that it can be seen to end where the row does.
                step(vectors * lanes, 0, self.extent - vectors * lanes)
            return
        vectors, tail = divmod(self.extent, lanes)
        if vectors >= ways:
            with builder.serial(vectors // ways, "v") as block:
                for way in range(ways):
                    step((block * ways + way) * lanes, way, None)
        for way in range(vectors % ways):
            step((vectors // ways * ways + way) * lanes, way, None)
        if tail:
            step(vectors * lanes, 0, tail)

    def _start(self, place: Dim) -> Dim:
        """The first element of a whole vector of a row of open extent."""
        return self.builder.bind_index(place, 0, self.extent - self.lanes, "start")

    def _place(self, value: Scalar, base: Dim, start: Dim) -> Dim:
        """Where a kept value's vector stands in the chunk's row buffers."""
        number = next(i for i, kept in enumerate(self.row.kept) if kept is value)
        return base + number * self.width + start

    def _combine(self, reduction: Reduce, left: Expr, right: Expr) -> Expr:
        if any(reduction is quiet for quiet in self.row.quiet):
            return T.max(left, right)
        return scalar_ops.apply(_COMBINE[reduction.op], reduction.dtype, [left, right])

    def _make(self, value: Scalar, lane: Lane, scope: Scope) -> Expr:
        if shifted_exponential(value) is not None:
            assert isinstance(value, Call)
            shifted = self.renderer.render(value.arguments[0], lane, scope)
            return vectormath.exp_nonpositive(broadcast(shifted, lane.lanes))
        return self.renderer.render(value, lane, scope)

    def _write(self, lane: Lane, scope: Scope, way: int) -> None:
        """The results of one vector of the row."""
        index = [scope.axes[axis.name] for axis in self.problem.axes]
        for number, (element, type_) in enumerate(zip(self.row.elements, self.problem.outputs, strict=True)):
            value = self.renderer.stored(element, lane, scope)
            store(self.builder, value, type_, self.first_output + number, index, lane)

    def _reduce(self, sweep: Pass, scope: Scope, base: Dim) -> None:
        """One sweep's reductions, left in `scope` as scalars."""
        builder, lanes = self.builder, self.lanes
        ways = WAYS if not isinstance(self.extent, int) or self.extent >= 2 * WAYS * lanes else 1
        registers: dict[int, list[Register]] = {}
        for reduction in sweep.reductions:
            identity = element_types.constant(REDUCE_IDENTITY[reduction.op](reduction.dtype), reduction.dtype)
            registers[id(reduction)] = [builder.accumulator(lanes) for _ in range(ways)]
            for register in registers[id(reduction)]:
                register.value = broadcast(identity, lanes)

        def visit(lane: Lane, inner: Scope, way: int) -> None:
            for reduction in sweep.reductions:
                register = registers[id(reduction)][way]
                value = broadcast(self.renderer.render(reduction.body, lane, inner), lanes)
                combined = self._combine(reduction, value, register.value)
                if lane.count is not None:
                    combined = builder.choose(builder.first_lanes(lane.count, lanes), bind(combined), register.value)
                register.value = combined

        self._sweep(sweep, scope, base, ways, visit)
        for reduction in sweep.reductions:
            first, *others = registers[id(reduction)]
            total = first.value
            for register in others:
                total = bind(self._combine(reduction, total, register.value))
            scope.values[id(reduction)] = bind(
                horizontal(total, lambda a, b, r=reduction: bind(self._combine(r, a, b)))
            )
