"""Products whose tiles the copy engine of sm_90 and later brings (TMA), in blocks that stay for tile after tile.

What a tile needs is two requests of one thread instead of addresses in every one, and the next tile's are under way
while the last one's results are written. Operands must stand in memory as they are multiplied.
"""

from __future__ import annotations

from graphc.backends.extents import bound
from graphc.backends.triton.function import Argument, FunctionLaunch
from graphc.backends.triton.matmul_sides import sides_of
from graphc.backends.triton.matmul_writer import COLUMNS, GROUP, ROWS, Writer, dot_facts, masks, result_tile
from graphc.backends.triton.scope import Place, Scope
from graphc.errors import BackendError
from graphc.package.cuda import Integer


def launch(writer: Writer, processors: int) -> FunctionLaunch:
    """The launch of a product.

    Args:
        writer: Of its function.
        processors: Blocks that stay.

    Raises:
        BackendError: The copy engine cannot bring its operands.
    """
    plan = writer.plan
    problem, tile = plan.problem, plan.tile
    sides = sides_of(problem, plan.multiplication, plan.left, plan.right)
    if sides is None or plan.parts > 1 or plan.sums_rows or plan.sums_columns:
        raise BackendError("the copy engine does not bring these operands")
    writer.renderer.reads.update(side.input for side in sides)
    rows, columns = bound(problem.row.extent), bound(problem.column.extent)
    if 1 in (rows, columns):
        raise BackendError("a vector is no tile")
    scope = Scope(
        places=writer.places(row=Place("m", 0, rows - 1, ROWS), column=Place("n", 0, columns - 1, COLUMNS)),
        masks=masks(("inside_m", ROWS, rows % tile.rows != 0), ("inside_n", COLUMNS, columns % tile.columns != 0)),
        tile=result_tile(problem),
    )
    writer.results(scope, "total")
    row_tiles, column_tiles = -(-rows // tile.rows), -(-columns // tile.columns)
    arguments = writer.arguments(outputs=True, workspace=False)
    arguments.append(Argument("steps", "i32", Integer(plan.steps), 1))
    function = writer.function(
        "matmul_descriptors",
        tile,
        arguments,
        row_tiles=row_tiles,
        column_tiles=column_tiles,
        group=min(GROUP, row_tiles),
        sides=sides,
        dot_facts=dot_facts(plan.multiplication),
        finish=writer.lines_from(0),
    )
    return FunctionLaunch(function, (min(processors, row_tiles * column_tiles), 1, 1))
