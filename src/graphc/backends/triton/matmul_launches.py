"""The functions of a product and their launches: templates filled in with what the region reads and makes."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from graphc.backends.extents import bound
from graphc.backends.matmul_problem import MatmulProblem
from graphc.backends.triton.element_types import pointer_type
from graphc.backends.triton.function import Argument, Function, FunctionLaunch
from graphc.backends.triton.indices import index_value, place
from graphc.backends.triton.matmul_operands import (
    block,
    hoist,
)
from graphc.backends.triton.matmul_plan import Plan
from graphc.backends.triton.matmul_tiles import MOST_ROWS, Tile
from graphc.backends.triton.module import render_module
from graphc.backends.triton.render import Renderer, masks_of
from graphc.backends.triton.scope import SCALAR, Code, Dims, Mask, Place, Scope, Value
from graphc.errors import BackendError
from graphc.ir import Dim
from graphc.ir.symbolic import symbol
from graphc.package.cuda import Integer, Pointer, Status

GROUP = 8
"""Rows of tiles whose blocks run beside each other."""


_ROWS, _COLUMNS = frozenset({0}), frozenset({1})


def launches_of(plan: Plan) -> tuple[FunctionLaunch, ...]:
    """What one call of the kernel launches: the product, then the sum of its parts if it is cut into some."""
    first = _rows(plan) if plan.tile.form == "rows" else _tiles(plan)
    return (first, _parts(plan)) if plan.parts > 1 else (first,)


class _Writer:
    """The parts of a function that are written line by line."""

    def __init__(self, plan: Plan) -> None:
        self.plan = plan
        self.code = Code()
        self.renderer = Renderer(self.code, plan.problem.inputs)

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
        self.renderer.given[problem.total.input] = Value(total, _dims(scope))
        for number, result in enumerate(problem.results):
            self.renderer.store(result.element, result.type, f"out{number}", result.index, scope)

    def partial(self, scope: Scope, total: str) -> None:
        """Writes parts of sums into the workspace."""
        at = index_value(self.code, scope, place(scope, self.workspace_offset()))
        mask = _both([mask.text for mask in scope.masks])
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

    def function(self, template: str, name: str, tile: Tile, arguments: Sequence[Argument], **facts: Any) -> Function:
        """The function of a template."""
        plan, problem = self.plan, self.plan.problem
        extents = {"ROWS": tile.rows, "COLUMNS": tile.columns, "DEPTH": tile.depth}
        text = render_module(
            template,
            self.code.functions,
            name=name,
            parameters=", ".join(argument.name for argument in arguments),
            batch=problem.batch.extent,
            rows=problem.row.extent,
            columns=problem.column.extent,
            total=plan.multiplication.total.name,
            **facts,
        )
        return Function(
            text=text,
            name=name,
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


def _both(masks: Sequence[str]) -> str:
    return f", mask={' & '.join(masks)}" if masks else ""


def _whole(code: Code, scope: Scope, value: Value) -> str:
    """A value at every place of its block."""
    if len(value.dims) == len(scope.tile):
        return value.text
    return code.bind(f"tl.broadcast_to({value.text}, {', '.join(scope.tile)})")


def _masks(*wanted: tuple[str, frozenset[int], bool]) -> list[Mask]:
    return [Mask(text, dims) for text, dims, needed in wanted if needed]


def _tiles(plan: Plan) -> FunctionLaunch:
    """Tiles on tensor cores."""
    problem, tile, writer = plan.problem, plan.tile, _Writer(plan)
    rows, columns, depth = (bound(axis.extent) for axis in (problem.row, problem.column, problem.inner))
    cuts_rows, cuts_columns = rows % tile.rows != 0, columns % tile.columns != 0
    whole = plan.steps * tile.depth
    inner_left = Mask("inside_left_k", _COLUMNS) if depth != whole else None
    inner_right = Mask("inside_right_k", _ROWS) if plan.right_depth < whole else None
    renderer, kind, inner = writer.renderer, plan.multiplication, problem.inner
    left_outer = Scope(
        places=writer.places(row=Place("m", 0, rows - 1, _ROWS)),
        masks=_masks(("inside_m", _ROWS, cuts_rows)),
        tile=("ROWS", "DEPTH"),
    )
    right_outer = Scope(
        places=writer.places(column=Place("n", 0, columns - 1, _COLUMNS)),
        masks=_masks(("inside_n", _COLUMNS, cuts_columns)),
        tile=("DEPTH", "COLUMNS"),
    )
    hoist(renderer, plan.left, left_outer, inner)
    hoist(renderer, plan.right, right_outer, inner)
    head = writer.lines_from(0)
    left_scope = left_outer.inner(places=writer.places(inner=Place("left_k", 0, depth - 1, _COLUMNS)))
    left_scope.masks = [*left_outer.masks, *([inner_left] if inner_left else [])]
    right_scope = right_outer.inner(places=writer.places(inner=Place("right_k", 0, depth - 1, _ROWS)))
    right_scope.masks = [*([inner_right] if inner_right else []), *right_outer.masks]
    left = _whole(writer.code, left_scope, block(renderer, plan.left, kind, left_scope, inner, "left"))
    right = _whole(writer.code, right_scope, block(renderer, plan.right, kind, right_scope, inner, "right"))
    loop = writer.lines_from(len(head))
    scope = Scope(
        places=writer.places(
            row=Place("m", 0, rows - 1, _ROWS),
            column=Place("n", 0, columns - 1, _COLUMNS),
            part=Place("part", 0, plan.parts - 1),
        ),
        masks=_masks(("inside_m", _ROWS, cuts_rows and rows > 1), ("inside_n", _COLUMNS, cuts_columns and columns > 1)),
        tile=_result_tile(problem),
    )
    if plan.parts > 1:
        writer.partial(scope, "total")
    else:
        writer.results(scope, "total")
    facts = f', input_precision="{plan.multiplication.precision}"' if plan.multiplication.precision else ""
    facts += f", out_dtype=tl.{plan.multiplication.total.name}"
    row_tiles, column_tiles = -(-rows // tile.rows), -(-columns // tile.columns)
    arguments = writer.arguments(outputs=plan.parts == 1, workspace=plan.parts > 1)
    arguments.append(Argument("steps", "i32", Integer(plan.part_steps), 1))
    function = writer.function(
        "matmul",
        "matmul",
        tile,
        arguments,
        row_tiles=row_tiles,
        column_tiles=column_tiles,
        group=min(GROUP, row_tiles),
        splits=plan.parts,
        all_steps=plan.steps,
        depth=depth,
        right_depth=plan.right_depth,
        masks_inner=inner_left is not None,
        masks_right=inner_right is not None,
        row_sums=plan.sums_rows,
        column_sums=plan.sums_columns,
        head=head,
        loop=loop,
        left=left,
        right=right,
        dot_facts=facts,
        finish=writer.lines_from(len(head) + len(loop)),
    )
    return FunctionLaunch(function, (bound(problem.batch.extent) * row_tiles * column_tiles, plan.parts, 1))


def _dims(scope: Scope) -> Dims:
    """Dimensions along which results differ."""
    return frozenset(i for i, extent in enumerate(scope.tile) if extent != "1")


def _power(extent: int) -> int:
    """The least power of two that is not less."""
    return 1 << (extent - 1).bit_length()


def _result_tile(problem: MatmulProblem) -> tuple[str, str]:
    """Extents of a block of sums: one row or column stands alone, whatever the tile that multiplied it."""
    return "ROWS" if problem.row.extent != 1 else "1", "COLUMNS" if problem.column.extent != 1 else "1"


def _rows(plan: Plan) -> FunctionLaunch:
    """A few rows by lanes."""
    problem, tile, writer = plan.problem, plan.tile, _Writer(plan)
    rows, columns, depth = (bound(axis.extent) for axis in (problem.row, problem.column, problem.inner))
    if rows > MOST_ROWS or rows != tile.rows:
        raise BackendError(f"a product of {rows} rows is not one of {tile.rows} at most {MOST_ROWS}")
    whole = plan.steps * tile.depth
    cuts_columns = columns % tile.columns != 0
    inner_left = Mask("inside_left_k", _ROWS) if depth != whole else None
    inner_right = Mask("inside_right_k", _ROWS) if plan.right_depth < whole else None
    columns_mask = _masks(("inside_n", _COLUMNS, cuts_columns))
    result_mask = columns_mask if columns > 1 else []
    k = Place("right_k", 0, depth - 1, _ROWS)
    right_scope = Scope(
        places=writer.places(inner=k, column=Place("n", 0, columns - 1, _COLUMNS)),
        masks=[*([inner_right] if inner_right else []), *columns_mask],
        tile=("DEPTH", "COLUMNS"),
    )
    renderer, kind = writer.renderer, plan.multiplication
    code, total = writer.code, kind.total.name
    value = block(renderer, plan.right, kind, right_scope, problem.inner, "right")
    right = code.bind(f"{value.text}.to(tl.{total})", "right")
    for row in range(rows):
        left_scope = Scope(
            axes={problem.row.name: row},
            places=writer.places(inner=k),
            masks=[inner_left] if inner_left else [],
            tile=("DEPTH", "1"),
        )
        left = block(renderer, plan.left, kind, left_scope, problem.inner, "left")
        code.emit(f"sums{row} += {left.text}.to(tl.{total}) * {right}")
    loop = writer.lines_from(0)
    for row in range(rows):
        scope = Scope(
            axes={problem.row.name: row},
            places=writer.places(column=Place("n", 0, columns - 1, _COLUMNS), part=Place("part", 0, plan.parts - 1)),
            masks=result_mask,
            tile=("1", "COLUMNS" if columns != 1 else "1"),
        )
        if plan.parts > 1:
            writer.partial(scope, f"total{row}")
        else:
            writer.results(scope, f"total{row}")
    column_tiles = -(-columns // tile.columns)
    arguments = writer.arguments(outputs=plan.parts == 1, workspace=plan.parts > 1)
    arguments.append(Argument("steps", "i32", Integer(plan.part_steps), 1))
    function = writer.function(
        "matmul_rows",
        "matmul_rows",
        tile,
        arguments,
        column_tiles=column_tiles,
        splits=plan.parts,
        all_steps=plan.steps,
        depth=depth,
        right_depth=plan.right_depth,
        masks_inner=inner_left is not None,
        masks_right=inner_right is not None,
        loop=loop,
        finish=writer.lines_from(len(loop)),
    )
    return FunctionLaunch(function, (bound(problem.batch.extent) * column_tiles, plan.parts, 1))


def _parts(plan: Plan) -> FunctionLaunch:
    """The sum of the parts, and what follows it."""
    problem, writer = plan.problem, _Writer(plan)
    rows, columns = bound(problem.row.extent), bound(problem.column.extent)
    tile = Tile(min(8, _power(rows)), min(128, _power(columns)), 1, 1, 4)
    cuts_rows, cuts_columns = rows % tile.rows != 0, columns % tile.columns != 0
    scope = Scope(
        places=writer.places(
            row=Place("m", 0, rows - 1, _ROWS),
            column=Place("n", 0, columns - 1, _COLUMNS),
            part=Place("part", 0, plan.parts - 1, SCALAR),
        ),
        masks=_masks(("inside_m", _ROWS, cuts_rows and rows > 1), ("inside_n", _COLUMNS, cuts_columns and columns > 1)),
        tile=_result_tile(problem),
    )
    code = writer.code
    inner = scope.inner()
    at = index_value(code, inner, place(inner, writer.workspace_offset()))
    code.emit(f"total += tl.load(work + {at.text}{_both([mask.text for mask in scope.masks])})")
    loop = writer.lines_from(0)
    writer.results(scope, "total")
    row_tiles, column_tiles = -(-rows // tile.rows), -(-columns // tile.columns)
    arguments = [*writer.arguments(outputs=True, workspace=True), Argument("parts", "i32", Integer(plan.parts), 1)]
    function = writer.function(
        "matmul_parts",
        "matmul_parts",
        tile,
        arguments,
        shape=scope.shape(_dims(scope)),
        row_tiles=row_tiles,
        column_tiles=column_tiles,
        loop=loop,
        finish=writer.lines_from(len(loop)),
    )
    return FunctionLaunch(function, (bound(problem.batch.extent) * row_tiles * column_tiles, 1, 1))
