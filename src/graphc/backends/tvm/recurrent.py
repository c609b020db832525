"""Recurrences: all steps of an RNN, GRU or LSTM in one kernel, given the product of all inputs with the weights.

The recurrence weights are packed in panels whose rows hold the gates of a few vectors of hidden units side by side. A
tile multiplies the states of some sequences with a panel in registers; activations and the new states of those units
follow there too, so that a step reads each weight once and writes nothing but states and outputs. (ONNX Runtime and
oneDNN call a matrix product each step and read its result again.)
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import nullcontext
from functools import partial
from typing import Any

from tvm.tirx.script.builder import ir as T

from graphc.backends.base import Kernel
from graphc.backends.tvm import element_types
from graphc.backends.tvm.assemble import build_kernel
from graphc.backends.tvm.gemm_tiles import Tile, multiply, with_ways
from graphc.backends.tvm.recurrent_plan import Extents, Plan, choose_plan
from graphc.backends.tvm.render import Lane, Renderer, Scope
from graphc.backends.tvm.tasks import PARALLEL_MACS, only
from graphc.backends.tvm.tir import Expr, KernelBuilder, bind, broadcast
from graphc.backends.tvm.transpose import copy_transposed
from graphc.errors import BackendError
from graphc.ir import GRAPHC_DOMAIN, Dim, Graph, Node, Value, dtypes
from graphc.ir.symbolic import mod
from graphc.ops.expr import Index, loads
from graphc.ops.recurrent import CELLS, RECURRENCE, directions_of
from graphc.ops.recurrent_cells import BIAS, CELL, HIDDEN, PEEPHOLES, PROJECTED, STATES, SUMS, Phase, phases_of
from graphc.target import Target

_INPUTS = ("data", "R", "bias", "lengths", "hidden", "cell", "peepholes", "W", "added")
_OUTPUTS = ("sequence", "hidden", "cell")
INITIAL = {HIDDEN: "hidden", CELL: "cell"}


def lower(body: Graph, target: Target, constants: frozenset[int], options: Mapping[str, Any]) -> Kernel:
    """The kernel of a body that is one Recurrence of float32 or float64.

    Args:
        body: The Recurrence.
        target: The CPU.
        constants: Numbers of the body's inputs that are constants; the weights, if they are one, come packed.
        options: None is read.

    Raises:
        BackendError: The body is something else; the message says what.
    """
    node = recurrence_of(body)
    weights = {name: value for name, value in zip(_INPUTS, node.inputs, strict=False) if value and name in ("R", "W")}
    dtype = weights["R"].tensor_type.dtype
    phases = phases_of(node, dtype)
    extents = _extents(node)
    plan = choose_plan(extents, dtype, phases[0], target)
    scratch = _scratch(plan, phases[0])
    sizes, packed, stored = [*scratch.values()], {}, {}
    for name, value in weights.items():
        size = extents.directions * plan.packed_elements(value.tensor_type.static_shape[2])
        number = body.inputs.index(value) if value in body.inputs else None
        if number in constants and sum(other is value for other in node.inputs) == 1:
            packed[number] = (size * dtype.itemsize, plan.packing())
        else:
            stored[name] = len(sizes)
            sizes.append(size)

    def emit(builder: KernelBuilder) -> None:
        _Recurrence(builder, body, node, plan, phases, list(scratch), stored, target).emit()

    depth = extents.hidden + extents.inputs
    macs = extents.steps * extents.batch * extents.directions * extents.hidden * depth * sum(map(len, plan.products))
    return build_kernel(
        "recurrent",
        body,
        target,
        [plan, sorted(packed)],
        emit,
        flops=2 * macs,
        schedule=plan.describe(),
        packed=packed,
        workspaces=[size * dtype.itemsize for size in sizes],
        workspace_types=[dtype] * len(sizes),
    )


def recurrence_of(body: Graph) -> Node:
    """The Recurrence that a body consists of.

    Raises:
        BackendError: It is something else, of another type, of an extent that is not bound, or of nothing.
    """
    nodes = [node for node in body.nodes if not node.is_op("Constant")]
    if len(nodes) != 1 or not nodes[0].is_op(RECURRENCE, GRAPHC_DOMAIN):
        raise BackendError("the region is not a recurrence")
    (node,) = nodes
    for value in (node.inputs[0], node.inputs[1]):
        assert value is not None
        kind = value.tensor_type
        if kind.dtype not in (dtypes.FLOAT32, dtypes.FLOAT64):
            raise BackendError(f"a recurrence of {kind.dtype}, not of float32 or float64")
        if not all(isinstance(extent, int) and extent > 0 for extent in kind.dims):
            raise BackendError(f"%{value.name} has an extent that is not bound, or zero")
    return node


def _extents(node: Node) -> Extents:
    assert node.inputs[0] is not None and node.inputs[1] is not None
    first, second, size = node.inputs[0].tensor_type.static_shape
    directions, _, hidden = node.inputs[1].tensor_type.static_shape
    batch_major = bool(node.int_attribute("layout", 0))
    steps, batch = (second, first) if batch_major else (first, second)
    gates = CELLS[node.str_attribute("cell", "")].gates
    return Extents(steps, batch, directions, hidden, gates, 0 if node.input(7) is None else size, batch_major)


def _scratch(plan: Plan, phases: Sequence[Phase]) -> dict[int, int]:
    """Elements of each state vector's workspace. Of what is multiplied while it is renewed there are two copies."""
    size = plan.extents.directions * plan.extents.batch * plan.padded
    carried = {state for phase in phases for state in phase.results}
    return {state: size * (2 if state == HIDDEN else 1) for state in sorted(carried)}


