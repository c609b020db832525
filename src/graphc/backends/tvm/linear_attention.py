"""Linear attention: a state of keys by values for each head, which every step decays, corrects, adds to and reads.

The columns of a state do not know of each other. So a task takes a few vectors of columns of one head from the first
step to the last, while they stay in the nearest cache; a step passes over their rows once, or twice where it must read
the state before it knows what to write (the delta rule). The first step reads the state that is given, the last one
writes the state that is asked for, so that a single step moves nothing else.
"""

from __future__ import annotations

import functools
import math
import operator
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, TypeAlias

from graphc.backends.base import Kernel
from graphc.backends.element_types import compute_dtype
from graphc.backends.tvm import element_types, scalar_ops
from graphc.backends.tvm.assemble import build_kernel
from graphc.backends.tvm.gemm_tiles import IN_FLIGHT
from graphc.backends.tvm.loops import unravel
from graphc.backends.tvm.tasks import PARALLEL_MACS, Chunks, chunks_of, whole_and_last
from graphc.backends.tvm.tir import Expr, KernelBuilder, Register, bind, broadcast
from graphc.errors import BackendError, TypeInferenceError
from graphc.ir import Dim, Graph, Node, Value
from graphc.ir.dtypes import DType
from graphc.ops.inference import infer_node
from graphc.ops.state_space import UPDATE_RULES
from graphc.target import Target

_INPUTS = ("query", "key", "value", "past", "decay", "beta")
State: TypeAlias = Literal["past", "kept", "present"] | None
"""Where a state is: the tensors that the caller gives and asks for, or a task's workspace. None: nowhere."""

_SUMS = 16
"""Accumulators of outputs that a pass over the rows keeps in registers."""


