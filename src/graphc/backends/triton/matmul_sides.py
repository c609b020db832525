"""How descriptors of the copy engine see the operands of a product."""

from __future__ import annotations

from dataclasses import dataclass

from graphc.backends.extents import bound
from graphc.backends.matmul_problem import MatmulProblem
from graphc.backends.triton.matmul_operands import Multiplication, Operand, copies
from graphc.ops.expr import Axis

_LINE = 16
"""Bytes to whose multiples a descriptor's address and strides are bound."""


@dataclass(frozen=True)
class Side:
    """How a descriptor sees one operand: as a matrix whose last axis has neighbours.

    Args:
        name: `left` or `right`.
        input: Number of the body's input.
        start: Offset of the first element.
        shape: Extents.
        stride: Elements from row to row.
        block: Extents of a tile, as texts.
        at: Where a tile starts, as texts.
        turned: Whether a tile is transposed before it is multiplied.
    """

    name: str
    input: int
    start: int
    shape: tuple[int, int]
    stride: int
    block: tuple[str, str]
    at: tuple[str, str]
    turned: bool

    @property
    def pointer(self) -> str:
        """Text of the address of the first element."""
        return f"in{self.input} + {self.start}" if self.start else f"in{self.input}"


def sides_of(
    problem: MatmulProblem, multiplication: Multiplication, left: Operand, right: Operand
) -> tuple[Side, Side] | None:
    """How descriptors see both operands; None where they cannot."""
    if problem.batch.extent != 1 or multiplication.arithmetic in ("single", "double"):
        return None
    first = _side("left", multiplication, left, problem.row, problem.inner, "ROWS", "row")
    second = _side("right", multiplication, right, problem.column, problem.inner, "COLUMNS", "column")
    return None if first is None or second is None else (first, second)


def _side(
    name: str, multiplication: Multiplication, operand: Operand, along: Axis, inner: Axis, block: str, at: str
) -> Side | None:
    matrix = operand.matrix
    if matrix is None or not copies(operand, multiplication) or not isinstance(matrix.start, int):
        return None
    size, extents = matrix.dtype.itemsize, (bound(along.extent), bound(inner.extent))
    if matrix.start * size % _LINE:
        return None
    if matrix.inner == 1 and matrix.along * size % _LINE == 0 and matrix.along > 0:
        turned = name == "right"
        return Side(name, matrix.input, matrix.start, extents, matrix.along, (block, "DEPTH"), (at, "k"), turned)
    # Bytes and tf32 reach the tensor cores only with the inner axis innermost.
    if matrix.along == 1 and size == 2 and matrix.inner * size % _LINE == 0 and matrix.inner > 0:
        turned = name == "left"
        return Side(name, matrix.input, matrix.start, extents[::-1], matrix.inner, ("DEPTH", block), ("k", at), turned)
    return None
