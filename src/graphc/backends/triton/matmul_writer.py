"""The lines of a product's functions: what the region makes of sums, where parts are kept, pointers that are taken."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from graphc.backends.extents import bound
from graphc.backends.matmul_problem import MatmulProblem
from graphc.backends.triton.element_types import pointer_type
from graphc.backends.triton.function import Argument, Function
from graphc.backends.triton.indices import index_value, place
from graphc.backends.triton.masks import masks_of
from graphc.backends.triton.matmul_operands import Multiplication
from graphc.backends.triton.matmul_plan import Plan
from graphc.backends.triton.matmul_tiles import Tile
from graphc.backends.triton.module import render_module
from graphc.backends.triton.render import Renderer
from graphc.backends.triton.scope import Code, Dims, Mask, Place, Scope, Value
from graphc.ir import Dim
from graphc.ir.symbolic import symbol
from graphc.package.cuda import Pointer, Status

ROWS, COLUMNS = frozenset({0}), frozenset({1})
"""Dimensions of a block of sums."""

GROUP = 8
"""Rows of tiles whose blocks run beside each other."""


class Writer:
    """The parts of a function that are written line by line."""

    def __init__(self, plan: Plan) -> None:
        self.plan = plan
        self.code = Code()
        self.renderer = Renderer(self.code, plan.problem.inputs, paired=plan.pairs)

    def lines_from(self, start: int) -> list[str]:
        """What was written since there were `start` lines."""
        return self.code.lines[start:]

    def places(self, **others: Place) -> dict[str, Place]:
        """Where the batch stands, and others of the problem's axes, `row`, `column` and `inner`, and `part`."""
        problem = self.plan.problem
        axes = {"row": problem.row, "column": problem.column, "inner": problem.inner}
        named = {axes[key].name if key in axes else key: place for key, place in others.items()}
        return {problem.batch.name: Place("b", 0, bound(problem.batch.extent) - 1), **named}

    def results(self, scope: Scope, total: str) -> None:
        """Writes the region's outputs at the places of a scope.

        Args:
            scope: Has rows and columns.
            total: Name of the sums there.
        """
        problem = self.plan.problem
        total = self._corrected(scope, total)
        self.renderer.given[problem.total.input] = Value(total, dims_of_results(scope))
        for number, result in enumerate(problem.results):
            self.renderer.store(result.element, result.type, f"out{number}", result.index, scope)

    def partial(self, scope: Scope, total: str) -> None:
        """Writes parts of sums into the workspace."""
        at = index_value(self.code, scope, place(scope, self.workspace_offset()))
        mask = mask_argument([mask.text for mask in scope.masks])
        self.code.emit(f"tl.store(work + {at.text}, {total}{mask})")

    def workspace_offset(self) -> Dim:
        """Where a part of a sum is kept, in elements."""
        problem = self.plan.problem
        offset: Dim = symbol("part")
        for axis in (problem.batch, problem.row, problem.column):
            offset = offset * axis.extent + (axis.index if axis.extent != 1 else 0)
        return offset

    def _corrected(self, scope: Scope, total: str) -> str:
        """Sums of bytes less what their zero points make of them."""
        plan, code = self.plan, self.code
        left, right = plan.left.zero, plan.right.zero
        if left is not None:
            zero = self.renderer.tensor(left, scope).text
            if plan.right.sums is not None:
                column = plan.problem.column
                at = index_value(code, scope, place(scope, column.index if column.extent != 1 else 0))
                inside = masks_of(code, scope, at.dims)
                mask = f", mask={inside.text}, other=0" if inside is not None else ""
                sums = code.bind(f"tl.load(sums + {at.text}{mask})", "sums")
            else:
                sums = "column_sums"
            total = code.bind(f"{total} - {zero} * {sums}", "total")
        if right is not None:
            zero = self.renderer.tensor(right, scope).text
            total = code.bind(f"{total} - {zero} * row_sums", "total")
            if left is not None:
                both = f"{self.renderer.tensor(left, scope).text} * {zero}"
                total = code.bind(f"{total} + {both} * {plan.problem.inner.extent}", "total")
        return total

    def function(self, template: str, tile: Tile, arguments: Sequence[Argument], **facts: Any) -> Function:
        """The function of a template, which has its name."""
        plan, problem = self.plan, self.plan.problem
        extents = {"ROWS": tile.rows, "COLUMNS": tile.columns, "DEPTH": tile.depth}
        text = render_module(
            template,
            self.code.functions,
            name=template,
            parameters=", ".join(argument.name for argument in arguments),
            batch=problem.batch.extent,
            rows=problem.row.extent,
            columns=problem.column.extent,
            total=plan.multiplication.total.name,
            **facts,
        )
        return Function(
            text=text,
            name=template,
            arguments=tuple(arguments),
            constants=tuple((key, value) for key, value in extents.items() if f"{key}: tl.constexpr" in text),
            warps=tile.warps,
            stages=tile.stages,
        )

    def arguments(self, *, outputs: bool, workspace: bool) -> list[Argument]:
        """Pointers that the function takes: to inputs that it reads, and so on."""
        plan = self.plan
        found = []
        for number, source in enumerate(plan.numbers):
            if source in self.renderer.reads:
                dtype = plan.problem.inputs[source].dtype
                if plan.right.matrix is not None and plan.right.is_packed and plan.right.matrix.input == source:
                    dtype = plan.right.matrix.dtype
                found.append(Argument(f"in{source}", pointer_type(dtype), Pointer(number)))
        if outputs:
            for number, result in enumerate(plan.problem.results):
                found.append(
                    Argument(f"out{number}", pointer_type(result.type.dtype), Pointer(len(plan.numbers) + number))
                )
        if outputs and plan.right.sums is not None and plan.right.matrix is not None:
            at = plan.numbers.index(plan.right.matrix.input)
            found.append(Argument("sums", "*i32", Pointer(at, plan.right.sums)))
        if workspace:
            found.append(Argument("work", pointer_type(plan.multiplication.total), Pointer(plan.workspace)))
        if self.renderer.reports:
            found.append(Argument("status", "*i32", Status()))
        return found


def masks(*wanted: tuple[str, frozenset[int], bool]) -> list[Mask]:
    """Masks by name and dimensions, those that are needed."""
    return [Mask(text, dims) for text, dims, needed in wanted if needed]


def dims_of_results(scope: Scope) -> Dims:
    """Dimensions along which results differ."""
    return frozenset(i for i, extent in enumerate(scope.tile) if extent != "1")


def result_tile(problem: MatmulProblem) -> tuple[str, str]:
    """Extents of a block of sums: one row or column stands alone, whatever the tile that multiplied it."""
    return "ROWS" if problem.row.extent != 1 else "1", "COLUMNS" if problem.column.extent != 1 else "1"


def mask_argument(masks: Sequence[str]) -> str:
    """What a load or store is told of masks that must all hold."""
    return f", mask={' & '.join(masks)}" if masks else ""


def dot_facts(multiplication: Multiplication) -> str:
    """What a product of two blocks is told beside them."""
    precision = f', input_precision="{multiplication.precision}"' if multiplication.precision else ""
    return f"{precision}, out_dtype=tl.{multiplication.total.name}"
