"""Recurrences: the steps of an RNN, GRU or LSTM, given the product of all inputs with the weights.

A step is one launch, or two where a product needs what another one gave for all units (a GRU that resets before it
multiplies). A block of threads multiplies the states of some sequences with the weights of all gates of some hidden
units, and the activations and new states of those units follow in registers. Launches come in their order, so that no
block waits for another; inside a CUDA graph they follow one another within a few microseconds.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from graphc.backends.base import Kernel
from graphc.backends.regions import sole_node
from graphc.backends.triton.assemble import arguments_of, build_kernel, number_argument
from graphc.backends.triton.element_types import pointer_type, triton_name
from graphc.backends.triton.function import Argument, Function, FunctionLaunch
from graphc.backends.triton.module import render_module
from graphc.backends.triton.render import Renderer
from graphc.backends.triton.scope import Code, Scope
from graphc.backends.triton.scope import Value as Text
from graphc.backends.triton.tiles import power_above
from graphc.errors import BackendError, TypeInferenceError
from graphc.ir import GRAPHC_DOMAIN, Graph, Node, TensorType, dtypes
from graphc.ops.expr import loads
from graphc.ops.inference import infer_node
from graphc.ops.recurrent import CELLS, RECURRENCE, directions_of
from graphc.ops.recurrent_cells import BIAS, CELL, HIDDEN, PEEPHOLES, PROJECTED, STATES, SUMS, Phase, phases_of
from graphc.package.cuda import Integer
from graphc.target.cuda import CudaTarget

INPUTS = ("data", "R", "bias", "lengths", "hidden", "cell", "peepholes", "W", "added")
"""The inputs of a Recurrence, in their order."""

UNITS = 16
"""Hidden units of a block of threads."""

DEPTH = 64
"""Elements of a state that one step of a product takes; half of them where tiles share them."""

FEW_ROWS = 4
"""Sequences up to which products are sums of products of registers, without tensor cores' sixteen rows."""

MOST_ROWS = 32
"""Sequences of a block of threads, the sums of whose gates its registers hold."""

MOST_LAUNCHES = 4096
"""Launches of a kernel, each of which a package says and a graph holds."""

BLOCK = 256
"""States that a block of threads sets at the start."""

_INITIAL = {HIDDEN: "hidden", CELL: "cell"}
_LIMIT = 1 << 31


@dataclass(frozen=True)
class _Extents:
    """Extents of a recurrence; `inputs` is 0 where the data is multiplied already."""

    steps: int
    batch: int
    directions: int
    hidden: int
    gates: int
    inputs: int
    batch_major: bool

    @property
    def elements(self) -> int:
        """Of one copy of a state."""
        return self.directions * self.batch * self.hidden


def lower(body: Graph, target: CudaTarget, constants: frozenset[int], options: Mapping[str, Any]) -> Kernel:
    """The kernel of a body that is one Recurrence of float32 or float64.

    Raises:
        BackendError: The body is something else, or has more steps than a kernel launches; the message says what.
    """
    recurrence = _Recurrence(body, _node_of(body))
    extents = recurrence.extents
    launches = recurrence.launches()
    depth = extents.hidden + extents.inputs
    products = sum(len(phase.gates) for phase in recurrence.phases[0])
    macs = extents.steps * extents.batch * extents.directions * extents.hidden * depth * products
    return build_kernel(
        "recurrent",
        body,
        target,
        launches,
        flops=2 * macs,
        schedule={"launches": len(launches), "tile": f"{recurrence.rows}x{UNITS}"},
        workspaces=[
            extents.elements * recurrence.dtype.itemsize * (2 if state == HIDDEN else 1) for state in recurrence.states
        ],
    )


def _node_of(body: Graph) -> Node:
    node = sole_node(body)
    if node is None or not node.is_op(RECURRENCE, GRAPHC_DOMAIN):
        raise BackendError("the region is not a recurrence")
    for value in node.inputs:
        if value is None:
            continue
        if not all(isinstance(extent, int) and extent > 0 for extent in value.tensor_type.dims):
            raise BackendError(f"%{value.name} has an extent that is not bound, or zero")
        if value not in body.inputs:
            raise BackendError(f"%{value.name} is a constant of one element")
        if math.prod(value.tensor_type.static_shape) >= _LIMIT:
            raise BackendError(f"%{value.name} has more elements than 32 bits count")
    try:
        output = infer_node(node)[0]
    except TypeInferenceError as error:
        raise BackendError(error.message) from error
    if not isinstance(output, TensorType) or output.dtype not in (dtypes.FLOAT32, dtypes.FLOAT64):
        raise BackendError(f"a recurrence of {output}, not of float32 or float64")
    if math.prod(output.static_shape) >= _LIMIT:
        raise BackendError("the result has more elements than 32 bits count")
    return node


