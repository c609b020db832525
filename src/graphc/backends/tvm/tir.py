"""Writing one kernel in TVM's TIR: pointers, loops and vectors, with index arithmetic done in `graphc.ir.symbolic`.

Loop variables are named symbols with known bounds, so a template writes offsets as plain integer expressions
(`(c // 16) * stride + c % 16`) and they arrive in TIR already simplified. Vectors are explicit: `lanes` consecutive
elements from an offset, or elements at a constant stride, with a mask on the tail.

The kernel's C signature is `int32_t symbol(const int64_t *dims, void *a0, ..., void *aN)`. Pointers are only assumed
to have their element's natural alignment, and not to alias each other.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from typing import Any

import tvm
from tvm.script.ir_builder import IRBuilder
from tvm.tirx.script.builder import ir as T

from graphc.ir.dtypes import DType
from graphc.ir.symbolic import (
    Atom,
    Dim,
    is_natural,
    linear_coefficient,
    maximum,
    minimum,
    simplify,
    substitute,
    symbol,
    symbols,
)

Expr = Any
"""A TIR expression, scalar or vector."""

UNBOUNDED = 1 << 40
"""Declared extent of operand buffers: the kernel, not TVM, answers for offsets."""


def stored_dtype(dtype: DType) -> str:
    """TIR's name of the storage of an element type: what no register computes with is an unsigned integer."""
    if dtype.kind == "complex":
        return "uint64"
    opaque = dtype.kind == "bool" or dtype.bits < 8 or (dtype.is_float and dtype.bits < 32)
    return f"uint{8 * dtype.itemsize}" if opaque else dtype.name