@dataclass(frozen=True)
class Plan:
    """Sizes and cuts of a linear attention.

    Args:
        batch: Sequences.
        steps: Time steps.
        heads: Heads of keys and values.
        ratio: Heads of the query that read each of them.
        keys: Rows of a state.
        values: Columns of a state.
        decays: Decay factors of a head and step: one, or one a row; 0 for none.
        rates: Heads that the correction has rates for: all, or one for all; 0 for none.
        scale: Factor of the query.
        dtype: In which the kernel computes.
        lanes: Width of a vector.
        vectors: Vectors of columns in a panel.
        tasks: Panels of all heads and sequences, in chunks with a workspace each.
    """

    batch: int
    steps: int
    heads: int
    ratio: int
    keys: int
    values: int
    decays: int
    rates: int
    scale: float
    dtype: DType
    lanes: int
    vectors: int
    tasks: Chunks

    @property
    def cut(self) -> int:
        """Columns of a panel."""
        return self.vectors * self.lanes

    @property
    def full_panels(self) -> int:
        """Panels all of whose lanes are columns."""
        return self.values // self.cut

    @property
    def tail_vectors(self) -> int:
        """Vectors of the last panel where it is narrower or has lanes past the end; 0 where there is none."""
        return -(-self.values // self.lanes) - self.full_panels * self.vectors

    @property
    def panels(self) -> int:
        """All panels."""
        return self.full_panels + (self.tail_vectors > 0)

    @property
    def row(self) -> int:
        """Keys rounded up to whole vectors."""
        return -(-self.keys // self.lanes) * self.lanes

    @property
    def scratch(self) -> int:
        """Elements of a workspace: a panel of the state; key, decay and queries of a step."""
        return self.keys * self.cut + self.row * (2 + self.ratio)


def lower(body: Graph, target: Target, constants: frozenset[int], options: Mapping[str, Any]) -> Kernel:
    """The kernel of a body that is one LinearAttention of floats.

    Args:
        body: The LinearAttention.
        target: The CPU.
        constants: None is packed.
        options: None is read.

    Raises:
        BackendError: An extent is zero, or inputs do not fit each other; the message says which.
    """
    (node,) = (node for node in body.nodes if not node.is_op("Constant"))
    plan = _plan(node, target)
    decays, corrects = UPDATE_RULES[node.str_attribute("update_rule", "gated_delta")]
    macs = plan.batch * plan.steps * plan.heads * plan.keys * plan.values * (1 + plan.ratio + decays + corrects)
    return build_kernel(
        "linear_attention",
        body,
        target,
        [plan],
        lambda builder: _LinearAttention(builder, body, node, plan).emit(),
        flops=2 * macs,
        schedule={"columns": plan.cut, "tasks": str(plan.tasks.tasks) if plan.tasks.parallel else "serial"},
        workspaces=[plan.tasks.count * plan.scratch * plan.dtype.itemsize],
        workspace_types=[plan.dtype],
    )


def _plan(node: Node, target: Target) -> Plan:
    inputs = _inputs(node)
    query, value = inputs["query"].tensor_type, inputs["value"].tensor_type
    if not query.dtype.is_float or any(value.tensor_type.numel == 0 for value in inputs.values()):
        raise BackendError("a tensor without elements, or not of floats")
    try:
        infer_node(node)
    except TypeInferenceError as error:
        raise BackendError(error.message) from error
    batch, steps, width = query.static_shape
    heads, all_heads = node.int_attribute("kv_num_heads", 1), node.int_attribute("q_num_heads", 1)
    keys, values = width // all_heads, value.static_shape[2] // heads
    decays = inputs["decay"].tensor_type.static_shape[2] // heads if "decay" in inputs else 0
    rates = inputs["beta"].tensor_type.static_shape[2] if "beta" in inputs else 0
    dtype = compute_dtype(query.dtype)
    lanes, ratio = target.lanes(dtype), all_heads // heads
    # Half of the nearest cache holds the panel, so that rows of the inputs do not push it out.
    near = target.l1_bytes // 2 // (keys * lanes * dtype.itemsize)
    vectors = max(1, min(4, -(-values // lanes), _SUMS // ratio, near))
    tasks = batch * heads * -(-values // (vectors * lanes))
    parallel = batch * steps * heads * keys * values * (1 + ratio) >= PARALLEL_MACS
    scale = node.float_attribute("scale", 0.0) or 1 / math.sqrt(keys)
    chunks = chunks_of(tasks, target.cores, parallel=parallel)
    return Plan(batch, steps, heads, ratio, keys, values, decays, rates, scale, dtype, lanes, vectors, chunks)


def _inputs(node: Node) -> dict[str, Value]:
    return {name: value for name, value in zip(_INPUTS, node.inputs, strict=False) if value is not None}


class _LinearAttention:
    """Emits the loops of one linear attention."""

    def __init__(self, builder: KernelBuilder, body: Graph, node: Node, plan: Plan) -> None:
        self.builder = builder
        self.plan = plan
        self.inputs = _inputs(node)
        self.pointers = {value: number for number, value in enumerate(body.inputs)}
        made = [body.outputs.index(value) if value in body.outputs else None for value in node.outputs]
        self.output, self.present = [*(None if n is None else len(body.inputs) + n for n in made), None][:2]
        self.types = [value.tensor_type.dtype for value in node.outputs]
        self.workspace = len(body.inputs) + len(body.outputs)

    def emit(self) -> None:
        plan, builder = self.plan, self.builder
        with plan.tasks.each(builder) as (chunk, task):
            batch, head, panel = unravel(builder, task, (plan.batch, plan.heads, plan.panels))
            base = chunk * plan.scratch

            def emit(part: Dim, vectors: int) -> None:
                _Panel(self, batch, head, part * plan.cut, vectors, base).emit()

            parts = (plan.vectors, plan.tail_vectors)
            whole_and_last(builder, panel, plan.panels, plan.full_panels, parts, emit)

    def read(self, name: str, offset: Dim, lanes: int, count: int | None = None) -> Expr:
        """Elements of an input, as the kernel computes with them."""
        value, dtype = self.inputs[name], self.plan.dtype
        source = value.tensor_type.dtype
        if value not in self.pointers:
            tensor = value.constant
            assert tensor is not None
            return element_types.number(tensor.array().reshape(()).item(), dtype, lanes)
        loaded = self.builder.load(self.pointers[value], offset, lanes, 1, count)
        return element_types.cast(element_types.from_storage(loaded, source), source, dtype)

    def write(self, operand: int, number: int, value: Expr, offset: Dim, count: int | None) -> None:
        """Elements of output `number`."""
        dtype = self.types[number]
        held = element_types.cast(value, self.plan.dtype, compute_dtype(dtype))
        stored = element_types.to_storage(held, dtype)
        self.builder.store(operand, stored, offset, self.plan.lanes, 1, count)


class _Panel:
    """A few vectors of columns of one head, from the first step to the last.

    Args:
        of: The kernel.
        batch: The sequence.
        head: The head of keys and values.
        column: First column.
        vectors: Vectors of columns.
        base: Where the workspace starts.
    """

    def __init__(self, of: _LinearAttention, batch: Dim, head: Dim, column: Dim, vectors: int, base: Dim) -> None:
        self.of, self.plan, self.builder = of, of.plan, of.builder
        self.batch, self.head, self.column = batch, head, column
        self.vectors = vectors
        self.state = base
        self.key = base + of.plan.keys * of.plan.cut
        self.decay = self.key + of.plan.row
        self.query = self.decay + of.plan.row
        self.zero = element_types.number(0.0, of.plan.dtype, of.plan.lanes)

    def emit(self) -> None:
        plan, builder = self.plan, self.builder
        first = self.batch * plan.steps
        given: State = "past" if "past" in self.of.inputs else None
        asked: State = "present" if self.of.present is not None else None
        if plan.steps == 1:
            self._step(first, given, asked)
            return
        self._step(first, given, "kept")
        with builder.serial(plan.steps - 2, "step") as step:
            self._step(first + 1 + step, "kept", "kept")
        self._step(first + plan.steps - 1, "kept", asked)

    def _step(self, place: Dim, source: State, target: State) -> None:
        """One step, at `place` of all sequences' steps, from one place of the state to another; zeros from None."""
        plan, of = self.plan, self.of
        head = place * plan.heads + self.head
        self._copy("key", head * plan.keys, self.key, plan.keys)
        for q in range(plan.ratio):
            self._copy("query", (head * plan.ratio + q) * plan.keys, self.query + q * plan.row, plan.keys)
        if plan.decays:
            self._copy("decay", head * plan.decays, self.decay, plan.decays)
        at = [head * plan.values + self.column + v * plan.lanes for v in range(self.vectors)]
        written = [bind(of.read("value", at[v], plan.lanes, self._count(v))) for v in range(self.vectors)]
        if plan.rates:
            # Only what the state does not answer to this key yet is written.
            rate = place if plan.rates == 1 else head
            factor = bind(broadcast(of.read("beta", rate, 1), plan.lanes))
            answers = self._answers(source)
            written = [bind(factor * (value - answer)) for value, answer in zip(written, answers, strict=True)]
        sums = [self._sums(plan.ratio) for _ in range(plan.ratio)]

        def row(i: Dim, way: int) -> None:
            key = bind(self._one(self.key + i))
            queries = [bind(self._one(self.query + q * plan.row + i)) for q in range(plan.ratio)]
            decay = None if source is None else self._decay(i)
            for v, value in enumerate(written):
                added = key * value
                if source is not None:
                    old = self._get(source, i, v)
                    added = (old if decay is None else old * decay) + added
                new = bind(added)
                self._set(target, i, v, new)
                for q, registers in enumerate(sums):
                    registers[way][v].value = registers[way][v].value + queries[q] * new

        self._rows(len(sums[0]), row)
        if of.output is None:
            return
        for q, registers in enumerate(sums):
            for v, total in enumerate(_totals(registers)):
                out = (head * plan.ratio + q) * plan.values + self.column + v * plan.lanes
                of.write(of.output, 0, total, out, self._count(v))

    def _answers(self, source: State) -> list[Expr]:
        """What the state, decayed first, answers to the key."""
        if source is None:
            return [self.zero] * self.vectors
        answers = self._sums(1)

        def row(i: Dim, way: int) -> None:
            key, decay = self._one(self.key + i), self._decay(i)
            factor = bind(key if decay is None else key * decay)
            for v, register in enumerate(answers[way]):
                register.value = register.value + self._get(source, i, v) * factor

        self._rows(len(answers), row)
        return _totals(answers)

    def _sums(self, chains: int) -> list[list[Register]]:
        """Zeros for every vector, several times over rows in turn: `chains` times as many are to hide the latency."""
        ways = max(1, min(4, IN_FLIGHT // (self.vectors * chains), self.plan.keys))
        registers = [
            [self.builder.accumulator(self.plan.lanes, self.plan.dtype.name) for _ in range(self.vectors)]
            for _ in range(ways)
        ]
        for register in (register for way in registers for register in way):
            register.value = self.zero
        return registers

    def _rows(self, ways: int, emit: Callable[[Dim, int], None]) -> None:
        """`emit(i, way)` for all rows, `ways` of them an iteration."""
        with self.builder.serial(self.plan.keys // ways, "i") as block:
            for way in range(ways):
                emit(block * ways + way, way)
        for way in range(self.plan.keys % ways):
            emit(self.plan.keys // ways * ways + way, way)

    def _decay(self, i: Dim) -> Expr | None:
        """Factor of row `i` of the state; None for 1."""
        if not self.plan.decays:
            return None
        return bind(self._one(self.decay + (i if self.plan.decays > 1 else 0)))

    def _copy(self, name: str, source: Dim, to: Dim, extent: int) -> None:
        """Copies a row of a step: queries scaled, decays as the factors they are exponents of."""
        plan, builder = self.plan, self.builder

        def vector(start: Dim, count: int | None) -> None:
            value = self.of.read(name, source + start, plan.lanes, count)
            if name == "query":
                value = value * element_types.number(plan.scale, plan.dtype, plan.lanes)
            if name == "decay":
                value = scalar_ops.apply("exp", plan.dtype, [value])
            builder.store(self.of.workspace, value, to + start, plan.lanes)

        whole, rest = divmod(extent, plan.lanes)
        if whole:
            with builder.serial(whole, "c") as block:
                vector(block * plan.lanes, None)
        if rest:
            vector(whole * plan.lanes, rest)

    def _one(self, place: Dim) -> Expr:
        """An element of the workspace on every lane."""
        return broadcast(self.builder.load(self.of.workspace, place), self.plan.lanes)

    def _get(self, source: State, i: Dim, v: int) -> Expr:
        if source == "past":
            return self.of.read("past", self._outside(i, v), self.plan.lanes, self._count(v))
        return self.builder.load(self.of.workspace, self._place(i, v), self.plan.lanes)

    def _set(self, target: State, i: Dim, v: int, value: Expr) -> None:
        if target == "kept":
            self.builder.store(self.of.workspace, value, self._place(i, v), self.plan.lanes)
        elif target == "present":
            assert self.of.present is not None
            self.of.write(self.of.present, 1, value, self._outside(i, v), self._count(v))

    def _outside(self, i: Dim, v: int) -> Dim:
        """Place of a vector of the state in the tensors that hold all states."""
        row = (self.batch * self.plan.heads + self.head) * self.plan.keys + i
        return row * self.plan.values + self.column + v * self.plan.lanes

    def _place(self, i: Dim, v: int) -> Dim:
        return self.state + i * (self.vectors * self.plan.lanes) + v * self.plan.lanes

    def _count(self, v: int) -> int | None:
        """Lanes of vector `v` that are columns; None for all."""
        start = self.column + v * self.plan.lanes
        inside = not isinstance(start, int) or start + self.plan.lanes <= self.plan.values
        return None if inside or not isinstance(start, int) else self.plan.values - start


def _totals(ways: Sequence[Sequence[Register]]) -> list[Expr]:
    """The sums of registers that stand below each other."""
    return [
        bind(functools.reduce(operator.add, (register.value for register in column)))
        for column in zip(*ways, strict=True)
    ]
