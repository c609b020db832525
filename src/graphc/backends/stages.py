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
from graphc.ir import TensorType
from graphc.ops.expr import (
    REDUCE_IDENTITY,
    ArgReduce,
    Axis,
    Call,
    Cast,
    Index,
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

SHORT_SHARED = 4
"""As `SHORT`, of reductions that do not depend on all of the axes of what they are needed for."""

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
            if (elements_of(node) or 0) > least:
                found[id(node)] = node
    return tuple(found.values())


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
    free = FreeSymbols(problem.elements)
    every = {axis.name: axis for element in problem.elements for axis in (*problem.axes, *reduction_axes(element))}
    groups: dict[tuple[tuple[str, ...], int | None], list[Reduction]] = {}
    for reduction in reductions:
        names = tuple(name for name in every if name in free[reduction])
        groups.setdefault((names, elements_of(reduction)), []).append(reduction)
    parts, types, loads = [], list(problem.inputs), dict[int, Scalar]()
    for (names, _), group in groups.items():
        axes = tuple(every[name] for name in names)
        kinds = [TensorType(compute_dtype(r.dtype), tuple(axis.extent for axis in axes)) for r in group]
        parts.append(Problem(axes, tuple(map(_held, group)), problem.inputs, tuple(kinds)))
        for reduction, kind in zip(group, kinds, strict=True):
            loads[id(reduction)] = load(len(types), reduction.dtype, [axis.index for axis in axes])
            types.append(kind)
    elements = tuple(substituted(element, loads) for element in problem.elements)
    return parts, replace(problem, elements=elements, inputs=tuple(types))


def in_parts(problem: Problem, reductions: Sequence[Reduce], count: int) -> tuple[Problem, Problem]:
    """Rows in `count` parts: the problem of the parts' reductions, and that of reducing these, which loads them.

    Args:
        problem: Whose axes number the rows.
        reductions: All of its long ones, none within another.
        count: Parts of a row.
    """
    (part,) = axes_of([count], "part")
    total = elements_of(reductions[0]) or 0
    length = -(-total // count)
    kinds = [TensorType(compute_dtype(r.dtype), (*(axis.extent for axis in problem.axes), count)) for r in reductions]
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
        index: list[Index] = [*(axis.index for axis in problem.axes), again.index]
        whole = load(len(problem.inputs) + number, reduction.dtype, index)
        loads[id(reduction)] = Reduce(reduction.dtype, reduction.op, (again,), whole)
    first = Problem((*problem.axes, part), tuple(pieces), problem.inputs, tuple(kinds))
    elements = tuple(substituted(element, loads) for element in problem.elements)
    return first, replace(problem, elements=elements, inputs=(*problem.inputs, *kinds))


def _held(reduction: Reduction) -> Scalar:
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
