"""Determinants of square matrices, by elimination with the largest pivot of each column."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from math import prod
from typing import Any

from tvm.tirx.script.builder import ir as T

from graphc.backends.base import Kernel
from graphc.backends.element_types import compute_dtype
from graphc.backends.tvm import element_types
from graphc.backends.tvm.assemble import build_kernel
from graphc.backends.tvm.tasks import PARALLEL_MACS, Chunks
from graphc.backends.tvm.tir import Expr, KernelBuilder, Register, bind, broadcast
from graphc.errors import BackendError
from graphc.ir import Dim, Graph
from graphc.ir.dtypes import DType
from graphc.target import Target


@dataclass(frozen=True)
class _Plan:
    """Everything that decides the code.

    Args:
        dtype: Of the elements.
        size: Rows of a matrix, and columns.
        chunks: How threads share the matrices.
        lanes: Width of a vector in the type that is computed in.
    """

    dtype: DType
    size: int
    chunks: Chunks
    lanes: int


def lower(body: Graph, target: Target, constants: frozenset[int], options: Mapping[str, Any]) -> Kernel:
    """The kernel of a Det.

    Raises:
        BackendError: The matrix is a constant, or not of floats.
    """
    node = body.outputs[0].producer
    assert node is not None, "the table of operators gives whole nodes"
    x = node.inputs[0]
    if x not in body.inputs or not x.tensor_type.dtype.is_float:
        raise BackendError("no matrix of floats to take the determinant of", nodes=node.origins)
    *batch, size, _ = x.tensor_type.static_shape
    count = prod(batch)
    held = compute_dtype(x.tensor_type.dtype)
    work = count * size**3 // 3
    parallel = work >= PARALLEL_MACS and count > 1
    per_chunk = -(-count // min(count, 4 * target.cores)) if parallel else max(count, 1)
    chunks = Chunks(count, per_chunk, parallel)
    plan = _Plan(x.tensor_type.dtype, size, chunks, target.vector_bytes // held.itemsize)
    scratch = [chunks.count * max(size, 1) ** 2 * held.itemsize] if count else []

    def emit(builder: KernelBuilder) -> None:
        if count:
            with chunks.each(builder) as (chunk, matrix):
                _Elimination(builder, plan, chunk * (size * size)).emit(matrix)

    return build_kernel(
        "determinant",
        body,
        target,
        [plan],
        emit,
        flops=2 * work,
        schedule={"matrices": per_chunk},
        workspaces=scratch,
        workspace_types=[held] * len(scratch),
    )


class _Elimination:
    """Writes the elimination of one matrix; pointers are the input, the output and room for a matrix a chunk."""

    def __init__(self, builder: KernelBuilder, plan: _Plan, base: Dim) -> None:
        self.builder = builder
        self.plan = plan
        self.held = compute_dtype(plan.dtype)
        self.base = base

    def emit(self, matrix: Dim) -> None:
        """The determinant of matrix number `matrix`."""
        builder, size = self.builder, self.plan.size
        result = builder.accumulator(1, self.held.name)
        result.value = element_types.constant(1, self.held)
        with builder.serial(size * size, "e") as place:
            value = element_types.from_storage(builder.load(0, matrix * (size * size) + place), self.plan.dtype)
            builder.store(2, value, self.base + place)
        with builder.serial(size, "k") as step:
            self._swap(step, self._pivot(step), result)
            pivot = bind(builder.load(2, self._at(step, step)))
            result.value = result.value * pivot
            with (
                builder.when(T.NE(pivot, element_types.constant(0, self.held))),
                builder.serial(size - 1 - step, "i") as below,
            ):
                self._subtract(step, step + 1 + below, pivot)
        builder.store(1, element_types.to_storage(result.value, self.plan.dtype), matrix)

    def _at(self, row: Dim, column: Dim) -> Dim:
        return self.base + row * self.plan.size + column

    def _pivot(self, step: Dim) -> Dim:
        """The row, from `step` on, whose element in column `step` is the largest."""
        builder, size = self.builder, self.plan.size
        best = builder.accumulator(1, self.held.name)
        best.value = element_types.constant(-1, self.held)
        found = builder.accumulator(1, "int64")
        found.value = builder.index(step)
        with builder.serial(size - step, "i") as below:
            value = builder.load(2, self._at(step + below, step))
            size_of = bind(T.call_llvm_pure_intrin(self.held.name, "llvm.fabs", bind(value)))
            with builder.when(size_of > best.value):
                best.value = size_of
                found.value = builder.index(step + below)
        return builder.name_value(bind(found.value), 0, size - 1, "pivot")

    def _swap(self, step: Dim, pivot: Dim, result: Register) -> None:
        """Exchanges two rows, from column `step` on, which turns the sign."""
        builder = self.builder
        with builder.when(T.NE(builder.index(pivot), builder.index(step))):
            result.value = element_types.constant(0, self.held) - result.value
            with builder.serial(self.plan.size - step, "j") as right:
                upper, lower = self._at(step, step + right), self._at(pivot, step + right)
                first, second = bind(builder.load(2, upper)), bind(builder.load(2, lower))
                builder.store(2, second, upper)
                builder.store(2, first, lower)

    def _subtract(self, step: Dim, row: Dim, pivot: Expr) -> None:
        """Takes the multiple of row `step` from `row` that leaves nothing in column `step`."""
        builder, lanes = self.builder, self.plan.lanes
        factor = bind(builder.load(2, self._at(row, step)) / pivot)
        count = self.plan.size - 1 - step
        whole = builder.bind_index(count // lanes, 0, None)

        def update(column: Dim, width: int) -> None:
            place = self._at(row, column)
            taken = broadcast(factor, width) * builder.load(2, self._at(step, column), width)
            builder.store(2, builder.load(2, place, width) - taken, place, width)

        with builder.serial(whole, "v") as vector:
            update(step + 1 + vector * lanes, lanes)
        with builder.serial(builder.bind_index(count - whole * lanes, 0, lanes - 1), "j") as rest:
            update(step + 1 + whole * lanes + rest, 1)
