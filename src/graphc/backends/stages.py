"""Reductions that a kernel computes before it needs them: which of a problem's are long, and the problem without them.

An element that is read many times must not reduce the same row each time. A long reduction is either computed with the
row that needs it, in one block, or by a launch of its own into a workspace that later launches load from.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TypeAlias

from graphc.backends.element_types import compute_dtype
from graphc.backends.extents import bound, unflatten
from graphc.backends.problem import FreeSymbols, Problem
from graphc.ir import Dim, TensorType
from graphc.ir.symbolic import SymbolicInt, linear_coefficient, simplify, symbols
from graphc.ops.expr import (
    REDUCE_IDENTITY,
    ArgReduce,
    Axis,
    Call,
    Cast,
    Index,
    IndexValue,
    Load,
    Reduce,
    Scalar,
    Select,
    axes_of,
    cast,
    children,
    compare,
    const,
    load,
    reduction_axes,
    select,
    transform,
    walk,
)

SHORT = 27
"""Reductions of at most this many elements, those of a 3x3x3 window, are computed where they are needed."""

SHORT_WINDOW = 1024
"""As `SHORT`, of windows: neighbours read most of what one reads, and read it together."""

SHORT_SHARED = 4
"""As `SHORT`, of reductions that do not depend on all of the axes of what they are needed for."""

PART_MULTIPLE = 128
"""Parts of rows are multiples of so many elements."""

Reduction: TypeAlias = Reduce | ArgReduce
"""What walks axes of its own."""


@dataclass(frozen=True)
class Row:
    """What a problem's long reductions have in common.

    Args:
        reductions: All of them, operands before users.
        axes: The problem's axes that they run along; none where results are one for each row.
        outer: The problem's other axes, which number the rows.
        extent: Elements of a row.
    """

    reductions: tuple[Reduction, ...]
    axes: tuple[Axis, ...]
    outer: tuple[Axis, ...]
    extent: int

    @property
    def rows(self) -> int:
        """How many there are."""
        return math.prod(bound(axis.extent) for axis in self.outer)


def axes_along(reduction: Reduction) -> tuple[Axis, ...]:
    """The axes that a reduction walks."""
    return reduction.axes if isinstance(reduction, Reduce) else (reduction.axis,)


def elements_of(reduction: Reduction) -> int | None:
    """How many elements a reduction walks; None where that is not known."""
    extents = [axis.extent for axis in axes_along(reduction)]
    if any(not isinstance(extent, int) for extent in extents) or (isinstance(reduction, Reduce) and reduction.counts):
        return None
    return math.prod(bound(extent) for extent in extents)


def long_reductions(problem: Problem) -> tuple[Reduction, ...]:
    """Every reduction that is worth a sweep once, operands before users.

    One that several elements of an output share is from a few elements on.
    """
    free = FreeSymbols(problem.elements)
    names = {axis.name for axis in problem.axes if axis.extent != 1}
    found: dict[int, Reduction] = {}
    for node in problem.scalars():
        if isinstance(node, Reduce | ArgReduce):
            least = SHORT_SHARED if names - free[node] else SHORT
            count = elements_of(node) or 0
            if count > least and (count > SHORT_WINDOW or not _is_window(problem, node)):
                found[id(node)] = node
    return tuple(found.values())


def _is_window(problem: Problem, reduction: Reduction) -> bool:
    """Whether neighbouring elements reduce much of the same, as those of a pool or a convolution do."""
    for index in _indices(reduction):
        reach = 0
        for axis in axes_along(reduction):
            reach += abs(linear_coefficient(index, axis.name) or 0) * (bound(axis.extent) - 1)
        steps = (linear_coefficient(index, axis.name) or 0 for axis in problem.axes)
        if any(0 < abs(step) <= reach for step in steps):
            return True
    return False


def row_of(problem: Problem, reductions: Sequence[Reduction]) -> Row | None:
    """The rows along which all of a problem's long reductions run, or None where they run along different ones."""
    extents = {elements_of(reduction) for reduction in reductions}
    free = FreeSymbols(problem.elements)
    used = frozenset[str]().union(*(free[reduction] for reduction in reductions))
    names = {axis.name for axis in problem.axes}
    if len(extents) != 1 or not used <= names:
        return None
    (extent,) = extents
    axes = tuple(axis for axis in problem.axes if axis.name not in used)
    outer = tuple(axis for axis in problem.axes if axis.name in used)
    if extent is None or (axes and math.prod(bound(axis.extent) for axis in axes) != extent):
        return None
    return Row(tuple(reductions), axes, outer, extent)


