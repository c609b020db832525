"""Matmul of 8-bit integers with packed weights, in the dot-product instructions of the CPU.

    sum of (a - za) * (b - zb)  =  sum of a * b  -  za * sum of b  -  zb * sum of a  +  K * za * zb

so that the inner loop sees no zero points: sums of the weights' columns are packed with them, sums of the left rows are
formed as the rows are copied into words (B. Jacob et al., "Quantization and Training of Neural Networks for Efficient
Integer-Arithmetic-Only Inference", 2018, section 2.3).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from tvm.tirx.script.builder import ir as T

from graphc.backends.base import Kernel, Packing
from graphc.backends.contraction import View, anchor_of, view_of
from graphc.backends.extents import bounds_of, extent_of, unflatten
from graphc.backends.regions import Expander
from graphc.backends.tvm.assemble import build_kernel
from graphc.backends.tvm.dot import Dot, dot_of
from graphc.backends.tvm.element_types import named, number
from graphc.backends.tvm.epilogue import Epilogue
from graphc.backends.tvm.gemm import pack_panels
from graphc.backends.tvm.gemm_tiles import multiply
from graphc.backends.tvm.product import Schedule, choose_schedule
from graphc.backends.tvm.render import Renderer
from graphc.backends.tvm.scalar_ops import apply
from graphc.backends.tvm.scope import Lane, Scope
from graphc.backends.tvm.tir import Expr, KernelBuilder, bind, broadcast, horizontal
from graphc.errors import BackendError
from graphc.ir import Dim, Graph, Node, Value, dtypes, symbol
from graphc.ops.contraction import matmul_parts
from graphc.ops.expr import Axis, Const, Scalar, cast, const, loads
from graphc.ops.indexing import broadcast_index
from graphc.target import Target

INT32 = dtypes.INT32
_BYTES = (dtypes.INT8, dtypes.UINT8)


@dataclass(frozen=True)
class Problem:
    """`anchor[rows..., column] = sum over inner of (left - left_zero) * (right - right_zero)`.

    Args:
        anchor: The MatMulInteger.
        axes: Of its output; the last is the column.
        inner: The axis summed over.
        left: The left operand over `axes` and `inner`.
        right: The right one.
        left_zero: Zero point of the left operand, int32.
        right_zero: Zero point of the right one, int32, over the column.
    """

    anchor: Node
    axes: tuple[Axis, ...]
    inner: Axis
    left: View
    right: View
    left_zero: Scalar
    right_zero: Scalar


def problem_of(body: Graph) -> Problem:
    """The integer product that a body is built around.

    Raises:
        BackendError: It has none, or one of a kind that the template does not take.
    """
    anchor = anchor_of(body, frozenset({"MatMulInteger"}))
    a, b = anchor.inputs[0], anchor.inputs[1]
    assert a is not None and b is not None, "type inference demands both operands"
    for value in (a, b):
        if value.tensor_type.dtype not in _BYTES:
            raise BackendError(f"%{value.name} is of {value.tensor_type.dtype}, not of 8 bits")
        if not all(isinstance(extent, int) and extent > 0 for extent in value.tensor_type.dims):
            raise BackendError(f"%{value.name} has an extent that is not bound, or zero")
    if len(b.tensor_type.dims) != 2:
        raise BackendError("the right operand is not a matrix")
    axes, inner, at_a, at_b = matmul_parts(a.tensor_type, b.tensor_type, anchor.output.tensor_type.dims)
    bounds = bounds_of((*axes, inner))
    expander = Expander(body)

    def zero(position: int) -> Scalar:
        value: Value | None = anchor.inputs[position] if position < len(anchor.inputs) else None
        if value is None:
            return const(0, INT32)
        dims = value.tensor_type.dims
        if value.tensor_type.numel != 1 and (position == 2 or len(dims) != 1):
            raise BackendError(f"the zero point %{value.name} differs from row to row")
        return cast(expander.element(value, broadcast_index(dims, [0] * (len(dims) - 1) + [axes[-1].index])), INT32)

    left = view_of(body, expander, a, at_a, bounds, "the left operand")
    right = view_of(body, expander, b, at_b, bounds, "the right operand")
    if left.stride(inner) != 1:
        raise BackendError("neighbours along the inner axis are no neighbours in the left operand")
    return Problem(anchor, axes, inner, left, right, zero(2), zero(3))


def lower(body: Graph, target: Target, constants: frozenset[int], options: Mapping[str, Any]) -> Kernel:
    """The kernel of a body around a MatMulInteger with constant weights.

    Args:
        body: One anchor and its epilogue.
        target: The CPU.
        constants: Numbers of the body's inputs that are constants.
        options: None is read.

    Raises:
        BackendError: The body is something else, or the CPU has no instruction for it; the message says what.
    """
    problem = problem_of(body)
    weight = problem.right.input
    dot = dot_of(target)
    read = _reads(body, problem, constants)
    rows, columns = extent_of(problem.axes[:-1]), extent_of(problem.axes[-1:])
    depth = extent_of([problem.inner])
    schedule = choose_schedule(target, INT32, rows, columns, -(-depth // dot.group))
    inputs = sorted(read)
    numbers = {i: place for place, i in enumerate(inputs)}
    packing = _packing(problem, schedule, dot)

    def emit(builder: KernelBuilder) -> None:
        _IntegerGemm(builder, body, problem, schedule, dot, numbers).emit()

    return build_kernel(
        "integer_gemm",
        body,
        target,
        [schedule, dot, packing],
        emit,
        flops=2 * rows * columns * depth,
        schedule={**schedule.describe(), "instruction": dot.intrinsic.removeprefix("llvm.x86.")},
        reads=inputs,
        packed={weight: (4 * (schedule.packed_elements + _padded(columns, dot.lanes)), packing)},
        workspaces=[4 * rows * (_row_words(depth, dot) + 1)],
        workspace_types=[INT32],
    )


def _reads(body: Graph, problem: Problem, constants: frozenset[int]) -> set[int]:
    """Numbers of the body inputs that the kernel reads.

    Raises:
        BackendError: The right operand is no matrix of constants that only the product reads.
    """
    right = problem.right
    if right.input not in constants:
        raise BackendError("the right operand is not a constant")
    if right.stride(problem.inner) is None or right.stride(problem.axes[-1]) is None:
        raise BackendError("the right operand is not a matrix of constant strides")
    leaf = len(body.inputs)
    expander = Expander(body, {problem.anchor.output: leaf})
    elements = [expander.output(value).body for value in body.outputs]
    after = {load.input for e in (*elements, problem.left_zero, problem.right_zero) for load in loads(e)} - {leaf}
    if right.input in after | {problem.left.input}:
        raise BackendError("the right operand is read again beside the product")
    return {problem.left.input, right.input} | after


def _padded(extent: int, lanes: int) -> int:
    return -(-extent // lanes) * lanes


def _row_words(depth: int, dot: Dot) -> int:
    """Words of a copied row: whole vectors of them."""
    return _padded(-(-depth // dot.group), dot.lanes)


def _packing(problem: Problem, schedule: Schedule, dot: Dot) -> Packing:
    """Panels of words, then the sums of the columns."""
    right, column = problem.right, problem.axes[-1]
    step_k, step_n = right.stride(problem.inner), right.stride(column)
    assert step_k is not None and step_n is not None, "_reads refuses such operands"
    start = right.offset - step_k * problem.inner.index - step_n * column.index
    assert isinstance(start, int), "the right operand depends on no other axis"
    depth, columns = extent_of([problem.inner]), extent_of([column])

    def apply_packing(array: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
        flat = np.ascontiguousarray(array).reshape(-1)[start:]
        matrix = np.lib.stride_tricks.as_strided(flat, (depth, columns), (step_k, step_n), writeable=False)
        sums = np.zeros(_padded(columns, dot.lanes), np.int32)
        sums[:columns] = (matrix.astype(np.int32) + dot.right_shift(dtypes.from_numpy(array.dtype))).sum(axis=0)
        panels = pack_panels(dot.right_words(matrix), schedule.width, schedule.lanes)
        return np.concatenate([panels, sums]).view(array.dtype)

    parameters = {
        "group": dot.group,
        "width": schedule.width,
        "lanes": schedule.lanes,
        "start": start,
        "stride_k": step_k,
        "stride_n": step_n,
    }
    return Packing("integer_panels", tuple(parameters.items()), apply_packing)


class _IntegerGemm:
    """Emits the loops of one product."""

    def __init__(
        self,
        builder: KernelBuilder,
        body: Graph,
        problem: Problem,
        schedule: Schedule,
        dot: Dot,
        operands: Mapping[int, int],
    ) -> None:
        self.builder = builder
        self.problem = problem
        self.plan = schedule
        self.dot = dot
        self.left, self.right = operands[problem.left.input], operands[problem.right.input]
        self.words = len(operands) + len(body.outputs)
        self.rows = problem.axes[:-1]
        self.depth = extent_of([problem.inner])
        self.row_words = _row_words(self.depth, dot)
        self.left_dtype, self.right_dtype = problem.left.type.dtype, problem.right.type.dtype
        zero = problem.right_zero
        shift = dot.right_shift(self.right_dtype)
        self.has_row_sums = not (isinstance(zero, Const) and zero.value == -shift)
        self.row_sums = extent_of(self.rows) * self.row_words
        outputs = range(len(operands), len(operands) + len(body.outputs))
        self.epilogue = Epilogue(builder, body, problem.anchor, operands, outputs)
        self.renderer = Renderer(builder, [value.tensor_type for value in body.inputs], operands)

    def emit(self) -> None:
        plan, builder = self.plan, self.builder
        with builder.parallel(extent_of(self.rows), "row", enable=plan.parallel) as row:
            self._copy_row(row)
        blocks = plan.blocks.blocks
        with builder.parallel(blocks * plan.panels, "task", enable=plan.parallel) as task:
            block, panel = plan.unflatten(builder, task)
            plan.each_panel(
                builder,
                panel,
                lambda p, vectors, ends: plan.blocks.each(
                    builder, block, lambda row, count: self._tile(row, count, p, vectors, ends)
                ),
            )
        self.epilogue.finish()

    def _copy_row(self, row: Dim) -> None:
        """One row of the left operand as words, and the sum of its numbers as they stand there."""
        builder, dot = self.builder, self.dot
        places = {
            **unflatten(self.rows, row, builder.bounds),
            self.problem.axes[-1].name: 0,
            self.problem.inner.name: 0,
        }
        start = builder.bind_index(self.problem.left.at(places, builder.bounds), 0, None, "start")
        width = dot.lanes * dot.group
        total = builder.accumulator(dot.lanes, "int32")
        if self.has_row_sums:
            total.value = number(0, INT32, dot.lanes)

        def copy(vector: Dim, count: int | None) -> None:
            values = builder.load(self.left, start + vector * width, width, 1, count)
            words = bind(dot.left_words(values, self.left_dtype))
            builder.store(self.words, words, row * self.row_words + vector * dot.lanes, dot.lanes)
            if self.has_row_sums:
                total.value = dot.add(total.value, words, number(dot.ones(), INT32, dot.lanes))

        vectors, rest = divmod(self.depth, width)
        if vectors:
            with builder.serial(vectors, "v") as vector:
                copy(vector, None)
        if rest:
            copy(vectors, rest)
        if self.has_row_sums:
            # What fills the last vector is 0, and so its number in a word what that is larger by.
            filled = (width - rest) % width * dot.left_shift(self.left_dtype)
            value = horizontal(total.value, lambda x, y: bind(x + y)) - T.int32(filled)
            builder.store(self.words, value, row + self.row_sums)

    def _right_words(self, word: Dim) -> Expr:
        """A vector of words of the packed weights, or of the sums behind them."""
        lanes = self.dot.lanes
        return T.reinterpret(named("int32", lanes), self.builder.load(self.right, word * 4, lanes * 4))

    def _tile(self, row: Dim, rows: int, panel: Dim, vectors: int, ends: bool) -> None:
        plan, builder, dot = self.plan, self.builder, self.dot
        base = panel * (plan.depth * plan.width)

        def left(r: int, k: Dim) -> Expr:
            return builder.load(self.words, (row + r) * self.row_words + k)

        def right(k: Dim, v: int) -> Expr:
            return self._right_words(base + k * (vectors * dot.lanes) + v * dot.lanes)

        tile = plan.tile.cut(rows, vectors)
        sums = multiply(builder, tile, dot.lanes, plan.parts, left, right, INT32, dot.add)
        for r in range(rows):
            places = unflatten(self.rows, row + r, builder.bounds)
            for v in range(vectors):
                column = panel * plan.width + v * dot.lanes
                self._store(sums[r][v], row + r, places, column, plan.inside(column, ends))

    def _store(self, value: Expr, row: Dim, places: Mapping[str, Dim], column: Dim, count: Dim | None) -> None:
        """Puts the zero points right and finishes one vector of results."""
        builder, lanes = self.builder, self.dot.lanes
        with builder.lanes(lanes) as name:
            lane = Lane(name, lanes, count)
            at = {**places, self.problem.axes[-1].name: column + symbol(name)}

            def zero(scalar: Scalar, shift: int) -> Expr | None:
                """A zero point of the numbers as they stand in words; None where it is 0."""
                if isinstance(scalar, Const):
                    moved = int(scalar.value.real) + shift
                    return number(moved, INT32, lanes) if moved else None
                loaded = broadcast(self.renderer.render(scalar, lane, Scope(at)), lanes)
                return bind(loaded + number(shift, INT32, lanes))

            def total(op: str, a: Expr, b: Expr) -> Expr:
                return bind(apply(op, INT32, [a, b]))

            left = zero(self.problem.left_zero, self.dot.left_shift(self.left_dtype))
            right = zero(self.problem.right_zero, self.dot.right_shift(self.right_dtype))
            if left is not None:
                columns = self._right_words(self.plan.packed_elements + column)
                if right is not None:
                    columns = total("sub", columns, total("mul", right, number(self.depth, INT32, lanes)))
                value = total("sub", value, total("mul", left, columns))
            if right is not None:
                own = builder.load(self.words, row + self.row_sums)
                value = total("sub", value, total("mul", right, broadcast(own, lanes)))
            self.epilogue.store(value, [at[axis.name] for axis in self.problem.axes], lane)
