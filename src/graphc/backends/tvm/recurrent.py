"""Recurrences: all steps of an RNN, GRU or LSTM in one kernel, given the product of all inputs with the weights.

The recurrence weights are packed in panels whose rows hold the gates of a few vectors of hidden units side by side. A
tile multiplies the states of some sequences with a panel in registers; activations and the new states of those units
follow there too, so that a step reads each weight once and writes nothing but states and outputs. (ONNX Runtime and
oneDNN call a matrix product each step and read its result again.)
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import replace
from functools import partial
from typing import Any

from tvm.tirx.script.builder import ir as T

from graphc.backends.base import Kernel
from graphc.backends.local_extents import Localized, localized
from graphc.backends.regions import sole_node
from graphc.backends.tvm.assemble import build_kernel
from graphc.backends.tvm.loops import unravel
from graphc.backends.tvm.recurrent_memory import INITIAL, INPUTS, Memory
from graphc.backends.tvm.recurrent_plan import Extents, Plan, choose_plan
from graphc.backends.tvm.recurrent_step import Tile
from graphc.backends.tvm.tasks import PARALLEL_MACS, whole_and_last
from graphc.backends.tvm.tir import Expr, KernelBuilder
from graphc.backends.tvm.transpose import copy_transposed
from graphc.errors import BackendError, TypeInferenceError
from graphc.ir import GRAPHC_DOMAIN, Dim, Graph, Node, TensorType, dtypes
from graphc.ops.inference import infer_node
from graphc.ops.recurrent import CELLS, RECURRENCE, directions_of
from graphc.ops.recurrent_cells import HIDDEN, Phase, phases_of
from graphc.target import Target


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
    local = localized(body)
    body = local.body
    node = recurrence_of(body)
    weights = {name: value for name, value in zip(INPUTS, node.inputs, strict=False) if value and name in ("R", "W")}
    dtype = weights["R"].tensor_type.dtype
    phases = phases_of(node, dtype)
    extents = _extents(node)
    plan = choose_plan(extents, _usual(extents, local), dtype, phases[0], target)
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
        _Recurrence(builder, body, node, plan, phases, list(scratch), stored).emit()

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
        local=local,
    )


def recurrence_of(body: Graph) -> Node:
    """The Recurrence that a body consists of.

    Raises:
        BackendError: It is something else, of another type, of an extent that is not bound, or of nothing.
    """
    node = sole_node(body)
    if node is None or not node.is_op(RECURRENCE, GRAPHC_DOMAIN):
        raise BackendError("the region is not a recurrence")
    steps_and_batch = set() if node.inputs[0] is None else set(node.inputs[0].tensor_type.dims[:2])
    for value in node.inputs:
        for extent in () if value is None else value.tensor_type.dims:
            if extent == 0 or not (isinstance(extent, int) or extent in steps_and_batch):
                raise BackendError("an extent of the recurrence is not bound, or zero", nodes=node.origins)
    try:
        output = infer_node(node)[0]
    except TypeInferenceError as error:
        raise BackendError(error.message) from error
    if not isinstance(output, TensorType) or output.dtype not in (dtypes.FLOAT32, dtypes.FLOAT64):
        raise BackendError(f"a recurrence of {output}, not of float32 or float64")
    return node


def _extents(node: Node) -> Extents:
    assert node.inputs[0] is not None and node.inputs[1] is not None
    first, second, width = node.inputs[0].tensor_type.dims
    directions, _, hidden = node.inputs[1].tensor_type.static_shape
    batch_major = bool(node.int_attribute("layout", 0))
    steps, batch = (second, first) if batch_major else (first, second)
    gates = CELLS[node.str_attribute("cell", "")].gates
    assert isinstance(width, int)
    return Extents(steps, batch, directions, hidden, gates, 0 if node.input(7) is None else width, batch_major)


USUAL_BATCH = 4
"""Sequences by which tiles are chosen where their number is open: few, of which one alone takes no whole tile."""


def _usual(extents: Extents, local: Localized) -> Extents:
    """Sizes by which costs are weighed where steps or sequences are open."""
    steps, batch = local.usual(extents.steps, 128), local.usual(extents.batch, USUAL_BATCH)
    return replace(extents, steps=steps, batch=batch)


def _scratch(plan: Plan, phases: Sequence[Phase]) -> dict[int, Dim]:
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
    ) -> None:
        self.builder = builder
        self.plan = plan
        self.phases = phases
        self.stored = stored
        self.memory = Memory(builder, body, node, plan, carried, stored)
        self.backwards = directions_of(node)
        self.steps: Dim = plan.extents.steps

    def emit(self) -> None:
        plan, builder, extents = self.plan, self.builder, self.plan.extents
        for name in self.stored:
            self._pack(name)
        if "lengths" in self.memory.inputs:
            self.steps = self._longest()
        if plan.share == "units":
            with builder.serial(extents.directions, "direction") as direction:
                self._each_sequence(0, lambda b: self._start(direction, b))
            with builder.serial(self.steps, "step") as step:
                for phase in range(len(plan.products)):
                    with builder.parallel(extents.directions * plan.panels, "task") as task:
                        direction, panel = unravel(builder, task, (extents.directions, plan.panels))
                        self._panel(direction, step, phase, panel, 0)
            with builder.serial(extents.directions, "direction") as direction:
                self._each_sequence(0, lambda b: self._finish(direction, b))
            return
        tasks = extents.directions * plan.rows.blocks
        with builder.parallel(tasks, "task", enable=plan.share == "sequences") as task:
            direction, block = unravel(builder, task, (extents.directions, plan.rows.blocks))
            self._each_sequence(block, lambda b: self._start(direction, b))
            with builder.serial(self.steps, "step") as step:
                for phase in range(len(plan.products)):
                    with builder.serial(plan.panels, "panel") as panel:
                        self._panel(direction, step, phase, panel, block)
            self._each_sequence(block, lambda b: self._finish(direction, b))

    def _longest(self) -> Dim:
        """Steps of the longest sequence: beyond it there is nothing to compute."""
        builder, extents = self.builder, self.plan.extents
        longest = builder.accumulator(1, "int64")
        longest.value = T.int64(0)
        with builder.serial(extents.batch, "b") as b:
            longest.value = T.max(longest.value, self.memory.length(b))
        return builder.name_value(T.min(longest.value, builder.index(extents.steps)), 0, extents.steps, "steps")

    def _each_sequence(self, block: Dim, emit: Callable[[Dim], None]) -> None:
        """`emit(b)` for every sequence of a block."""

        def rows(row: Dim, count: int) -> None:
            with self.builder.serial(count, "b") as b:
                emit(row + b)

        self.plan.rows.each(self.builder, block, rows)

    def _time(self, direction: Dim, step: Dim) -> Dim:
        """The time that a direction reaches at a step."""
        last = self.steps - 1
        if len(self.backwards) == 1:
            return last - step if self.backwards[0] else step
        return self.builder.bind_index(step + direction * (last - 2 * step), 0, self.plan.extents.steps - 1, "time")

    def _start(self, direction: Dim, b: Dim) -> None:
        for state in (state for state in self.memory.states if state in INITIAL):

            def write(unit: Dim, count: int | None, state: int = state) -> None:
                value = self.memory.zero
                if INITIAL[state] in self.memory.inputs:
                    value = self.memory.read(INITIAL[state], self.memory.outer_state(direction, b) + unit, count)
                place = self.memory.state(state, direction, b, 0) + unit
                self.builder.store(self.memory.states[state], value, place, self.plan.lanes)

            self.memory.each_vector(write)

    def _finish(self, direction: Dim, b: Dim) -> None:
        for state in (state for state in self.memory.states if INITIAL.get(state) in self.memory.outputs):

            def write(unit: Dim, count: int | None, state: int = state) -> None:
                place = self.memory.state(state, direction, b, self.steps) + unit
                value = self.builder.load(self.memory.states[state], place, self.plan.lanes)
                output = self.memory.outputs[INITIAL[state]]
                offset = self.memory.outer_state(direction, b) + unit
                self.builder.store(output, value, offset, self.plan.lanes, 1, count)

            self.memory.each_vector(write)
        if "sequence" in self.memory.outputs and self.steps != self.plan.extents.steps:
            with self.builder.serial(self.plan.extents.steps - self.steps, "time") as rest:
                start = self.memory.place(b, self.steps + rest) * self.plan.extents.directions + direction
                self.memory.each_vector(lambda unit, count: self._clear(start * self.plan.extents.hidden + unit, count))

    def _clear(self, offset: Dim, count: int | None) -> None:
        zero = self.memory.zero
        self.builder.store(self.memory.outputs["sequence"], zero, offset, self.plan.lanes, 1, count)

    def _panel(self, direction: Dim, step: Dim, number: int, panel: Dim, block: Dim) -> None:
        """One panel of a phase against a block of sequences."""
        plan, builder = self.plan, self.builder
        time = self._time(direction, step)
        same = all(phases is self.phases[0] for phases in self.phases)

        def sequences(panel: Dim, vectors: int) -> None:
            for d, phases in enumerate(self.phases[:1] if same else self.phases):
                tile = Tile(self.memory, phases[number], number, direction, step, time, panel, vectors)
                with nullcontext() if same else builder.when(T.EQ(builder.index(direction), T.int64(d))):
                    plan.rows.each(builder, block, tile.emit)

        parts = (plan.vectors, plan.tail_vectors)
        whole_and_last(builder, panel, plan.panels, plan.full_panels, parts, sequences)

    def _pack(self, name: str) -> None:
        """Packs weights that the model computes, as `Plan.pack` does those that it holds."""
        plan, builder, extents = self.plan, self.builder, self.plan.extents
        depth = self.memory.depth(name)
        cut = plan.vectors * plan.lanes

        def gates(direction: Dim, panel: Dim, vectors: int) -> None:
            units = min(vectors * plan.lanes, extents.hidden - panel * cut) if isinstance(panel, int) else cut
            for phase, product in enumerate(plan.products):
                width = len(product) * vectors * plan.lanes
                base = self.memory.panel_start(name, direction, phase, panel)
                for place, gate in enumerate(product):
                    first = (direction * extents.gates + gate) * extents.hidden + panel * cut

                    def read(row: Dim, k: Dim, count: int | None, first: Dim = first) -> Expr:
                        return self.memory.read(name, (first + row) * depth + k, count)

                    start = base + place * vectors * plan.lanes
                    copy_transposed(
                        builder, read, units, depth, plan.lanes, self.memory.weights[name], start, width, plan.dtype
                    )

        parallel = extents.directions * plan.packed_elements(depth) >= PARALLEL_MACS
        with builder.parallel(extents.directions * plan.panels, "pack", enable=parallel) as task:
            direction, panel = unravel(builder, task, (extents.directions, plan.panels))
            parts = (plan.vectors, plan.tail_vectors)
            whole_and_last(builder, panel, plan.panels, plan.full_panels, parts, partial(gates, direction))
