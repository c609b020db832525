"""Splitting a loop nest where a condition on one axis changes, so that no condition is left inside.

A concatenation is one `select` after another on the joined axis, a padding one on each padded axis. Between two places
where such a condition changes it is constant: the loops are emitted once for each stretch, with the select resolved.
So are they where a place that is read turns round: a mirrored border is a stretch that is walked backwards.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace

from graphc.ir import Dim, symbol
from graphc.ir.dtypes import BOOL
from graphc.ir.symbolic import Bounds, evaluate, interval, linear_coefficient, substitute, symbols
from graphc.ops.expr import Axis, Call, Const, Index, IndexValue, Load, Scalar, Select, transform, walk

MOST_WINDOWS = 24
"""Nests beyond this many are not worth their code: the conditions stay."""

LEAST_LANES = 4
"""Vectors narrower than this are slower than the conditions that they would save."""

_MOST_BENDS = 2
"""A border on either side. What bends more often, like a picture that is scaled, is read element by element."""

_MOST_PLACES = 1 << 12
"""Extent up to which each place is looked at."""

_COMPARISONS = frozenset({"lt", "le", "gt", "ge", "eq", "ne"})


@dataclass(frozen=True)
class Window:
    """A stretch of one axis: `start <= index < start + length`."""

    start: int
    length: int


def split(
    axes: tuple[Axis, ...], elements: tuple[Scalar, ...], multiples: Mapping[str, int]
) -> Iterator[tuple[dict[str, Window], tuple[Scalar, ...]]]:
    """Yields windows that cover the axes, each with the elements as they are inside it.

    Args:
        axes: Axes of the nest.
        elements: What is computed at them.
        multiples: Axes that may only be split at multiples of a number (blocked ones).
    """
    stretches = [_stretches(axis, elements, multiples.get(axis.name, 1)) for axis in axes]
    if math.prod(map(len, stretches)) > MOST_WINDOWS:
        yield {}, elements
        return
    for choice in itertools.product(*stretches):
        window = {axis.name: w for axis, w in zip(axes, choice, strict=True) if w is not None}
        yield window, tuple(resolved(element, axes, window) for element in elements)


def common_block(axis: Axis, elements: tuple[Scalar, ...], block: int) -> int:
    """The widest vector of a blocked axis that no place where a condition changes cuts in two.

    `block` itself where that would be too narrow to be worth it, or where the last block is padded.
    """
    if not isinstance(axis.extent, int) or axis.extent % block:
        return block
    width = math.gcd(block, *_places(axis, elements))
    return width if width >= LEAST_LANES else block


def _stretches(axis: Axis, elements: tuple[Scalar, ...], multiple: int) -> list[Window | None]:
    """The stretches of an axis between places where a condition on it alone changes; `[None]` for the whole of it."""
    places = _places(axis, elements)
    if not places or not isinstance(axis.extent, int) or any(place % multiple for place in places):
        return [None]
    ordered = [0, *sorted(places), axis.extent]
    return [Window(start, end - start) for start, end in itertools.pairwise(ordered)]


def _places(axis: Axis, elements: tuple[Scalar, ...]) -> set[int]:
    """Where inside an axis some condition on it alone changes."""
    places: set[int] = set()
    for element in elements:
        for scalar in walk(element):
            if isinstance(scalar, Call) and scalar.op in _COMPARISONS:
                places |= _changes(scalar, axis)
            elif isinstance(scalar, Load):
                places |= {place for index in scalar.indices for place in _bends(index, axis)}
    return places


def _bends(index: Index, axis: Axis) -> list[int]:
    """Where a place that depends on one axis alone ceases to be linear in it, as a mirrored border does."""
    if isinstance(index, Scalar | int) or symbols(index) != {axis.name} or not isinstance(axis.extent, int):
        return []
    if linear_coefficient(index, axis.name) is not None or not 2 <= axis.extent <= _MOST_PLACES:
        return []
    places = [evaluate(index, {axis.name: number}) for number in range(axis.extent)]
    found: list[int] = []
    start = 0
    for number in range(2, axis.extent):
        if number - start > 1 and places[number] - places[number - 1] != places[start + 1] - places[start]:
            start = number
            found.append(number)
            if len(found) > _MOST_BENDS:
                return []
    return found


def _changes(comparison: Call, axis: Axis) -> set[int]:
    """Where inside the axis a comparison of two indices may change its answer, if it depends on nothing else."""
    left, right = comparison.arguments
    if not (isinstance(left, IndexValue) and isinstance(right, IndexValue)) or not isinstance(axis.extent, int):
        return set()
    difference = left.index - right.index
    if symbols(difference) != {axis.name}:
        return set()
    slope = linear_coefficient(difference, axis.name)
    if slope is None or slope == 0:
        return set()
    at_zero = substitute(difference, {axis.name: 0})
    if not isinstance(at_zero, int):
        return set()
    # The sign changes between floor(root) and ceil(root), and equality holds only on the root itself.
    root = -at_zero // slope
    exact = comparison.op not in ("eq", "ne") and slope in (1, -1)
    near = _first_new(comparison.op, root, slope) if exact else {root, root + 1}
    return {place for place in near if 0 < place < axis.extent}


def _first_new(op: str, root: int, slope: int) -> set[int]:
    """The first index with another answer than the one before it, for `index - root` against zero."""
    rising = slope > 0
    if op in ("ge", "lt"):
        return {root} if rising else {root + 1}
    return {root + 1} if rising else {root}


def resolved(element: Scalar, axes: tuple[Axis, ...], window: Mapping[str, Window]) -> Scalar:
    """`element` with every select gone whose condition is the same all over the window, or over axes without one."""
    bounds: dict[str, tuple[int, int | None]] = {}
    for axis in axes:
        stretch = window.get(axis.name)
        if stretch is not None:
            bounds[axis.name] = (stretch.start, stretch.start + stretch.length - 1)
        else:
            bounds[axis.name] = (0, axis.extent - 1 if isinstance(axis.extent, int) else None)

    stretches = {axis.name: window[axis.name] for axis in axes if axis.name in window}

    def leaf(scalar: Scalar) -> Scalar | None:
        match scalar:
            case Call(op=op, arguments=(IndexValue(index=left), IndexValue(index=right))) if op in _COMPARISONS:
                known = _decide(op, left - right, bounds)
                return None if known is None else Const(BOOL, known)
            case Call(op="and", arguments=(left, right)) if scalar.dtype == BOOL:
                return _conjunction(left, right)
            case Select(condition=Const(value=value), then=then, otherwise=otherwise):
                return then if value else otherwise
            case Load(indices=indices):
                straight = tuple(_straightened(index, stretches) for index in indices)
                return None if straight == indices else replace(scalar, indices=straight)
        return None

    return transform(element, leaf, {})


def _straightened(index: Index, stretches: Mapping[str, Window]) -> Index:
    """A place as a linear expression, where within a stretch of the one axis that it depends on it is one."""
    if isinstance(index, Scalar | int) or len(names := symbols(index)) != 1:
        return index
    (name,) = names
    stretch = stretches.get(name)
    if stretch is None or linear_coefficient(index, name) is not None or stretch.length > _MOST_PLACES:
        return index
    first = evaluate(index, {name: stretch.start})
    slope = evaluate(index, {name: stretch.start + 1}) - first if stretch.length > 1 else 0
    for number in range(stretch.length):
        if evaluate(index, {name: stretch.start + number}) != first + slope * number:
            return index
    return (symbol(name) - stretch.start) * slope + first


def _conjunction(left: Scalar, right: Scalar) -> Scalar | None:
    if isinstance(left, Const):
        return right if left.value else left
    if isinstance(right, Const):
        return left if right.value else right
    return None


def _decide(op: str, difference: Dim, bounds: Bounds) -> bool | None:
    """What `difference op 0` is wherever the bounds hold, or None where it changes."""
    extent = interval(difference, bounds)
    if extent is None:
        return None
    low, high = extent
    if op in ("gt", "le"):
        above = True if low > 0 else False if high is not None and high <= 0 else None
        return above if above is None or op == "gt" else not above
    if op in ("ge", "lt"):
        above = True if low >= 0 else False if high is not None and high < 0 else None
        return above if above is None or op == "ge" else not above
    never = low > 0 or (high is not None and high < 0)
    equal = True if low == high == 0 else False if never else None
    return equal if equal is None or op == "eq" else not equal
