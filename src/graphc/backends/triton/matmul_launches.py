"""The functions of a product and their launches: templates filled in with what the region reads and makes."""

from __future__ import annotations

from graphc.backends.extents import bound
from graphc.backends.triton import matmul_descriptors
from graphc.backends.triton.function import Argument, FunctionLaunch
from graphc.backends.triton.indices import index_value, place
from graphc.backends.triton.matmul_operands import block, hoist
from graphc.backends.triton.matmul_plan import Plan
from graphc.backends.triton.matmul_tiles import MOST_ROWS, Tile
from graphc.backends.triton.matmul_writer import (
    COLUMNS,
    GROUP,
    ROWS,
    Writer,
    dims_of_results,
    dot_facts,
    mask_argument,
    masks,
    result_tile,
)
from graphc.backends.triton.scope import SCALAR, Code, Mask, Place, Scope, Value
from graphc.backends.triton.tiles import power_above
from graphc.errors import BackendError
from graphc.package.cuda import Integer
from graphc.target.cuda import CudaTarget


def launches_of(plan: Plan, target: CudaTarget) -> tuple[FunctionLaunch, ...]:
    """What one call of the kernel launches: the product, then the sum of its parts if it is cut into some."""
    if plan.tile.form == "descriptors":
        return (matmul_descriptors.launch(Writer(plan), target.processors),)
    first = _rows(plan) if plan.tile.form == "rows" else _tiles(plan)
    return (first, _parts(plan)) if plan.parts > 1 else (first,)


def _whole(code: Code, scope: Scope, value: Value) -> str:
    """A value at every place of its block."""
    if len(value.dims) == len(scope.tile):
        return value.text
    return code.bind(f"tl.broadcast_to({value.text}, {', '.join(scope.tile)})")


def _tiles(plan: Plan) -> FunctionLaunch:
    """Tiles on tensor cores."""
    problem, tile, writer = plan.problem, plan.tile, Writer(plan)
    rows, columns, depth = (bound(axis.extent) for axis in (problem.row, problem.column, problem.inner))
    cuts_rows, cuts_columns = rows % tile.rows != 0, columns % tile.columns != 0
    whole = plan.steps * tile.depth
    inner_left = Mask("inside_left_k", COLUMNS) if depth != whole else None
    inner_right = Mask("inside_right_k", ROWS) if plan.right_depth < whole else None
    renderer, kind, inner = writer.renderer, plan.multiplication, problem.inner
    left_outer = Scope(
        places=writer.places(row=Place("m", 0, rows - 1, ROWS)),
        masks=masks(("inside_m", ROWS, cuts_rows)),
        tile=("ROWS", "DEPTH"),
    )
    right_outer = Scope(
        places=writer.places(column=Place("n", 0, columns - 1, COLUMNS)),
        masks=masks(("inside_n", COLUMNS, cuts_columns)),
        tile=("DEPTH", "COLUMNS"),
    )
    hoist(renderer, plan.left, left_outer, inner)
    hoist(renderer, plan.right, right_outer, inner)
    head = writer.lines_from(0)
    left_scope = left_outer.inner(places=writer.places(inner=Place("left_k", 0, depth - 1, COLUMNS)))
    left_scope.masks = [*left_outer.masks, *([inner_left] if inner_left else [])]
    right_scope = right_outer.inner(places=writer.places(inner=Place("right_k", 0, depth - 1, ROWS)))
    right_scope.masks = [*([inner_right] if inner_right else []), *right_outer.masks]
    left = _whole(writer.code, left_scope, block(renderer, plan.left, kind, left_scope, inner, "left"))
    right = _whole(writer.code, right_scope, block(renderer, plan.right, kind, right_scope, inner, "right"))
    loop = writer.lines_from(len(head))
    scope = Scope(
        places=writer.places(
            row=Place("m", 0, rows - 1, ROWS),
            column=Place("n", 0, columns - 1, COLUMNS),
            part=Place("part", 0, plan.parts - 1),
        ),
        masks=masks(("inside_m", ROWS, cuts_rows and rows > 1), ("inside_n", COLUMNS, cuts_columns and columns > 1)),
        tile=result_tile(problem),
    )
    if plan.parts > 1:
        writer.partial(scope, "total")
    else:
        writer.results(scope, "total")
    row_tiles, column_tiles = -(-rows // tile.rows), -(-columns // tile.columns)
    arguments = writer.arguments(outputs=plan.parts == 1, workspace=plan.parts > 1)
    arguments.append(Argument("steps", "i32", Integer(plan.part_steps), 1))
    function = writer.function(
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
        dot_facts=dot_facts(kind),
        finish=writer.lines_from(len(head) + len(loop)),
    )
    return FunctionLaunch(function, (bound(problem.batch.extent) * row_tiles * column_tiles, plan.parts, 1))


def _rows(plan: Plan) -> FunctionLaunch:
    """A few rows by lanes."""
    problem, tile, writer = plan.problem, plan.tile, Writer(plan)
    rows, columns, depth = (bound(axis.extent) for axis in (problem.row, problem.column, problem.inner))
    if rows > MOST_ROWS or rows != tile.rows:
        raise BackendError(f"a product of {rows} rows is not one of {tile.rows} at most {MOST_ROWS}")
    whole = plan.steps * tile.depth
    cuts_columns = columns % tile.columns != 0
    inner_left = Mask("inside_left_k", ROWS) if depth != whole else None
    inner_right = Mask("inside_right_k", ROWS) if plan.right_depth < whole else None
    columns_mask = masks(("inside_n", COLUMNS, cuts_columns))
    result_mask = columns_mask if columns > 1 else []
    k = Place("right_k", 0, depth - 1, ROWS)
    right_scope = Scope(
        places=writer.places(inner=k, column=Place("n", 0, columns - 1, COLUMNS)),
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
            places=writer.places(column=Place("n", 0, columns - 1, COLUMNS), part=Place("part", 0, plan.parts - 1)),
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
    problem, writer = plan.problem, Writer(plan)
    rows, columns = bound(problem.row.extent), bound(problem.column.extent)
    tile = Tile(min(8, power_above(rows)), min(128, power_above(columns)), 1, 1, 4)
    cuts_rows, cuts_columns = rows % tile.rows != 0, columns % tile.columns != 0
    scope = Scope(
        places=writer.places(
            row=Place("m", 0, rows - 1, ROWS),
            column=Place("n", 0, columns - 1, COLUMNS),
            part=Place("part", 0, plan.parts - 1, SCALAR),
        ),
        masks=masks(("inside_m", ROWS, cuts_rows and rows > 1), ("inside_n", COLUMNS, cuts_columns and columns > 1)),
        tile=result_tile(problem),
    )
    code = writer.code
    inner = scope.inner()
    at = index_value(code, inner, place(inner, writer.workspace_offset()))
    code.emit(f"total += tl.load(work + {at.text}{mask_argument([mask.text for mask in scope.masks])})")
    loop = writer.lines_from(0)
    writer.results(scope, "total")
    row_tiles, column_tiles = -(-rows // tile.rows), -(-columns // tile.columns)
    arguments = [*writer.arguments(outputs=True, workspace=True), Argument("parts", "i32", Integer(plan.parts), 1)]
    function = writer.function(
        "matmul_parts",
        tile,
        arguments,
        shape=scope.shape(dims_of_results(scope)),
        row_tiles=row_tiles,
        column_tiles=column_tiles,
        loop=loop,
        finish=writer.lines_from(len(loop)),
    )
    return FunctionLaunch(function, (bound(problem.batch.extent) * row_tiles * column_tiles, 1, 1))
