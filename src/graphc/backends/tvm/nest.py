"""The loop nest of a region without an anchor: pointwise, movement, reduction and row normalization alike.

The nest runs over the storage axes of the first output. Adjacent axes that every operand walks in step are merged, the
innermost becomes the vector axis, the outermost is shared among threads. A reduction is computed in the outermost loop
that binds all it depends on, so a softmax reads its row for the maximum once per row, not once per element.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace

from graphc.backends.element_types import compute_dtype
from graphc.backends.merging import merged
from graphc.backends.periods import without_periods
from graphc.backends.problem import FreeSymbols, Problem
from graphc.backends.tvm.render import Renderer
from graphc.backends.tvm.scope import Lane, Scope
from graphc.backends.tvm.stages import blocks, parts_of
from graphc.backends.tvm.stores import fill_halo, store
from graphc.backends.tvm.tir import Expr, KernelBuilder, bind, broadcast
from graphc.backends.tvm.transpose import transposed
from graphc.backends.tvm.turned import MOST_LANES, Square, Turn, find_turn
from graphc.backends.windows import common_block, split
from graphc.ir import Dim, SymbolicInt, symbol
from graphc.ir.symbolic import linear_coefficient, product, substitute, symbols
from graphc.ops.expr import (
    SCALAR_OPS,
    ArgReduce,
    Call,
    Const,
    IndexValue,
    Load,
    Reduce,
    Scalar,
    children,
    walk,
)

PARALLEL_COST = 40_000
"""Scalar operations under which a parallel region costs more than it saves (about 2 microseconds of one core)."""

LEAST_PERIOD = 8
"""Elements that repeat from which on each repetition is a loop of its own."""

CHUNK = 4096
"""Elements that one iteration of a merged, parallel pointwise loop takes."""


def cost_of(problem: Problem) -> Dim:
    """Rough scalar operations of a problem: each scalar is computed once per index it depends on."""
    scalars = problem.scalars()
    extents = {axis.name: axis.extent for axis in problem.axes}
    for scalar in scalars:
        if isinstance(scalar, Reduce):
            extents.update((axis.name, axis.extent) for axis in scalar.axes)
    free = FreeSymbols(problem.elements)
    total: Dim = 0
    for scalar in scalars:
        weight = SCALAR_OPS[scalar.op].cost if isinstance(scalar, Call) else 1
        total = total + weight * product(extents[name] for name in free[scalar] if name in extents)
    return total


def emit(builder: KernelBuilder, problem: Problem, operands: Sequence[int]) -> None:
    """Writes a kernel's whole body: the checks of gathered indices, a nest for each window, the fill of halos.

    Args:
        builder: The kernel under construction.
        problem: What to compute.
        operands: Pointer argument of each input, then of each output.
    """
    problem = merged(without_periods(problem, LEAST_PERIOD), reductions=True)
    Nest(builder, problem, operands).check_indices()
    layout = problem.outputs[0].layout
    multiples: dict[str, int] = {}
    if layout.blocked_axis is not None:
        axis = problem.axes[layout.blocked_axis]
        multiples[axis.name] = common_block(axis, problem.elements, layout.block)
    for windows, elements in split(problem.axes, problem.elements, multiples):
        block = next(iter(multiples.values()), None) if windows else None
        Nest(builder, replace(problem, elements=elements, windows=windows, block=block), operands).emit()
    for operand, type_ in zip(operands[len(problem.inputs) :], problem.outputs, strict=True):
        fill_halo(builder, operand, type_)


TILES = (8, 6, 5, 4, 3, 2)
"""Iterations that may share work: few enough that what they read stays in a cache."""

SHARED_COST = 16
"""Scalar operations on a vector that are worth it."""


@dataclass
class Loop:
    """One loop of the nest: what it is called, how far it runs."""

    name: str
    extent: Dim


class Nest:
    """Emits a problem's loops.

    Args:
        builder: The kernel under construction.
        problem: What to compute, and in which window.
        operands: Pointer argument of each input, then of each output.
    """

    def __init__(self, builder: KernelBuilder, problem: Problem, operands: Sequence[int]) -> None:
        self.builder = builder
        self.problem = problem
        count = len(problem.inputs)
        self.renderer = Renderer(builder, problem.inputs, dict(enumerate(operands[:count])))
        self.output_operands = operands[count:]
        self.free = FreeSymbols(problem.elements)
        self.reductions = [s for s in problem.scalars() if isinstance(s, Reduce)]
        self.searches = [s for s in problem.scalars() if isinstance(s, ArgReduce)]
        self.loops, self.index, self.lane_axis = self._storage_loops()
        self.inner: list[Loop] = []
        self.shared: list[Scalar] = []
        self._reorder()
        if not self.inner:
            self._tile()
        self.square: Square | None = None

    def _reorder(self) -> None:
        """Puts loops that no reduction depends on inside of those that one does, so that each is computed once.

        Sums down columns then run a vector of columns at a time, and each row that is divided by them follows.
        """
        if not self.loops:
            return
        outer, lane = self.loops[:-1], self.loops[-1]
        needed = {name for reduction in self.reductions for name in self.free[reduction]}
        independent = [loop for loop in outer if not self._names_of(loop.name) & needed]
        if not needed or not independent:
            return
        dependent = [loop for loop in outer if loop not in independent]
        if self._names_of(lane.name) & needed:
            self.loops, self.inner = [*dependent, lane], independent
        else:
            self.loops = [*dependent, *independent, lane]

    def _tile(self) -> None:
        """Runs several iterations of a loop inside of the vector's where they share most of their work.

        Places in a grid and their weights are then computed once for a few channels, which read at them.
        """
        if not self.loops or self.lane_axis is not None:
            return
        lanes = self._names_of(self.loops[-1].name)
        for position, loop in enumerate(self.loops[:-1]):
            names = self._names_of(loop.name)
            width = next((n for n in TILES if isinstance(loop.extent, int) and loop.extent % n == 0), 1)
            if width == 1 or len(names) != 1:
                continue
            moving = [scalar for scalar in self.problem.scalars() if _is_work(scalar) and self.free[scalar] & lanes]
            alike = [scalar for scalar in moving if not self.free[scalar] & names]
            saved, whole = (sum(map(_weight, scalars)) for scalars in (alike, moving))
            if any(isinstance(s, Reduce | ArgReduce) for s in moving) or saved < SHARED_COST or 3 * saved < whole:
                continue
            kept = {id(scalar) for scalar in alike}
            readers = [s for s in self.problem.scalars() if id(s) not in kept]
            self.shared = list({id(c): c for s in readers for c in children(s) if id(c) in kept}.values())
            (name,) = names
            inner = Loop(f"{loop.name}t", width)
            self.index[name] = substitute(self.index[name], {loop.name: symbol(loop.name) * width + symbol(inner.name)})
            self.loops[position] = Loop(loop.name, loop.extent // width)
            self.inner = [inner]
            return

    def _storage_loops(self) -> tuple[list[Loop], dict[str, Dim], str | None]:
        """Loops over the first output's storage, the logical index over them, and the blocked lane axis if any."""
        layout = self.problem.outputs[0].layout
        block = self.problem.block or layout.block
        order = layout.order or tuple(range(len(self.problem.axes)))
        loops: list[Loop] = []
        index: dict[str, Dim] = {}
        lane = None
        for position in order:
            axis = self.problem.axes[position]
            window = self.problem.windows.get(axis.name)
            start, extent = (0, axis.extent) if window is None else (window.start, window.length)
            name = f"s{position}"
            if position == layout.blocked_axis:
                lane = f"b{position}"
                loops.append(Loop(name, (extent + block - 1) // block))
                index[axis.name] = symbol(name) * block + symbol(lane) + start
            else:
                loops.append(Loop(name, extent))
                index[axis.name] = symbol(name) + start
        if lane is not None:
            loops.append(Loop(lane, block))
        return loops, index, lane

    def emit(self) -> None:
        """Writes the nest into the builder."""
        if any(loop.extent == 0 for loop in self.loops):
            return
        turn = self._turn()
        if turn is None:
            self._outer(0, {}, Scope())
            return
        loops, index = list(self.loops), dict(self.index)
        name, position = loops[turn.position].name, turn.position
        for square in turn.squares(name):
            self.square = square
            self.loops = [*loops[:position], Loop(name, square.blocks), *loops[position + 1 :]]
            self.index = {axis: substitute(place, {name: square.place}) for axis, place in index.items()}
            self._outer(0, {}, Scope())

    def _turn(self) -> Turn | None:
        """What is loaded along another axis than the innermost."""
        if len(self.loops) < 2 or self.lane_axis is not None or self.inner:
            return None
        names, extents = [loop.name for loop in self.loops], [loop.extent for loop in self.loops]
        return find_turn(self.problem, names, extents, self.index, self._vector_lanes())

    def check_indices(self) -> None:
        """Returns an error status, before anything is written, where a gathered index lies outside its tensor.

        The loops after it clamp such indices, so that no element is ever read from outside.
        """
        extents = {axis.name: axis.extent for axis in self.problem.axes}
        done: set[int] = set()
        for scalar in self.problem.scalars():
            if not isinstance(scalar, Load) or not scalar.checked:
                continue
            for index, extent in zip(scalar.indices, self.problem.inputs[scalar.input].dims, strict=True):
                if not isinstance(index, Scalar) or id(index) in done or not self.free[index] <= set(extents):
                    continue
                done.add(id(index))
                with ExitStack() as stack:
                    scope = Scope(
                        {
                            axis.name: stack.enter_context(self.builder.serial(axis.extent, "c"))
                            for axis in self.problem.axes
                            if axis.name in self.free[index]
                        }
                    )
                    value = self.renderer.render(index, Lane(), scope)
                    self.builder.fail_unless_inside(value, extent)

    def _parallel(self) -> bool:
        work = cost_of(self.problem)
        return not isinstance(work, int) or work >= PARALLEL_COST

    def _outer(self, depth: int, bound: Mapping[str, Dim], scope: Scope) -> None:
        """Loops from `depth` inward; reductions that are bound by now are computed first."""
        scope = self._hoist(bound, scope, Lane())
        if depth == len(self.loops) - 1:
            self._vector_loop(self.loops[depth], bound, scope, parallel=depth == 0)
            return
        if depth == len(self.loops):
            self._point(Lane(), bound, scope)
            return
        loop = self.loops[depth]
        shared = depth == self._parallel_depth()
        with self.builder.parallel(loop.extent, loop.name, enable=shared) as variable:
            self._outer(depth + 1, {**bound, loop.name: variable}, scope.inner({}))

    def _parallel_depth(self) -> int:
        """The outermost loop with more than one iteration, or -1 where the work is too small to share."""
        if not self._parallel():
            return -1
        for depth, loop in enumerate(self.loops):
            if loop.extent != 1:
                return depth
        return -1

    def _hoist(self, bound: Mapping[str, Dim], scope: Scope, lane: Lane) -> Scope:
        """Computes every reduction whose index symbols are all bound, once, before the loops inside."""
        axes = self._axes(bound)
        known = set(axes)
        found = [*self.reductions, *self.searches]
        pending = [r for r in found if id(r) not in scope.values and self.free[r] <= known]
        if len(bound) == len(self.loops) + len(self.inner):
            return Scope({**scope.axes, **axes}, scope.values)
        result = Scope({**scope.axes, **axes}, dict(scope.values))
        for reduction in pending:
            self.renderer.render(reduction, lane, result)
        return result

    def _axes(self, bound: Mapping[str, Dim]) -> dict[str, Dim]:
        """Logical axes whose loops are all bound, as index expressions."""
        axes = {}
        for name, place in self.index.items():
            if symbols(place) <= set(bound):
                axes[name] = substitute(place, bound, self.builder.bounds)
        return axes

    def _vector_lanes(self) -> int:
        """Lanes in which the innermost loop runs; 1 where a reduction forbids vectors."""
        widest = 1
        for scalar in self.problem.scalars():
            widest = max(widest, compute_dtype(scalar.dtype).itemsize if not _is_index(scalar) else 1)
            if isinstance(scalar, Reduce) and self._is_ragged(scalar):
                return 1
        lanes = max(1, self.builder.vector_bytes // widest)
        if self.square is not None:
            return min(lanes, MOST_LANES)
        last = self.loops[-1]
        if self.lane_axis is not None:
            return min(lanes, int(last.extent)) if isinstance(last.extent, int) else 1
        if isinstance(last.extent, int) and last.extent == 1:
            return 1
        return 1 if self._reduces_against_the_grain(last.name) else lanes

    def _is_ragged(self, reduction: Reduce) -> bool:
        """Whether a reduction may take more elements on one lane than on another."""
        return any(self.free[count] & self._names_of(self.loops[-1].name) for count in reduction.counts)

    def _reduces_against_the_grain(self, name: str) -> bool:
        """Whether a reduction reads contiguously along its own axis but not along the loop `name`."""
        both: list[Reduce | ArgReduce] = [*self.reductions, *self.searches]
        for reduction in both:
            inner = (reduction.axes[-1] if isinstance(reduction, Reduce) else reduction.axis).name
            for node in walk(reduction.body):
                if not isinstance(node, Load):
                    continue
                last = node.indices[-1] if node.indices else 0
                if isinstance(last, Scalar):
                    continue
                along = linear_coefficient(last, inner)
                across = linear_coefficient(substitute(last, self.index), name)
                if along == 1 and across != 1 and self.free[reduction] & self._names_of(name):
                    return True
        return False

    def _names_of(self, loop: str) -> set[str]:
        return {name for name, place in self.index.items() if loop in symbols(place)}

    def _vector_loop(self, loop: Loop, bound: Mapping[str, Dim], scope: Scope, *, parallel: bool) -> None:
        lanes = self._vector_lanes()
        shared = parallel and self._parallel()
        if lanes == 1:
            with self.builder.parallel(loop.extent, loop.name, enable=shared) as variable:
                self._inside(Lane(), {**bound, loop.name: variable}, scope.inner({}), self.inner)
            return
        vectors = loop.extent // lanes
        done: Dim = 0
        if shared:
            repeats = product(loop.extent for loop in self.inner)
            chunk = max(1, CHUNK // (lanes * repeats)) if isinstance(repeats, int) else 1
            with self.builder.parallel(vectors // chunk, loop.name) as outer:
                self._vectors(outer * chunk, chunk, lanes, loop, bound, scope)
            done = vectors // chunk * chunk
        self._vectors(done, vectors - done, lanes, loop, bound, scope)
        tail = loop.extent - vectors * lanes
        if tail != 0:
            self._vector(vectors * lanes, lanes, tail, loop, bound, scope)

    def _vectors(self, first: Dim, count: Dim, lanes: int, loop: Loop, bound: Mapping[str, Dim], scope: Scope) -> None:
        """So many whole vectors from one on."""
        if count == 0:
            return
        parts = parts_of(self.problem.elements) if lanes > 1 and self.square is None and not self.inner else []
        for start, times, size in blocks(count) if parts else [(0, count, 1)]:
            with self.builder.serial(times, loop.name) as block:
                place = first + start + block * size
                if size == 1:
                    self._vector(place * lanes, lanes, None, loop, bound, scope)
                else:
                    self._block(parts, place, size, lanes, loop, bound, scope)

    def _block(
        self,
        parts: Sequence[Sequence[Scalar]],
        first: Dim,
        size: int,
        lanes: int,
        loop: Loop,
        bound: Mapping[str, Dim],
        scope: Scope,
    ) -> None:
        """A few vectors, each part of their arithmetic for all of them before the next."""
        rooms = {id(scalar): self.builder.accumulator(size * lanes) for part in parts for scalar in part}
        made: list[int] = []
        for part in [*parts, None]:
            with self.builder.serial(size, loop.name) as number, self.builder.lanes(lanes) as name:
                lane = Lane(name, lanes)
                within = {**bound, loop.name: (first + number) * lanes + symbol(name)}
                at = self.builder.index(number * lanes)
                known = {scalar: bind(rooms[scalar].part(at, lanes)) for scalar in made}
                inside = Scope({**scope.axes, **self._axes(within)}, {**scope.values, **known})
                if part is None:
                    self._point(lane, within, inside)
                    continue
                for scalar in part:
                    value = self.renderer.render(scalar, lane, inside)
                    rooms[id(scalar)].set_part(at, lanes, broadcast(value, lanes))
                made += map(id, part)

    def _vector(
        self, start: Dim, lanes: int, count: Dim | None, loop: Loop, bound: Mapping[str, Dim], scope: Scope
    ) -> None:
        with self.builder.lanes(lanes) as name:
            place = start + symbol(name)
            if self.square is not None:
                self._squares(self.square, start, Lane(name, lanes, count), loop, bound, scope)
                return
            self._inside(Lane(name, lanes, count), {**bound, loop.name: place}, scope.inner({}), self.inner)

    def _squares(
        self, square: Square, start: Dim, lane: Lane, loop: Loop, bound: Mapping[str, Dim], scope: Scope
    ) -> None:
        """A vector of every output for each of the places along which a square is loaded."""
        turned: dict[int, list[Expr]] = {}
        assert lane.name is not None and not isinstance(lane.count, SymbolicInt)
        rows = lane.lanes if lane.count is None else lane.count
        for load in square.loads:
            vectors = []
            for row in range(rows):
                with self.builder.lanes(lane.lanes) as name:
                    axes = self._axes({**bound, loop.name: start + row, square.inner: symbol(name)})
                    across = Lane(name, lane.lanes, None if square.width == lane.lanes else square.width)
                    vectors.append(bind(self.renderer.render(load, across, Scope({**scope.axes, **axes}))))
            vectors += [vectors[-1]] * (lane.lanes - rows)
            turned[id(load)] = transposed(vectors, lane.lanes)
        for column in range(square.width):
            values = {number: vectors[column] for number, vectors in turned.items()}
            at = {**bound, loop.name: start + symbol(lane.name), square.inner: column}
            self._point(lane, at, Scope(scope.axes, {**scope.values, **values}))

    def _inside(self, lane: Lane, bound: Mapping[str, Dim], scope: Scope, loops: Sequence[Loop]) -> None:
        """The loops inside of the vector's, after what does not depend on them."""
        if not loops:
            self._point(lane, bound, scope)
            return
        scope = self._hoist(bound, scope, lane)
        for scalar in self.shared:
            self.renderer.render(scalar, lane, scope)
        with self.builder.serial(loops[0].extent, loops[0].name) as variable:
            self._inside(lane, {**bound, loops[0].name: variable}, scope.inner({}), loops[1:])

    def _point(self, lane: Lane, bound: Mapping[str, Dim], scope: Scope) -> None:
        """One element, or one vector of them, of every output."""
        axes = self._axes(bound)
        scope = scope.inner(axes)
        for element, type_, operand in zip(
            self.problem.elements, self.problem.outputs, self.output_operands, strict=True
        ):
            value = self.renderer.stored(element, lane, scope)
            index = [axes[axis.name] for axis in self.problem.axes]
            store(self.builder, value, type_, operand, index, lane)


def _is_work(scalar: Scalar) -> bool:
    return not isinstance(scalar, Const | IndexValue)


def _weight(scalar: Scalar) -> int:
    """Rough cost of a scalar itself."""
    return SCALAR_OPS[scalar.op].cost if isinstance(scalar, Call) else 1


def _is_index(scalar: Scalar) -> bool:
    return isinstance(scalar, IndexValue)
