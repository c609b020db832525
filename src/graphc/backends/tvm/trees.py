"""Decision trees (`graphc::Trees`), for many rows or few, small trees or large.

Small trees with many rows ask all their questions of a block of rows at once: the answer no takes away the leaves that
it rules out, and the first that remains is the one (C. Lucchese et al., "QuickScorer: a fast algorithm to rank
documents with additive ensembles of regression trees", 2015). That needs no branch, and no gather until the leaf.

Else several walks go down side by side, so that one waits for its node while the others compute: rows of one tree, or,
of fewer rows, several trees.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from tvm.tirx.script.builder import ir as T

from graphc.backends.base import Kernel
from graphc.backends.tvm import element_types, scalar_ops
from graphc.backends.tvm.assemble import build_kernel
from graphc.backends.tvm.tasks import Chunks, only
from graphc.backends.tvm.tir import Expr, KernelBuilder, Register, bind, broadcast, lanes_of
from graphc.errors import BackendError
from graphc.ir import Dim, Graph, dtypes
from graphc.ir.dtypes import DType
from graphc.ir.symbolic import minimum
from graphc.ops.expr import highest, lowest
from graphc.target import Target

PARALLEL_WALKS = 256
"""Walks down a tree from which threads share the work."""

GROUPS = 4
"""Vectors of rows that see a node together."""

WALKS = 8
"""Walks that go side by side."""

_X, _ROOTS, _FEATURES, _THRESHOLDS, _RECORDS, _MISSING, _KEPT, _INNER, _LEAVES, _WEIGHTS, _TARGETS = range(11)


@dataclass(frozen=True)
class _Plan:
    """Everything that decides the code.

    Args:
        dtype: Of the data.
        rows: Rows of the data.
        columns: Its features.
        trees: How many there are.
        nodes: Inner nodes and leaves.
        leaves: Leaves.
        width: Weights of a leaf.
        targets: Columns of the result.
        aggregate: `sum`, `min` or `max`.
        missing: Whether NaN may go the way of "at most".
        by_bits: Whether all questions are asked at once.
        lanes: Rows of a vector.
        block: Rows of a task.
        chunks: How threads share the blocks.
    """

    dtype: DType
    rows: int
    columns: int
    trees: int
    nodes: int
    leaves: int
    width: int
    targets: int
    aggregate: str
    missing: bool
    by_bits: bool
    lanes: int
    block: int
    chunks: Chunks


def lower(body: Graph, target: Target, constants: frozenset[int], options: Mapping[str, Any]) -> Kernel:
    """The kernel of a Trees node.

    Raises:
        BackendError: An input that is not the data has only one element, which leaves nothing to walk.
    """
    node = body.outputs[0].producer
    assert node is not None, "the table of operators gives whole nodes"
    kinds = [None if value is None else value.tensor_type for value in node.inputs]
    x, features, weights = kinds[_X], kinds[_FEATURES], kinds[_WEIGHTS]
    roots, found = kinds[_ROOTS], node.output.tensor_type
    assert x and features and weights and roots, "type inference saw all inputs"
    rows, columns = x.static_shape
    lanes = target.vector_bytes // dtypes.UINT64.itemsize
    by_bits = bool(node.int_attribute("small", 0)) and rows >= lanes
    block = min(lanes * GROUPS, -(-rows // lanes) * lanes) if by_bits else WALKS
    blocks = -(-rows // block)
    shared = rows * roots.static_shape[0] >= PARALLEL_WALKS and blocks > 1
    per_chunk = -(-blocks // min(blocks, 4 * target.cores)) if shared else max(blocks, 1)
    plan = _Plan(
        dtype=x.dtype,
        rows=rows,
        columns=columns,
        trees=roots.static_shape[0],
        nodes=features.static_shape[0],
        leaves=weights.static_shape[0],
        width=weights.static_shape[1],
        targets=found.static_shape[1],
        aggregate=node.str_attribute("aggregate", "sum"),
        missing=bool(node.int_attribute("missing", 0)),
        by_bits=by_bits,
        lanes=lanes,
        block=block,
        chunks=Chunks(blocks, per_chunk, shared),
    )
    reads = [_X, _MISSING, _WEIGHTS, _TARGETS]
    reads += [_FEATURES, _THRESHOLDS, _KEPT, _INNER, _LEAVES] if by_bits else [_ROOTS, _RECORDS]
    operands = {number: node.inputs[number] for number in reads}
    places = {number: body.inputs.index(value) for number, value in operands.items() if value in body.inputs}
    if len(places) < len(operands):
        raise BackendError("a table of one element", nodes=node.origins)

    def emit(builder: KernelBuilder) -> None:
        if plan.chunks.count and plan.trees:
            pointers = {number: position for position, number in enumerate(reads)}
            (_ByBits if by_bits else _Walk)(builder, plan, pointers, len(reads)).emit()

    # Totals of the rows of a block, and for bits the block's data turned over.
    scratch = [plan.chunks.count * block * extent * x.dtype.itemsize for extent in (plan.targets, columns)]
    scratch = scratch if by_bits else scratch[:1]
    return build_kernel(
        "trees",
        body,
        target,
        [plan],
        emit,
        flops=rows * (plan.nodes if by_bits else plan.trees * node.int_attribute("depth", 0)),
        schedule={"by": "bits" if by_bits else "walks", "rows": block},
        reads=[places[number] for number in reads],
        workspaces=scratch,
        workspace_types=[x.dtype] * len(scratch),
    )


class _Kernel(ABC):
    """What both ways share: reading tables, aggregating, the loop over blocks of rows."""

    def __init__(self, builder: KernelBuilder, plan: _Plan, pointers: Mapping[int, int], output: int) -> None:
        self.builder = builder
        self.plan = plan
        self.pointers = pointers
        self.output = output

    def emit(self) -> None:
        """All rows, block by block."""
        with self.plan.chunks.each(self.builder) as (chunk, block):
            self.block(chunk, block)

    @abstractmethod
    def block(self, chunk: Dim, block: Dim) -> None:
        """One block of rows."""

    def table(self, number: int, place: Dim) -> Expr:
        """One element of a table."""
        return self.builder.load(self.pointers[number], place)

    def index(self, number: int, place: Dim, extent: int) -> Dim:
        """One element of a table of places, all of which are less than `extent`."""
        return self.builder.name_value(T.Cast("int64", self.table(number, place)), 0, max(extent - 1, 0), "at")

    @property
    def neutral(self) -> Expr:
        """What no weight changes."""
        dtype, aggregate = self.plan.dtype, self.plan.aggregate
        start = {"sum": 0, "min": highest(dtype), "max": lowest(dtype)}[aggregate]
        return element_types.constant(start, dtype)

    def combine(self, held: Expr, weight: Expr) -> Expr:
        """The aggregate with one more weight."""
        op = {"sum": "add", "min": "min", "max": "max"}[self.plan.aggregate]
        return bind(scalar_ops.apply(op, self.plan.dtype, [held, weight]))

    def at_most(self, value: Expr, threshold: Expr, node: Dim) -> Expr:
        """Whether values are at most the threshold of a node, or missing where it takes that for yes."""
        found = value <= threshold
        if not self.plan.missing:
            return found
        lanes = lanes_of(value)
        flag = T.NE(self.table(_MISSING, node), T.uint8(0))
        return T.Or(found, T.And(element_types.isnan(value), broadcast(flag, lanes)))


class _ByBits(_Kernel):
    """All questions of a tree at once, of a block of rows whose features lie side by side."""

    def block(self, chunk: Dim, block: Dim) -> None:
        builder, plan = self.builder, self.plan
        size, lanes = plan.block, plan.lanes
        sums, turned = self.output + 1, self.output + 2
        columns, totals = chunk * (size * plan.columns), chunk * (size * plan.targets)
        first = block * size
        even = plan.rows % size == 0
        count: Dim = size if even else builder.bind_index(minimum(size, plan.rows - first), 1, size)
        with builder.serial(plan.columns, "f") as feature, builder.serial(size, "r") as row:
            # Rows after the last are copies of it: what they answer is not written.
            place = row if even else minimum(row, count - 1)
            value = builder.load(0, (first + place) * plan.columns + feature)
            builder.store(turned, value, columns + feature * size + row)
        with builder.serial(plan.targets * size // lanes, "v") as vector:
            builder.store(sums, broadcast(self.neutral, lanes), totals + vector * lanes, lanes)
        groups = size // lanes
        remaining = [builder.accumulator(lanes, "uint64") for _ in range(groups)]
        ones = element_types.number((1 << 64) - 1, dtypes.UINT64, lanes)
        with builder.serial(plan.trees, "tree") as tree:
            for register in remaining:
                register.value = ones
            begin = self.index(_INNER, tree, plan.nodes)
            length = self.builder.name_value(self.table(_INNER, tree + 1), 0, plan.nodes, "end") - begin
            self._ask(begin, length, columns, remaining)
            target = self.index(_TARGETS, tree, plan.targets)
            leaf = self.table(_LEAVES, tree)
            for group, register in enumerate(remaining):
                lowest_bit = T.call_llvm_pure_intrin(f"uint64x{lanes}", "llvm.cttz", register.value, T.boolean(True))
                rows = bind(T.Cast(f"int64x{lanes}", lowest_bit) + broadcast(T.Cast("int64", leaf), lanes))
                for column in range(plan.width):
                    places = rows * broadcast(T.int64(plan.width), lanes) + broadcast(T.int64(column), lanes)
                    weight = builder.gather(self.pointers[_WEIGHTS], places, lanes)
                    at = totals + (target + column) * size + group * lanes
                    builder.store(sums, self.combine(bind(builder.load(sums, at, lanes)), weight), at, lanes)
        with builder.serial(count, "r") as row, builder.serial(plan.targets, "t") as target:
            total = builder.load(sums, totals + target * size + row)
            builder.store(self.output, total, (first + row) * plan.targets + target)

    def _ask(self, begin: Dim, length: Dim, columns: Dim, remaining: Sequence[Register]) -> None:
        """Takes away the leaves that the answers no of one tree's nodes rule out."""
        builder, plan = self.builder, self.plan
        lanes = plan.lanes
        with builder.serial(length, "n") as number:
            node = builder.bind_index(begin + number, 0, plan.nodes - 1)
            feature = self.index(_FEATURES, node, plan.columns)
            threshold = broadcast(bind(self.table(_THRESHOLDS, node)), lanes)
            kept = broadcast(bind(self.table(_KEPT, node)), lanes)
            for group, register in enumerate(remaining):
                value = bind(builder.load(self.output + 2, columns + feature * plan.block + group * lanes, lanes))
                left = T.bitwise_and(register.value, kept)
                register.value = T.Select(self.at_most(value, threshold, node), register.value, left)


