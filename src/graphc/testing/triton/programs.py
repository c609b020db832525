"""Whole programs for a GPU, run without one: kernels interpreted, host steps in NumPy, values where the plan says."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, TypeAlias

import numpy as np

from graphc.backends.base import Kernel
from graphc.backends.regions import inputs_of
from graphc.compiler.program import Program
from graphc.errors import ExecutionError, GraphcError
from graphc.ir import Node, TensorType, Value
from graphc.ir.symbolic import evaluate
from graphc.ops import host
from graphc.ops.base import Datum
from graphc.testing.triton.kernels import run_buffers
from graphc.testing.triton.watched_memory import CANARY

Array: TypeAlias = np.ndarray[Any, Any]


def interpret_program(
    program: Program,
    inputs: Sequence[Array],
    *,
    races: bool = True,
    begin: Callable[[int, Node], None] = lambda number, node: None,
) -> list[Datum]:
    """Runs a program's steps in order, over an arena laid out as its plan says. For small models: it is slow.

    Args:
        program: Lowered for a CUDA target by the backend `triton`.
        inputs: Logical, in the order of the program's graph.
        races: Whether programs of a launch must keep off what others of it have written.
        begin: Told each step before it runs.

    Returns:
        The outputs, in the graph's order.

    Raises:
        ExecutionError: A step fails; names the nodes that it came from.
    """
    return _Run(program, inputs, races).outputs(begin)


class _Run:
    def __init__(self, program: Program, inputs: Sequence[Array], races: bool) -> None:
        self.program, self.bindings, self.races = program, dict(program.bindings), races
        self.arena = np.full(max(program.plan.peak, 1), CANARY, np.uint8)
        placed = program.buffers.arena()
        self.offsets = {id(storage): program.plan.offsets[number] for number, storage in enumerate(placed)}
        self.memory: dict[int, Array] = {}
        self.objects: dict[int, Datum] = {}
        for value, array in zip(program.graph.inputs, inputs, strict=True):
            self.write(value, array)

    def outputs(self, begin: Callable[[int, Node], None]) -> list[Datum]:
        for number, node in enumerate(self.program.buffers.steps):
            begin(number, node)
            kernel = self.program.kernels.get(node)
            try:
                if kernel is not None:
                    self.run_kernel(node, kernel)
                else:
                    self.run_on_host(node)
            except GraphcError as error:
                raise ExecutionError(f"{node.name or node.op}: {error.message}", nodes=node.origins) from error
        return [self.read(value) for value in self.program.graph.outputs]

    def run_kernel(self, node: Node, kernel: Kernel) -> None:
        inputs = inputs_of(node)
        outputs = [value for value in node.outputs if value.is_used] or list(node.outputs)
        buffers: list[Array] = []
        for operand in kernel.operands:
            size = evaluate(operand.size, self.bindings)
            if operand.kind == "workspace":
                buffers.append(np.full(size, CANARY, np.uint8))
            elif operand.kind == "output":
                buffers.append(self.storage(outputs[operand.index]))
            elif operand.packing is not None:
                tensor = inputs[operand.index].constant
                assert tensor is not None, "only constants are packed"
                buffers.append(np.ascontiguousarray(operand.packing.apply(tensor.array())))
            else:
                buffers.append(self.storage(inputs[operand.index]))
        after = run_buffers(kernel, buffers, self.bindings, races=self.races)
        for operand, buffer, array in zip(kernel.operands, buffers, after, strict=True):
            if operand.kind == "output":
                buffer[...] = array

    def run_on_host(self, node: Node) -> None:
        data = [None if value is None else self.read(value) for value in host.operands(node)]
        for value, datum in zip(node.outputs, host.evaluate(host.serialize(node), data), strict=False):
            if value.name:
                self.write(value, datum)

    def storage(self, value: Value) -> Array:
        """The bytes that hold a value."""
        place = self.program.buffers.storage[value]
        size = evaluate(value.tensor_type.storage_bytes, self.bindings)
        if place.kind == "arena":
            offset = self.offsets[id(place)]
            return self.arena[offset : offset + size]
        if id(place) not in self.memory:
            tensor = place.root.constant
            if tensor is not None:
                stored = np.ascontiguousarray(place.root.tensor_type.layout.pack(tensor.array()))
                self.memory[id(place)] = stored.reshape(-1).view(np.uint8)
            else:
                self.memory[id(place)] = np.full(size, CANARY, np.uint8)
        return self.memory[id(place)]

    def read(self, value: Value) -> Datum:
        """A value as an operator sees it."""
        place = self.program.buffers.storage[value]
        if place.kind == "object" or id(place) in self.objects:
            return self.objects[id(place)]
        if value.constant is not None:
            return value.constant.array()
        kind = value.tensor_type
        stored = self.storage(value).view(kind.dtype.numpy).reshape(self.stored_shape(kind))
        return kind.layout.unpack(stored, [evaluate(dim, self.bindings) for dim in kind.dims])

    def write(self, value: Value, datum: Datum) -> None:
        """Puts a value where it lies."""
        place = self.program.buffers.storage[value]
        if not isinstance(datum, np.ndarray) or place.kind == "object":
            self.objects[id(place)] = datum
            return
        stored = np.ascontiguousarray(value.tensor_type.layout.pack(datum))
        self.storage(value)[...] = stored.reshape(-1).view(np.uint8)

    def stored_shape(self, kind: TensorType) -> tuple[int, ...]:
        return tuple(evaluate(dim, self.bindings) for dim in kind.layout.storage_shape(kind.dims))