class KernelBuilder:
    """Builds one kernel function; use as a context manager, then read `function`.

    Args:
        name: C symbol.
        operands: Element type of each pointer argument.
        dims: Symbols read from the int64 table, in the table's order.
        bounds: Inclusive bounds of those symbols.
        vector_bytes: Width of the target's vector registers.
    """

    def __init__(
        self,
        name: str,
        operands: Sequence[DType],
        *,
        vector_bytes: int,
        dims: Sequence[str] = (),
        bounds: Mapping[str, tuple[int, int | None]] | None = None,
    ) -> None:
        self.name = name
        self.vector_bytes = vector_bytes
        self.bounds: dict[str, tuple[int, int | None]] = dict(bounds or {})
        self.function: Any = None
        self._operands = tuple(operands)
        self._dims = tuple(dims)
        self._variables: dict[str, Expr] = {}
        self._extents: dict[str, Dim] = {}
        self._stack = ExitStack()
        self._names = 0
        self.buffers: list[Any] = []

    def __enter__(self) -> KernelBuilder:
        self._builder = IRBuilder()
        self._stack.enter_context(self._builder)
        self._body = ExitStack()
        self._body.enter_context(T.prim_func(is_private=False, s_tir=True))
        T.func_name(self.name)
        T.func_attr({"tirx.noalias": True, "calling_conv": 1, "global_symbol": self.name})
        T.func_ret(tvm.ir.PrimType("int32"))
        table = T.arg("dims", T.ptr("int64"))
        pointers = [T.arg(f"a{i}", T.ptr(stored_dtype(d))) for i, d in enumerate(self._operands)]
        if self._dims:
            dims = T.decl_buffer((len(self._dims),), "int64", data=table, align=8)
            for position, name in enumerate(self._dims):
                self._variables[name] = T.bind(dims[position])
                self.bounds.setdefault(name, (0, None))
        for pointer, dtype in zip(pointers, self._operands, strict=True):
            name = stored_dtype(dtype)
            buffer = T.decl_buffer((T.int64(UNBOUNDED),), name, data=pointer, align=min(dtype.itemsize, 8))
            self.buffers.append(buffer)
        return self

    def __exit__(self, kind: type[BaseException] | None, value: BaseException | None, trace: Any) -> None:
        if kind is None:
            T.Return(T.int32(0))
            self._body.close()
            self.function = self._builder.get()
            self._stack.close()
        else:
            self._body.__exit__(kind, value, trace)
            self._stack.__exit__(kind, value, trace)

    def fresh(self, base: str) -> str:
        """A symbol name not used before in this kernel."""
        self._names += 1
        return f"{base}%{self._names}"

    def index(self, value: Dim) -> Expr:
        """An integer expression over loop symbols as an int64 scalar of TIR."""
        if isinstance(value, int):
            return T.int64(value)
        total = None
        for monomial, coefficient in value.terms:
            term = T.int64(coefficient) if coefficient != 1 or not monomial else None
            for atom in monomial:
                factor = self._atom(atom)
                term = factor if term is None else _combine(lambda a, b: a * b, term, factor)
            total = term if total is None else _combine(lambda a, b: a + b, total, term)
        return T.int64(0) if total is None else total

    def _atom(self, atom: Atom) -> Expr:
        if atom.op == "symbol":
            return self._variables[atom.name]
        functions = {"min": T.min, "max": T.max, "floordiv": T.floordiv, "mod": T.floormod}
        return _combine(functions[atom.op], *(self.index(argument) for argument in atom.arguments))

    def simplify(self, value: Dim) -> Dim:
        """`value` simplified under the bounds of the symbols in scope."""
        return simplify(value, self.bounds)

    @contextmanager
    def serial(self, extent: Dim, name: str = "i") -> Iterator[Dim]:
        """A loop over `0 <= i < extent`; an extent of 1 makes no loop and yields 0."""
        with self._loop(T.serial, extent, name) as variable:
            yield variable

    @contextmanager
    def parallel(self, extent: Dim, name: str = "p", *, enable: bool = True) -> Iterator[Dim]:
        """A loop whose iterations the thread pool shares; serial where `enable` is false. At most one per nest."""
        with self._loop(T.parallel if enable else T.serial, extent, name) as variable:
            yield variable

    @contextmanager
    def _loop(self, kind: Any, extent: Dim, name: str) -> Iterator[Dim]:
        if extent == 1:
            yield 0
            return
        label = self.fresh(name)
        self.bounds[label] = (0, extent - 1 if isinstance(extent, int) else None)
        self._extents[label] = extent
        with kind(T.int64(0), self.index(extent)) as variable:
            self._variables[label] = variable
            yield symbol(label)
        del self._variables[label]

    @contextmanager
    def lanes(self, width: int) -> Iterator[str]:
        """Names the lane number of vectors of `width` lanes, for use in index expressions."""
        label = self.fresh("lane")
        self._variables[label] = self.lane_numbers(width)
        self.bounds[label] = (0, width - 1)
        yield label
        del self._variables[label]

    def is_vector(self, name: str) -> bool:
        """Whether a symbol stands for different values on different lanes."""
        found = self._variables.get(name)
        return found is not None and lanes_of(found) > 1

    def is_below(self, place: Dim, extent: Dim) -> bool:
        """Whether `place < extent` follows from how far the loops run that `place` is over, whatever the dimensions."""
        highest = substitute(place, {})
        for label in reversed(list(self._extents)):
            along = linear_coefficient(highest, label)
            if along is None or along < 0:
                return False
            if along > 0:
                highest = substitute(highest, {label: self._extents[label] - 1}, self.bounds)
        for label in symbols(highest) - set(self._dims):
            along, high = linear_coefficient(highest, label), self.bounds.get(label, (0, None))[1]
            if along is None or along < 0 or high is None:
                return False
            highest = substitute(highest, {label: high}, self.bounds)
        return is_natural(extent - 1 - highest, self.bounds)

    def extent_of(self, value: Dim) -> Dim | None:
        """The extent of the loop whose variable `value` is, else None."""
        return None if isinstance(value, int) else self._extents.get(str(value))

    def name_value(self, value: Expr, low: int, high: Dim | None, name: str = "g") -> Dim:
        """A symbol for an int64 scalar or vector, with inclusive bounds that the caller answers for."""
        label = self.fresh(name)
        self._variables[label] = T.bind(value)
        self.bounds[label] = (low, high if isinstance(high, int) else None)
        if high is not None and not isinstance(high, int):
            self._extents[label] = high + 1
        return symbol(label)

    def bind_index(self, value: Dim, low: int, high: Dim | None, name: str = "x") -> Dim:
        """Computes `value` once; answers a symbol for it with the bounds given.

        Quotients and extremes of open extents go through memory, as in `bind`: analyzers that follow them to their
        definitions, and relate them to every condition, take minutes.
        """
        if isinstance(value, int):
            return value
        found = self.index(value)
        if self._dims and any(atom.op != "symbol" for monomial, _ in value.terms for atom in monomial):
            register = Register(1, "int64")
            register.value = found
            found = register.value
        return self.name_value(found, low, high, name)

    @contextmanager
    def when(self, condition: Expr) -> Iterator[None]:
        """Statements that run only where a scalar condition holds."""
        with T.If(condition), T.Then():
            yield

    def fail_unless_inside(self, index: Expr, extent: Dim) -> None:
        """Makes the kernel return a nonzero status where not `0 <= index < extent`; outside of parallel loops only."""
        zero, limit = (T.Cast(str(index.ty), bound) for bound in (T.int64(0), self.index(extent)))
        with T.Assert(T.And(index >= zero, index < limit), "index out of range"):
            T.evaluate(0)

    def load(self, operand: int, offset: Dim, lanes: int = 1, stride: int = 1, count: Dim | None = None) -> Expr:
        """Elements `offset + stride*l` of an operand for each lane, in storage type.

        Args:
            operand: Pointer argument.
            offset: Of lane 0, in elements.
            lanes: Vector width; 1 loads a scalar.
            stride: Between lanes, in elements; 0 loads one element for all.
            count: Only the first `count` lanes are read (`stride` must be 1); the others are unspecified.
        """
        buffer = self.buffers[operand]
        if lanes == 1 or stride == 0:
            return buffer[self.index(offset)]
        place = T.Ramp(self.index(offset), T.int64(stride), lanes)
        if count is None:
            return buffer[place]
        if self._operands[operand].itemsize < 4:
            if isinstance(count, int):
                return self._load_parts(operand, offset, lanes, count)
            return self._load_lanes(operand, offset, lanes, count)
        return T.masked_load(f"{buffer.dtype}x{lanes}", buffer, place, self.first_lanes(count, lanes))

    def _load_parts(self, operand: int, offset: Dim, lanes: int, count: int) -> Expr:
        """The first `count` lanes as vectors of powers of two, zeros behind them.

        AVX2 has no masked loads of 8 and 16 bits, and where their conversion follows LLVM reads past the last one.
        """
        name = stored_dtype(self._operands[operand])
        register = Register(lanes, name)
        register.value = broadcast(T.IntImm(name, 0), lanes)
        for start, size in _powers(count):
            register.set_part(start, size, self.load(operand, offset + start, size))
        return register.value

    def _load_lanes(self, operand: int, offset: Dim, lanes: int, count: Dim) -> Expr:
        """The first `count` lanes one by one, zeros behind them: as `_load_parts`, for a count that the call knows."""
        name = stored_dtype(self._operands[operand])
        register = Register(lanes, name)
        register.value = broadcast(T.IntImm(name, 0), lanes)
        with self.serial(maximum(0, minimum(lanes, count)), "lane") as number:
            register.set_lane(self.index(number), self.load(operand, offset + number))
        return register.value

    def load_masked(self, operand: int, offset: Dim, lanes: int, mask: Expr) -> Expr:
        """Consecutive elements of the lanes on which `mask` holds; the others are unspecified."""
        buffer = self.buffers[operand]
        if lanes == 1:
            return T.if_then_else(mask, buffer[self.index(offset)], T.Cast(buffer.dtype, T.int32(0)))
        place = T.Ramp(self.index(offset), T.int64(1), lanes)
        return T.masked_load(f"{buffer.dtype}x{lanes}", buffer, place, mask)

    def load_picked(self, operand: int, offset: Dim, places: Sequence[int]) -> Expr:
        """Elements `offset + place` for constant places, of which the least is 0: whole vectors, then a shuffle.

        Nothing outside of the stretch from the first to the last of them is read, which is at most two vectors long.
        """
        lanes, span = len(places), max(places) + 1
        if span == 1:
            return broadcast(self.load(operand, offset), lanes)
        if span <= lanes:
            width = 1 << (span - 1).bit_length()
            width = width if lanes % width == 0 else lanes
            vector = bind(self.load(operand, offset, width, 1, None if span == width else span))
            # A shuffle must not answer more lanes than it is given.
            return T.Shuffle([vector] * (lanes // width), list(places))
        # The second vector ends where the stretch does, and overlaps the first.
        second = span - lanes
        vectors = [self.load(operand, offset, lanes), self.load(operand, offset + second, lanes)]
        return T.Shuffle(vectors, [place if place < lanes else lanes + place - second for place in places])

    def gather(self, operand: int, offsets: Expr, lanes: int) -> Expr:
        """The elements at a vector of offsets, all of which must be readable."""
        return self.buffers[operand][broadcast(offsets, lanes)]

    def store(
        self, operand: int, value: Expr, offset: Dim, lanes: int = 1, stride: int = 1, count: Dim | None = None
    ) -> None:
        """Writes `value` to elements `offset + stride*l`; only the first `count` lanes where given."""
        buffer = self.buffers[operand]
        if lanes == 1:
            T.buffer_store(buffer, value, [self.index(offset)])
            return
        place = T.Ramp(self.index(offset), T.int64(stride), lanes)
        if count is None:
            T.buffer_store(buffer, value, [place])
        elif isinstance(count, int) and (count == 1 or self._operands[operand].itemsize < 4):
            self._store_parts(operand, value, offset, lanes, count)
        elif self._operands[operand].itemsize < 4:
            self._store_lanes(operand, value, offset, lanes, count)
        else:
            T.evaluate(T.masked_store(buffer, value, place, self.first_lanes(count, lanes)))

    def _store_parts(self, operand: int, value: Expr, offset: Dim, lanes: int, count: int) -> None:
        """Writes the first `count` lanes as vectors of powers of two, without a mask.

        AVX2 has no masked stores of 8 and 16 bits, and a masked store of one lane of a vector that was just made
        narrower is miscompiled by LLVM: it writes as many bytes as the wider element has.
        """
        register = Register(lanes, stored_dtype(self._operands[operand]))
        register.value = value
        for start, size in _powers(count):
            self.store(operand, register.part(start, size), offset + start, size)

    def _store_lanes(self, operand: int, value: Expr, offset: Dim, lanes: int, count: Dim) -> None:
        """Writes the first `count` lanes one by one: as `_store_parts`, for a count that the call knows."""
        register = Register(lanes, stored_dtype(self._operands[operand]))
        register.value = value
        with self.serial(maximum(0, minimum(lanes, count)), "lane") as number:
            self.store(operand, register.lane(self.index(number)), offset + number)

    def store_lanes(self, operand: int, value: Expr, offset: Dim, lane: str, lanes: int, count: Dim | None) -> None:
        """Writes each lane to its own place: `offset` with the lane symbol replaced by the lane's number."""
        register = Register(lanes, stored_dtype(self._operands[operand]))
        register.value = value
        for number in range(lanes):
            place = self.index(substitute(offset, {lane: number}, self.bounds))
            if count is None:
                T.buffer_store(self.buffers[operand], register.lane(number), [place])
            else:
                with self.when(T.int64(number) < self.index(count)):
                    T.buffer_store(self.buffers[operand], register.lane(number), [place])

    @staticmethod
    def choose(condition: Expr, then: Expr, otherwise: Expr) -> Expr:
        """Lane by lane, `then` where the condition holds, else `otherwise`."""
        return T.Select(condition, then, otherwise)

    def first_lanes(self, count: Dim, lanes: int) -> Expr:
        """A mask that holds on the first `count` of `lanes` lanes."""
        return self.lane_numbers(lanes) < T.Broadcast(self.index(count), lanes)

    @staticmethod
    def lane_numbers(lanes: int) -> Expr:
        """The int64 vector 0, 1, 2..."""
        return T.Ramp(T.int64(0), T.int64(1), lanes)

    def accumulator(self, lanes: int, dtype: str = "float32") -> Register:
        """A mutable register of one vector."""
        return Register(lanes, dtype)


class Register:
    """A vector that loops update; LLVM keeps it in a register as long as few enough are live."""

    def __init__(self, lanes: int, dtype: str = "float32") -> None:
        self.lanes = lanes
        # "global" is what TVM lowers to a stack slot of its own, which LLVM promotes to a register; "local" or larger
        # buffers become workspace allocations.
        self._buffer = T.alloc_buffer((lanes,), dtype, scope="global")
        self._place = [T.Ramp(0, 1, lanes)] if lanes > 1 else [0]

    @property
    def value(self) -> Expr:
        """What the register holds."""
        return self._buffer[self._place[0]]

    @value.setter
    def value(self, value: Expr) -> None:
        T.buffer_store(self._buffer, value, self._place)

    def lane(self, number: int | Expr) -> Expr:
        """One lane as a scalar."""
        return self._buffer[number]

    def set_lane(self, number: int | Expr, value: Expr) -> None:
        """Writes one lane."""
        T.buffer_store(self._buffer, value, [number])

    def part(self, start: int | Expr, lanes: int) -> Expr:
        """Consecutive lanes as a shorter vector."""
        return self._buffer[_stretch(start, lanes)]

    def set_part(self, start: int | Expr, lanes: int, value: Expr) -> None:
        """Writes consecutive lanes."""
        T.buffer_store(self._buffer, value, [_stretch(start, lanes)])


def _stretch(start: int | Expr, lanes: int) -> Expr:
    """Places from `start` on."""
    if lanes == 1:
        return start
    return T.Ramp(start, 1, lanes) if isinstance(start, int) else T.Ramp(start, T.int64(1), lanes)


def _powers(count: int) -> Iterator[tuple[int, int]]:
    """Starts and sizes of parts of `count` whose sizes are descending powers of two."""
    start = 0
    for size in (1 << bit for bit in reversed(range(count.bit_length()))):
        if count & size:
            yield start, size
            start += size


def _combine(function: Any, left: Expr, right: Expr) -> Expr:
    lanes = max(lanes_of(left), lanes_of(right))
    return function(broadcast(left, lanes), broadcast(right, lanes))


def bind(value: Expr) -> Expr:
    """Computes `value` once; answers it as a register to be read many times.

    Through a stack slot rather than a TIR variable: TVM's analyzers follow variables to their definitions, which takes
    exponential time over a deep chain of arithmetic, and stop at memory. Predicates are passed through, because TVM has
    no vectors of them in memory.
    """
    if is_bool(value):
        return value
    register = Register(lanes_of(value), str(value.ty).partition("x")[0])
    register.value = value
    return register.value


def is_bool(value: Expr) -> bool:
    """Whether a TIR value is a predicate or a vector of them."""
    return str(value.ty).startswith("bool")


def lanes_of(value: Expr) -> int:
    """Vector width of a TIR value; 1 for a scalar."""
    return int(str(value.ty).partition("x")[2] or 1) if "x" in str(value.ty) else 1


def broadcast(value: Expr, lanes: int) -> Expr:
    """`value` on every lane; a vector passes through."""
    return value if lanes == 1 or lanes_of(value) > 1 else T.Broadcast(value, lanes)


def horizontal(value: Expr, combine: Any) -> Expr:
    """Folds the lanes of a vector into a scalar, halving the width each step."""
    width = lanes_of(value)
    dtype = str(value.ty).partition("x")[0]
    while width > 1:
        register = Register(width, dtype)
        register.value = value
        width //= 2
        value = combine(register.part(0, width), register.part(width, width))
    return value
