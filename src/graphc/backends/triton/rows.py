"""Regions with long reductions: rows that a block sweeps at once, or in steps, or in parts that other blocks sweep.

A softmax or a normalization reduces a row and uses the result all along it: the block that has the row in registers
computes both. What reduces rows otherwise is computed first, into a workspace. Rows too few for all multiprocessors
are reduced in parts, and the parts in a second launch, in an order that is always the same.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from graphc.backends.base import Kernel
from graphc.backends.merging import merged
from graphc.backends.moved import as_bits
from graphc.backends.problem import FreeSymbols, Problem, build_problem, groups_of, touched_of, work_of
from graphc.backends.stages import (
    Reduction,
    Row,
    extracted,
    in_parts,
    innermost,
    long_reductions,
    row_of,
)
from graphc.backends.triton import generic
from graphc.backends.triton.assemble import build_kernel
from graphc.backends.triton.drafts import Draft, Stage, names_of
from graphc.backends.triton.row_blocks import Blocks, blocks_of, draft
from graphc.backends.windows import resolved
from graphc.errors import BackendError
from graphc.ir import Dim, Graph, TensorType
from graphc.ops.expr import Call, Load, Reduce, walk
from graphc.target import CudaTarget

LONG_ALONE = 65_536
"""Elements of a row from which few rows are better reduced by many blocks, and then gone through again."""

LEAST_PART = 2048
"""Elements of a row that are worth a block of their own."""


def lower(body: Graph, target: CudaTarget, constants: frozenset[int], options: Mapping[str, Any]) -> Kernel:
    """The kernel of a body with long reductions, e.g. a softmax and what surrounds it.

    Args:
        body: Operators with tensor expressions.
        target: The GPU.
        constants: Numbers of the body's inputs that are constants; none is packed.
        options: None is read.

    Raises:
        BackendError: Nothing long is reduced, or it is a product of two tensors that few blocks would share.
    """
    groups = groups_of(body)
    problems = [merged(as_bits(build_problem(body, numbers))) for numbers in groups]
    found = [long_reductions(problem) for problem in problems]
    if not any(found):
        raise BackendError("no long reduction")
    if any(_is_product(problem, r) for problem, rs in zip(problems, found, strict=True) for r in rs):
        raise BackendError("a product of tensors is summed up")
    reads = sorted({node.input for problem in problems for node in problem.scalars() if isinstance(node, Load)})
    works = [work_of(problem) for problem in problems]
    flops: Dim = 0
    for work in works:
        flops = flops + work.operations
    plan = _Plan(len(body.inputs), target)
    for problem, numbers in zip(problems, groups, strict=True):
        resolved_ones = tuple(resolved(element, problem.axes, {}) for element in problem.elements)
        plan.add(replace(problem, elements=resolved_ones), tuple(f"out{number}" for number in numbers))
    names = names_of(len(body.inputs), len(plan.workspaces))
    drafts = [_draft(stage, blocks, target, names) for stage, blocks in plan.stages]
    return build_kernel(
        "rows",
        body,
        target,
        [each.launch(body, reads, plan.workspaces) for each in drafts],
        flops=flops,
        schedule={
            "launches": len(drafts),
            "row": max((b.row.extent for _, b in plan.stages if b is not None), default=0),
        },
        reads=reads,
        touched=touched_of(body, works),
        workspaces=[kind.storage_bytes for kind in plan.workspaces],
    )


def _draft(stage: Stage, blocks: Blocks | None, target: CudaTarget, names: Mapping[int, str]) -> Draft:
    return generic.draft(stage, target, names) if blocks is None else draft(stage, blocks, names)


def _is_product(problem: Problem, reduction: Reduction) -> bool:
    """Whether a sum multiplies elements of tensors that walk different axes: each is then read many times."""
    if not isinstance(reduction, Reduce) or reduction.op != "sum":
        return False
    free = FreeSymbols([reduction.body])
    along = {axis.name for axis in reduction.axes}
    for node in walk(reduction.body):
        if isinstance(node, Call) and node.op == "mul":
            left, right = (free[argument] for argument in node.arguments)
            if left & along and right & along and left - right and right - left:
                return True
    return False


@dataclass
class _Plan:
    """The launches of a kernel, and the workspaces between them.

    Args:
        count: Inputs of the body.
        target: The GPU.
    """

    count: int
    target: CudaTarget

    def __post_init__(self) -> None:
        self.stages: list[tuple[Stage, Blocks | None]] = []
        self.workspaces: list[TensorType] = []

    def add(self, problem: Problem, outputs: tuple[str, ...]) -> None:
        """Plans the launches that compute a problem."""
        problem = replace(problem, inputs=(*problem.inputs[: self.count], *self.workspaces))
        reductions = long_reductions(problem)
        if not reductions:
            self.stages.append((Stage(problem, outputs), None))
            return
        row = row_of(problem, reductions)
        if row is None:
            self._extract(problem, innermost(reductions), outputs)
            return
        blocks = blocks_of(problem, row, self.target)
        nested = len(innermost(reductions)) < len(reductions)
        if row.axes or nested:
            if row.extent > LONG_ALONE and 2 * blocks.programs < self.target.processors:
                self._extract(problem, innermost(reductions), outputs)
                return
        elif self._in_parts(problem, row, blocks, outputs):
            return
        self.stages.append((Stage(problem, outputs), blocks))

    def _in_parts(self, problem: Problem, row: Row, blocks: Blocks, outputs: tuple[str, ...]) -> bool:
        """Plans rows in parts where they are few and long; answers whether they are."""
        wanted = -(-2 * self.target.processors // blocks.programs)
        count = min(wanted, row.extent // LEAST_PART)
        sums = [reduction for reduction in row.reductions if isinstance(reduction, Reduce)]
        if blocks.programs >= self.target.processors or count < 2 or len(sums) < len(row.reductions):
            return False
        pieces, rest = in_parts(problem, sums, count)
        self._before([pieces])
        self.add(rest, outputs)
        return True

    def _extract(self, problem: Problem, reductions: Sequence[Reduction], outputs: tuple[str, ...]) -> None:
        """Plans reductions as launches of their own, and what is left."""
        parts, rest = extracted(problem, reductions)
        self._before(parts)
        self.add(rest, outputs)

    def _before(self, parts: Sequence[Problem]) -> None:
        """Plans problems whose outputs are the next workspaces."""
        found = []
        for part in parts:
            start = len(self.workspaces)
            self.workspaces += part.outputs
            found.append(tuple(f"workspace{start + number}" for number in range(len(part.outputs))))
        for part, names in zip(parts, found, strict=True):
            self.add(part, names)
