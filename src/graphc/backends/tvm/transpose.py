"""Copying a matrix transposed, a square of vectors at a time, in registers."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from tvm.tirx.script.builder import ir as T

from graphc.backends.tvm import element_types
from graphc.backends.tvm.tir import Expr, KernelBuilder, bind, broadcast
from graphc.ir import Dim, dtypes
from graphc.ir.dtypes import DType
from graphc.ir.symbolic import minimum

Read = Callable[[Dim, Dim, "int | None"], Expr]
"""Answers the vector of a row that starts at a column, of which only the first so many lanes are inside."""


def transposed(rows: Sequence[Expr], lanes: int) -> list[Expr]:
    """The columns of a square of `lanes` vectors, each of `lanes` elements.

    Quadrants are exchanged at half the width, then at a quarter, and so on (J. O. Eklundh, "A fast computer method for
    matrix transposing", 1972).
    """
    current = list(rows)
    distance = lanes // 2
    while distance:
        for i in range(lanes):
            if i & distance:
                continue
            first, second = current[i], current[i + distance]
            low = [lane if not lane & distance else lanes + lane - distance for lane in range(lanes)]
            high = [lane + distance if not lane & distance else lanes + lane for lane in range(lanes)]
            current[i] = bind(T.Shuffle([first, second], low))
            current[i + distance] = bind(T.Shuffle([first, second], high))
        distance //= 2
    return current


def copy_transposed(
    builder: KernelBuilder,
    read: Read,
    rows: Dim,
    columns: int,
    lanes: int,
    operand: int,
    base: Dim,
    stride: Dim,
    dtype: DType = dtypes.FLOAT32,
) -> None:
    """Writes row `c` of a result for every column `c` of a matrix, zeros after the last row up to a whole vector.

    Where only the call knows the number of rows, what comes after the last one is that row again.

    Args:
        builder: The kernel under construction.
        read: A vector of the matrix.
        rows: Its rows.
        columns: Its columns.
        lanes: Width of a vector.
        operand: Where the result goes.
        base: Its first element there.
        stride: Elements between its rows, at least `rows` rounded up to whole vectors.
        dtype: Element type.
    """
    zero = broadcast(element_types.constant(0.0, dtype), lanes)

    def line(row: Dim, r: int, height: Dim) -> Dim | None:
        """The row to read, if any: past an end that only the call knows, the last one stands in."""
        if isinstance(height, int):
            return row + r if r < height else None
        return builder.bind_index(row + minimum(r, height - 1), 0, rows - 1, "row")

    def square(row: Dim, places: list[Dim | None], column: Dim, width: int) -> None:
        count = None if width == lanes else width
        vectors = [zero if place is None else bind(read(place, column, count)) for place in places]
        for c, vector in enumerate(transposed(vectors, lanes)[:width]):
            builder.store(operand, vector, base + (column + c) * stride + row, lanes)

    def strip(row: Dim, height: Dim) -> None:
        places = [line(row, r, height) for r in range(lanes)]
        if columns >= lanes:
            with builder.serial(columns // lanes, "c") as block:
                square(row, places, block * lanes, lanes)
        if columns % lanes:
            square(row, places, columns // lanes * lanes, columns % lanes)

    whole = rows // lanes
    if whole != 0:
        with builder.serial(whole, "r") as block:
            strip(block * lanes, lanes)
    rest = rows - whole * lanes
    if isinstance(rest, int):
        if rest:
            strip(whole * lanes, rest)
        return
    with builder.when(builder.index(rest) > T.int64(0)):
        strip(whole * lanes, rest)