def levels_of(row: Row) -> list[tuple[Reduction, ...]]:
    """Reductions by the sweep over the row that can compute them: those that need none, those that need these, ..."""
    level: dict[int, int] = {}
    result: list[list[Reduction]] = []
    known = {id(reduction) for reduction in row.reductions}
    for reduction in row.reductions:
        inside = [level[id(node)] for node in walk(reduction) if id(node) in known and node is not reduction]
        level[id(reduction)] = at = max(inside, default=-1) + 1
        result.extend([] for _ in range(at + 1 - len(result)))
        result[at].append(reduction)
    return [tuple(found) for found in result]


def innermost(reductions: Sequence[Reduction]) -> tuple[Reduction, ...]:
    """Those that contain none of the others."""
    known = {id(reduction) for reduction in reductions}
    return tuple(r for r in reductions if not any(id(node) in known and node is not r for node in walk(r)))


def extracted(problem: Problem, reductions: Sequence[Reduction]) -> tuple[list[Problem], Problem]:
    """Reductions as problems of their own, those together that have the same axes, and the problem that loads them.

    Args:
        problem: The whole.
        reductions: None within another.

    Returns:
        The problems; the first output of the first is the next input of all, and so on.
    """
    every = {axis.name: axis for element in problem.elements for axis in (*problem.axes, *reduction_axes(element))}
    coarse = {id(reduction): _coarse(reduction, tuple(every.values())) for reduction in reductions}
    groups: dict[tuple[tuple[Dim, ...], int | None], list[Reduction]] = {}
    for reduction in reductions:
        groups.setdefault((coarse[id(reduction)].index, elements_of(reduction)), []).append(reduction)
    parts, types, loads = [], list(problem.inputs), dict[int, Scalar]()
    for group in groups.values():
        first = coarse[id(group[0])]
        kinds = [TensorType(compute_dtype(r.dtype), tuple(axis.extent for axis in first.axes)) for r in group]
        # Of several that differ along the same axes, all are over those of the first.
        same = [coarse[id(r)].over(first.axes) for r in group]
        parts.append(Problem(first.axes, tuple(_held(r) for r in same), problem.inputs, tuple(kinds)))
        for reduction, kind in zip(group, kinds, strict=True):
            loads[id(reduction)] = load(len(types), reduction.dtype, first.index)
            types.append(kind)
    elements = tuple(substituted(element, loads) for element in problem.elements)
    return parts, replace(problem, elements=elements, inputs=tuple(types))


@dataclass(frozen=True)
class _Coarse:
    """A reduction over as few places as it has different values.

    Args:
        reduction: Over `axes`.
        axes: That it depends on.
        index: Where its value for a place of the original axes stands.
    """

    reduction: Reduction
    axes: tuple[Axis, ...]
    index: tuple[Dim, ...]

    def over(self, axes: Sequence[Axis]) -> Scalar:
        """The reduction over other axes of the same extents."""
        places = {mine.name: other.index for mine, other in zip(self.axes, axes, strict=True)}
        return transform(self.reduction, lambda node: None, places)


