"""What a kernel of a product is written from: the operands as they are stored, what multiplies, and how it is cut."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from graphc.backends.base import Packing
from graphc.backends.extents import bound
from graphc.backends.matmul_problem import MatmulProblem, matmul_of
from graphc.backends.triton import matmul_tiles
from graphc.backends.triton.matmul_operands import (
    Multiplication,
    Operand,
    bytes_read,
    copies,
    inner_step,
    multiplication_of,
    operand_of,
    packed,
    paired,
)
from graphc.backends.triton.matmul_sides import sides_of
from graphc.backends.triton.matmul_tiles import Tile
from graphc.errors import BackendError
from graphc.ir import Graph
from graphc.ops.expr import loads
from graphc.target.cuda import CudaTarget

_FEW = 16
"""Columns up to which a product with more rows is turned: tiles are never lower than 16 rows, but may be wide."""


@dataclass(frozen=True)
class Plan:
    """A product ready to be written.

    Args:
        body: The region's body.
        problem: The product.
        multiplication: What multiplies.
        left: The left operand.
        right: The right one.
        tile: How it is cut.
        numbers: Numbers of the body's inputs that the kernel reads, in the order of its pointers.
        pairs: Those of them that are constants of 4-bit integers: bytes, and how two come into one.
    """

    body: Graph
    problem: MatmulProblem
    multiplication: Multiplication
    left: Operand
    right: Operand
    tile: Tile
    numbers: tuple[int, ...]
    pairs: Mapping[int, tuple[int, Packing]]

    @property
    def steps(self) -> int:
        """Steps along the whole inner axis."""
        return -(-bound(self.problem.inner.extent) // self.tile.depth)

    @property
    def part_steps(self) -> int:
        """Steps of one part of it."""
        return -(-self.steps // self.tile.splits)

    @property
    def parts(self) -> int:
        """Parts of the inner axis that have steps."""
        return -(-self.steps // self.part_steps)

    @property
    def right_depth(self) -> int:
        """Extent of the inner axis as the right operand is stored."""
        matrix = self.right.matrix
        return matrix.along if matrix is not None and self.right.is_packed else bound(self.problem.inner.extent)

    @property
    def sums_rows(self) -> bool:
        """Whether sums over the inner axis of the left operand are needed."""
        return self.right.zero is not None

    @property
    def sums_columns(self) -> bool:
        """Whether those of the right operand are, and are not stored with it."""
        return self.left.zero is not None and self.right.sums is None

    @property
    def workspace(self) -> int:
        """Number of the pointer to the parts of sums."""
        return len(self.numbers) + len(self.body.outputs)


def plan_of(body: Graph, target: CudaTarget, constants: frozenset[int], options: Mapping[str, Any]) -> Plan:
    """What `lower` writes.

    Raises:
        BackendError: As of `lower`.
    """
    problem = matmul_of(body)
    if bound(problem.column.extent) <= _FEW and bound(problem.column.extent) < bound(problem.row.extent):
        problem = problem.turned()
    multiplication = multiplication_of(problem, tf32=str(options.get("precision")).partition(",")[0] == "tf32")
    left = operand_of(problem, multiplication, problem.left, problem.row)
    right = operand_of(problem, multiplication, problem.right, problem.column)
    if right.matrix is not None and right.matrix.input in constants:
        right = packed(problem, multiplication, right, sums=left.zero is not None)
    given = options.get("matmul_tile")
    cost = cost_of(problem, multiplication, left, right)
    tile = Tile(*given) if given is not None else matmul_tiles.choose(cost, target)
    scalars = [left.scalar, right.scalar, *(r.element for r in problem.results)]
    scalars += [zero for zero in (left.zero, right.zero) if zero is not None]
    read = {load.input for scalar in scalars for load in loads(scalar)} - {problem.total.input}
    pairs = {number: found for number in read & constants if (found := paired(problem.inputs[number])) is not None}
    plan = Plan(body, problem, multiplication, left, right, tile, tuple(sorted(read)), pairs)
    if plan.parts > 1 and not cost.splits:
        raise BackendError("sums for zero points are not kept for parts of a product")
    return plan


def cost_of(
    problem: MatmulProblem, multiplication: Multiplication, left: Operand, right: Operand
) -> matmul_tiles.Problem:
    """What the choice of a tile depends on."""
    outputs = sum(bound(result.type.storage_bytes) for result in problem.results)
    return matmul_tiles.Problem(
        batch=bound(problem.batch.extent),
        rows=bound(problem.row.extent),
        columns=bound(problem.column.extent),
        depth=bound(problem.inner.extent),
        arithmetic=multiplication.arithmetic,
        bytes=multiplication.dtype.itemsize,
        left_bytes=bytes_read(problem, [problem.left]),
        right_bytes=bytes_read(problem, [problem.right]),
        result_bytes=outputs + bytes_read(problem, [result.element for result in problem.results]),
        neighbours="inner" if inner_step(problem, right) == 1 else "column",
        copies=copies(left, multiplication) and copies(right, multiplication),
        engine=sides_of(problem, multiplication, left, right) is not None and right.zero is None,
        splits=right.zero is None and (left.zero is None or right.sums is not None),
    )
