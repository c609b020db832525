"""The step table of a program: every node as a step, every value as a place."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np

from graphc import package as steps
from graphc.backends.base import Kernel, Packing
from graphc.backends.regions import inputs_of
from graphc.compiler.control import Control, Schedule, bytes_of
from graphc.compiler.program import Program
from graphc.ir import Node, Tensor, TensorType, Value
from graphc.ops import host
from graphc.ops.compiler_ops import held_node
from graphc.ops.control import scan_plan
from graphc.package import HostTensor, Location, WeightsBuilder
from graphc.passes.buffers import Storage

SLOT_DTYPE = "string"
"""dtype named for operands whose type only the data tells."""


class Weights:
    """The weights region under construction: each constant once in each form that some kernel reads.

    Args:
        alignment: Bytes to which each is aligned.
    """

    def __init__(self, alignment: int) -> None:
        self.builder = WeightsBuilder(alignment)
        self._places: dict[tuple[bytes, Packing | None], Location] = {}

    def place(self, tensor: Tensor, packing: Packing | None) -> Location:
        """Where a constant lies, packed if asked."""
        # Held from here on, so that it is loaded once for the digest and for what is packed.
        array = tensor.array()
        key = (tensor.digest(), packing)
        found = self._places.get(key)
        if found is None:
            packed = array if packing is None else packing.apply(array)
            found = self._places[key] = self.builder.add(np.ascontiguousarray(packed).reshape(packed.shape))
        return found


@dataclass
class Bodies:
    """The bodies of a variant under construction, and the slots of its loops."""

    bodies: list[steps.Body] = field(default_factory=list)
    slots: list[int] = field(default_factory=list)

    def slot(self, size: int) -> int:
        """A new slot of so many bytes."""
        self.slots.append(size)
        return len(self.slots) - 1


class Places:
    """Locations of the values of a program, or of a body.

    Args:
        schedule: The program or body.
        weights: Where constants go.
        bodies: Where bodies of control nodes go.
        arena: Where its arena begins in the variant's.
        inputs: Where its inputs lie; they are the call's if None.
        outputs: Likewise.
    """

    def __init__(
        self,
        schedule: Schedule,
        weights: Weights,
        bodies: Bodies,
        *,
        arena: int = 0,
        inputs: Sequence[Location] | None = None,
        outputs: Sequence[Location] | None = None,
    ) -> None:
        self.schedule, self.weights, self.bodies = schedule, weights, bodies
        self.arena, self.inputs, self.outputs = arena, inputs, outputs
        self._reasons = {held.node: held.reason for held in schedule.host} if isinstance(schedule, Program) else {}
        placed = schedule.buffers.arena()
        self._offsets = {id(storage): schedule.plan.offsets[i] for i, storage in enumerate(placed)}

    def step(self, number: int, node: Node) -> steps.Step:
        """The table's entry for one node of a program."""
        if node in self.schedule.kernels:
            return self._kernel_step(number, node, self.schedule.kernels[node])
        if node in self.schedule.controls:
            return self._control_step(number, self.schedule.controls[node])
        return self._host_step(node)

    def body_steps(self) -> list[steps.BodyStep]:
        """The table's entries for a body: its nodes, then what it returns without having made it there."""
        made: list[steps.BodyStep] = []
        for number, node in enumerate(self.schedule.buffers.steps):
            if node in self.schedule.kernels:
                made.append(self._kernel_step(number, node, self.schedule.kernels[node]))
            elif node in self.schedule.controls:
                made.append(self._control_step(number, self.schedule.controls[node]))
            else:
                made.append(steps.RaiseStep(node.str_attribute("message", ""), f"raise: {node.name}", node.origins))
        assert self.outputs is not None
        for index, value in self.schedule.buffers.copies:
            made.append(steps.CopyStep(self.location(value), self.outputs[index], bytes_of(value)))
        return made

    def arguments(self, number: int, node: Node, kernel: Kernel) -> tuple[Location, ...]:
        """Where a kernel's pointers point, at step `number`."""
        inputs = inputs_of(node)
        arguments = []
        for position, operand in enumerate(kernel.operands):
            if operand.kind == "workspace":
                arguments.append(self._workspace(number, position))
            elif operand.kind == "output":
                outputs = [value for value in node.outputs if value.is_used] or list(node.outputs)
                arguments.append(self.location(outputs[operand.index]))
            else:
                arguments.append(self.location(inputs[operand.index], operand.packing))
        return tuple(arguments)

    def _kernel_step(self, number: int, node: Node, kernel: Kernel) -> steps.KernelStep:
        assert isinstance(kernel.flops, int) and isinstance(kernel.bytes, int)
        return steps.KernelStep(
            symbol=kernel.symbol,
            arguments=self.arguments(number, node, kernel),
            dims=tuple(int(dim) for dim in kernel.dims if isinstance(dim, int)),
            label=f"{kernel.template}: {node.name or node.op_type}",
            origins=node.origins,
            flops=kernel.flops,
            bytes=kernel.bytes,
        )

    def _host_step(self, node: Node) -> steps.HostStep:
        named = held_node(node)
        return steps.HostStep(
            op_type=named.op_type,
            domain=named.domain,
            version=named.version,
            payload=host.serialize(node),
            inputs=tuple(None if value is None else self.host_tensor(value) for value in host.operands(node)),
            outputs=tuple(self.host_tensor(value) if value.name else None for value in node.outputs),
            label=f"host: {named.op_type}",
            origins=node.origins,
            reason=self._reasons.get(named, ""),
        )

    def _control_step(self, number: int, control: Control) -> steps.BranchStep | steps.LoopStep:
        start = self._workspace(number, 0).offset
        return self._branch(control, start) if control.node.is_op("If") else self._loop(control, start)

    def _body(self, control: Control, index: int, start: int, own: list[Location], outputs: list[Location]) -> int:
        """Adds a body to the variant's; answers its number."""
        body = control.bodies[index]
        number = len(self.bodies.bodies)
        # The number is taken before the bodies inside get theirs: they are named by larger ones.
        self.bodies.bodies.append(steps.Body(()))
        inputs = [*own, *(self.location(value) for value in body.captured)]
        arena = start + control.arena
        places = Places(body, self.weights, self.bodies, arena=arena, inputs=inputs, outputs=outputs)
        self.bodies.bodies[number] = steps.Body(tuple(places.body_steps()))
        return number

    def _branch(self, control: Control, start: int) -> steps.BranchStep:
        node = control.node
        outputs = [self.location(value) for value in node.outputs]
        taken, otherwise = (self._body(control, index, start, [], outputs) for index in (0, 1))
        (condition,) = node.inputs
        assert condition is not None
        return steps.BranchStep(
            self.location(condition), taken, otherwise, self._results(node), f"branch: {_name(node)}", node.origins
        )

    def _loop(self, control: Control, start: int) -> steps.LoopStep:
        node = control.node
        scan = node.is_op("Scan")
        begin = 0 if scan else 2
        carried = []
        for value, made, spare in zip(
            node.inputs[begin : begin + control.states], node.outputs, control.spares, strict=False
        ):
            assert value is not None
            size = bytes_of(value)
            second = Location("arena", 0, start + spare)
            read, written = self.bodies.slot(size), self.bodies.slot(size)
            carried.append(steps.Carried(self.location(value), self.location(made), second, read, written, size))
        scanned, collected = self._lanes(control)
        inputs = [Location("slot", state.read) for state in carried] + [Location("slot", lane.slot) for lane in scanned]
        outputs = [Location("slot", state.written) for state in carried]
        outputs += [Location("slot", lane.slot) for lane in collected]
        given: dict[str, Location] = {}
        if not scan:
            for name, value in zip(("limit", "condition"), node.inputs, strict=False):
                if value is not None:
                    given[name] = self.location(value)
            own = (("counter", control.COUNTER), ("going_on", control.GOING_ON), ("kept", control.KEPT))
            given.update((name, Location("arena", 0, start + offset)) for name, offset in own)
            inputs = [given["counter"], given["going_on"], *inputs]
            outputs = [given["kept"], *outputs]
        trips = self._trips(control)
        body = self._body(control, 0, start, inputs, outputs)
        done = self.bodies.bodies[body].steps
        work = [step for step in done if isinstance(step, steps.KernelStep | steps.LoopStep)]
        return steps.LoopStep(
            body,
            trips,
            carried=tuple(carried),
            lanes=(*scanned, *collected),
            outputs=self._results(node),
            label=f"loop: {_name(node)}",
            origins=node.origins,
            flops=(trips or 0) * sum(step.flops for step in work),
            bytes=(trips or 0) * sum(step.bytes for step in work),
            **given,
        )

    def _trips(self, control: Control) -> int | None:
        """Most iterations, where the arrays that a loop goes along, or a constant, tell."""
        node = control.node
        along = (*self._scanned(control), *node.outputs[control.states :])
        if along:
            return along[0].tensor_type.static_shape[0]
        limit = node.inputs[0]
        constant = None if limit is None or node.is_op("Scan") else limit.constant
        return None if constant is None else max(0, int(constant.array().reshape(())))

    def _scanned(self, control: Control) -> list[Value]:
        if not control.node.is_op("Scan"):
            return []
        return [value for value in control.node.inputs[control.states :] if value is not None]

    def _lanes(self, control: Control) -> tuple[list[steps.Lane], list[steps.Lane]]:
        """The arrays that a loop scans and those that it collects."""
        node, scanned = control.node, self._scanned(control)
        collected = node.outputs[control.states :]
        plan = scan_plan(node) if node.is_op("Scan") else None
        back = (*plan.input_reversed, *plan.output_reversed) if plan is not None else (0,) * len(collected)
        lanes = []
        graph = control.bodies[0].graph
        items = (*graph.inputs[control.states :][: len(scanned)], *graph.outputs[len(graph.outputs) - len(collected) :])
        for value, part, backwards in zip((*scanned, *collected), items, back, strict=True):
            item, trips = bytes_of(part), value.tensor_type.static_shape[0]
            first = (trips - 1) * item if backwards and trips else 0
            lanes.append(steps.Lane(self.location(value), self.bodies.slot(item), first, -item if backwards else item))
        return lanes[: len(scanned)], lanes[len(scanned) :]

    def _results(self, node: Node) -> tuple[HostTensor, ...]:
        return tuple(self.host_tensor(value) for value in node.outputs)

    def _workspace(self, number: int, position: int) -> Location:
        offset = self.schedule.plan.offsets[self.schedule.workspaces[number, position]]
        return Location("arena", 0, self.arena + offset)

    def location(self, value: Value, packing: Packing | None = None) -> Location:
        """Where a value lies."""
        storage = self.schedule.buffers.storage[value]
        match storage.kind:
            case "weight":
                return self._weight(storage, packing)
            case "arena":
                return Location("arena", 0, self.arena + self._offsets[id(storage)])
            case "input" if self.inputs is not None:
                return self.inputs[storage.index]
            case "output" if self.outputs is not None:
                return self.outputs[storage.index]
        return Location(storage.kind, storage.index)

    def _weight(self, storage: Storage, packing: Packing | None) -> Location:
        tensor = storage.root.constant
        assert tensor is not None
        return self.weights.place(tensor, packing)

    def host_tensor(self, value: Value) -> HostTensor:
        """A value as an operand of a host step, or the source of a copy."""
        kind = value.type
        dtype = kind.dtype.name if isinstance(kind, TensorType) else SLOT_DTYPE
        return HostTensor(self.location(value), dtype, known_shape(value))


def _name(node: Node) -> str:
    return node.name or node.op_type


def known_shape(value: Value) -> tuple[int, ...] | None:
    """The extents of a tensor, where all are known before it runs."""
    kind = value.type
    return kind.static_shape if isinstance(kind, TensorType) and kind.is_static else None
