"""The loop nest of a region without an anchor: pointwise, movement, reduction and row normalization alike.

The nest runs over the storage axes of the first output. Adjacent axes that every operand walks in step are merged, the
innermost becomes the vector axis, the outermost is shared among threads. A reduction is computed in the outermost loop
that binds all it depends on, so a softmax reads its row for the maximum once per row, not once per element.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field, replace

from graphc.backends.tvm import scalar_ops
from graphc.backends.tvm.render import Lane, Renderer, Scope
from graphc.backends.tvm.tir import KernelBuilder, broadcast
from graphc.backends.tvm.windows import Window, common_block, split
from graphc.ir import Dim, TensorType, symbol
from graphc.ir.symbolic import interval, linear_coefficient, multiply, product, substitute, symbols
from graphc.ops.expr import (
    SCALAR_OPS,
    ArgReduce,
    Axis,
    Call,
    IndexValue,
    Load,
    Reduce,
    Scalar,
    children,
    transform,
    walk,
)

PARALLEL_COST = 40_000
"""Scalar operations under which a parallel region costs more than it saves (about 2 microseconds of one core)."""

CHUNK = 4096
"""Elements that one iteration of a merged, parallel pointwise loop takes."""


@dataclass(frozen=True)
class Problem:
    """What one kernel computes.

    Args:
        axes: Logical axes shared by all outputs.
        elements: The element of each output at the axes.
        inputs: Types of the numbered inputs.
        outputs: Types of the outputs.
        windows: The stretch of each axis that is computed, by its name; all of an axis that is not there.
        block: Lanes in which the first output's blocked axis is walked; the layout's block if None.
    """

    axes: tuple[Axis, ...]
    elements: tuple[Scalar, ...]
    inputs: tuple[TensorType, ...]
    outputs: tuple[TensorType, ...]
    windows: Mapping[str, Window] = field(default_factory=dict)
    block: int | None = None

    def scalars(self) -> list[Scalar]:
        """Every scalar of every output once."""
        return list({id(s): s for element in self.elements for s in walk(element)}.values())


def merged(problem: Problem) -> Problem:
    """The same computation over fewer axes: adjacent ones that all operands walk in step become one."""
    problem = _without_units(_flat_blocks(problem))
    position = 0
    while position + 1 < len(problem.axes):
        joined = _merge(problem, position)
        if joined is None:
            position += 1
        else:
            problem = joined
    return problem


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


def _merge(problem: Problem, position: int) -> Problem | None:
    """Axes `position` and `position + 1` as one, or None where some operand does not walk them in step."""
    outer, inner = problem.axes[position], problem.axes[position + 1]
    if not all(t.layout.is_row_major for t in problem.outputs):
        return None
    joined = Axis(inner.name, multiply(outer.extent, inner.extent))
    places: dict[int, int | None] = {}
    for scalar in problem.scalars():
        if isinstance(scalar, IndexValue) and not _in_step(scalar.index, outer, inner):
            return None
        if isinstance(scalar, Load):
            at = _pair_position(scalar, problem.inputs[scalar.input], outer, inner)
            if at == -1 or places.setdefault(scalar.input, at) != at:
                return None
        if isinstance(scalar, Reduce) and any(symbols(a.extent) & {outer.name, inner.name} for a in scalar.axes):
            return None

    def relabel(scalar: Scalar) -> Scalar | None:
        if isinstance(scalar, Load) and (at := places[scalar.input]) is not None:
            return replace(scalar, indices=(*scalar.indices[:at], joined.index, *scalar.indices[at + 2 :]))
        return None

    def join(type_: TensorType, at: int | None) -> TensorType:
        if at is None:
            return type_
        return type_.with_shape([*type_.dims[:at], multiply(type_.dims[at], type_.dims[at + 1]), *type_.dims[at + 2 :]])

    # Where both axes stand in one index expression in step, the inner one alone now covers the range of both.
    return Problem(
        (*problem.axes[:position], joined, *problem.axes[position + 2 :]),
        tuple(transform(element, relabel, {outer.name: 0}) for element in problem.elements),
        tuple(join(t, places.get(i)) for i, t in enumerate(problem.inputs)),
        tuple(join(t, position) for t in problem.outputs),
    )


def _in_step(index: Dim, outer: Axis, inner: Axis) -> bool:
    """Whether an index moves along both axes as along one, or along neither."""
    along_outer = linear_coefficient(index, outer.name)
    along_inner = linear_coefficient(index, inner.name)
    if along_outer is None or along_inner is None or not isinstance(inner.extent, int):
        return False
    return along_outer == along_inner * inner.extent


def _pair_position(scalar: Load, source: TensorType, outer: Axis, inner: Axis) -> int | None:
    """Where a load walks both axes whole and side by side.

    None where each of its indices walks them in step or not at all; -1 where it does otherwise.
    """
    names = {outer.name, inner.name}
    affine = [index for index in scalar.indices if not isinstance(index, Scalar)]
    if all(_in_step(index, outer, inner) for index in affine):
        return None
    texts = [None if isinstance(i, Scalar) else str(i) for i in scalar.indices]
    used = [not isinstance(i, Scalar) and bool(symbols(i) & names) for i in scalar.indices]
    for at in range(len(texts) - 1):
        if texts[at] == outer.name and texts[at + 1] == inner.name and sum(used) == 2:
            whole = source.dims[at] == outer.extent and source.dims[at + 1] == inner.extent
            return at if whole and source.layout.is_row_major else -1
    return -1


class FreeSymbols:
    """Free index symbols of every node of a set of scalars, computed once."""

    def __init__(self, elements: Sequence[Scalar]) -> None:
        self._free: dict[int, frozenset[str]] = {}
        for element in elements:
            for node in walk(element):
                if id(node) not in self._free:
                    self._free[id(node)] = self._of(node)

    def __getitem__(self, scalar: Scalar) -> frozenset[str]:
        return self._free[id(scalar)]

    def _of(self, node: Scalar) -> frozenset[str]:
        found = frozenset().union(*(self._free[id(child)] for child in children(node)))
        match node:
            case IndexValue(index=index):
                return found | symbols(index)
            case Load(indices=indices):
                return found.union(*(symbols(i) for i in indices if not isinstance(i, Scalar)))
            case Reduce(axes=axes):
                return found.union(*(symbols(a.extent) for a in axes)) - {axis.name for axis in axes}
            case ArgReduce(axis=axis):
                return (found | symbols(axis.extent)) - {axis.name}
        return found


def emit(builder: KernelBuilder, problem: Problem, operands: Sequence[int]) -> None:
    """Writes a kernel's whole body: the checks of gathered indices, a nest for each window, the fill of halos.

    Args:
        builder: The kernel under construction.
        problem: What to compute.
        operands: Pointer argument of each input, then of each output.
    """
    problem = merged(problem)
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
        self.loops, self.index, self.lane_axis = self._storage_loops()

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

    def cost(self) -> Dim:
        """Rough scalar operations of the whole nest: each scalar is computed once per index it depends on."""
        extents = {axis.name: axis.extent for axis in self.problem.axes}
        for reduction in self.reductions:
            extents.update((axis.name, axis.extent) for axis in reduction.axes)
        total: Dim = 0
        for scalar in self.problem.scalars():
            weight = SCALAR_OPS[scalar.op].cost if isinstance(scalar, Call) else 1
            total = total + weight * product(extents[name] for name in self.free[scalar] if name in extents)
        return total

    def emit(self) -> None:
        """Writes the nest into the builder."""
        if all(loop.extent != 0 for loop in self.loops):
            self._outer(0, {}, Scope())

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
        work = self.cost()
        return not isinstance(work, int) or work >= PARALLEL_COST

    def _outer(self, depth: int, bound: Mapping[str, Dim], scope: Scope) -> None:
        """Loops from `depth` inward; reductions that are bound by now are computed first."""
        scope = self._hoist(bound, scope)
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

    def _hoist(self, bound: Mapping[str, Dim], scope: Scope) -> Scope:
        """Computes every reduction whose index symbols are all bound, once, before the loops inside."""
        axes = self._axes(bound)
        known = set(axes)
        pending = [r for r in self.reductions if id(r) not in scope.values and self.free[r] <= known]
        if len(bound) == len(self.loops):
            return Scope({**scope.axes, **axes}, scope.values)
        result = Scope({**scope.axes, **axes}, dict(scope.values))
        for reduction in pending:
            self.renderer.render(reduction, Lane(), result)
        return result

    def _axes(self, bound: Mapping[str, Dim]) -> dict[str, Dim]:
        """Logical axes whose loops are all bound, as index expressions."""
        axes = {}
        for name, place in self.index.items():
            if symbols(place) <= set(bound):
                axes[name] = substitute(place, bound, self.builder.bounds)
        return axes

    def _vector_lanes(self) -> int:
        """Lanes in which the innermost loop runs; 1 where an operation or a reduction forbids vectors."""
        widest = 1
        for scalar in self.problem.scalars():
            widest = max(widest, scalar_ops.compute_dtype(scalar.dtype).itemsize if not _is_index(scalar) else 1)
            if isinstance(scalar, ArgReduce):
                return 1
            if isinstance(scalar, Call) and scalar.arguments[0].dtype.is_float:
                wide = scalar.arguments[0].dtype.name == "float64"
                if scalar.op in (scalar_ops.FLOAT64_SCALAR_ONLY if wide else scalar_ops.SCALAR_ONLY):
                    return 1
        lanes = max(1, self.builder.vector_bytes // widest)
        last = self.loops[-1]
        if self.lane_axis is not None:
            return min(lanes, int(last.extent)) if isinstance(last.extent, int) else 1
        if isinstance(last.extent, int) and last.extent == 1:
            return 1
        return 1 if self._reduces_against_the_grain(last.name) else lanes

    def _reduces_against_the_grain(self, name: str) -> bool:
        """Whether a reduction reads contiguously along its own axis but not along the loop `name`."""
        for reduction in self.reductions:
            inner = reduction.axes[-1].name
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
                self._point(Lane(), {**bound, loop.name: variable}, scope.inner({}))
            return
        vectors = loop.extent // lanes
        if shared:
            chunk = max(1, CHUNK // lanes)
            with self.builder.parallel(vectors // chunk, loop.name) as outer, self.builder.serial(chunk) as inner:
                self._vector((outer * chunk + inner) * lanes, lanes, None, loop, bound, scope)
            done = vectors // chunk * chunk
            with self.builder.serial(vectors - done, loop.name) as variable:
                self._vector((variable + done) * lanes, lanes, None, loop, bound, scope)
        else:
            if vectors != 0:
                with self.builder.serial(vectors, loop.name) as variable:
                    self._vector(variable * lanes, lanes, None, loop, bound, scope)
        tail = loop.extent - vectors * lanes
        if tail != 0:
            self._vector(vectors * lanes, lanes, tail, loop, bound, scope)

    def _vector(
        self, start: Dim, lanes: int, count: Dim | None, loop: Loop, bound: Mapping[str, Dim], scope: Scope
    ) -> None:
        with self.builder.lanes(lanes) as name:
            place = start + symbol(name)
            self._point(Lane(name, lanes, count), {**bound, loop.name: place}, scope.inner({}))

    def _point(self, lane: Lane, bound: Mapping[str, Dim], scope: Scope) -> None:
        """One element, or one vector of them, of every output."""
        axes = self._axes(bound)
        scope = scope.inner(axes)
        for element, type_, operand in zip(
            self.problem.elements, self.problem.outputs, self.output_operands, strict=True
        ):
            value = self.renderer.render(element, lane, scope)
            index = [axes[axis.name] for axis in self.problem.axes]
            store(self.builder, value, type_, operand, index, lane)


def store(
    builder: KernelBuilder, value: object, type_: TensorType, operand: int, index: Sequence[Dim], lane: Lane
) -> None:
    """Writes a vector of an output at a logical index that contains the lane symbol.

    Lanes of a block that lie past the logical extent get the layout's fill (0 where it is undefined), those past the
    lane's count too.
    """
    layout = type_.layout
    count = lane.count
    value = broadcast(scalar_ops.to_storage(value, type_.dtype), lane.lanes)
    if layout.blocked_axis is not None and lane.name is not None:
        extent = type_.dims[layout.blocked_axis]
        place = index[layout.blocked_axis]
        if lane.name in symbols(place) and not (isinstance(extent, int) and extent % layout.block == 0):
            fill = scalar_ops.to_storage(scalar_ops.constant(layout.fill or 0, type_.dtype), type_.dtype)
            inside = builder.simplify(extent - substitute(place, {lane.name: 0}, builder.bounds))
            known = interval(inside, builder.bounds)
            if known is None or known[0] < lane.lanes:
                value = builder.choose(builder.first_lanes(inside, lane.lanes), value, broadcast(fill, lane.lanes))
                count = None
    storage = layout.storage_shape(type_.dims)
    offset: Dim = 0
    for position, place in enumerate(layout.storage_index(index)):
        offset = offset + place * product(storage[position + 1 :])
    offset = builder.simplify(offset)
    if lane.name is None:
        builder.store(operand, value, offset)
        return
    stride = linear_coefficient(offset, lane.name)
    start = substitute(offset, {lane.name: 0}, builder.bounds)
    if stride == 1:
        builder.store(operand, value, start, lane.lanes, 1, count)
    elif stride is not None and count is None:
        builder.store(operand, value, start, lane.lanes, stride)
    else:
        builder.store_lanes(operand, value, offset, lane.name, lane.lanes, count)


def fill_halo(builder: KernelBuilder, operand: int, type_: TensorType) -> None:
    """Writes the layout's fill into every halo cell of an output; nothing where there is no halo or no fill."""
    layout = type_.layout
    if layout.fill is None or not any(map(any, layout.halo)):
        return
    storage = layout.storage_shape(type_.dims)
    rank = len(type_.dims)
    order = layout.order or tuple(range(rank))
    fill = scalar_ops.to_storage(scalar_ops.constant(layout.fill, type_.dtype), type_.dtype)

    def strip(at: int, start: Dim, extent: Dim) -> None:
        """Fills storage cells with axis `at` in `start..start+extent`, whole in the axes after it."""
        with ExitStack() as stack:
            offset: Dim = start * product(storage[at + 1 :])
            for before in range(at):
                lo, hi = layout.halo[order[before]] if before < rank else (0, 0)
                inside = storage[before] - lo - hi
                loop = stack.enter_context(builder.serial(inside, "h"))
                offset = offset + (loop + lo) * product(storage[before + 1 :])
            length = extent * product(storage[at + 1 :])
            lanes = builder.vector_bytes // type_.dtype.itemsize
            if isinstance(length, int) and length < lanes:
                with builder.serial(length, "h") as cell:
                    builder.store(operand, fill, offset + cell)
                return
            vectors = length // lanes
            with builder.serial(vectors, "h") as vector:
                builder.store(operand, broadcast(fill, lanes), offset + vector * lanes, lanes)
            rest = length - vectors * lanes
            if rest != 0:
                builder.store(operand, broadcast(fill, lanes), offset + vectors * lanes, lanes, 1, rest)

    for at in range(rank):
        lo, hi = layout.halo[order[at]]
        if lo:
            strip(at, 0, lo)
        if hi:
            strip(at, storage[at] - hi, hi)


def _is_index(scalar: Scalar) -> bool:
    return isinstance(scalar, IndexValue)
