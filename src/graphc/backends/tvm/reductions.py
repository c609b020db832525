"""Reductions and searches for the greatest or least inside an expression, rendered as loops over registers.

A reduction whose result stands in a vector's lanes keeps as many results as there are lanes. One without lanes goes
along its last axis in vectors, with several registers at once so that their additions do not wait for each other.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Protocol

from tvm.tirx.script.builder import ir as T

from graphc.backends.element_types import compute_dtype
from graphc.backends.problem import FreeSymbols
from graphc.backends.tvm import element_types, scalar_ops
from graphc.backends.tvm.scope import Lane, Scope
from graphc.backends.tvm.tir import Expr, KernelBuilder, Register, bind, broadcast, horizontal, lanes_of
from graphc.ir import Dim, symbol
from graphc.ir.symbolic import product, substitute
from graphc.ops.expr import REDUCE_IDENTITY, ArgReduce, Axis, Reduce, Scalar, children, reduction_axes, walk

UNROLL_REDUCTION = 27
"""Reductions of at most this many elements, those of a 3x3x3 window, are unrolled."""

UNROLLED_SCALARS = 600
"""Scalars of which unrolled elements may consist: LLVM takes seconds for many more of them."""

_COMBINE = {"sum": "add", "prod": "mul", "max": "max", "min": "min", "any": "or", "all": "and"}


class Site(Protocol):
    """A point of the kernel at which expressions are rendered.

    Attributes:
        builder: The kernel under construction.
        lane: The vector in whose lanes they are.
        scope: What is known there.
    """

    builder: KernelBuilder
    lane: Lane
    scope: Scope

    def visit(self, scalar: Scalar) -> Expr:
        """The value of `scalar` there."""
        ...

    def at(self, scope: Scope) -> Site:
        """The same lanes and guard in another scope."""
        ...

    def along(self, lane: Lane, scope: Scope) -> Site:
        """Other lanes in another scope, under no guard: all of them are inside."""
        ...


def reduce(site: Site, scalar: Reduce) -> Expr:
    """The value of a reduction on every lane of `site`."""
    _compute_invariants(site, scalar)
    if scalar.counts:
        return _reduce_counted(site, scalar)
    extents = [substitute(axis.extent, site.scope.axes) for axis in scalar.axes]
    vector_axis = _vector_axis(site, scalar)
    if vector_axis is not None:
        return _reduce_along(site, scalar, vector_axis)
    total = product(extents)
    if isinstance(total, int) and total <= UNROLL_REDUCTION and total * _size(site, scalar.body) <= UNROLLED_SCALARS:
        return _unrolled(site, scalar, [int(e) for e in extents if isinstance(e, int)])
    lanes = site.lane.lanes
    register = _register(site, scalar, lanes)
    _loops(site, scalar, list(zip(scalar.axes, extents, strict=True)), register, {})
    return _finish(scalar, register.value)


def _compute_invariants(site: Site, scalar: Reduce) -> None:
    """Computes reductions inside another that are the same for all its elements, like the maximum of a log-sum-exp."""
    inside = [node for node in walk(scalar.body) if isinstance(node, Reduce | ArgReduce)]
    if not inside:
        return
    free = FreeSymbols([scalar])
    unbound = {axis.name for axis in reduction_axes(scalar)} - set(site.scope.axes)
    for node in inside:
        if not free[node] & unbound:
            site.visit(node)


def _size(site: Site, scalar: Scalar) -> int:
    """How many scalars there are to compute anew."""
    seen, stack = set[int](), [scalar]
    while stack:
        node = stack.pop()
        if id(node) not in seen and id(node) not in site.scope.values:
            seen.add(id(node))
            stack += children(node)
    return len(seen)


def _reduce_counted(site: Site, scalar: Reduce) -> Expr:
    """A reduction over as many elements as the data says, the same number on all lanes."""
    extents: list[Dim] = []
    for axis, count in zip(scalar.axes, scalar.counts, strict=True):
        value = site.visit(count)
        assert lanes_of(value) == 1, "lanes differ in how far they reduce"
        limit = axis.extent
        assert isinstance(limit, int), f"{axis} has no bound"
        bounded = T.max(T.min(value, T.int64(limit)), T.int64(0))
        extents.append(site.builder.name_value(bounded, 0, limit, "count"))
    register = _register(site, scalar, site.lane.lanes)
    _loops(site, scalar, list(zip(scalar.axes, extents, strict=True)), register, {})
    return _finish(scalar, register.value)


def arg_reduce(site: Site, scalar: ArgReduce) -> Expr:
    """The position of the greatest or least: walks the axis with the best so far and its position, on every lane."""
    extent = substitute(scalar.axis.extent, site.scope.axes)
    lanes = _lanes(site, scalar.body)
    if site.lane.name is None and isinstance(extent, int) and 2 * lanes <= extent < 1 << 31:
        pending = any(isinstance(n, Reduce) and id(n) not in site.scope.values for n in walk(scalar.body))
        if lanes > 1 and scalar.body.dtype.kind != "bool" and not pending:
            return _arg_reduce_along(site, scalar, extent, lanes)
    leader = _leader(site, scalar, site.lane.lanes, "int64")
    with site.builder.serial(extent, "r") as index:
        inner = site.at(site.scope.inner({scalar.axis.name: index}))
        _challenge(site, scalar, leader, inner.visit(scalar.body), site.builder.index(index))
    return leader[1].value


def _leader(site: Site, scalar: ArgReduce, lanes: int, positions: str) -> tuple[Register, Register]:
    """Registers of the best element so far, which any beats or equals, and of its position."""
    dtype = compute_dtype(scalar.body.dtype)
    best = site.builder.accumulator(lanes, "uint8" if dtype.kind == "bool" else dtype.name)
    start = REDUCE_IDENTITY["max" if scalar.op == "argmax" else "min"](dtype)
    best.value = broadcast(element_types.to_storage(element_types.constant(start, dtype), dtype), lanes)
    position = site.builder.accumulator(lanes, positions)
    position.value = broadcast(T.IntImm(positions, 0), lanes)
    return best, position


def _challenge(site: Site, scalar: ArgReduce, leader: tuple[Register, Register], value: Expr, index: Expr) -> None:
    """Lets elements at `index` take the lead where they beat it."""
    best, position = leader
    dtype = compute_dtype(scalar.body.dtype)
    stored = broadcast(bind(element_types.to_storage(value, dtype)), best.lanes)
    better = _beats(scalar, stored, best.value, dtype.is_float)
    # Both are chosen before either changes: the choice depends on the leader.
    place = bind(T.Select(better, broadcast(index, best.lanes), position.value))
    best.value = T.Select(better, stored, best.value)
    position.value = place


def _arg_reduce_along(site: Site, scalar: ArgReduce, extent: int, lanes: int) -> Expr:
    """Leaders on the lanes of several vectors along the axis, the best of which is found at the end."""
    vectors, tail = divmod(extent, lanes)
    ways = 4 if vectors >= 8 else 1
    leaders = [_leader(site, scalar, lanes, "int32") for _ in range(ways)]

    def step(start: Dim, way: int) -> None:
        with site.builder.lanes(lanes) as name:
            scope = site.scope.inner({scalar.axis.name: start + symbol(name)})
            value = site.along(Lane(name, lanes), scope).visit(scalar.body)
            _challenge(site, scalar, leaders[way], value, T.Cast("int32", site.builder.index(start)))

    with site.builder.serial(vectors // ways, "v") as vector:
        for way in range(ways):
            step((vector * ways + way) * lanes, way)
    for way in range(vectors % ways):
        step((vectors // ways * ways + way) * lanes, way)
    numbers = site.builder.lane_numbers(lanes)
    found = [(best.value, bind(T.Cast(f"int64x{lanes}", at.value) + numbers)) for best, at in leaders]
    value, place = found[0]
    for other in found[1:]:
        value, place = _winner(scalar, (value, place), other)
    while lanes > 1:
        halves = []
        for whole in (value, place):
            register = Register(lanes, str(whole.ty).partition("x")[0])
            register.value = whole
            halves.append((register.part(0, lanes // 2), register.part(lanes // 2, lanes // 2)))
        lanes //= 2
        value, place = _winner(scalar, (halves[0][0], halves[1][0]), (halves[0][1], halves[1][1]))
    leader = _leader(site, scalar, 1, "int64")
    leader[0].value, leader[1].value = value, place
    with site.builder.serial(tail, "r") as rest:
        index = rest + (extent - tail)
        inner = site.along(site.lane, site.scope.inner({scalar.axis.name: index}))
        _challenge(site, scalar, leader, inner.visit(scalar.body), site.builder.index(index))
    return leader[1].value


def _winner(scalar: ArgReduce, left: tuple[Expr, Expr], right: tuple[Expr, Expr]) -> tuple[Expr, Expr]:
    """The better of two elements and its position, lane by lane; of equal ones the first, or the last."""
    (a, at), (b, place) = ((bind(value), bind(position)) for value, position in (left, right))
    better, equal = b > a if scalar.op == "argmax" else b < a, T.EQ(a, b)
    if compute_dtype(scalar.body.dtype).is_float:
        missing, other = element_types.isnan(b), element_types.isnan(a)
        better, equal = T.Or(better, T.And(missing, T.Not(other))), T.Or(equal, T.And(missing, other))
    chosen = T.Or(better, T.And(equal, place > at if scalar.last else place < at))
    return bind(T.Select(chosen, b, a)), bind(T.Select(chosen, place, at))


def _beats(scalar: ArgReduce, value: Expr, best: Expr, is_float: bool) -> Expr:
    """Whether an element takes the lead; a NaN beats every number and keeps the lead."""
    if scalar.last:
        better = value >= best if scalar.op == "argmax" else value <= best
    else:
        better = value > best if scalar.op == "argmax" else value < best
    if not is_float:
        return better
    missing = element_types.isnan(value)
    return T.Or(better, missing if scalar.last else T.And(missing, T.Not(element_types.isnan(best))))


def _vector_axis(site: Site, scalar: Reduce) -> Axis | None:
    """The reduction axis to vectorize along: where the result has no lane and loads are contiguous."""
    if site.lane.name is not None or scalar.dtype.kind == "bool":
        return None
    axis = scalar.axes[-1]
    extent = axis.extent
    if not isinstance(extent, int) or extent < 2 * _lanes(site, scalar):
        return None
    if any(isinstance(node, Reduce) and id(node) not in site.scope.values for node in walk(scalar.body)):
        return None
    return axis


def _lanes(site: Site, scalar: Scalar) -> int:
    """Lanes in which a reduction of this type accumulates."""
    return max(1, site.builder.vector_bytes // max(compute_dtype(scalar.dtype).itemsize, 1))


def _register(site: Site, scalar: Reduce, lanes: int) -> Register:
    dtype = compute_dtype(scalar.dtype)
    name = "uint8" if dtype.kind == "bool" else dtype.name
    register = site.builder.accumulator(lanes, name)
    identity = element_types.constant(REDUCE_IDENTITY[scalar.op](dtype), dtype)
    register.value = broadcast(element_types.to_storage(identity, dtype), lanes)
    return register


def _finish(scalar: Reduce, value: Expr) -> Expr:
    return element_types.from_storage(value, scalar.dtype) if scalar.dtype.kind == "bool" else value


def _loops(
    site: Site, scalar: Reduce, axes: Sequence[tuple[Axis, Dim]], register: Register, bound: dict[str, Dim]
) -> None:
    if axes:
        axis, extent = axes[0]
        with site.builder.serial(extent, "r") as index:
            _loops(site, scalar, axes[1:], register, {**bound, axis.name: index})
        return
    inner = site.at(site.scope.inner(bound))
    _accumulate(site, scalar, register, inner.visit(scalar.body), site.lane)


def _accumulate(site: Site, scalar: Reduce, register: Register, value: Expr, lane: Lane) -> None:
    dtype = compute_dtype(scalar.dtype)
    held = element_types.from_storage(register.value, dtype) if dtype.kind == "bool" else register.value
    combined = scalar_ops.apply(_COMBINE[scalar.op], dtype, [broadcast(value, register.lanes), held])
    if lane.count is not None and lane is not site.lane:
        mask = site.builder.first_lanes(lane.count, register.lanes)
        combined = T.Select(mask, bind(combined), held)
    register.value = element_types.to_storage(combined, dtype) if dtype.kind == "bool" else combined


def _unrolled(site: Site, scalar: Reduce, extents: Sequence[int]) -> Expr:
    result: Expr | None = None
    for position in range(math.prod(extents)):
        bound: dict[str, Dim] = {}
        rest = position
        for axis, extent in zip(reversed(scalar.axes), reversed(extents), strict=True):
            rest, bound[axis.name] = divmod(rest, extent)
        inner = site.at(site.scope.inner(bound))
        value = inner.visit(scalar.body)
        result = value if result is None else scalar_ops.apply(_COMBINE[scalar.op], scalar.dtype, [value, result])
        result = bind(result)
    if result is None:
        return element_types.constant(REDUCE_IDENTITY[scalar.op](scalar.dtype), scalar.dtype)
    return result


def _reduce_along(site: Site, scalar: Reduce, axis: Axis) -> Expr:
    """Partial results on each lane of several registers, folded at the end (pairwise: also more accurate)."""
    lanes = _lanes(site, scalar)
    extent = axis.extent
    assert isinstance(extent, int)
    vectors, tail = divmod(extent, lanes)
    ways = 4 if vectors >= 8 else 1
    registers = [_register(site, scalar, lanes) for _ in range(ways)]
    others = [a for a in scalar.axes if a is not axis]

    def nest(axes: Sequence[Axis], bound: dict[str, Dim]) -> None:
        if axes:
            with site.builder.serial(substitute(axes[0].extent, site.scope.axes), "r") as index:
                nest(axes[1:], {**bound, axes[0].name: index})
            return
        with site.builder.serial(vectors // ways, "v") as vector:
            for way in range(ways):
                step(bound, (vector * ways + way) * lanes, registers[way], None)
        for way in range(vectors % ways):
            step(bound, (vectors // ways * ways + way) * lanes, registers[way], None)
        if tail:
            step(bound, vectors * lanes, registers[0], tail)

    def step(bound: dict[str, Dim], start: Dim, register: Register, count: int | None) -> None:
        with site.builder.lanes(lanes) as name:
            lane = Lane(name, lanes, count)
            scope = site.scope.inner({**bound, axis.name: start + symbol(name)})
            _accumulate(site, scalar, register, site.along(lane, scope).visit(scalar.body), lane)

    nest(others, {})
    dtype = compute_dtype(scalar.dtype)

    def combine(left: Expr, right: Expr) -> Expr:
        return bind(scalar_ops.apply(_COMBINE[scalar.op], dtype, [left, right]))

    value = registers[0].value
    for register in registers[1:]:
        value = combine(value, register.value)
    return horizontal(value, combine)