class _Walk(_Kernel):
    """Several walks side by side: rows of one tree, or trees for one row."""

    def block(self, chunk: Dim, block: Dim) -> None:
        builder, plan = self.builder, self.plan
        size = plan.block
        first = block * size
        totals = chunk * (size * plan.targets)
        with builder.serial(plan.targets * size, "t") as place:
            builder.store(self.output + 1, self.neutral, totals + place)
        whole, rest = divmod(plan.rows, size)
        if whole:
            with only(builder, block, plan.chunks.tasks, below=whole), builder.serial(plan.trees, "tree") as tree:
                self._walk([(first + r, tree) for r in range(size)], [totals + r for r in range(size)])
        if rest:
            with only(builder, block, plan.chunks.tasks, last=True), builder.serial(rest, "r") as row:
                self._row(first + row, totals + row)
        count: Dim = builder.bind_index(minimum(size, plan.rows - first), 1, size) if rest else size
        with builder.serial(count, "r") as row, builder.serial(plan.targets, "t") as target:
            total = builder.load(self.output + 1, totals + target * size + row)
            builder.store(self.output, total, (first + row) * plan.targets + target)

    def _row(self, row: Dim, total: Dim) -> None:
        """All trees for one row."""
        groups, rest = divmod(self.plan.trees, WALKS)
        with self.builder.serial(groups, "tree") as group:
            self._walk([(row, group * WALKS + t) for t in range(WALKS)], [total] * WALKS)
        if rest:
            self._walk([(row, groups * WALKS + t) for t in range(rest)], [total] * rest)

    @property
    def bits(self) -> Sequence[int]:
        """Numbers of the words in which a threshold lies, from the lowest on."""
        return range(self.plan.dtype.itemsize // 4)

    def _threshold(self, place: Dim) -> Expr:
        """A threshold from its bits."""
        words = [self.table(_RECORDS, place + number) for number in self.bits]
        if len(words) == 1:
            return bind(T.reinterpret(self.plan.dtype.name, words[0]))
        low, high = (T.Cast("uint64", T.reinterpret("uint32", word)) for word in words)
        both = T.bitwise_or(T.shift_left(high, T.uint64(32)), low)
        return bind(T.reinterpret(self.plan.dtype.name, bind(both)))

    def _walk(self, pairs: Sequence[tuple[Dim, Dim]], totals: Sequence[Dim]) -> None:
        """Goes down for each pair of a row and a tree, and adds what is found to the totals."""
        builder, plan = self.builder, self.plan
        places = [builder.accumulator(1, "int32") for _ in pairs]
        for register, (_, tree) in zip(places, pairs, strict=True):
            register.value = self.table(_ROOTS, tree)
        moved = builder.accumulator(1, "int32")
        moved.value = T.int32(1)
        with T.While(T.NE(moved.value, T.int32(0))):
            moved.value = T.int32(0)
            for register, (row, _) in zip(places, pairs, strict=True):
                node = builder.name_value(T.Cast("int64", register.value), 0, plan.nodes - 1, "node")
                record = node * (3 + len(self.bits))
                feature = self.index(_RECORDS, record + 2, plan.columns)
                value = bind(builder.load(0, row * plan.columns + feature))
                yes = self.at_most(value, self._threshold(record + 3), node)
                side = builder.name_value(T.Select(yes, T.int64(1), T.int64(0)), 0, 1, "side")
                child = bind(self.table(_RECORDS, record + side))
                moved.value = T.bitwise_or(moved.value, T.bitwise_xor(child, register.value))
                register.value = child
        for register, (_, tree), total in zip(places, pairs, totals, strict=True):
            leaf = builder.name_value(
                T.Cast("int64", register.value) - T.int64(plan.nodes - plan.leaves), 0, plan.leaves - 1, "leaf"
            )
            target = self.index(_TARGETS, tree, plan.targets)
            for column in range(plan.width):
                weight = bind(self.table(_WEIGHTS, leaf * plan.width + column))
                at = total + (target + column) * plan.block
                builder.store(self.output + 1, self.combine(bind(builder.load(self.output + 1, at)), weight), at)
