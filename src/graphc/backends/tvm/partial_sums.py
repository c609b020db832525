"""Long sums in parts: the terms of a part are summed in registers, and the parts' sums added up.

The error of a sum grows with the number of terms that are added one after the other: of parts of `s` out of `K` terms
it is at most about `s + K/s` units in the last place, not `K` (N. Higham, "Accuracy and Stability of Numerical
Algorithms", 2002, 4.2). Where there are many parts, what each addition rounds away is summed as well, so that their
number does not matter (the same, 4.3).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from graphc.backends.tvm import element_types
from graphc.backends.tvm.tir import Expr, KernelBuilder, bind, broadcast
from graphc.ir import Dim
from graphc.ir.dtypes import DType
from graphc.ir.symbolic import Bounds, floordiv, interval

LONG = 1024
"""Terms from which a sum is cut: shorter ones are exact enough, and a cut costs about 1 % of a product's time."""

STEPS = 512
"""Terms of a part."""

VERY_LONG = 8192
"""Terms from which parts are shorter and their additions compensated."""

SHORT_STEPS = 256
"""Terms of a part of a very long sum: of as many equal ones a float32 is off by at most 4e-6 of their sum."""

GRAIN = 8
"""Parts are multiples of this, so that no step is left over where several are taken at once."""


@dataclass(frozen=True)
class Parts:
    """Terms in parts of equal size; what is left over is a part of its own.

    Args:
        depth: How many terms there are.
        size: Terms of a part.
        compensated: Whether what additions of parts round away is summed, too.
    """

    depth: Dim
    size: Dim
    compensated: bool = False

    @property
    def whole(self) -> bool:
        """Whether nothing is cut."""
        return self.size == self.depth

    def describe(self) -> dict[str, str]:
        """What is worth showing: nothing where nothing is cut."""
        return {} if self.whole else {"sums of": f"{self.size} terms" + (", compensated" if self.compensated else "")}


def uncut(depth: Dim) -> Parts:
    """All terms in one part."""
    return Parts(depth, depth)


def cut(depth: Dim, bounds: Bounds, size: int | None = None) -> Parts:
    """Parts of `depth` terms, as even as may be.

    Args:
        depth: How many terms there are.
        bounds: Of the symbols of open extents.
        size: Most terms of a part; chosen if None.
    """
    known = interval(depth, bounds)
    most = None if known is None else known[1]
    if most is not None and most <= (LONG if size is None else size):
        return uncut(depth)
    very_long = most is None or most > VERY_LONG
    size = size or (SHORT_STEPS if very_long else STEPS)
    if isinstance(depth, int):
        count = -(-depth // size)
        size = min(depth, -(-depth // (count * GRAIN)) * GRAIN)
    return Parts(depth, size, very_long)


def sum_in_parts(
    builder: KernelBuilder,
    parts: Parts,
    shape: tuple[int, int],
    lanes: int,
    dtype: DType,
    sums: Callable[[Dim, Dim], list[list[Expr]]],
) -> list[list[Expr]]:
    """The sums of all terms.

    Args:
        builder: The kernel under construction.
        parts: How they are cut.
        shape: Rows and vectors of sums.
        lanes: Width of a vector.
        dtype: Type of sums.
        sums: Emits the sums of the terms from the first number on, as many as the second one says.
    """
    if parts.whole:
        return sums(0, parts.depth)
    totals = [[_Total(builder, lanes, dtype, parts.compensated) for _ in range(shape[1])] for _ in range(shape[0])]

    def add(values: Sequence[Sequence[Expr]]) -> None:
        for row, vectors in zip(totals, values, strict=True):
            for total, value in zip(row, vectors, strict=True):
                total.add(value)

    full = floordiv(parts.depth, parts.size)
    with builder.serial(full, "part") as number:
        start = builder.bind_index(number * parts.size, 0, None, "start")
        add(sums(start, parts.size))
    rest = parts.depth - full * parts.size
    if rest != 0:
        add(sums(full * parts.size, rest))
    return [[total.value() for total in row] for row in totals]


class _Total:
    """A vector of sums of parts."""

    def __init__(self, builder: KernelBuilder, lanes: int, dtype: DType, compensated: bool) -> None:
        zero = broadcast(element_types.constant(0.0, dtype), lanes)
        self.sum, self.lost = builder.accumulator(lanes, dtype.name), None
        self.sum.value = zero
        if compensated:
            self.lost = builder.accumulator(lanes, dtype.name)
            self.lost.value = zero

    def add(self, value: Expr) -> None:
        before = bind(self.sum.value)
        total = bind(before + value)
        self.sum.value = total
        if self.lost is not None:
            # The error of an addition (D. Knuth, "The Art of Computer Programming", volume 2, 4.2.2, theorem B).
            added = bind(total - before)
            error = bind(before - bind(total - added)) + bind(value - added)
            self.lost.value = self.lost.value + error

    def value(self) -> Expr:
        return bind(self.sum.value if self.lost is None else self.sum.value + self.lost.value)
