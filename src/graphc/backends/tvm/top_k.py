"""TopK: the best elements along an axis, best first, and their places.

Few of many are selected: records that beat the worst of the best so far are collected in a small buffer, which is
sorted and cut whenever it is full. A vector of elements that holds none costs one comparison, and most of them hold
none. Where most of an axis is wanted all of it is sorted. Long axes that are fewer than threads are cut into parts.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from math import prod
from typing import Any

from tvm.tirx.script.builder import ir as T

from graphc.backends.base import Kernel
from graphc.backends.extents import bound
from graphc.backends.tvm.assemble import build_kernel
from graphc.backends.tvm.records import MOST_PLACES, Records, key_bits, sort_key, word_count
from graphc.backends.tvm.sorting import DIGITS, sort_by_digits, sort_network
from graphc.backends.tvm.tasks import Chunks
from graphc.backends.tvm.tir import Expr, KernelBuilder, Register, bind, broadcast
from graphc.errors import BackendError
from graphc.ir import Dim, Graph, dtypes
from graphc.ir.dtypes import DType
from graphc.ir.symbolic import minimum
from graphc.target import Target

PARALLEL_ELEMENTS = 1 << 14
"""Elements from which threads share the work."""

LONG_AXIS = 1 << 15
"""Elements of an axis from which it is cut into parts, if there are fewer axes than threads."""

LARGEST_NETWORK = 1024
"""Records up to which a network beats counting digits."""

_STEP = 2
"""Vectors of elements that one comparison with the worst of the best sees."""


@dataclass(frozen=True)
class _Plan:
    """Everything that decides the code.

    Args:
        dtype: Of the elements.
        rows: How many axes there are to select from.
        length: Extent of the axis.
        inner: Elements between neighbours along the axis.
        count: How many are wanted.
        largest: Whether the largest are.
        values: Pointer argument of the values; None where nobody reads them.
        indices: Pointer argument of the places; None where nobody reads them.
        buffer: Records of the selection buffer; 0 where the whole axis is sorted by digits.
        lanes: Records of a vector.
        wide: Elements of a vector whose keys are compared.
        parts: In how many an axis is cut.
        chunks: How threads share the axes; all in one chunk where they share the parts of each.
    """

    dtype: DType
    rows: int
    length: int
    inner: int
    count: int
    largest: bool
    values: int | None
    indices: int | None
    buffer: int
    lanes: int
    wide: int
    parts: int
    chunks: Chunks

    @property
    def scratch(self) -> list[tuple[int, DType]]:
        """Bytes and element type of each workspace."""
        words, count = word_count(self.dtype), bound(self.chunks.count)
        if self.buffer:
            return [(count * self.parts * self.buffer * 8, dtypes.UINT64)] * words
        sorted_bytes = count * self.length * 8
        counters = (count * self.parts * DIGITS * 8, dtypes.INT64)
        return [(sorted_bytes, dtypes.UINT64)] * (2 * words) + [counters]


def lower(body: Graph, target: Target, constants: frozenset[int], options: Mapping[str, Any]) -> Kernel:
    """The kernel of a TopK whose count is known.

    Raises:
        BackendError: The count is not known, or the axis has more than 2^32 elements.
    """
    plan = _plan(body, target)
    reads = [
        i for i, value in enumerate(body.inputs) if value.tensor_type.rank and value.tensor_type.dtype == plan.dtype
    ]

    def emit(builder: KernelBuilder) -> None:
        if plan.rows * plan.count:
            _TopK(builder, plan).emit()

    scratch = plan.scratch if plan.rows * plan.count else []
    return build_kernel(
        "top_k",
        body,
        target,
        [plan],
        emit,
        flops=plan.rows * plan.length,
        schedule={"selection buffer": plan.buffer, "parts": plan.parts},
        reads=reads[:1],
        workspaces=[size for size, _ in scratch],
        workspace_types=[kind for _, kind in scratch],
    )


def _plan(body: Graph, target: Target) -> _Plan:
    node = body.outputs[0].producer
    assert node is not None, "the table of operators gives whole nodes"
    x, wanted = node.inputs[0], node.inputs[1]
    assert x is not None and wanted is not None, "type inference saw both inputs"
    if wanted.constant is None:
        raise BackendError("how many elements TopK selects is known only when it runs", nodes=node.origins)
    kind = x.tensor_type
    shape = kind.static_shape
    axis = node.int_attribute("axis", -1) % len(shape)
    length, inner = shape[axis], prod(shape[axis + 1 :])
    if length > MOST_PLACES:
        raise BackendError(f"an axis of {length} elements", nodes=node.origins)
    count = int(wanted.constant.array().reshape(()))
    rows = prod(shape[:axis]) * inner
    wide = target.vector_bytes // (8 if word_count(kind.dtype) == 2 else 4)
    lanes = target.vector_bytes // 8
    parallel = rows * length >= PARALLEL_ELEMENTS
    cut = parallel and rows < target.cores and length >= LONG_AXIS
    buffer = _power_of_two(max(2 * count, count + _STEP * wide, 64))
    if length <= LARGEST_NETWORK:
        buffer = min(buffer, max(_power_of_two(length), lanes))
    elif buffer > LARGEST_NETWORK or (cut and count * target.cores * 4 > length):
        buffer = 0
    chunks = Chunks(rows, rows, False)
    if parallel and not cut and rows > 1:
        chunks = Chunks(rows, -(-rows // min(rows, 4 * target.cores)), True)
    numbers = {value.index: 1 + place for place, value in enumerate(body.outputs)}
    return _Plan(
        dtype=kind.dtype,
        rows=rows,
        length=length,
        inner=inner,
        count=count,
        largest=bool(node.int_attribute("largest", 1)),
        values=numbers.get(0),
        indices=numbers.get(1),
        buffer=buffer,
        lanes=lanes,
        wide=wide,
        parts=target.cores if cut else 1,
        chunks=chunks,
    )


def _power_of_two(least: int) -> int:
    return 1 << max(least - 1, 0).bit_length()


class _TopK:
    """Writes one kernel: pointers are the input, the outputs that are read, and the workspaces."""

    def __init__(self, builder: KernelBuilder, plan: _Plan) -> None:
        self.builder = builder
        self.plan = plan
        words = word_count(plan.dtype)
        first = 1 + (plan.values is not None) + (plan.indices is not None)
        self.records = Records(builder, range(first, first + words))
        if not plan.buffer:
            self.spare = Records(builder, range(first + words, first + 2 * words))
            self.counters = first + 2 * words

    def emit(self) -> None:
        """Every axis: selected or sorted, by one thread or by all."""
        plan, builder = self.plan, self.builder
        if plan.parts > 1:
            with builder.serial(plan.rows, "row") as row:
                if plan.buffer:
                    self._select_in_parts(row)
                else:
                    self._sort(row, 0)
            return
        with plan.chunks.each(builder) as (chunk, row):
            if plan.buffer:
                base = chunk * plan.buffer
                self._select(row, 0, plan.length, base)
                self._write(row, self.records, base)
            else:
                self._sort(row, chunk)

    def _share(self, part: Callable[[Dim], None]) -> None:
        with self.builder.parallel(self.plan.parts, "part", enable=self.plan.parts > 1) as number:
            part(number)

    # --- reading and writing ------------------------------------------------------------------------------------------

    def _place(self, row: Dim, position: Dim) -> Dim:
        """Offset of an element of the input."""
        plan = self.plan
        return row // plan.inner * (plan.length * plan.inner) + row % plan.inner + position * plan.inner

    def _keys(self, row: Dim, position: Dim, lanes: int) -> Expr:
        value = bind(self.builder.load(0, self._place(row, position), lanes, self.plan.inner))
        return sort_key(value, self.plan.dtype, largest=self.plan.largest)

    def _read(self, row: Dim, position: Dim, lanes: int) -> list[Expr]:
        """Records of consecutive elements."""
        places = self.builder.index(position)
        if lanes > 1:
            places = T.Ramp(places, T.int64(1), lanes)
        return self.records.made(self._keys(row, position, lanes), places)

    def _fill(self, row: Dim, first: Dim, extent: Dim, base: Dim) -> None:
        """Writes the records of `extent` elements from position `first` on."""
        builder, lanes = self.builder, self.plan.lanes
        whole = builder.bind_index(extent // lanes, 0, None)
        with builder.serial(whole, "v") as vector:
            self.records.store(self._read(row, first + vector * lanes, lanes), base + vector * lanes, lanes)
        with builder.serial(builder.bind_index(extent - whole * lanes, 0, lanes - 1), "e") as element:
            self.records.store(self._read(row, first + whole * lanes + element, 1), base + whole * lanes + element)

    def _write(self, row: Dim, records: Records, base: Dim) -> None:
        """Writes the outputs of an axis from its first records."""
        builder, plan = self.builder, self.plan
        with builder.serial(plan.count, "k") as number:
            origin = records.place(records.load(base + number), plan.length)
            made = row // plan.inner * (plan.count * plan.inner) + row % plan.inner + number * plan.inner
            if plan.values is not None:
                builder.store(plan.values, builder.load(0, self._place(row, origin)), made)
            if plan.indices is not None:
                builder.store(plan.indices, builder.index(origin), made)

    # --- all of an axis -----------------------------------------------------------------------------------------------

    def _sort(self, row: Dim, chunk: Dim) -> None:
        plan, base = self.plan, chunk * self.plan.length
        size = -(-plan.length // plan.parts)

        def fill(part: Dim) -> None:
            extent = minimum(size, plan.length - part * size) if plan.length % plan.parts else size
            self._fill(row, part * size, extent, base + part * size)

        self._share(fill)
        found = sort_by_digits(
            self.builder,
            (self.records, self.spare),
            self.counters,
            base,
            plan.length,
            key_bits(plan.dtype),
            first_count=chunk * DIGITS,
            parts=plan.parts,
            share=self._share,
        )
        self._write(row, found, base)

    # --- few of many --------------------------------------------------------------------------------------------------

    def _select_in_parts(self, row: Dim) -> None:
        """Selects from each part on its own, then from what the parts selected."""
        builder, plan = self.builder, self.plan
        size = -(-plan.length // plan.parts)

        def select(part: Dim) -> None:
            extent = minimum(size, plan.length - part * size) if plan.length % plan.parts else size
            self._select(row, part * size, extent, part * plan.buffer)

        self._share(select)
        with builder.serial(plan.parts - 1, "part") as part:
            with builder.serial(plan.count, "k") as number:
                self.records.store(self.records.load((part + 1) * plan.buffer + number), plan.count + number)
            sort_network(builder, self.records, 0, plan.buffer, plan.lanes)
        self._write(row, self.records, 0)

    def _select(self, row: Dim, first: Dim, extent: Dim, base: Dim) -> None:
        """Leaves the best records of `extent` elements from position `first` on at `base`, sorted."""
        builder, plan, records = self.builder, self.plan, self.records
        filled = builder.bind_index(minimum(plan.buffer, extent), 0, plan.buffer)
        self._fill(row, first, filled, base)
        held = builder.accumulator(1, "int64")
        held.value = builder.index(filled)
        self._pad(base, filled)
        if isinstance(extent, int) and extent <= plan.buffer:
            sort_network(builder, records, base, plan.buffer, plan.lanes)
            return
        position = builder.accumulator(1, "int64")
        position.value = builder.index(filled)
        unsorted = builder.accumulator(1, "int32")
        unsorted.value = T.int32(1)
        worst = builder.accumulator(1, "uint64" if word_count(plan.dtype) == 2 else "uint32")
        with T.While(unsorted.value > T.int32(0)):
            sort_network(builder, records, base, plan.buffer, plan.lanes)
            held.value = T.int64(plan.count)
            worst.value = records.key(records.load(base + (plan.count - 1)))
            self._collect(row, first, extent, base, position, held, worst)
            unsorted.value = T.Select(held.value > T.int64(plan.count), T.int32(1), T.int32(0))
            with builder.when(unsorted.value > T.int32(0)):
                self._pad(base, builder.name_value(bind(held.value), 0, plan.buffer, "held"))

    def _pad(self, base: Dim, held: Dim) -> None:
        """Fills the buffer up with records that come after all others."""
        with self.builder.serial(self.plan.buffer - held, "pad") as number:
            self.records.store(self.records.worst(1), base + held + number)

    def _collect(
        self, row: Dim, first: Dim, extent: Dim, base: Dim, position: Register, held: Register, worst: Register
    ) -> None:
        """Adds records that beat the worst of the best, until the buffer is full or the elements are at an end."""
        builder, plan = self.builder, self.plan
        step = _STEP * plan.wide
        end = builder.index(extent)

        def add(place: Dim, lanes: int) -> None:
            """Adds those of `lanes` elements that are better, packed together."""
            keys = self._keys(row, place, lanes)
            free = builder.name_value(bind(held.value), 0, plan.buffer - 1, "free")
            better = keys < broadcast(worst.value, lanes)
            places = builder.index(place)
            if lanes == 1:
                self.records.store(self.records.made(keys, places), base + free)
                held.value = held.value + T.Select(better, T.int64(1), T.int64(0))
                return
            words = self.records.made(keys, T.Ramp(places, T.int64(1), lanes))
            packed = [
                T.call_llvm_pure_intrin(f"uint64x{lanes}", "llvm.experimental.vector.compress", word, better, word)
                for word in words
            ]
            self.records.store(packed, base + free, lanes)
            ones = T.Select(better, broadcast(T.int64(1), lanes), broadcast(T.int64(0), lanes))
            held.value = held.value + T.call_llvm_pure_intrin("int64", "llvm.vector.reduce.add", ones)

        room = held.value <= T.int64(plan.buffer - step)
        with T.While(T.And(position.value + T.int64(step) <= end, room)):
            place = first + builder.name_value(bind(position.value), 0, None, "at")
            better: Expr = None
            for vector in range(_STEP):
                keys = self._keys(row, place + vector * plan.wide, plan.wide)
                found = keys < broadcast(worst.value, plan.wide)
                better = found if better is None else T.Or(better, found)
            any_better = T.call_llvm_pure_intrin("bool", "llvm.vector.reduce.or", better)
            with builder.when(any_better):
                for piece in range(0, step, plan.lanes):
                    add(place + piece, plan.lanes)
            position.value = position.value + T.int64(step)
        at_end = T.And(position.value < end, position.value + T.int64(step) > end)
        with T.While(T.And(at_end, held.value < T.int64(plan.buffer))):
            add(first + builder.name_value(bind(position.value), 0, None, "at"), 1)
            position.value = position.value + T.int64(1)
