"""A row at a time: which reductions of a region share a pass over the row, and what one pass keeps for later ones.

A softmax reads its row three times: for the maximum, for the sum of exponentials, for the result. The exponentials of
the second pass are what the third divides; keeping them saves half of the work.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

from graphc.backends.problem import FreeSymbols, Problem
from graphc.errors import BackendError
from graphc.ir import dtypes
from graphc.ops.expr import (
    SCALAR_OPS,
    ArgReduce,
    Axis,
    Call,
    Cast,
    Const,
    IndexValue,
    Load,
    Reduce,
    Scalar,
    Select,
    call,
    children,
    transform,
    walk,
)

KEEP_COST = 10
"""Scalar operations from which a value is worth a store and a load."""


@dataclass(frozen=True)
class Pass:
    """One sweep over the row.

    Args:
        reductions: What it sums up; empty for the last pass, which computes the results.
        makes: Values that it computes first and keeps.
        reads: Values kept by earlier passes that it reads.
        invariant: Values that are the same along the row, computed before the sweep.
    """

    reductions: tuple[Reduce, ...]
    makes: tuple[Scalar, ...]
    reads: tuple[Scalar, ...]
    invariant: tuple[Scalar, ...]


@dataclass(frozen=True)
class Row:
    """A problem cut into passes.

    Args:
        axis: The innermost axis.
        elements: The results, over shared scalars.
        passes: In order; the last computes the results.
        kept: Every value kept, in the order of the row buffers.
        quiet: Maxima that need not be NaN where their row has one, because all results are NaN then anyway.
    """

    axis: Axis
    elements: tuple[Scalar, ...]
    passes: tuple[Pass, ...]
    kept: tuple[Scalar, ...]
    quiet: tuple[Reduce, ...]


def row_of(problem: Problem) -> Row:
    """The passes of a problem whose reductions all run along its innermost axis.

    Raises:
        BackendError: A reduction runs along something else, or no pass has anything to keep for another.
    """
    axis = problem.axes[-1]
    _check(problem, axis)
    sharing = _Sharing(axis)
    elements = tuple(sharing.visit(element) for element in problem.elements)
    levels = _levels(elements)
    bodies: list[tuple[Scalar, ...]] = [tuple(r.body for r in level) for level in levels]
    bodies.append(elements)
    varies = _Varying(axis, elements)
    kept = _kept(bodies, varies)
    if not kept:
        raise BackendError("no pass over the row has a value to keep for a later one")
    passes = []
    seen: set[int] = set()
    for number, roots in enumerate(bodies):
        used = [value for value in kept if value in _top_down(roots, kept)]
        passes.append(
            Pass(
                levels[number] if number < len(levels) else (),
                tuple(value for value in used if id(value) not in seen),
                tuple(value for value in used if id(value) in seen),
                tuple(_invariant(roots, varies)),
            )
        )
        seen |= {id(value) for value in used}
    return Row(axis, elements, tuple(passes), tuple(kept), tuple(_quiet(elements)))


def shifted_exponential(value: Scalar) -> Reduce | None:
    """For `exp(x - m)` where m is the maximum of x along the row, m; else None."""
    if not (isinstance(value, Call) and value.op == "exp" and isinstance(value.arguments[0], Call)):
        return None
    shifted = value.arguments[0]
    if shifted.op != "sub" or not isinstance(shifted.arguments[1], Reduce):
        return None
    peak = shifted.arguments[1]
    return peak if peak.op == "max" and peak.body is shifted.arguments[0] else None


def _quiet(elements: Sequence[Scalar]) -> Iterator[Reduce]:
    """Maxima over which every result takes a sum of shifted exponentials: a NaN of the row makes that sum NaN."""
    found: list[set[int]] = []
    peaks: dict[int, Reduce] = {}
    for element in elements:
        sums = [node.body for node in walk(element) if isinstance(node, Reduce) and node.op == "sum"]
        covered = [peak for body in sums if (peak := shifted_exponential(body)) is not None]
        peaks.update((id(peak), peak) for peak in covered)
        found.append({id(peak) for peak in covered})
    yield from (peak for key, peak in peaks.items() if all(key in ids for ids in found))


def _check(problem: Problem, axis: Axis) -> None:
    free = FreeSymbols(problem.elements)
    for scalar in problem.scalars():
        if isinstance(scalar, ArgReduce):
            raise BackendError("a position along the row is searched for")
        if isinstance(scalar, Load) and scalar.checked:
            raise BackendError("an index is computed and has to be checked")
        if not isinstance(scalar, Reduce):
            continue
        if scalar.counts:
            raise BackendError("the data decides how far a reduction runs")
        if len(scalar.axes) != 1 or scalar.axes[0].extent != axis.extent or axis.name in free[scalar]:
            raise BackendError("a reduction does not run along the innermost axis")
        if scalar.dtype != dtypes.FLOAT32 or scalar.op not in ("sum", "max", "min", "prod"):
            raise BackendError(f"a reduction is {scalar.op} of {scalar.dtype}")
        inner = scalar.axes[0].name
        if any(isinstance(node, Reduce) and inner in free[node] for node in walk(scalar.body)):
            raise BackendError("a reduction contains another over the same elements")


class _Sharing:
    """Rebuilds scalars so that equal ones are one object, with every reduction over the row's own axis.

    A division by what is the same along the row becomes a multiplication by its reciprocal.
    """

    def __init__(self, axis: Axis) -> None:
        self.axis = axis
        self._known: dict[tuple[object, ...], Scalar] = {}
        self._done: dict[int, tuple[Scalar, Scalar]] = {}

    def visit(self, scalar: Scalar) -> Scalar:
        found = self._done.get(id(scalar))
        if found is None:
            # The original is held too: an identity must not be given out twice.
            found = self._done[id(scalar)] = (scalar, self._rebuild(scalar))
        return found[1]

    def _rebuild(self, scalar: Scalar) -> Scalar:
        match scalar:
            case Const(dtype=dtype, value=value):
                return self._one(scalar, "const", dtype, repr(value))
            case IndexValue(index=index):
                return self._one(scalar, "index", str(index))
            case Load(dtype=dtype, input=number, indices=indices):
                shared = tuple(self.visit(i) if isinstance(i, Scalar) else i for i in indices)
                key = tuple(id(i) if isinstance(i, Scalar) else str(i) for i in shared)
                return self._one(Load(dtype, number, shared), "load", number, *key)
            case Call(op=op, arguments=arguments):
                shared_arguments = tuple(self.visit(a) for a in arguments)
                if op == "div" and self._divides_row(shared_arguments):
                    inverse = self._call("reciprocal", (shared_arguments[1],))
                    return self._call("mul", (shared_arguments[0], inverse))
                return self._call(op, shared_arguments)
            case Cast(dtype=dtype, value=value):
                inner = self.visit(value)
                return self._one(Cast(dtype, inner), "cast", dtype, id(inner))
            case Select(dtype=dtype, condition=condition, then=then, otherwise=otherwise):
                parts = [self.visit(part) for part in (condition, then, otherwise)]
                return self._one(Select(dtype, *parts), "select", *map(id, parts))
            case Reduce(dtype=dtype, op=op, axes=axes, body=body):
                renamed = self.visit(transform(body, lambda node: None, {axes[0].name: self.axis.index}))
                return self._one(Reduce(dtype, op, (self.axis,), renamed), "reduce", op, id(renamed))
        raise AssertionError(f"unknown scalar {scalar!r}")

    def _call(self, op: str, arguments: tuple[Scalar, ...]) -> Scalar:
        return self._one(call(op, *arguments), op, *map(id, arguments))

    def _divides_row(self, arguments: Sequence[Scalar]) -> bool:
        left, right = arguments
        return (
            left.dtype == dtypes.FLOAT32
            and any(isinstance(n, Reduce) for n in walk(right))
            and self.axis.name not in FreeSymbols([right])[right]
        )

    def _one(self, scalar: Scalar, *key: object) -> Scalar:
        return self._known.setdefault(key, scalar)


class _Varying:
    """Which scalars change along the row."""

    def __init__(self, axis: Axis, elements: Iterable[Scalar]) -> None:
        self._name = axis.name
        self._free = FreeSymbols(list(elements))

    def __call__(self, scalar: Scalar) -> bool:
        return self._name in self._free[scalar]


def _levels(elements: Sequence[Scalar]) -> list[tuple[Reduce, ...]]:
    """Reductions by the pass that can compute them: those that need none, those that need these, and so on."""
    level: dict[int, int] = {}
    result: list[list[Reduce]] = []
    for element in elements:
        for node in walk(element):
            if id(node) in level:
                continue
            level[id(node)] = max((level[id(child)] for child in children(node)), default=0)
            if isinstance(node, Reduce):
                if level[id(node)] == len(result):
                    result.append([])
                result[level[id(node)]].append(node)
                level[id(node)] += 1
    return [tuple(reductions) for reductions in result]


def _parts(scalar: Scalar) -> tuple[Scalar, ...]:
    """Operands that are computed wherever `scalar` is: not a reduction's, nor a branch's."""
    if isinstance(scalar, Reduce):
        return ()
    return (scalar.condition,) if isinstance(scalar, Select) else children(scalar)


def _top_down(roots: Iterable[Scalar], stop: Sequence[Scalar]) -> list[Scalar]:
    """Scalars that a pass surely computes, without the operands of those in `stop`."""
    ends = {id(scalar) for scalar in stop}
    seen: dict[int, Scalar] = {}
    stack = list(roots)
    while stack:
        node = stack.pop()
        if id(node) not in seen:
            seen[id(node)] = node
            stack.extend(() if id(node) in ends else _parts(node))
    return list(seen.values())


def _kept(bodies: Sequence[Sequence[Scalar]], varies: _Varying) -> list[Scalar]:
    """The largest costly values that more than one pass computes."""
    passes = [{id(node): node for node in _top_down(roots, ())} for roots in bodies]
    shared = {
        key
        for nodes in passes
        for key, node in nodes.items()
        if varies(node) and node.dtype == dtypes.FLOAT32 and sum(key in other for other in passes) > 1
        if _cost(node) >= KEEP_COST
    }
    found: dict[int, Scalar] = {}
    for roots in bodies:
        stack = list(roots)
        while stack:
            node = stack.pop()
            if id(node) in shared:
                found[id(node)] = node
            else:
                stack.extend(_parts(node))
    return list(found.values())


def _cost(scalar: Scalar) -> int:
    """Rough scalar operations of computing a value, reductions given."""
    total = 0
    for node in _top_down([scalar], ()):
        if isinstance(node, Call):
            total += SCALAR_OPS[node.op].cost
        elif isinstance(node, Load | Select):
            total += 1
    return total


def _invariant(roots: Iterable[Scalar], varies: _Varying) -> Iterator[Scalar]:
    """The largest values of a pass that are the same along the row, constants left out."""
    seen: set[int] = set()
    stack = list(roots)
    while stack:
        node = stack.pop()
        if id(node) in seen:
            continue
        seen.add(id(node))
        if varies(node):
            stack.extend(_parts(node))
        elif not isinstance(node, Const | Reduce | IndexValue):
            yield node
