"""The inner kernel of every matmul: a tile of results in registers, and how large to make it.

A tile is `rows` x `vectors` accumulators. Each step of the inner axis loads `vectors` vectors of the right operand,
broadcasts one element per row of the left one and does `rows * vectors` fused multiply-adds (K. Goto, R. van de Geijn,
"Anatomy of High-Performance Matrix Multiplication", 2008, with the right operand packed and the left one in place).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass

from graphc.backends.tvm import element_types, scalar_ops
from graphc.backends.tvm.partial_sums import Parts, sum_in_parts
from graphc.backends.tvm.tir import Expr, KernelBuilder, Register, bind, broadcast
from graphc.ir import Dim, dtypes
from graphc.ir.dtypes import DType
from graphc.ir.symbolic import floordiv
from graphc.target import Target

IN_FLIGHT = 8
"""Fused multiply-adds that must be independent to fill the units: latency 4 times 2 a cycle on x86 cores and Arm's."""

MOST_WAYS = 4
"""Partial sums of a result at most."""

UNROLL = 2
"""Steps of the inner axis per iteration."""


@dataclass(frozen=True, order=True)
class Tile:
    """Results held in registers.

    Args:
        rows: Rows of the left operand.
        vectors: Vectors of the right operand.
        ways: Partial sums per result, over every `ways`-th step, where rows and vectors are too few to hide latency.
    """

    rows: int
    vectors: int
    ways: int = 1

    def cut(self, rows: int, vectors: int) -> Tile:
        """The smaller tile at an edge, with as many partial sums as hide the latency and fit in place of the larger."""
        assert rows <= self.rows and vectors <= self.vectors
        results = rows * vectors
        room = self.rows * self.vectors * self.ways // results
        return Tile(rows, vectors, max(1, min(-(-IN_FLIGHT // results), room, MOST_WAYS)))

    def __str__(self) -> str:
        return f"{self.rows}x{self.vectors}" + (f"x{self.ways}" if self.ways > 1 else "")


def fitting(target: Target, most_rows: int, most_vectors: int) -> Iterator[Tile]:
    """Every tile whose accumulators, one row of vectors and one broadcast fit the registers."""
    for vectors in range(1, min(most_vectors, 8) + 1):
        rows = min((target.vector_registers - vectors - 1) // vectors, most_rows)
        for count in range(1, rows + 1):
            yield with_ways(Tile(count, vectors), target)


def with_ways(tile: Tile, target: Target) -> Tile:
    """The tile with as many partial sums as hide the latency and fit the registers."""
    results = tile.rows * tile.vectors
    room = (target.vector_registers - 1 - tile.vectors) // results
    return Tile(tile.rows, tile.vectors, max(1, min(-(-IN_FLIGHT // results), room, MOST_WAYS)))


def step_cost(rows: int, vectors: int) -> float:
    """Relative time of one step of a tile: multiply-adds and loads overlap, up to what comes from L2.

    Vectors of the right operand come from there every time, elements of the left one once a cache line.
    """
    return max(rows * vectors, vectors + rows, IN_FLIGHT / 2) + 0.25 * vectors + 0.1 * rows


def sweep_cost(tile: Tile, rows: int, vectors: int) -> float:
    """Relative time of one step of all tiles that cover `rows` x `vectors`, tails included."""
    full_rows, row_tail = divmod(rows, tile.rows)
    full_vectors, vector_tail = divmod(vectors, tile.vectors)
    total = full_rows * full_vectors * step_cost(tile.rows, tile.vectors)
    if row_tail:
        total += full_vectors * step_cost(row_tail, tile.vectors)
    if vector_tail:
        total += full_rows * step_cost(tile.rows, vector_tail)
    if row_tail and vector_tail:
        total += step_cost(row_tail, vector_tail)
    return total


PAGE = 4096
"""Bytes after which places fall into the same set of an L1 cache that is looked up while addresses are translated."""


def streams(target: Target, stride: int) -> int:
    """Rows `stride` bytes apart of which L1 keeps a line each while it passes the right operand.

    Each row is read a line at a time and a line serves several steps, if it is still there.
    """
    sets = PAGE // math.gcd(stride, PAGE)
    return max(1, (target.l1_bytes // PAGE - 1) * sets)


def choose_tile(target: Target, rows: int, vectors: int, stride: int | None = None) -> Tile:
    """The tile with which `rows` x `vectors` results take the least time; of equals, the one with fewer variants.

    Args:
        target: The CPU.
        rows: Rows of results.
        vectors: Vectors of results.
        stride: Bytes between rows of the left operand, if it is read in place.
    """
    most = rows if stride is None else min(rows, streams(target, stride))

    def cost(tile: Tile) -> tuple[float, int, int]:
        variants = (1 + (rows % tile.rows > 0)) * (1 + (vectors % tile.vectors > 0))
        return sweep_cost(tile, rows, vectors), variants, -tile.rows

    return min(fitting(target, most, vectors), key=cost)


def multiply(
    builder: KernelBuilder,
    tile: Tile,
    lanes: int,
    depth: Parts,
    left: Callable[[int, Dim], Expr],
    right: Callable[[Dim, int], Expr],
    dtype: DType = dtypes.FLOAT32,
    add: Callable[[Expr, Expr, Expr], Expr] = lambda total, a, b: total + a * b,
    grain: int = 1,
) -> list[list[Expr]]:
    """Sums `left(row, k) * right(k, vector)` over the inner axis in registers.

    Args:
        builder: The kernel under construction.
        tile: Accumulators.
        lanes: Width of a vector.
        depth: The inner axis, in the parts that it is summed in.
        left: A scalar of the left operand.
        right: A vector of the right operand.
        dtype: Element type of operands and sums.
        add: A sum with the product of two vectors added.
        grain: Steps that a loop of their own takes: quotients and remainders of a step by it are loop variables.

    Returns:
        The sum of each row and vector.
    """
    zero = broadcast(element_types.constant(0.0, dtype), lanes)

    def part(start: Dim, steps: Dim) -> list[list[Expr]]:
        sums = [
            [[builder.accumulator(lanes, dtype.name) for _ in range(tile.vectors)] for _ in range(tile.rows)]
            for _ in range(tile.ways)
        ]
        for register in (r for way in sums for row in way for r in row):
            register.value = zero

        def step(k: Dim, way: int) -> None:
            vectors = [bind(right(k, v)) for v in range(tile.vectors)]
            for row in range(tile.rows):
                factor = bind(broadcast(left(row, k), lanes))
                for v in range(tile.vectors):
                    register = sums[way][row][v]
                    register.value = add(register.value, factor, vectors[v])

        unroll = max(UNROLL, tile.ways)
        unroll = unroll if grain % unroll == 0 or grain == 1 else grain
        stretch = max(grain, unroll)
        count = builder.bind_index(floordiv(steps, stretch), 0, None, "count")
        if count != 0:
            with builder.serial(count, "block") as block, builder.serial(stretch // unroll, "k") as k:
                for u in range(unroll):
                    step(start + block * stretch + k * unroll + u, u % tile.ways)
        if steps - count * stretch != 0:
            with builder.serial(steps - count * stretch, "k") as k:
                step(start + count * stretch + builder.bind_index(k, 0, stretch - 1, "k"), 0)
        return [[_total([way[row][v] for way in sums], dtype) for v in range(tile.vectors)] for row in range(tile.rows)]

    return sum_in_parts(builder, depth, (tile.rows, tile.vectors), lanes, dtype, part)


def _total(registers: list[Register], dtype: DType) -> Expr:
    result = registers[0].value
    for register in registers[1:]:
        result = scalar_ops.apply("add", dtype, [result, register.value])
    return bind(result)