class _Recurrence:
    """The functions of one recurrence."""

    def __init__(self, body: Graph, node: Node) -> None:
        self.body = body
        self.node = node
        given = {name: value for name, value in zip(INPUTS, node.inputs, strict=False) if value is not None}
        self.inputs = {name: f"in{body.inputs.index(value)}" for name, value in given.items()}
        first, second, size = given["data"].tensor_type.static_shape
        directions, _, hidden = given["R"].tensor_type.static_shape
        batch_major = bool(node.int_attribute("layout", 0))
        steps, batch = (second, first) if batch_major else (first, second)
        gates = CELLS[node.str_attribute("cell", "")].gates
        inputs = size if "W" in given else 0
        self.extents = _Extents(steps, batch, directions, hidden, gates, inputs, batch_major)
        self.dtype = given["R"].tensor_type.dtype
        self.kind = triton_name(self.dtype)
        self.phases = phases_of(node, self.dtype)
        self.states = sorted({state for phase in self.phases[0] for state in phase.results})
        self.outputs = {value.index: f"out{number}" for number, value in enumerate(body.outputs)}
        few = batch <= FEW_ROWS or self.dtype == dtypes.FLOAT64
        self.dot = not few
        padded = power_above(batch)
        self.rows = min(padded, FEW_ROWS) if few else min(max(padded, 16), MOST_ROWS)

    def launches(self) -> list[FunctionLaunch]:
        """What a call launches: the states' start, then every phase of every step."""
        extents = self.extents
        same = all(phases is self.phases[0] for phases in self.phases)
        groups = [range(extents.directions)] if same else [range(d, d + 1) for d in range(extents.directions)]
        count = extents.steps * len(self.phases[0]) * len(groups)
        if count > MOST_LAUNCHES:
            raise BackendError(f"{count} launches, more than a kernel has", nodes=self.node.origins)
        steps = [[self._step(group, number) for group in groups] for number in range(len(self.phases[0]))]
        launches = [FunctionLaunch(self._start(), (-(-extents.elements // BLOCK), 1, 1))]
        tiles = self._tiles()
        for step in range(extents.steps):
            for functions in steps:
                for group, (function, arguments) in zip(groups, functions, strict=True):
                    now = Argument("step", "i32", Integer(step), 1)
                    launched = Function(function, "step", (*arguments, now))
                    launches.append(FunctionLaunch(launched, (tiles[0] * tiles[1] * len(group), 1, 1)))
        return launches

    def _tiles(self) -> tuple[int, int]:
        return -(-self.extents.batch // self.rows), -(-self.extents.hidden // UNITS)

    def _arguments(self, names: Sequence[str]) -> tuple[Argument, ...]:
        inputs = [value.tensor_type for value in self.body.inputs]
        outputs = [value.tensor_type for value in self.body.outputs]
        scratch = [pointer_type(self.dtype)] * len(self.states)
        return arguments_of(names, range(len(inputs)), inputs, outputs, scratch)

    def _workspaces(self) -> dict[int, str]:
        return {state: f"workspace{number}" for number, state in enumerate(self.states)}

    def _start(self) -> Function:
        extents = self.extents
        carried = [state for state in self.states if state in _INITIAL]
        place = f"at // {extents.hidden} % {extents.batch} * {extents.directions * extents.hidden}"
        place += f" + at // {extents.batch * extents.hidden} * {extents.hidden} + at % {extents.hidden}"
        offset = place if extents.batch_major else "at"
        states = [
            {
                "number": self.states.index(state),
                "initial": f"{self.inputs[_INITIAL[state]]} + {offset}" if _INITIAL[state] in self.inputs else "",
            }
            for state in carried
        ]
        initial = [self.inputs[_INITIAL[state]] for state in carried if _INITIAL[state] in self.inputs]
        names = [*dict.fromkeys(initial), *(self._workspaces()[state] for state in carried)]
        text = render_module(
            "recurrent_start",
            (),
            arguments=names,
            block=BLOCK,
            elements=extents.elements,
            kind=self.kind,
            states=states,
        )
        return Function(text, "start", self._arguments(names))

    def _step(self, group: range, number: int) -> tuple[str, tuple[Argument, ...]]:
        """The text of a phase for some directions, and its arguments but for the step."""
        extents, workspaces = self.extents, self._workspaces()
        phase = self.phases[group[0]][number]
        code = Code()
        stores, finals = self._renew(code, phase)
        read_old = " + old" if phase.left == HIDDEN else ""
        scratch = [workspaces[state] for state in self.states]
        names = [*dict.fromkeys(self.inputs.values()), *self.outputs.values(), *scratch]
        arguments = self._arguments(names)
        last = extents.steps - 1
        backwards = directions_of(self.node)
        if len(backwards) == 1:
            time = f"{last} - step" if backwards[0] else "step"
        else:
            time = f"step + direction * ({last} - 2 * step)"
        tiles = self._tiles()
        sizes = [number_argument("hidden", extents.hidden)]
        if extents.inputs:
            sizes.append(number_argument("inputs", extents.inputs))
        text = render_module(
            "recurrent_step",
            code.functions,
            arguments=[*names, *(size.name for size in sizes), "step"],
            batch=extents.batch,
            batch_major=extents.batch_major,
            data=self.inputs["data"],
            depth=DEPTH // 2 if self.dot else DEPTH,
            dot=self.dot,
            elements=extents.elements,
            first_direction=group[0],
            gate_count=extents.gates,
            gates=phase.gates,
            hidden=extents.hidden,
            inputs=extents.inputs,
            kind=self.kind,
            left=f"{workspaces[phase.left]} + state{read_old}",
            lines=code.lines,
            name="step",
            projected=self.inputs.get("W", ""),
            recurrent_weights=self.inputs["R"],
            row_tiles=tiles[0],
            rows=self.rows,
            finals=finals,
            steps=extents.steps,
            stores=stores,
            time=time,
            unit_tiles=tiles[1],
            units=UNITS,
        )
        return text, (*arguments, *sizes)

    def _renew(self, code: Code, phase: Phase) -> tuple[list[dict[str, str]], list[dict[str, str]]]:
        """Writes what follows from a phase's sums; answers what is stored where, always and after the last step."""
        extents, workspaces = self.extents, self._workspaces()
        both = frozenset({0, 1})
        code.emit(f"place = (sequence * {extents.directions} + direction)[:, None]")

        def read(pointer: str, offset: str, mask: str = "here") -> str:
            return code.bind(f"tl.load({pointer} + {offset}, mask={mask}, other=0.0)", "x")

        def value(number: int) -> str:
            if number < PROJECTED:
                return f"sum{number - SUMS}"
            if number < STATES:
                gate = number - PROJECTED
                row = f"(direction * {extents.gates} + {gate}) * {extents.hidden} + unit[None, :]"
                if not extents.inputs:
                    of_gate = f"(place * {extents.gates} + {gate}) * {extents.hidden} + unit[None, :]"
                    return read(self.inputs["data"], of_gate)
                if "added" not in self.inputs:
                    return f"own{gate}"
                return code.bind(f"own{gate} + {read(self.inputs['added'], row, 'in_units')}", "x")
            if number < PEEPHOLES:
                return held(number - STATES)
            if number < BIAS:
                weights = f"(direction * 3 + {number - PEEPHOLES}) * {extents.hidden} + unit[None, :]"
                return read(self.inputs["peepholes"], weights, "in_units")
            return read(self.inputs["bias"], f"direction * {extents.hidden} + unit[None, :]", "in_units")

        def held(state: int) -> str:
            return read(workspaces[state], f"state + unit[None, :]{' + old' if state == HIDDEN else ''}")

        numbers = sorted({load.input for result in phase.results.values() for load in loads(result)})
        renderer = Renderer(code, [], {number: Text(value(number), both) for number in numbers})
        scope = Scope(tile=(str(self.rows), str(UNITS)))
        news = {state: renderer.tensor(result, scope).text for state, result in phase.results.items()}
        if "lengths" in self.inputs:
            lengths = f"tl.load({self.inputs['lengths']} + row, mask=row < {extents.batch}, other=0)"
            code.emit(f"active = (time < {lengths})[:, None]")
        if extents.batch_major:
            outer = f"((row * {extents.directions} + direction) * {extents.hidden})[:, None] + unit[None, :]"
        else:
            outer = "state + unit[None, :]"
        stores, finals = [], []
        for state, new in news.items():
            if "lengths" in self.inputs and state in _INITIAL:
                # Past its end a sequence keeps its state, and its output is zero.
                new = code.bind(f"tl.where(active, {new}, {held(state)})", "v")
            copy = " + new" if state == HIDDEN else ""
            stores.append({"to": f"{workspaces[state]} + state + unit[None, :]{copy}", "value": new})
            final = self.outputs.get(1 + state) if state in _INITIAL else None
            if final:
                finals.append({"to": f"{final} + {outer}", "value": new})
        if HIDDEN in news and 0 in self.outputs:
            shown = news[HIDDEN]
            if "lengths" in self.inputs:
                shown = code.bind(f"tl.where(active, {shown}, 0.0)", "v")
            stores.append({"to": f"{self.outputs[0]} + place * {extents.hidden} + unit[None, :]", "value": shown})
        return stores, finals