def _coarse(reduction: Reduction, axes: Sequence[Axis]) -> _Coarse:
    """A reduction without axes that it does not depend on, and over groups of those of which it sees only the group."""
    free = FreeSymbols([reduction])[reduction]
    kept, index, places = list[Axis](), list[Dim](), dict[str, Dim]()
    for axis in axes:
        if axis.name not in free:
            continue
        size = _group(reduction, axis)
        if size == 1:
            kept.append(axis)
            index.append(axis.index)
            continue
        (group,) = axes_of([bound(axis.extent) // size], "group")
        kept.append(group)
        index.append(axis.index // size)
        places[axis.name] = group.index * size
    found = transform(reduction, lambda node: None, places) if places else reduction
    assert isinstance(found, Reduce | ArgReduce)
    return _Coarse(found, tuple(kept), tuple(index))


def _group(reduction: Reduction, axis: Axis) -> int:
    """How many neighbours along an axis a reduction is the same for, as that of a group of channels is."""
    found = 1
    for size in _divisors(reduction, axis):
        if isinstance(axis.extent, int) and axis.extent % size == 0 and size > found:
            # An index that only divides by the size does not change from a group's first to its last.
            ends = (axis.index * size, axis.index * size + (size - 1))
            first, last = (_indices(transform(reduction, lambda node: None, {axis.name: end})) for end in ends)
            if first == last:
                found = size
    return found


def _divisors(reduction: Reduction, axis: Axis) -> set[int]:
    """By what indices along an axis are divided."""
    found: set[int] = set()
    for index in _indices(reduction):
        for monomial, _ in index.terms if isinstance(index, SymbolicInt) else ():
            for atom in monomial:
                if atom.op == "floordiv" and axis.name in symbols(atom.arguments[0]):
                    divisor = simplify(atom.arguments[1], {})
                    found |= {divisor} if isinstance(divisor, int) and divisor > 1 else set()
    return found


def _indices(scalar: Scalar) -> list[Dim]:
    """Every affine index in an expression, in order."""
    found: list[Dim] = []
    for node in walk(scalar):
        if isinstance(node, IndexValue):
            found.append(node.index)
        elif isinstance(node, Load):
            found += [index for index in node.indices if not isinstance(index, Scalar)]
        elif isinstance(node, Reduce):
            found += [axis.extent for axis in node.axes]
    return found


def in_parts(problem: Problem, reductions: Sequence[Reduce], count: int) -> tuple[Problem, Problem]:
    """Rows in parts: the problem of the parts' reductions, and that of reducing these, which loads them.

    Args:
        problem: Whose axes number the rows.
        reductions: All of its long ones, none within another.
        count: Most parts of a row.
    """
    total = elements_of(reductions[0]) or 0
    # Parts start where vectors do.
    length = -(-total // (count * PART_MULTIPLE)) * PART_MULTIPLE
    count = -(-total // length)
    (part,) = axes_of([count], "part")
    # Parts come first: rows next to each other in memory stay so.
    shape = (count, *(axis.extent for axis in problem.axes))
    kinds = [TensorType(compute_dtype(r.dtype), shape) for r in reductions]
    pieces: list[Scalar] = []
    loads: dict[int, Scalar] = {}
    for number, reduction in enumerate(reductions):
        along, again = axes_of([length, count], "part")
        flat = part.index * length + along.index
        bounds = {part.name: (0, count - 1), along.name: (0, length - 1)}
        piece = transform(reduction.body, lambda node: None, unflatten(reduction.axes, flat, bounds))
        if length * count != total:
            identity = const(REDUCE_IDENTITY[reduction.op](reduction.dtype), reduction.dtype)
            piece = select(compare("lt", flat, total), piece, identity)
        pieces.append(_held(Reduce(reduction.dtype, reduction.op, (along,), piece)))
        index: list[Index] = [again.index, *(axis.index for axis in problem.axes)]
        whole = load(len(problem.inputs) + number, reduction.dtype, index)
        loads[id(reduction)] = Reduce(reduction.dtype, reduction.op, (again,), whole)
    first = Problem((part, *problem.axes), tuple(pieces), problem.inputs, tuple(kinds))
    elements = tuple(substituted(element, loads) for element in problem.elements)
    return first, replace(problem, elements=elements, inputs=(*problem.inputs, *kinds))


def _held(reduction: Scalar) -> Scalar:
    """A reduction in the type in which it is computed: a workspace keeps all of it."""
    return cast(reduction, compute_dtype(reduction.dtype))


def substituted(element: Scalar, others: Mapping[int, Scalar]) -> Scalar:
    """A copy in which others stand for some nodes, by their identity; what has none of them is not copied."""
    done: dict[int, Scalar] = dict(others)
    for node in walk(element):
        if id(node) not in done:
            done[id(node)] = _rebuilt(node, lambda child: done[id(child)])
    return done[id(element)]


def _rebuilt(node: Scalar, of: Callable[[Scalar], Scalar]) -> Scalar:
    if all(of(child) is child for child in children(node)):
        return node
    match node:
        case Call(arguments=arguments):
            return replace(node, arguments=tuple(map(of, arguments)))
        case Cast(value=value):
            return replace(node, value=of(value))
        case Select(condition=condition, then=then, otherwise=otherwise):
            return replace(node, condition=of(condition), then=of(then), otherwise=of(otherwise))
        case Load(indices=indices):
            return replace(node, indices=tuple(of(i) if isinstance(i, Scalar) else i for i in indices))
        case Reduce(body=body, counts=counts):
            return replace(node, body=of(body), counts=tuple(map(of, counts)))
        case ArgReduce(body=body):
            return replace(node, body=of(body))
    raise AssertionError(f"unknown scalar {node!r}")