class _Recurrence:
    """Emits the loops of one recurrence."""

    def __init__(
        self,
        builder: KernelBuilder,
        body: Graph,
        node: Node,
        plan: Plan,
        phases: Sequence[Sequence[Phase]],
        carried: Sequence[int],
        stored: Mapping[str, int],
        target: Target,
    ) -> None:
        self.target = target
        self.builder = builder
        self.plan = plan
        self.phases = phases
        self.inputs = {name: value for name, value in zip(_INPUTS, node.inputs, strict=False) if value is not None}
        self.pointers = {value: number for number, value in enumerate(body.inputs)}
        first = len(body.inputs)
        self.outputs = {
            name: first + body.outputs.index(value)
            for name, value in zip(_OUTPUTS, node.outputs, strict=False)
            if value in body.outputs
        }
        workspace = first + len(body.outputs)
        self.states = {state: workspace + i for i, state in enumerate(carried)}
        self.stored = stored
        self.weights: dict[str, int] = {
            name: workspace + stored[name] if name in stored else self.pointers[self.inputs[name]]
            for name in ("R", "W")
            if name in self.inputs
        }
        self.backwards = directions_of(node)

    def emit(self) -> None:
        plan, builder, extents = self.plan, self.builder, self.plan.extents
        for name in self.stored:
            self._pack(name)
        if plan.share == "units":
            with builder.serial(extents.directions, "direction") as direction:
                self._each_sequence(0, lambda b: self._start(direction, b))
            with builder.serial(extents.steps, "step") as step:
                for phase in range(len(plan.products)):
                    with builder.parallel(extents.directions * plan.panels, "task") as task:
                        direction, panel = self._split(task, plan.panels, extents.directions)
                        self._panel(direction, step, phase, panel, 0)
            with builder.serial(extents.directions, "direction") as direction:
                self._each_sequence(0, lambda b: self._finish(direction, b))
            return
        tasks = extents.directions * plan.rows.blocks
        with builder.parallel(tasks, "task", enable=plan.share == "sequences") as task:
            direction, block = self._split(task, plan.rows.blocks, extents.directions)
            self._each_sequence(block, lambda b: self._start(direction, b))
            with builder.serial(extents.steps, "step") as step:
                for phase in range(len(plan.products)):
                    with builder.serial(plan.panels, "panel") as panel:
                        self._panel(direction, step, phase, panel, block)
            self._each_sequence(block, lambda b: self._finish(direction, b))

    def _split(self, task: Dim, inner: int, outer: int) -> tuple[Dim, Dim]:
        builder = self.builder
        direction, rest = builder.simplify(task // inner), builder.simplify(task % inner)
        if inner > 1 and outer > 1:
            direction = builder.bind_index(direction, 0, outer - 1, "direction")
            rest = builder.bind_index(rest, 0, inner - 1, "rest")
        return direction, rest

    def _each_sequence(self, block: Dim, emit: Callable[[Dim], None]) -> None:
        """`emit(b)` for every sequence of a block."""

        def rows(row: Dim, count: int) -> None:
            with self.builder.serial(count, "b") as b:
                emit(row + b)

        self.plan.rows.each(self.builder, block, rows)

    def _each_vector(self, emit: Callable[[Dim, int | None], None]) -> None:
        """`emit(unit, count)` for every vector of hidden units; `count` is of the last one, where it has fewer."""
        whole, rest = divmod(self.plan.extents.hidden, self.plan.lanes)
        if whole:
            with self.builder.serial(whole, "v") as vector:
                emit(vector * self.plan.lanes, None)
        if rest:
            emit(whole * self.plan.lanes, rest)

    def read(self, name: str, offset: Dim, count: int | None = None, lanes: int | None = None) -> Expr:
        """A vector of an input."""
        value = self.inputs[name]
        width = lanes or self.plan.lanes
        if value not in self.pointers:
            return broadcast(_literal(value), width)
        return self.builder.load(self.pointers[value], offset, width, 1, count if width > 1 else None)

    def state(self, state: int, direction: Dim, b: Dim, step: Dim) -> Dim:
        """Offset of a state vector before `step`."""
        extents = self.plan.extents
        place = direction * extents.batch + b
        if state == HIDDEN:
            place = place + mod(step, 2, self.builder.bounds) * (extents.directions * extents.batch)
        return place * self.plan.padded

    def depth(self, name: str) -> int:
        """Elements of the vector that weights multiply."""
        return self.plan.extents.hidden if name == "R" else self.plan.extents.inputs

    def panel_start(self, name: str, direction: Dim, phase: int, panel: Dim) -> Dim:
        """Offset of a panel in packed weights."""
        plan, depth = self.plan, self.depth(name)
        size = depth * len(plan.products[phase]) * plan.vectors * plan.lanes
        return direction * plan.packed_elements(depth) + plan.start(phase, depth) + panel * size

    def _outer_state(self, direction: Dim, b: Dim) -> Dim:
        """Offset of an initial or a last state in its tensor."""
        extents = self.plan.extents
        place = b * extents.directions + direction if extents.batch_major else direction * extents.batch + b
        return place * extents.hidden

    def place(self, b: Dim, time: Dim) -> Dim:
        """Number of a sequence's element at a time."""
        extents = self.plan.extents
        return b * extents.steps + time if extents.batch_major else time * extents.batch + b

    def _time(self, direction: Dim, step: Dim) -> Dim:
        """The time that a direction reaches at a step."""
        last = self.plan.extents.steps - 1
        if len(self.backwards) == 1:
            return last - step if self.backwards[0] else step
        return self.builder.bind_index(step + direction * (last - 2 * step), 0, last, "time")

    def _start(self, direction: Dim, b: Dim) -> None:
        for state in (state for state in self.states if state in INITIAL):

            def write(unit: Dim, count: int | None, state: int = state) -> None:
                value = broadcast(element_types.constant(0.0, self.plan.dtype), self.plan.lanes)
                if INITIAL[state] in self.inputs:
                    value = self.read(INITIAL[state], self._outer_state(direction, b) + unit, count)
                place = self.state(state, direction, b, 0) + unit
                self.builder.store(self.states[state], value, place, self.plan.lanes)

            self._each_vector(write)

    def _finish(self, direction: Dim, b: Dim) -> None:
        for state in (state for state in self.states if INITIAL.get(state) in self.outputs):

            def write(unit: Dim, count: int | None, state: int = state) -> None:
                place = self.state(state, direction, b, self.plan.extents.steps) + unit
                value = self.builder.load(self.states[state], place, self.plan.lanes)
                output = self.outputs[INITIAL[state]]
                offset = self._outer_state(direction, b) + unit
                self.builder.store(output, value, offset, self.plan.lanes, 1, count)

            self._each_vector(write)

    def _panel(self, direction: Dim, step: Dim, number: int, panel: Dim, block: Dim) -> None:
        """One panel of a phase against a block of sequences."""
        plan, builder = self.plan, self.builder
        time = self._time(direction, step)
        same = all(phases is self.phases[0] for phases in self.phases)

        def sequences(panel: Dim, vectors: int) -> None:
            for d, phases in enumerate(self.phases[:1] if same else self.phases):
                tile = _Tile(self, phases[number], number, direction, step, time, panel, vectors)
                with nullcontext() if same else builder.when(T.EQ(builder.index(direction), T.int64(d))):
                    plan.rows.each(builder, block, tile.emit)

        if plan.full_panels:
            with only(builder, panel, plan.panels, below=plan.full_panels):
                sequences(panel, plan.vectors)
        if plan.tail_vectors:
            with only(builder, panel, plan.panels, last=True):
                sequences(plan.full_panels, plan.tail_vectors)

    def _pack(self, name: str) -> None:
        """Packs weights that the model computes, as `Plan.pack` does those that it holds."""
        plan, builder, extents = self.plan, self.builder, self.plan.extents
        depth = self.depth(name)
        cut = plan.vectors * plan.lanes

        def gates(direction: Dim, panel: Dim, vectors: int) -> None:
            units = min(vectors * plan.lanes, extents.hidden - panel * cut) if isinstance(panel, int) else cut
            for phase, product in enumerate(plan.products):
                width = len(product) * vectors * plan.lanes
                base = self.panel_start(name, direction, phase, panel)
                for place, gate in enumerate(product):
                    first = (direction * extents.gates + gate) * extents.hidden + panel * cut

                    def read(row: Dim, k: Dim, count: int | None, first: Dim = first) -> Expr:
                        return self.read(name, (first + row) * depth + k, count)

                    start = base + place * vectors * plan.lanes
                    copy_transposed(
                        builder, read, units, depth, plan.lanes, self.weights[name], start, width, plan.dtype
                    )

        parallel = extents.directions * plan.packed_elements(depth) >= PARALLEL_MACS
        with builder.parallel(extents.directions * plan.panels, "pack", enable=parallel) as task:
            direction, panel = self._split(task, plan.panels, extents.directions)
            if plan.full_panels:
                with only(builder, panel, plan.panels, below=plan.full_panels):
                    gates(direction, panel, plan.vectors)
            if plan.tail_vectors:
                with only(builder, panel, plan.panels, last=True):
                    gates(direction, plan.full_panels, plan.tail_vectors)


class _Tile:
    """A panel of hidden units in one phase of one step, for any sequences.

    Args:
        recurrence: What it is part of.
        phase: What follows from the product.
        number: The phase's number.
        direction: The direction.
        step: Steps before this one.
        time: Where the step reads and writes the sequence.
        panel: Number of the panel.
        vectors: Vectors of hidden units in it.
    """

    def __init__(
        self,
        recurrence: _Recurrence,
        phase: Phase,
        number: int,
        direction: Dim,
        step: Dim,
        time: Dim,
        panel: Dim,
        vectors: int,
    ) -> None:
        self.of = recurrence
        self.phase = phase
        self.direction = direction
        self.step = step
        self.time = time
        self.vectors = vectors
        self.first = panel * (recurrence.plan.vectors * recurrence.plan.lanes)
        self.weights: dict[str, Dim] = {
            name: recurrence.panel_start(name, direction, number, panel) for name in recurrence.weights
        }

    def emit(self, row: Dim, count: int) -> None:
        """The new states of `count` sequences from `row` on."""
        plan, builder, of = self.of.plan, self.of.builder, self.of
        starts = [of.state(self.phase.left, self.direction, row + r, self.step) for r in range(count)]

        def state(r: int, k: Dim) -> Expr:
            return builder.load(of.states[self.phase.left], starts[r] + k)

        def data(r: int, k: Dim) -> Expr:
            return of.read("data", of.place(row + r, self.time) * plan.extents.inputs + k, lanes=1)

        recurrent = self._product("R", count, state)
        projected = self._product("W", count, data) if "W" in self.weights else None
        for r in range(count):
            for v in range(self.vectors):
                sums = {SUMS + gate: recurrent[r][i][v] for i, gate in enumerate(self.phase.gates)}
                if projected is not None:
                    sums |= {PROJECTED + gate: projected[r][i][v] for i, gate in enumerate(self.phase.gates)}
                self._renew(row + r, self.first + v * plan.lanes, sums)

    def _product(self, name: str, count: int, left: Callable[[int, Dim], Expr]) -> list[list[list[Expr]]]:
        """Sums by sequence, gate of the phase and vector."""
        plan, of, vectors = self.of.plan, self.of, self.vectors
        width = len(self.phase.gates) * vectors

        def right(k: Dim, v: int) -> Expr:
            return of.builder.load(of.weights[name], self.weights[name] + (k * width + v) * plan.lanes, plan.lanes)

        tile = with_ways(Tile(count, width), of.target)
        rows = multiply(of.builder, tile, plan.lanes, of.depth(name), left, right, plan.dtype)
        return [[row[i : i + vectors] for i in range(0, width, vectors)] for row in rows]

    def _renew(self, b: Dim, unit: Dim, sums: Mapping[int, Expr]) -> None:
        """The new states of one vector of hidden units of one sequence."""
        plan, builder, of = self.of.plan, self.of.builder, self.of
        extents = plan.extents
        count: int | None = None
        if isinstance(unit, int) and unit + plan.lanes > extents.hidden:
            count = extents.hidden - unit
        place = of.place(b, self.time) * extents.directions + self.direction

        def value(number: int) -> Expr:
            if number < PROJECTED:
                return sums[number]
            if number < STATES:
                gate = number - PROJECTED
                if number not in sums:
                    return of.read("data", (place * extents.gates + gate) * extents.hidden + unit, count)
                if "added" not in of.inputs:
                    return sums[number]
                row = self.direction * extents.gates + gate
                return sums[number] + of.read("added", row * extents.hidden + unit, count)
            if number < PEEPHOLES:
                state = number - STATES
                return builder.load(of.states[state], of.state(state, self.direction, b, self.step) + unit, plan.lanes)
            if number < BIAS:
                row = self.direction * 3 + (number - PEEPHOLES)
                return of.read("peepholes", row * extents.hidden + unit, count)
            return of.read("bias", self.direction * extents.hidden + unit, count)

        numbers = {load.input for result in self.phase.results.values() for load in loads(result)}
        given = {number: partial(_constant, value(number)) for number in sorted(numbers)}
        renderer = Renderer(builder, [], {}, given)
        with builder.lanes(plan.lanes) as name:
            scope, lane = Scope(), Lane(name, plan.lanes)
            news = {state: renderer.render(result, lane, scope) for state, result in self.phase.results.items()}
        active = self._active(b)
        for state, new in news.items():
            if active is not None and state in INITIAL:
                # Past its end a sequence keeps its state, and its output is zero.
                old = builder.load(of.states[state], of.state(state, self.direction, b, self.step) + unit, plan.lanes)
                kept = bind(builder.choose(active, new, old))
            else:
                kept = new
            after = of.state(state, self.direction, b, self.step + 1) + unit
            builder.store(of.states[state], kept, after, plan.lanes)
        if HIDDEN in news and "sequence" in of.outputs:
            new = news[HIDDEN]
            if active is not None:
                new = builder.choose(active, new, broadcast(element_types.constant(0.0, plan.dtype), plan.lanes))
            builder.store(of.outputs["sequence"], new, place * extents.hidden + unit, plan.lanes, 1, count)

    def _active(self, b: Dim) -> Expr | None:
        """On every lane, whether the sequence has not ended; None where none has lengths."""
        of = self.of
        if "lengths" not in of.inputs:
            return None
        length = T.Cast("int64", of.read("lengths", b, lanes=1))
        return broadcast(of.builder.index(self.time) < length, of.plan.lanes)


def _constant(value: Expr, _: Sequence[Index]) -> Expr:
    return value


def _literal(value: Value) -> Expr:
    """A constant of one element, which is part of the body."""
    tensor = value.constant
    assert tensor is not None and tensor.size == 1
    return element_types.constant(tensor.array().reshape(()).item(), tensor.dtype)
