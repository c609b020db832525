"""Products of matrices on a GPU: tiles on tensor cores, a few rows at the bandwidth of the weights, parts of long sums.

A block multiplies a tile of rows by a tile of columns, step by step along the inner axis, with the loads of later steps
in flight; what the region makes of the sums follows in registers. Where there are too few tiles for the processors, the
inner axis is cut into parts whose sums a second launch adds.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from graphc.backends.base import Kernel
from graphc.backends.extents import bound, count_of
from graphc.backends.matmul_problem import MatmulProblem
from graphc.backends.triton import matmul_tiles
from graphc.backends.triton.assemble import build_kernel
from graphc.backends.triton.matmul_launches import launches_of
from graphc.backends.triton.matmul_plan import cost_of, plan_of
from graphc.ir import Graph
from graphc.target.cuda import CudaTarget


def lower(body: Graph, target: CudaTarget, constants: frozenset[int], options: Mapping[str, Any]) -> Kernel:
    """The kernel of a body around a product of two operands.

    Args:
        body: One MatMul, Gemm, Einsum or MatMulInteger; what its operands are computed from; what follows it.
        target: The GPU.
        constants: Numbers of the body's inputs that are constants.
        options: `precision`: `tf32` lets products of singles be rounded to tf32; `matmul_tile`: how to cut it.

    Raises:
        BackendError: The body is something else; the message says what.
    """
    plan = plan_of(body, target, constants, options)
    tile, problem = plan.tile, plan.problem
    launches = launches_of(plan, target)
    operand = plan.right
    weights = dict(plan.pairs)
    if operand.packing is not None and operand.matrix is not None:
        weights[operand.matrix.input] = (operand.size, operand.packing)
    partial = 4 if plan.multiplication.total.bits == 32 else 8
    return build_kernel(
        "matmul",
        body,
        target,
        launches,
        flops=2 * problem.macs,
        schedule={"tile": str(tile), "form": tile.form, "multiplies": plan.multiplication.arithmetic},
        reads=plan.numbers,
        packed=weights,
        workspaces=[partial * plan.parts * _elements(problem)] if plan.parts > 1 else [],
    )


def alternatives(
    body: Graph, target: CudaTarget, constants: frozenset[int], options: Mapping[str, Any], most: int = 16
) -> list[dict[str, Any]]:
    """Options of `lower` worth measuring, the more promising ones first.

    Raises:
        BackendError: As of `lower`.
    """
    plan = plan_of(body, target, constants, {k: v for k, v in options.items() if k != "matmul_tile"})
    cost = cost_of(plan.problem, plan.multiplication, plan.left, plan.right)
    ranked = sorted(matmul_tiles.candidates(cost, target), key=lambda tile: matmul_tiles.seconds(tile, cost, target))
    return [{"matmul_tile": list(tile.values())} for tile in ranked[:most]]


def _elements(problem: MatmulProblem) -> int:
    return bound(count_of((problem.batch, problem.row, problem.column)))
