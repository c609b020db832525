"""Rendering tensor expressions as TIR at vector width."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

from tvm.tirx.script.builder import ir as T

from graphc.backends.element_types import is_narrow_float
from graphc.backends.tvm import element_types, scalar_ops
from graphc.backends.tvm.reductions import arg_reduce, reduce
from graphc.backends.tvm.scope import Lane, Scope
from graphc.backends.tvm.tir import Expr, KernelBuilder, bind, broadcast, is_bool, lanes_of
from graphc.errors import BackendError
from graphc.ir import Dim, TensorType
from graphc.ir.dtypes import INT64
from graphc.ir.symbolic import interval, linear_coefficient, maximum, minimum, product, substitute, symbols
from graphc.ops.expr import (
    ArgReduce,
    Call,
    Cast,
    Const,
    Index,
    IndexValue,
    Load,
    Reduce,
    Scalar,
    Select,
)


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
        if isinstance(scalar, Cast) and is_narrow_float(scalar.dtype) and id(scalar) not in scope.values:
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

    def at(self, scope: Scope) -> _Rendering:
        return _Rendering(self.renderer, self.lane, scope, self.guard)

    def along(self, lane: Lane, scope: Scope) -> _Rendering:
        return _Rendering(self.renderer, lane, scope, None)

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
                return reduce(self, scalar)
            case ArgReduce():
                return arg_reduce(self, scalar)
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


def _stored_extent(type_: TensorType, axis: int, extent: Dim) -> Dim:
    """Extent up to which storage can be read: lanes that fill the last block exist, whatever they hold."""
    layout = type_.layout
    if axis != layout.blocked_axis or not isinstance(extent, int):
        return extent
    return -(-extent // layout.block) * layout.block
