"""Axes along which an operand repeats, as two: which repetition, and where in it.

A tile reads `x[i mod n]`. Over `i = o*n + k` that is `x[k]`, whole vectors of neighbours.
"""

from __future__ import annotations

from collections.abc import Iterator

from graphc.backends.problem import Problem
from graphc.ir import Dim
from graphc.ir.symbolic import Atom, evaluate, symbols
from graphc.ops.expr import Axis, Load, Scalar, axes_of, transform


def without_periods(problem: Problem, least: int) -> Problem:
    """The same computation with every axis split that an operand walks in periods.

    Args:
        problem: What is computed.
        least: Periods shorter than this stay: a vector would be wider.
    """
    if not all(kind.layout.is_row_major for kind in problem.outputs):
        return problem
    periods = _periods(problem)
    axes: list[Axis] = []
    split: dict[str, Dim] = {}
    for axis in problem.axes:
        found = periods.get(axis.name, set())
        period = next(iter(found), 0)
        if len(found) != 1 or period < least or not isinstance(axis.extent, int) or axis.extent % period:
            axes.append(axis)
            continue
        outer, inner = axes_of([axis.extent // period, period])
        split[axis.name] = outer.index * period + inner.index
        axes += [outer, inner]
    if not split:
        return problem
    shape = [axis.extent for axis in axes]
    return Problem(
        tuple(axes),
        tuple(transform(element, lambda scalar: None, split) for element in problem.elements),
        problem.inputs,
        tuple(kind.with_shape(shape) for kind in problem.outputs),
    )


def _periods(problem: Problem) -> dict[str, set[int]]:
    """For each axis, the periods in which operands are read along it."""
    found: dict[str, set[int]] = {}
    names = {axis.name for axis in problem.axes}
    for scalar in problem.scalars():
        if not isinstance(scalar, Load):
            continue
        for index in scalar.indices:
            for atom in () if isinstance(index, Scalar | int) else _atoms(index):
                if atom.op != "mod" or symbols(atom.arguments[1]):
                    continue
                name, period = str(atom.arguments[0]), evaluate(atom.arguments[1], {})
                if name in names:
                    found.setdefault(name, set()).add(period)
    return found


def _atoms(index: Dim) -> Iterator[Atom]:
    """Every part of an index expression."""
    if isinstance(index, int):
        return
    for monomial, _ in index.terms:
        for atom in monomial:
            yield atom
            for argument in atom.arguments:
                yield from _atoms(argument)
