"""What one call in flight owns: its arena, its pointers, what host steps leave to each other; and how it runs."""

from __future__ import annotations

import ctypes
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from time import perf_counter_ns
from typing import TYPE_CHECKING, Any

import numpy as np

from graphc.errors import ExecutionError
from graphc.package import Copy, HostStep, HostTensor, KernelStep, RaiseStep, numpy_dtype
from graphc.runtime import abi
from graphc.runtime.host import assign, copied, run_step
from graphc.runtime.memory import DATA_OFFSET, Array, address, array_handle
from graphc.runtime.table import rows_of

if TYPE_CHECKING:
    from graphc.runtime.library_program import LibraryProgram


@dataclass(frozen=True)
class KernelRange:
    """Rows [first, last) of the step table; `start` is the variant's index of the first."""

    first: int
    last: int
    start: int


@dataclass(frozen=True)
class HostPart:
    """A host step and its index in the variant."""

    index: int
    step: HostStep


class LibraryContext:
    """Belongs to one call at a time; its program keeps it for reuse, so that a call only says where its arrays are."""

    def __init__(self, program: LibraryProgram) -> None:
        self.program = program
        self.arena = program.new_arena()
        count = program.input_count + program.output_count
        self._bases = (ctypes.c_void_p * (abi.FIRST_ARRAY + count + program.object_count + program.slot_count))()
        self._bases[abi.ARENA], self._bases[abi.WEIGHTS] = address(self.arena), address(program.weights)
        self._arrays = (ctypes.c_ssize_t * count)()
        self.inputs: Sequence[Any] = ()
        self.outputs: list[Any] = []
        self.objects: list[Any] = [None] * program.object_count
        self._run = program.run
        self._calls = {part: self._call(part) for part in program.parts if isinstance(part, KernelRange)}
        # Most models are one run of kernels writing all outputs: that call is made without a loop.
        whole = len(program.parts) == 1 and self._calls and not program.copies
        self.whole = next(iter(self._calls.values())) if whole else None
        self._whole = ctypes.byref(self.whole) if self.whole is not None else None
        self._views: dict[HostTensor, Array] = {}

    def move(self, arena: Array) -> None:
        """Lets the calls to come use another arena, of at least the variant's size."""
        self.arena = arena
        self._bases[abi.ARENA] = address(arena)
        self._views.clear()

    def _call(self, part: KernelRange) -> abi.Call:
        return abi.Call(
            address(self.program.table.rows),
            part.first,
            part.last,
            ctypes.addressof(self._bases),
            ctypes.addressof(self._arrays),
            abi.FIRST_ARRAY,
            len(self._arrays),
            DATA_OFFSET,
            self.program.threads,
            None,
        )

    def execute(self, inputs: Sequence[Any], outputs: dict[str, Any], stamps: Array | None = None) -> None:
        """As of every context; with the arrays where they are."""
        self._point_at(inputs, outputs)
        if self._whole is not None and stamps is None:
            if status := self._run(self._whole):
                self._fail(0, status)
            return
        self.inputs, self.outputs = inputs, list(outputs.values())
        try:
            self._execute_parts(stamps)
            for copy in self.program.copies:
                self._copy_output(copy)
            outputs.update(zip(outputs, self.outputs, strict=True))
        finally:
            self.inputs, self.outputs = (), []
            self.objects[:] = [None] * len(self.objects)

    def walk(self, inputs: Sequence[Any], outputs: dict[str, Any]) -> Iterator[int]:
        """As of every context."""
        self._point_at(inputs, outputs)
        self.inputs, self.outputs = inputs, list(outputs.values())
        for part in self.program.parts:
            if isinstance(part, KernelRange):
                for row in range(part.first, part.last):
                    index = part.start + row - part.first
                    self._execute_kernels(self._call(KernelRange(row, row + 1, index)), index - row, None)
                    yield index
            else:
                self._execute_host(part)
                yield part.index

    def read(self, tensor: HostTensor) -> Any:
        """What lies at a place now: a view in arena, weights, inputs and outputs; the object in a slot."""
        place = tensor.location
        return self.objects[place.index] if place.kind == "object" else self._view(tensor)

    def _point_at(self, inputs: Sequence[Array], outputs: dict[str, Any]) -> None:
        """Tells the launcher where this call's arrays are; the caller keeps them alive."""
        arrays, place = self._arrays, 0
        if self.program.takes_objects:
            inputs = [array if isinstance(array, np.ndarray) else _NOTHING for array in inputs]
        for array in inputs:
            arrays[place] = array_handle(array)
            place += 1
        for array in outputs.values():
            arrays[place] = array_handle(_NOTHING if array is None else array)
            place += 1

    def _execute_parts(self, stamps: Array | None) -> None:
        for part in self.program.parts:
            if isinstance(part, KernelRange):
                self._execute_kernels(self._calls[part], part.start - part.first, stamps)
            else:
                started = perf_counter_ns()
                self._execute_host(part)
                if stamps is not None:
                    stamps[part.index] = started, perf_counter_ns()

    def _execute_kernels(self, call: abi.Call, shift: int, stamps: Array | None) -> None:
        """Runs a range; `shift` turns a row of the table, which counts kernels only, into an index of the variant."""
        if stamps is None:
            status = self._run(ctypes.byref(call))
        else:
            call.stamps = address(stamps) + shift * stamps.strides[0]
            try:
                status = self._run(ctypes.byref(call))
            finally:
                call.stamps = None
        if status:
            self._fail(shift, status)

    def _fail(self, shift: int, status: int) -> None:
        """Raises for what the launcher answered."""
        row = status >> 32
        step = rows_of(self.program.variant)[row]
        # Rows of bodies come after those of steps.
        name = step.symbol if isinstance(step, KernelStep) and not step.label else step.label
        where = f"step {row + shift} ({name})" if row < self.program.own_rows else f"{name}, a step of a body,"
        if isinstance(step, RaiseStep):
            raise ExecutionError(
                f"the branch taken does not fit the shapes that the model was compiled for: {step.message}",
                nodes=step.origins,
            )
        raise ExecutionError(f"{where} failed with status {status & 0xFFFFFFFF}", nodes=step.origins)

    def _execute_host(self, part: HostPart) -> None:
        step, evaluate = part.step, self.program.evaluate
        assert evaluate is not None
        inputs = [None if tensor is None else self.read(tensor) for tensor in step.inputs]
        run_step(part.index, step, evaluate, inputs, self._write)

    def _view(self, tensor: HostTensor) -> Array:
        """The array of an operand with bytes of its own; those in arena and weights are made once."""
        place = tensor.location
        if place.kind in ("input", "output"):
            array: Array = (self.inputs if place.kind == "input" else self.outputs)[place.index]
            if tensor.shape is None:
                return array
            if array.shape == tensor.shape and array.dtype == numpy_dtype(tensor.dtype) and not place.offset:
                return array
            return _window(array.reshape(-1).view(np.uint8), tensor)
        if tensor not in self._views:
            region = self.arena if place.kind == "arena" else self.program.weights
            self._views[tensor] = _window(region, tensor)
        return self._views[tensor]

    def _write(self, tensor: HostTensor, result: Any) -> None:
        place = tensor.location
        if place.kind == "object":
            if isinstance(result, np.ndarray):
                result = np.ascontiguousarray(result).reshape(result.shape)
                self._bases[abi.FIRST_ARRAY + len(self._arrays) + place.index] = address(result)
            self.objects[place.index] = result
        elif place.kind == "output" and self.outputs[place.index] is None:
            self.outputs[place.index] = np.asarray(result, numpy_dtype(tensor.dtype))
        else:
            assign(self._view(tensor), np.asarray(result))

    def _copy_output(self, copy: Copy) -> None:
        source, target = self.read(copy.source), self.outputs[copy.output]
        if target is not None and isinstance(source, np.ndarray):
            assign(target, source)
        else:
            self.outputs[copy.output] = copied(source)


_NOTHING = np.zeros(1, np.uint8)


def _window(region: Array, tensor: HostTensor) -> Array:
    assert tensor.shape is not None
    start = tensor.location.offset
    return region[start : start + tensor.nbytes].view(numpy_dtype(tensor.dtype)).reshape(tensor.shape)
