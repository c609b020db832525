"""Running sums and products along an axis.

Where the axis is the innermost, a vector is scanned in its lanes by doubling distances (W. D. Hillis, G. L. Steele,
"Data parallel algorithms", 1986) and the total so far goes from vector to vector. Along an outer axis each lane sums
its own column. Where there are fewer rows than threads, rows are cut into blocks: the blocks are summed, their sums
scanned, and each block is scanned from the sum before it (G. E. Blelloch, "Prefix sums and their applications", 1990).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Protocol, TypeAlias

from tvm.tirx.script.builder import ir as T

from graphc.backends.base import Kernel
from graphc.backends.element_types import compute_dtype
from graphc.backends.extents import bound, ceildiv
from graphc.backends.tvm import element_types, scalar_ops
from graphc.backends.tvm.assemble import build_kernel
from graphc.backends.tvm.tasks import CHUNKS_PER_CORE
from graphc.backends.tvm.tir import Expr, KernelBuilder, Register, bind, broadcast
from graphc.errors import BackendError
from graphc.ir import Dim, Graph
from graphc.ir.dtypes import DType
from graphc.ir.symbolic import minimum, product, typical
from graphc.target import Target

PARALLEL_ELEMENTS = 1 << 15
"""Elements from which threads share the work."""


@dataclass(frozen=True)
class _Plan:
    """Everything that decides the code.

    Args:
        op: `add` or `mul`.
        dtype: Of the elements.
        outer: Product of the extents before the axis.
        length: Extent of the axis.
        inner: Product of the extents after it.
        reverse: Whether it runs from the end.
        exclusive: Whether an element counts only for those after it.
        lanes: Width of a vector in the type that is computed in.
        ways: Vectors of neighbouring columns that are summed together, so that memory is read in long stretches.
        block: Elements along the axis that one task takes; all of them where rows are enough for all threads.
        parallel: Whether threads share the work.
    """

    op: str
    dtype: DType
    outer: Dim
    length: Dim
    inner: int
    reverse: bool
    exclusive: bool
    lanes: int
    ways: int
    block: Dim
    parallel: bool

    @property
    def blocks(self) -> Dim:
        """Blocks of the axis: one where its length is open."""
        return 1 if self.block == self.length else ceildiv(self.length, self.block)


_Total: TypeAlias = "Callable[[Dim, Dim], None]"
"""Sums one block of a group."""


class _Block(Protocol):
    """Scans one block of a group; from the sum before it, if it resumes."""

    def __call__(self, group: Dim, block: Dim, *, resumes: bool) -> None: ...


_Group: TypeAlias = tuple[Dim, _Total, _Block]
"""How many rows or strips of columns are alike, what sums a block of one, and what scans it."""


def lower(body: Graph, target: Target, constants: frozenset[int], options: Mapping[str, Any]) -> Kernel:
    """The kernel of a CumSum or CumProd whose axis is known.

    Raises:
        BackendError: The axis is not known.
    """
    plan = _plan(body, target)
    held = compute_dtype(plan.dtype)
    sums = plan.outer * plan.blocks * plan.inner * held.itemsize

    def emit(builder: KernelBuilder) -> None:
        if body.outputs[0].tensor_type.numel != 0:
            _Scan(builder, plan).emit()

    return build_kernel(
        "scan",
        body,
        target,
        [plan],
        emit,
        flops=body.outputs[0].tensor_type.numel,
        schedule={"blocks": plan.blocks},
        workspaces=[sums] if plan.blocks != 1 else [],
        workspace_types=[held] if plan.blocks != 1 else [],
    )


def _plan(body: Graph, target: Target) -> _Plan:
    node = body.outputs[0].producer
    assert node is not None, "the table of operators gives whole nodes"
    x, axis = node.inputs[0], node.inputs[1]
    assert x is not None and axis is not None, "type inference saw both inputs"
    if axis.constant is None:
        raise BackendError(f"the axis of {node.op} is known only when it runs", nodes=node.origins)
    kind = x.tensor_type
    shape = kind.dims
    over = int(axis.constant.array().reshape(())) % len(shape)
    outer, length, inner = product(shape[:over]), shape[over], bound(product(shape[over + 1 :]))
    lanes = target.vector_bytes // compute_dtype(kind.dtype).itemsize
    parallel = typical(outer * length * inner, body.bounds) >= PARALLEL_ELEMENTS
    ways = target.vector_registers // 2
    rows = outer * ceildiv(inner, lanes * ways)
    block = max(length, 1) if isinstance(length, int) else length
    if parallel and isinstance(rows, int) and isinstance(length, int) and rows < target.cores:
        wanted = -(-length * rows // (CHUNKS_PER_CORE * target.cores))
        block = max(-(-wanted // lanes) * lanes, 1)
    return _Plan(
        op="mul" if node.op_type == "CumProd" else "add",
        dtype=kind.dtype,
        outer=outer,
        length=length,
        inner=inner,
        reverse=bool(node.int_attribute("reverse", 0)),
        exclusive=bool(node.int_attribute("exclusive", 0)),
        lanes=lanes,
        ways=ways,
        block=block,
        parallel=parallel,
    )


class _Scan:
    """Writes one kernel: pointers are the input, the output and, where the axis is cut, the sums of blocks."""

    def __init__(self, builder: KernelBuilder, plan: _Plan) -> None:
        self.builder = builder
        self.plan = plan
        self.held = compute_dtype(plan.dtype)
        self.identity = element_types.constant(1 if plan.op == "mul" else 0, self.held)

    def emit(self) -> None:
        """Every column or row; in blocks, where there are several, with their sums found first."""
        builder, plan = self.builder, self.plan
        groups = self._groups()
        if plan.blocks == 1:
            for count, _, scan in groups:
                with builder.parallel(count, "group", enable=plan.parallel) as group:
                    scan(group, 0, resumes=False)
            return
        for count, total, _ in groups:
            with builder.parallel(count * plan.blocks, "task") as task:
                total(task // plan.blocks, task % plan.blocks)
        self._scan_sums()
        for count, _, scan in groups:
            with builder.parallel(count * plan.blocks, "task") as task:
                scan(task // plan.blocks, task % plan.blocks, resumes=True)

    def _groups(self) -> list[_Group]:
        plan = self.plan
        if plan.inner == 1:
            return [(plan.outer, self._row_total, self._row)]
        # Whole strips are alike and share one loop; what is left over has code of its own.
        whole, rest = divmod(plan.inner, plan.lanes * plan.ways)
        groups: list[_Group] = []
        if whole:
            groups.append((plan.outer * whole, *self._strip(0, plan.lanes * plan.ways, whole)))
        if rest:
            groups.append((plan.outer, *self._strip(plan.inner - rest, rest, 1)))
        return groups

    def _scan_sums(self) -> None:
        """Replaces each block's sum by the sum of those that come before it."""
        builder, plan = self.builder, self.plan
        with builder.serial(plan.outer, "o") as outer, builder.serial(plan.inner, "c") as column:
            carry = builder.accumulator(1, self.held.name)
            carry.value = self.identity
            with builder.serial(plan.blocks, "b") as step:
                block = plan.blocks - 1 - step if plan.reverse else step
                place = (outer * plan.blocks + block) * plan.inner + column
                found = bind(builder.load(2, place))
                builder.store(2, carry.value, place)
                carry.value = self._combine(carry.value, found)

    def _combine(self, left: Expr, right: Expr) -> Expr:
        return scalar_ops.apply(self.plan.op, self.held, [left, right])

    def _extent(self, block: Dim) -> Dim:
        """Elements of a block: fewer in the last one."""
        plan = self.plan
        if plan.blocks == 1:
            return plan.length
        if plan.length % plan.block == 0:
            return plan.block
        return minimum(plan.block, plan.length - block * plan.block)

    # --- along the innermost axis -------------------------------------------------------------------------------------

    def _row_total(self, group: Dim, block: Dim) -> None:
        """Sums one block of a row."""
        builder, plan = self.builder, self.plan
        sums = builder.accumulator(plan.lanes, self.held.name)
        sums.value = broadcast(self.identity, plan.lanes)
        result = builder.accumulator(1, self.held.name)
        result.value = self.identity

        def vector(place: Dim) -> None:
            sums.value = self._combine(sums.value, self._load(place, plan.lanes))

        def element(place: Dim) -> None:
            result.value = self._combine(result.value, self._load(place, 1))

        self._in_order(group, block, vector, element)
        for lane in range(plan.lanes):
            result.value = self._combine(result.value, sums.lane(lane))
        builder.store(2, result.value, group * plan.blocks + block)

    def _row(self, group: Dim, block: Dim, *, resumes: bool) -> None:
        """Scans one block of a row."""
        builder, plan = self.builder, self.plan
        carry = builder.accumulator(plan.lanes, self.held.name)
        before = builder.load(2, group * plan.blocks + block) if resumes else self.identity
        carry.value = broadcast(before, plan.lanes)
        last = 0 if plan.reverse else plan.lanes - 1

        def vector(place: Dim) -> None:
            local = self._load(place, plan.lanes)
            distance = 1
            while distance < plan.lanes:
                local = bind(self._combine(local, self._shifted(local, distance)))
                distance *= 2
            shown = self._shifted(local, 1) if plan.exclusive else local
            self._store(self._combine(shown, carry.value), place, plan.lanes)
            carry.value = self._combine(carry.value, T.Shuffle([local], [last] * plan.lanes))

        def element(place: Dim) -> None:
            held = bind(carry.lane(last))
            total = bind(self._combine(held, self._load(place, 1)))
            self._store(held if plan.exclusive else total, place, 1)
            carry.value = broadcast(total, plan.lanes)

        self._in_order(group, block, vector, element)

    def _in_order(self, row: Dim, block: Dim, vector: Callable[[Dim], None], element: Callable[[Dim], None]) -> None:
        """Visits a block of a row in the order of the scan: whole vectors, and single elements at the block's end."""
        builder, plan = self.builder, self.plan
        lanes, extent = plan.lanes, self._extent(block)
        first = builder.bind_index(row * plan.length + block * plan.block, 0, None)
        whole = builder.bind_index(extent // lanes, 0, plan.block)
        rest = builder.bind_index(extent - whole * lanes, 0, lanes - 1)

        def vectors() -> None:
            with builder.serial(whole, "v") as number:
                vector(first + (whole - 1 - number if plan.reverse else number) * lanes)

        def elements() -> None:
            with builder.serial(rest, "e") as number:
                element(first + whole * lanes + (rest - 1 - number if plan.reverse else number))

        for visit in (elements, vectors) if plan.reverse else (vectors, elements):
            visit()

    def _load(self, place: Dim, lanes: int, count: int | None = None) -> Expr:
        return bind(element_types.from_storage(self.builder.load(0, place, lanes, 1, count), self.plan.dtype))

    def _store(self, value: Expr, place: Dim, lanes: int, count: int | None = None) -> None:
        self.builder.store(1, element_types.to_storage(value, self.plan.dtype), place, lanes, 1, count)

    def _shifted(self, value: Expr, distance: int) -> Expr:
        """The lanes moved on by `distance` in the order of the scan, the identity before them."""
        lanes = self.plan.lanes
        step = distance if self.plan.reverse else -distance
        places = [lane + step if 0 <= lane + step < lanes else lanes for lane in range(lanes)]
        return bind(T.Shuffle([value, broadcast(self.identity, lanes)], places))

    # --- along an outer axis ------------------------------------------------------------------------------------------

    def _strip(self, first: int, columns: int, strips: int) -> tuple[_Total, _Block]:
        """What sums and what scans a block of `columns` neighbours, from column `first` on `strips` times in a row."""
        builder, plan = self.builder, self.plan
        lanes = plan.lanes
        counts: list[int | None] = [None] * (columns // lanes) + ([columns % lanes] if columns % lanes else [])

        def registers() -> list[Register]:
            made = [builder.accumulator(lanes, self.held.name) for _ in counts]
            for register in made:
                register.value = broadcast(self.identity, lanes)
            return made

        def place(group: Dim, row: Dim, rows: Dim, way: int) -> Dim:
            return (group // strips * rows + row) * plan.inner + group % strips * columns + first + way * lanes

        def rows(block: Dim, step: Callable[[Dim], None]) -> None:
            extent = self._extent(block)
            with builder.serial(extent, "r") as number:
                row = extent - 1 - number if plan.reverse else number
                step(builder.bind_index(block * plan.block + row, 0, plan.length - 1))

        def total(group: Dim, block: Dim) -> None:
            sums = registers()

            def step(row: Dim) -> None:
                for way, count in enumerate(counts):
                    found = self._load(place(group, row, plan.length, way), lanes, count)
                    sums[way].value = self._combine(sums[way].value, found)

            rows(block, step)
            for way, count in enumerate(counts):
                builder.store(2, sums[way].value, place(group, block, plan.blocks, way), lanes, 1, count)

        def scan(group: Dim, block: Dim, *, resumes: bool) -> None:
            sums = registers()
            if resumes:
                for way, count in enumerate(counts):
                    at = place(group, block, plan.blocks, way)
                    sums[way].value = builder.load(2, at, lanes, 1, count)

            def step(row: Dim) -> None:
                for way, count in enumerate(counts):
                    at = place(group, row, plan.length, way)
                    before = sums[way].value
                    after = bind(self._combine(before, self._load(at, lanes, count)))
                    self._store(before if plan.exclusive else after, at, lanes, count)
                    sums[way].value = after

            rows(block, step)

        return total, scan
