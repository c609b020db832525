"""Rendering tensor expressions as TIR at vector width."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

from tvm.tirx.script.builder import ir as T

from graphc.backends.tvm import element_types, scalar_ops
from graphc.backends.tvm.tir import Expr, KernelBuilder, Register, bind, broadcast, horizontal, is_bool, lanes_of
from graphc.errors import BackendError
from graphc.ir import Dim, TensorType, symbol
from graphc.ir.dtypes import INT64
from graphc.ir.symbolic import interval, linear_coefficient, maximum, minimum, product, substitute, symbols
from graphc.ops.expr import (
    REDUCE_IDENTITY,
    ArgReduce,
    Axis,
    Call,
    Cast,
    Const,
    Index,
    IndexValue,
    Load,
    Reduce,
    Scalar,
    Select,
    children,
    walk,
)

UNROLL_REDUCTION = 27
"""Reductions of at most this many elements, those of a 3x3x3 window, are unrolled."""

UNROLLED_SCALARS = 600
"""Scalars of which unrolled elements may consist: LLVM takes seconds for many more of them."""

_COMBINE = {"sum": "add", "prod": "mul", "max": "max", "min": "min", "any": "or", "all": "and"}


@dataclass
class Lane:
    """The vector in whose lanes an expression is rendered.

    Args:
        name: Symbol of the lane number in index expressions; None when rendering scalars.
        lanes: Vector width.
        count: How many lanes are inside the tensor; None for all.
    """

    name: str | None = None
    lanes: int = 1
    count: Dim | None = None


@dataclass
class Scope:
    """What is known at one point of the kernel: values computed so far, and where index symbols stand.

    Args:
        axes: Index expression, over loop symbols, of each axis of the tensor expressions.
        values: Scalars already computed here, by identity.
    """

    axes: Mapping[str, Dim] = field(default_factory=dict)
    values: dict[int, Expr] = field(default_factory=dict)

    def inner(self, axes: Mapping[str, Dim]) -> Scope:
        """The scope of a loop inside, which sees everything here."""
        return Scope({**self.axes, **axes}, dict(self.values))


class Renderer:
    """Renders scalars of one kernel.

    Args:
        builder: The kernel under construction.
        inputs: Type of each numbered input; row-major or laid out.
        operands: Pointer argument of each numbered input.
        given: Inputs that are values at hand and not memory (an anchor's result): answers the value at an index.
    """

    def __init__(
        self,
        builder: KernelBuilder,
        inputs: Sequence[TensorType],
        operands: Mapping[int, int],
        given: Mapping[int, Callable[[Sequence[Index]], Expr]] | None = None,
    ) -> None:
        self.builder = builder
        self.inputs = inputs
        self.operands = operands
        self.given = dict(given or {})

    def render(self, scalar: Scalar, lane: Lane, scope: Scope) -> Expr:
        """The value of `scalar` on every lane; a TIR scalar where it is the same on all.

        Statements that compute it are emitted at the builder's place. `scope.axes` must bind every free index symbol.

        Raises:
            BackendError: An operation or type has no form on CPUs.
        """
        return _Rendering(self, lane, scope, None).visit(scalar)

    def stored(self, scalar: Scalar, lane: Lane, scope: Scope) -> Expr:
        """The value of `scalar` as `render` gives it, in the form in which its type is stored.

        A cast to a narrow float, which most such results end in, is rounded once and not read back.
        """
        if isinstance(scalar, Cast) and element_types.is_narrow_float(scalar.dtype) and id(scalar) not in scope.values:
            given, source = self.render(scalar.value, lane, scope), scalar.value.dtype
            return element_types.narrowed(
                given, source, scalar.dtype, saturate=scalar.saturate, rounding=scalar.rounding
            )
        return element_types.to_storage(self.render(scalar, lane, scope), scalar.dtype)


class _Rendering:
    """One expression at one place, under one guard."""

    def __init__(self, renderer: Renderer, lane: Lane, scope: Scope, guard: Expr | None) -> None:
        self.renderer = renderer
        self.builder = renderer.builder
        self.lane = lane
        self.scope = scope
        self.guard = guard

    def visit(self, scalar: Scalar) -> Expr:
        found = self.scope.values.get(id(scalar))
        if found is None:
            found = self._compute(scalar)
            if not isinstance(scalar, Const):
                found = bind(found)
            self.scope.values[id(scalar)] = found
        return found

    def _compute(self, scalar: Scalar) -> Expr:
        match scalar:
            case Const(dtype=dtype, value=value):
                return element_types.constant(value, dtype)
            case IndexValue(index=index):
                return self.index(self._place(index))
            case Load():
                return self._load(scalar)
            case Call(op=op, arguments=arguments):
                return scalar_ops.apply(op, arguments[0].dtype, [self.visit(a) for a in arguments])
            case Cast(dtype=dtype, value=value, saturate=saturate, rounding=rounding):
                given = self.visit(value)
                return element_types.cast(given, value.dtype, dtype, saturate=saturate, rounding=rounding)
            case Select(condition=condition, then=then, otherwise=otherwise):
                return self._select(self.visit(condition), then, otherwise)
            case Reduce():
                return self._reduce(scalar)
            case ArgReduce():
                return self._arg_reduce(scalar)
        raise BackendError(f"{type(scalar).__name__} has no compiled form on CPUs")

    def _place(self, index: Dim) -> Dim:
        return substitute(index, self.scope.axes, self.builder.bounds)

    def index(self, index: Dim) -> Expr:
        """An index expression, which may contain the lane symbol, as an int64 scalar or vector."""
        name, lanes = self.lane.name, self.lane.lanes
        if name is None or name not in symbols(index):
            return self.builder.index(index)
        stride = linear_coefficient(index, name)
        if stride is not None:
            start = self.builder.index(substitute(index, {name: 0}, self.builder.bounds))
            if lanes_of(start) == 1:
                return T.Ramp(start, T.int64(stride), lanes)
            return start + T.Ramp(T.int64(0), T.int64(stride), lanes)
        return self.builder.index(index)

    def _select(self, condition: Expr, then: Scalar, otherwise: Scalar) -> Expr:
        negated = T.Not(condition)
        first = self._guarded(condition).visit(then)
        second = self._guarded(negated).visit(otherwise)
        lanes = max(map(lanes_of, (condition, first, second)))
        if is_bool(first):
            return T.Or(
                T.And(broadcast(condition, lanes), broadcast(first, lanes)),
                T.And(broadcast(negated, lanes), broadcast(second, lanes)),
            )
        return T.Select(condition, broadcast(first, lanes), broadcast(second, lanes))

    def _guarded(self, condition: Expr) -> _Rendering:
        guard = condition
        if self.guard is not None:
            lanes = max(lanes_of(condition), lanes_of(self.guard))
            guard = T.And(broadcast(self.guard, lanes), broadcast(condition, lanes))
        # Values computed under a guard hold only there: they must not leak to the other branch.
        return _Rendering(self.renderer, self.lane, self.scope.inner({}), guard)

    def _load(self, scalar: Load) -> Expr:
        given = self.renderer.given.get(scalar.input)
        if given is not None:
            return given([i if isinstance(i, Scalar) else self._place(i) for i in scalar.indices])
        type_ = self.renderer.inputs[scalar.input]
        places = [
            self._computed(i, e) if isinstance(i, Scalar) else self._place(i)
            for i, e in zip(scalar.indices, type_.dims, strict=True)
        ]
        value = self._fetch(scalar, type_, places)
        return element_types.from_storage(value, type_.dtype)

    def _computed(self, index: Scalar, extent: Dim) -> Dim:
        """A gathered index as a symbol; clamped, because a wild one must not be read (the step reports it)."""
        value = element_types.cast(self.visit(index), index.dtype, INT64)
        lanes = lanes_of(value)
        last = broadcast(self.builder.index(extent) - T.int64(1), lanes)
        clamped = T.max(T.min(value, last), broadcast(T.int64(0), lanes))
        return self.builder.name_value(clamped, 0, extent - 1)

    def _fetch(self, scalar: Load, type_: TensorType, places: list[Dim]) -> Expr:
        builder, lane = self.builder, self.lane
        operand = self.renderer.operands[scalar.input]
        unsafe = [
            axis
            for axis, (place, extent) in enumerate(zip(places, type_.dims, strict=True))
            if not self._inside(place, _stored_extent(type_, axis, extent))
        ]
        offset = self._offset(type_, places)
        stride = self._stride(offset)
        if unsafe and stride == 1 and self.guard is not None and all(self._varies(places[a]) for a in unsafe):
            # The guard says which lanes exist; the others are not touched.
            mask = broadcast(self.guard, lane.lanes)
            if lane.count is not None:
                mask = T.And(mask, builder.first_lanes(lane.count, lane.lanes))
            return builder.load_masked(operand, self._start(offset), lane.lanes, mask)
        if unsafe:
            for axis in unsafe:
                last = type_.dims[axis] - 1
                places[axis] = maximum(0, minimum(places[axis], last))
            offset = self._offset(type_, places)
            stride = self._stride(offset)
        if stride == 0:
            return builder.load(operand, offset)
        picked = self._picked(offset) if stride != 1 else None
        if picked is not None:
            return builder.load_picked(operand, *picked)
        if stride is None or (stride != 1 and lane.count is not None):
            return builder.gather(operand, self._within_count(offset), lane.lanes)
        return builder.load(operand, self._start(offset), lane.lanes, stride, lane.count)

    def _picked(self, offset: Dim) -> tuple[Dim, list[int]] | None:
        """Where lanes read that stand at constant distances within two vectors: the first place, each one's distance.

        So it is where pixels are repeated, skipped or turned round.
        """
        builder, lane = self.builder, self.lane
        count = lane.lanes if lane.count is None else lane.count
        vectors = any(builder.is_vector(name) and name != lane.name for name in symbols(offset))
        if lane.name is None or vectors or not isinstance(count, int):
            return None
        start = self._start(offset)
        places: list[int] = []
        for number in range(count):
            distance = builder.simplify(substitute(offset, {lane.name: number}, builder.bounds) - start)
            if not isinstance(distance, int):
                return None
            places.append(distance)
        low = min(places)
        if max(places) - low >= 2 * lane.lanes:
            return None
        return builder.simplify(start + low), [place - low for place in places] + [0] * (lane.lanes - count)

    def _within_count(self, offset: Dim) -> Expr:
        """Offsets of all lanes; those past the count get the tensor's start, so that nothing outside is read."""
        lanes = self.lane.lanes
        places = broadcast(self.index(offset), lanes)
        if self.lane.count is None:
            return places
        return T.Select(self.builder.first_lanes(self.lane.count, lanes), places, broadcast(T.int64(0), lanes))

    def _offset(self, type_: TensorType, places: Sequence[Dim]) -> Dim:
        storage = type_.layout.storage_shape(type_.dims)
        offset: Dim = 0
        for position, place in enumerate(type_.layout.storage_index(places)):
            offset = offset + place * product(storage[position + 1 :])
        return self.builder.simplify(offset)

    def _stride(self, offset: Dim) -> int | None:
        """Elements between lanes: 0 for one place, None where it is not constant."""
        if any(self.builder.is_vector(name) and name != self.lane.name for name in symbols(offset)):
            return None
        return 0 if self.lane.name is None else linear_coefficient(offset, self.lane.name)

    def _start(self, offset: Dim) -> Dim:
        assert self.lane.name is not None
        return substitute(offset, {self.lane.name: 0}, self.builder.bounds)

    def _varies(self, place: Dim) -> bool:
        return self.lane.name is not None and self.lane.name in symbols(place)

    def _inside(self, place: Dim, extent: Dim) -> bool:
        low_high = interval(place, self.builder.bounds)
        if low_high is None or low_high[0] < 0:
            return self._is_loop_of(place, extent)
        if low_high[1] is not None and isinstance(extent, int):
            return low_high[1] < extent or self._counted_inside(place, extent)
        inside = self._is_loop_of(place, extent) or self.builder.is_below(place, extent)
        return inside or self._counted_inside(place, extent)

    def _counted_inside(self, place: Dim, extent: Dim) -> bool:
        """Whether the lanes that count, if not all, read below `extent`."""
        if self.lane.count is None or not self._varies(place) or not self._stride_one(place):
            return False
        if not isinstance(extent, int) or not isinstance(self.lane.count, int):
            return self.builder.is_below(self._start(place) + self.lane.count - 1, extent)
        past = interval(self.builder.simplify(self._start(place) + self.lane.count - extent), self.builder.bounds)
        return past is not None and past[1] is not None and past[1] <= 0

    def _stride_one(self, place: Dim) -> bool:
        assert self.lane.name is not None
        return linear_coefficient(place, self.lane.name) == 1

    def _is_loop_of(self, place: Dim, extent: Dim) -> bool:
        """Whether `place` is a loop over exactly `extent`, symbolic or not."""
        return self.builder.extent_of(place) == extent

    def _reduce(self, scalar: Reduce) -> Expr:
        if scalar.counts:
            return self._reduce_counted(scalar)
        extents = [substitute(axis.extent, self.scope.axes) for axis in scalar.axes]
        vector_axis = self._vector_axis(scalar)
        if vector_axis is not None:
            return self._reduce_along(scalar, vector_axis)
        total = product(extents)
        if isinstance(total, int) and total <= UNROLL_REDUCTION and total * self._size(scalar.body) <= UNROLLED_SCALARS:
            return self._unrolled(scalar, [int(e) for e in extents if isinstance(e, int)])
        lanes = self.lane.lanes
        register = self._register(scalar, lanes)
        self._loops(scalar, list(zip(scalar.axes, extents, strict=True)), register, {})
        return self._finish(scalar, register.value)

    def _size(self, scalar: Scalar) -> int:
        """How many scalars there are to compute anew."""
        seen, stack = set[int](), [scalar]
        while stack:
            node = stack.pop()
            if id(node) not in seen and id(node) not in self.scope.values:
                seen.add(id(node))
                stack += children(node)
        return len(seen)

    def _reduce_counted(self, scalar: Reduce) -> Expr:
        """A reduction over as many elements as the data says, the same number on all lanes."""
        extents: list[Dim] = []
        for axis, count in zip(scalar.axes, scalar.counts, strict=True):
            value = self.visit(count)
            assert lanes_of(value) == 1, "lanes differ in how far they reduce"
            limit = axis.extent
            assert isinstance(limit, int), f"{axis} has no bound"
            bounded = T.max(T.min(value, T.int64(limit)), T.int64(0))
            extents.append(self.builder.name_value(bounded, 0, limit, "count"))
        register = self._register(scalar, self.lane.lanes)
        self._loops(scalar, list(zip(scalar.axes, extents, strict=True)), register, {})
        return self._finish(scalar, register.value)

    def _arg_reduce(self, scalar: ArgReduce) -> Expr:
        """Walks the axis with the best element so far and its position, on every lane."""
        extent = substitute(scalar.axis.extent, self.scope.axes)
        lanes = self.reduction_lanes(scalar.body)
        if self.lane.name is None and isinstance(extent, int) and 2 * lanes <= extent < 1 << 31:
            pending = any(isinstance(n, Reduce) and id(n) not in self.scope.values for n in walk(scalar.body))
            if lanes > 1 and scalar.body.dtype.kind != "bool" and not pending:
                return self._arg_reduce_along(scalar, extent, lanes)
        leader = self._leader(scalar, self.lane.lanes, "int64")
        with self.builder.serial(extent, "r") as index:
            inner = _Rendering(self.renderer, self.lane, self.scope.inner({scalar.axis.name: index}), self.guard)
            self._challenge(scalar, leader, inner.visit(scalar.body), self.builder.index(index))
        return leader[1].value

    def _leader(self, scalar: ArgReduce, lanes: int, positions: str) -> tuple[Register, Register]:
        """Registers of the best element so far, which any beats or equals, and of its position."""
        dtype = element_types.compute_dtype(scalar.body.dtype)
        best = self.builder.accumulator(lanes, "uint8" if dtype.kind == "bool" else dtype.name)
        start = REDUCE_IDENTITY["max" if scalar.op == "argmax" else "min"](dtype)
        best.value = broadcast(element_types.to_storage(element_types.constant(start, dtype), dtype), lanes)
        position = self.builder.accumulator(lanes, positions)
        position.value = broadcast(T.IntImm(positions, 0), lanes)
        return best, position

    def _challenge(self, scalar: ArgReduce, leader: tuple[Register, Register], value: Expr, index: Expr) -> None:
        """Lets elements at `index` take the lead where they beat it."""
        best, position = leader
        dtype = element_types.compute_dtype(scalar.body.dtype)
        stored = broadcast(bind(element_types.to_storage(value, dtype)), best.lanes)
        better = self._beats(scalar, stored, best.value, dtype.is_float)
        # Both are chosen before either changes: the choice depends on the leader.
        place = bind(T.Select(better, broadcast(index, best.lanes), position.value))
        best.value = T.Select(better, stored, best.value)
        position.value = place

    def _arg_reduce_along(self, scalar: ArgReduce, extent: int, lanes: int) -> Expr:
        """Leaders on the lanes of several vectors along the axis, the best of which is found at the end."""
        vectors, tail = divmod(extent, lanes)
        ways = 4 if vectors >= 8 else 1
        leaders = [self._leader(scalar, lanes, "int32") for _ in range(ways)]

        def step(start: Dim, way: int) -> None:
            with self.builder.lanes(lanes) as name:
                scope = self.scope.inner({scalar.axis.name: start + symbol(name)})
                value = _Rendering(self.renderer, Lane(name, lanes), scope, None).visit(scalar.body)
                self._challenge(scalar, leaders[way], value, T.Cast("int32", self.builder.index(start)))

        with self.builder.serial(vectors // ways, "v") as vector:
            for way in range(ways):
                step((vector * ways + way) * lanes, way)
        for way in range(vectors % ways):
            step((vectors // ways * ways + way) * lanes, way)
        numbers = self.builder.lane_numbers(lanes)
        found = [(best.value, bind(T.Cast(f"int64x{lanes}", at.value) + numbers)) for best, at in leaders]
        value, place = found[0]
        for other in found[1:]:
            value, place = self._winner(scalar, (value, place), other)
        while lanes > 1:
            halves = []
            for whole in (value, place):
                register = Register(lanes, str(whole.ty).partition("x")[0])
                register.value = whole
                halves.append((register.part(0, lanes // 2), register.part(lanes // 2, lanes // 2)))
            lanes //= 2
            value, place = self._winner(scalar, (halves[0][0], halves[1][0]), (halves[0][1], halves[1][1]))
        leader = self._leader(scalar, 1, "int64")
        leader[0].value, leader[1].value = value, place
        with self.builder.serial(tail, "r") as rest:
            index = rest + (extent - tail)
            inner = _Rendering(self.renderer, self.lane, self.scope.inner({scalar.axis.name: index}), None)
            self._challenge(scalar, leader, inner.visit(scalar.body), self.builder.index(index))
        return leader[1].value

    @staticmethod
    def _winner(scalar: ArgReduce, left: tuple[Expr, Expr], right: tuple[Expr, Expr]) -> tuple[Expr, Expr]:
        """The better of two elements and its position, lane by lane; of equal ones the first, or the last."""
        (a, at), (b, place) = ((bind(value), bind(position)) for value, position in (left, right))
        better, equal = b > a if scalar.op == "argmax" else b < a, T.EQ(a, b)
        if element_types.compute_dtype(scalar.body.dtype).is_float:
            missing, other = element_types.isnan(b), element_types.isnan(a)
            better, equal = T.Or(better, T.And(missing, T.Not(other))), T.Or(equal, T.And(missing, other))
        chosen = T.Or(better, T.And(equal, place > at if scalar.last else place < at))
        return bind(T.Select(chosen, b, a)), bind(T.Select(chosen, place, at))

    @staticmethod
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

    def _vector_axis(self, scalar: Reduce) -> Axis | None:
        """The reduction axis to vectorize along: where the result has no lane and loads are contiguous."""
        if self.lane.name is not None or scalar.dtype.kind == "bool":
            return None
        axis = scalar.axes[-1]
        extent = axis.extent
        if not isinstance(extent, int) or extent < 2 * self.reduction_lanes(scalar):
            return None
        if any(isinstance(node, Reduce) and id(node) not in self.scope.values for node in walk(scalar.body)):
            return None
        return axis

    def reduction_lanes(self, scalar: Scalar) -> int:
        """Lanes in which a reduction of this type accumulates."""
        return max(1, self.builder.vector_bytes // max(element_types.compute_dtype(scalar.dtype).itemsize, 1))

    def _register(self, scalar: Reduce, lanes: int) -> Register:
        dtype = element_types.compute_dtype(scalar.dtype)
        name = "uint8" if dtype.kind == "bool" else dtype.name
        register = self.builder.accumulator(lanes, name)
        identity = element_types.constant(REDUCE_IDENTITY[scalar.op](dtype), dtype)
        register.value = broadcast(element_types.to_storage(identity, dtype), lanes)
        return register

    def _finish(self, scalar: Reduce, value: Expr) -> Expr:
        return element_types.from_storage(value, scalar.dtype) if scalar.dtype.kind == "bool" else value

    def _loops(
        self, scalar: Reduce, axes: Sequence[tuple[Axis, Dim]], register: Register, bound: dict[str, Dim]
    ) -> None:
        if axes:
            axis, extent = axes[0]
            with self.builder.serial(extent, "r") as index:
                self._loops(scalar, axes[1:], register, {**bound, axis.name: index})
            return
        inner = _Rendering(self.renderer, self.lane, self.scope.inner(bound), self.guard)
        self._accumulate(scalar, register, inner.visit(scalar.body), self.lane)

    def _accumulate(self, scalar: Reduce, register: Register, value: Expr, lane: Lane) -> None:
        dtype = element_types.compute_dtype(scalar.dtype)
        held = element_types.from_storage(register.value, dtype) if dtype.kind == "bool" else register.value
        combined = scalar_ops.apply(_COMBINE[scalar.op], dtype, [broadcast(value, register.lanes), held])
        if lane.count is not None and lane is not self.lane:
            mask = self.builder.first_lanes(lane.count, register.lanes)
            combined = T.Select(mask, bind(combined), held)
        register.value = element_types.to_storage(combined, dtype) if dtype.kind == "bool" else combined

    def _unrolled(self, scalar: Reduce, extents: Sequence[int]) -> Expr:
        result: Expr | None = None
        for position in range(math.prod(extents)):
            bound: dict[str, Dim] = {}
            rest = position
            for axis, extent in zip(reversed(scalar.axes), reversed(extents), strict=True):
                rest, bound[axis.name] = divmod(rest, extent)
            inner = _Rendering(self.renderer, self.lane, self.scope.inner(bound), self.guard)
            value = inner.visit(scalar.body)
            result = value if result is None else scalar_ops.apply(_COMBINE[scalar.op], scalar.dtype, [value, result])
            result = bind(result)
        if result is None:
            return element_types.constant(REDUCE_IDENTITY[scalar.op](scalar.dtype), scalar.dtype)
        return result

    def _reduce_along(self, scalar: Reduce, axis: Axis) -> Expr:
        """Partial results on each lane of several registers, folded at the end (pairwise: also more accurate)."""
        lanes = self.reduction_lanes(scalar)
        extent = axis.extent
        assert isinstance(extent, int)
        vectors, tail = divmod(extent, lanes)
        ways = 4 if vectors >= 8 else 1
        registers = [self._register(scalar, lanes) for _ in range(ways)]
        others = [a for a in scalar.axes if a is not axis]

        def nest(axes: Sequence[Axis], bound: dict[str, Dim]) -> None:
            if axes:
                with self.builder.serial(substitute(axes[0].extent, self.scope.axes), "r") as index:
                    nest(axes[1:], {**bound, axes[0].name: index})
                return
            with self.builder.serial(vectors // ways, "v") as vector:
                for way in range(ways):
                    step(bound, (vector * ways + way) * lanes, registers[way], None)
            for way in range(vectors % ways):
                step(bound, (vectors // ways * ways + way) * lanes, registers[way], None)
            if tail:
                step(bound, vectors * lanes, registers[0], tail)

        def step(bound: dict[str, Dim], start: Dim, register: Register, count: int | None) -> None:
            with self.builder.lanes(lanes) as name:
                lane = Lane(name, lanes, count)
                scope = self.scope.inner({**bound, axis.name: start + symbol(name)})
                self._accumulate(
                    scalar, register, _Rendering(self.renderer, lane, scope, None).visit(scalar.body), lane
                )

        nest(others, {})
        dtype = element_types.compute_dtype(scalar.dtype)

        def combine(left: Expr, right: Expr) -> Expr:
            return bind(scalar_ops.apply(_COMBINE[scalar.op], dtype, [left, right]))

        value = registers[0].value
        for register in registers[1:]:
            value = combine(value, register.value)
        return horizontal(value, combine)


def _stored_extent(type_: TensorType, axis: int, extent: Dim) -> Dim:
    """Extent up to which storage can be read: lanes that fill the last block exist, whatever they hold."""
    layout = type_.layout
    if axis != layout.blocked_axis or not isinstance(extent, int):
        return extent
    return -(-extent // layout.block) * layout.block
