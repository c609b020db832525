"""The same computation over fewer axes, so that the innermost is long enough for vectors.

Axes that stand side by side in storage and are walked together are one longer axis. Where one operand is read both at
an output's axes and under reductions (a row and its mean), all of these are merged or none.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace

from graphc.backends.problem import Problem
from graphc.ir import Dim, Layout, TensorType
from graphc.ir.symbolic import linear_coefficient, multiply, symbols
from graphc.ops.expr import ArgReduce, Axis, IndexValue, Load, Reduce, Scalar, transform


def _without_unit_reductions(problem: Problem) -> Problem:
    """The same computation without axes of extent 1 beside others of a reduction."""
    zero: dict[str, Dim] = {}
    for scalar in problem.scalars():
        if isinstance(scalar, Reduce) and not scalar.counts:
            units = [axis.name for axis in scalar.axes if axis.extent == 1]
            zero |= dict.fromkeys(units[len(units) == len(scalar.axes) :], 0)
    if not zero:
        return problem

    def drop(scalar: Scalar) -> Scalar | None:
        if isinstance(scalar, Reduce) and not scalar.counts:
            return replace(scalar, axes=tuple(axis for axis in scalar.axes if axis.name not in zero))
        return None

    return replace(problem, elements=tuple(transform(element, drop, zero) for element in problem.elements))


@dataclass(frozen=True)
class _Pair:
    """Names of two axes that stand side by side."""

    outer: str
    inner: str


def merged(problem: Problem, *, inner: int = 0, reductions: bool = False) -> Problem:
    """The same computation over fewer axes: adjacent ones that all operands walk in step become one.

    Args:
        problem: What is computed.
        inner: How many of the innermost axes, in the order of storage, stay by themselves.
        reductions: Whether the axes of reductions are merged too.
    """
    problem = _without_units(in_storage_order(_flat_blocks(problem)))
    if reductions:
        problem = _without_unit_reductions(problem)
    tried: set[_Pair] = set()
    while True:
        pairs = list(itertools.pairwise(problem.axes[: len(problem.axes) - inner]))
        if reductions:
            pairs += [pair for s in problem.scalars() if isinstance(s, Reduce) for pair in itertools.pairwise(s.axes)]
        fresh = [_Pair(outer.name, inner.name) for outer, inner in pairs]
        pair = next((pair for pair in fresh if pair not in tried), None)
        if pair is None:
            return problem
        tried.add(pair)
        problem = _Merging(problem, reductions).merged(pair) or problem


def in_storage_order(problem: Problem) -> Problem:
    """The same computation with every tensor that only has its axes in another order (NHWC) as a row-major one.

    Where all outputs are stored in one order, the axes are in that order too.
    """
    orders = [_order(kind) for kind in problem.inputs]
    order = _order(problem.outputs[0])
    same = order is not None and all(_order(kind) == order for kind in problem.outputs)
    if not any(orders) and not same:
        return problem

    def permute(scalar: Scalar) -> Scalar | None:
        if isinstance(scalar, Load) and (found := orders[scalar.input]) is not None:
            return replace(scalar, indices=tuple(scalar.indices[axis] for axis in found))
        return None

    problem = replace(
        problem,
        elements=tuple(transform(element, permute, {}) for element in problem.elements),
        inputs=tuple(map(_permuted, problem.inputs, orders)),
    )
    if not same or order is None:
        return problem
    axes = tuple(problem.axes[axis] for axis in order)
    return replace(problem, axes=axes, outputs=tuple(_permuted(kind, order) for kind in problem.outputs))


def _order(kind: TensorType) -> tuple[int, ...] | None:
    """The order of the axes in storage, where that is all that a layout says."""
    layout = kind.layout
    return layout.order if layout.order and layout == Layout(order=layout.order) else None


def _permuted(kind: TensorType, order: tuple[int, ...] | None) -> TensorType:
    return kind if order is None else TensorType(kind.dtype, tuple(kind.dims[axis] for axis in order))


def _flat_blocks(problem: Problem) -> Problem:
    """Where all tensors share one halo-free layout and are read where they are written, storage is one flat axis."""
    layout = problem.outputs[0].layout
    names = [str(axis.index) for axis in problem.axes]
    whole = layout.blocked_axis is not None and not layout.halo
    if whole:
        extent = problem.axes[layout.blocked_axis or 0].extent
        whole = isinstance(extent, int) and extent % layout.block == 0
    same = all(t.layout == layout and t.shape == problem.outputs[0].shape for t in problem.outputs)
    for scalar in problem.scalars():
        if isinstance(scalar, IndexValue | Reduce | ArgReduce):
            same = False
        if isinstance(scalar, Load):
            source = problem.inputs[scalar.input]
            scalar_input = source.numel == 1
            identity = source.layout == layout and [str(i) for i in scalar.indices] == names
            same = same and (identity or scalar_input)
    if not (whole and same):
        return problem
    flat = Axis(problem.axes[0].name, layout.storage_size(problem.outputs[0].dims))

    def relabel(scalar: Scalar) -> Scalar | None:
        if isinstance(scalar, Load) and problem.inputs[scalar.input].numel != 1:
            return replace(scalar, indices=(flat.index,))
        return None

    return Problem(
        (flat,),
        tuple(transform(element, relabel, {}) for element in problem.elements),
        tuple(t if t.numel == 1 else t.with_shape([flat.extent]) for t in problem.inputs),
        tuple(t.with_shape([flat.extent]) for t in problem.outputs),
    )


def _without_units(problem: Problem) -> Problem:
    """The same computation without output axes of extent 1, so that the innermost axis is one worth a vector."""
    if not all(t.layout.is_row_major for t in problem.outputs):
        return problem
    kept = [position for position, axis in enumerate(problem.axes) if axis.extent != 1]
    zero: dict[str, Dim] = {axis.name: 0 for axis in problem.axes if axis.extent == 1}
    if not zero or not kept:
        return problem
    return Problem(
        tuple(problem.axes[position] for position in kept),
        tuple(transform(element, lambda scalar: None, zero) for element in problem.elements),
        problem.inputs,
        tuple(t.with_shape([t.dims[position] for position in kept]) for t in problem.outputs),
    )


class _Merging:
    """Finds what else must be merged for two axes to be one, and merges it.

    Args:
        problem: What is computed.
        reductions: Whether axes of reductions may be merged.
    """

    def __init__(self, problem: Problem, reductions: bool) -> None:
        self.problem = problem
        self.reductions = reductions
        self.scalars = problem.scalars()
        self.loads = [scalar for scalar in self.scalars if isinstance(scalar, Load)]
        self.extents = {axis.name: axis.extent for axis in problem.axes}
        self.extents |= {a.name: a.extent for s in self.scalars if isinstance(s, Reduce) for a in s.axes}
        self.places: dict[int, int] = {}
        """For each input that gets another shape, the first of the two axes that become one."""

    def merged(self, first: _Pair) -> Problem | None:
        """The problem with the axes of a pair as one; None where some operand does not walk them in step."""
        chosen: dict[str, _Pair] = {}
        waiting = [first]
        while waiting:
            pair = waiting.pop()
            known = [chosen.get(pair.outer), chosen.get(pair.inner)]
            if known == [pair, pair]:
                continue
            more = self._needed(pair) if known == [None, None] and self._adjacent(pair) else None
            if more is None:
                return None
            chosen[pair.outer] = chosen[pair.inner] = pair
            waiting += more
        return self._rebuilt(dict.fromkeys(chosen.values()))

    def _adjacent(self, pair: _Pair) -> bool:
        """Whether the axes stand side by side wherever one of them is bound, and no extent depends on them."""
        names = {pair.outer, pair.inner}
        owners: list[tuple[Axis, ...]] = [self.problem.axes]
        for scalar in self.scalars:
            if isinstance(scalar, ArgReduce) and (scalar.axis.name in names or symbols(scalar.axis.extent) & names):
                return False
            if isinstance(scalar, Reduce):
                if any(symbols(axis.extent) & names for axis in scalar.axes):
                    return False
                if scalar.counts and any(axis.name in names for axis in scalar.axes):
                    return False
                owners.append(scalar.axes)
        for number, axes in enumerate(owners):
            places = [position for position, axis in enumerate(axes) if axis.name in names]
            if not places:
                continue
            if [axes[place].name for place in places] != [pair.outer, pair.inner] or places[1] != places[0] + 1:
                return False
            if number and not self.reductions:
                return False
            if number == 0 and not all(kind.layout.is_row_major for kind in self.problem.outputs):
                return False
        return True

    def _needed(self, pair: _Pair) -> list[_Pair] | None:
        """Pairs that must be merged along with this one; None where it cannot be."""
        for scalar in self.scalars:
            if isinstance(scalar, IndexValue) and not self._in_step(scalar.index, pair):
                return None
        found: list[_Pair] = []
        for load in self.loads:
            at = self._place(load, pair)
            if at is None:
                continue
            if at < 0 or self.places.setdefault(load.input, at) != at:
                return None
            if at >= 0:
                others = self._others(load.input, at)
                if others is None:
                    return None
                found += others
        return found

    def _others(self, number: int, at: int) -> list[_Pair] | None:
        """The pairs at which an input is read along two of its axes; None where it is read otherwise."""
        found = []
        for load in self.loads:
            if load.input != number:
                continue
            outer, inner = load.indices[at : at + 2]
            if isinstance(outer, Scalar) or isinstance(inner, Scalar):
                return None
            pair = _Pair(str(outer), str(inner))
            if self._place(load, pair) != at:
                return None
            found.append(pair)
        return found

    def _place(self, load: Load, pair: _Pair) -> int | None:
        """Where a load walks both axes whole and side by side.

        None where each of its indices walks them in step or not at all; -1 where it does otherwise.
        """
        source, names = self.problem.inputs[load.input], {pair.outer, pair.inner}
        affine = [index for index in load.indices if not isinstance(index, Scalar)]
        if not names <= set(self.extents):
            return -1
        if all(self._in_step(index, pair) for index in affine):
            return None
        texts = [None if isinstance(i, Scalar) else str(i) for i in load.indices]
        used = [not isinstance(i, Scalar) and bool(symbols(i) & names) for i in load.indices]
        for at in range(len(texts) - 1):
            if texts[at] == pair.outer and texts[at + 1] == pair.inner and sum(used) == 2:
                extents = (self.extents[pair.outer], self.extents[pair.inner])
                return at if source.dims[at : at + 2] == extents and source.layout.is_row_major else -1
        return -1

    def _in_step(self, index: Dim, pair: _Pair) -> bool:
        """Whether an index moves along both axes as along one, or along neither."""
        along_outer, along_inner = linear_coefficient(index, pair.outer), linear_coefficient(index, pair.inner)
        extent = self.extents[pair.inner]
        if along_outer is None or along_inner is None or not isinstance(extent, int):
            return False
        return along_outer == along_inner * extent

    def _rebuilt(self, pairs: Iterable[_Pair]) -> Problem:
        # Where both axes stand in one index expression in step, the inner one alone now covers the range of both.
        outer = {pair.outer: pair for pair in pairs}

        def joined(axes: Sequence[Axis]) -> Iterator[Axis]:
            for axis, following in itertools.zip_longest(axes, axes[1:]):
                if axis.name in outer:
                    assert following is not None, "pairs stand side by side"
                    yield Axis(following.name, multiply(axis.extent, following.extent))
                elif not any(pair.inner == axis.name for pair in outer.values()):
                    yield axis

        def relabel(scalar: Scalar) -> Scalar | None:
            if isinstance(scalar, Reduce):
                return replace(scalar, axes=tuple(joined(scalar.axes)))
            if isinstance(scalar, Load) and (at := self.places.get(scalar.input)) is not None:
                return replace(scalar, indices=(*scalar.indices[:at], *scalar.indices[at + 1 :]))
            return None

        def shaped(kind: TensorType, at: int | None) -> TensorType:
            if at is None:
                return kind
            return kind.with_shape([*kind.dims[:at], multiply(kind.dims[at], kind.dims[at + 1]), *kind.dims[at + 2 :]])

        problem = self.problem
        place = next((position for position, axis in enumerate(problem.axes) if axis.name in outer), None)
        zero: dict[str, Dim] = dict.fromkeys(outer, 0)
        return Problem(
            tuple(joined(problem.axes)),
            tuple(transform(element, relabel, zero) for element in problem.elements),
            tuple(shaped(kind, self.places.get(number)) for number, kind in enumerate(problem.inputs)),
            tuple(shaped(kind, place) for kind in problem.outputs),
        )
