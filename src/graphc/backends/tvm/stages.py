"""Long chains of arithmetic, a part at a time over a few vectors, so that a processor always has something to do.

The steps of a chain wait for each other: a processor computes several vectors at once only as far as it looks ahead,
which is two or three of them where a chain has a hundred instructions. A part of it, one transcendental function or so,
is short enough that it sees several, and its constants stay in registers. What a part leaves for the next waits in the
first-level cache, or in registers.
"""

from __future__ import annotations

from collections.abc import Sequence

from graphc.backends.element_types import compute_dtype
from graphc.ir import Dim, dtypes
from graphc.ops.expr import (
    SCALAR_OPS,
    ArgReduce,
    Call,
    Cast,
    Const,
    IndexValue,
    Load,
    Reduce,
    Scalar,
    Select,
    children,
    walk,
)

VECTORS = 8
"""That a part is computed for before the next: as many as a processor looks ahead."""

LEAST_VECTORS = 3
"""Fewer are computed one by one."""

PART_COST = 16
"""Scalar operations of a part: of one transcendental function, which LLVM makes some twenty instructions of."""


def parts_of(elements: Sequence[Scalar]) -> list[tuple[Scalar, ...]]:
    """What each part but the last, which computes the elements, leaves for later ones; nothing where one is enough."""
    order = _ordered(elements)
    if any(isinstance(scalar, Reduce | ArgReduce) for scalar in order):
        return []
    ends, cost = [], 0
    for position, scalar in enumerate(order):
        cost += sum(map(_weight, _chosen(scalar)))
        if cost >= PART_COST and _storable(scalar):
            ends.append(position + 1)
            cost = 0
    if cost < PART_COST and ends:
        # What little is left belongs to the part before.
        ends.pop()
    made, parts = set[int](), list[tuple[Scalar, ...]]()
    for end in ends:
        later = (child for scalar in order[end:] for reader in _chosen(scalar) for child in children(reader))
        read = {id(scalar) for scalar in (*later, *elements)}
        kept = [scalar for scalar in order[:end] if id(scalar) in read and id(scalar) not in made and _is_work(scalar)]
        if not all(map(_storable, kept)):
            continue
        made |= {id(scalar) for scalar in kept}
        parts.append(tuple(kept))
    return parts


def blocks(count: Dim) -> list[tuple[Dim, Dim, int]]:
    """How so many vectors are computed: from which on, how many times, how many of them together."""
    whole = count // VECTORS
    rest = count - whole * VECTORS
    found: list[tuple[Dim, Dim, int]] = [(0, whole, VECTORS)]
    if isinstance(rest, int) and rest >= LEAST_VECTORS:
        found.append((whole * VECTORS, 1, rest))
    else:
        found.append((whole * VECTORS, rest, 1))
    return [block for block in found if block[1] != 0]


def _ordered(elements: Sequence[Scalar]) -> list[Scalar]:
    """Every scalar after those that it is made of; a selection is one scalar, since what it has not chosen is not."""
    order: dict[int, Scalar] = {}
    stack = [(element, False) for element in reversed(elements)]
    while stack:
        scalar, visited = stack.pop()
        if id(scalar) in order:
            continue
        if visited:
            order[id(scalar)] = scalar
            continue
        stack.append((scalar, True))
        stack += [(child, False) for child in reversed(_operands(scalar))]
    return list(order.values())


def _operands(scalar: Scalar) -> tuple[Scalar, ...]:
    return (scalar.condition,) if isinstance(scalar, Select) else tuple(children(scalar))


def _chosen(scalar: Scalar) -> list[Scalar]:
    """The scalar, and what it chooses from."""
    return [scalar, *walk(scalar.then), *walk(scalar.otherwise)] if isinstance(scalar, Select) else [scalar]


def _weight(scalar: Scalar) -> int:
    return SCALAR_OPS[scalar.op].cost if isinstance(scalar, Call) else 1


def _is_work(scalar: Scalar) -> bool:
    """Whether it is computed, and not read again wherever it is needed."""
    return not isinstance(scalar, Const | IndexValue | Load)


def _storable(scalar: Scalar) -> bool:
    return isinstance(scalar, Call | Cast | Select) and compute_dtype(scalar.dtype) == dtypes.FLOAT32
