"""What one call in flight on a GPU owns: arena, stream, graphs, pinned memory; and how it runs."""

from __future__ import annotations

import contextlib
import weakref
from collections.abc import Iterator, Sequence
from time import perf_counter_ns
from typing import TYPE_CHECKING, Any, Protocol, TypeVar

import numpy as np

from graphc.package import Copy, HostStep, HostTensor, KernelStep, Location, numpy_dtype
from graphc.runtime.cuda import driver
from graphc.runtime.cuda.array import DeviceArray
from graphc.runtime.cuda.control import run_control
from graphc.runtime.cuda.driver import call
from graphc.runtime.cuda.ends import Ends
from graphc.runtime.cuda.graphs import Graphs
from graphc.runtime.cuda.launcher import Launcher
from graphc.runtime.cuda.marks import Marks
from graphc.runtime.cuda.memory import Block, Pinned, aligned, copy, download, upload
from graphc.runtime.cuda.parts import Break, Run
from graphc.runtime.cuda.status import Status
from graphc.runtime.host import assign, copied, run_step
from graphc.runtime.memory import Array

if TYPE_CHECKING:
    from graphc.runtime.cuda.program import CudaProgram

_NON_BLOCKING = 1
"""`CU_STREAM_NON_BLOCKING`: the stream waits for no other library's default stream."""


class _Closes(Protocol):
    def close(self) -> None: ...


PartT = TypeVar("PartT", bound=_Closes)


class CudaContext:
    """Belongs to one call at a time; its program keeps it for reuse.

    A program's first call launches its kernels one by one, since the driver may load their code only then. The next one
    captures each run of them as a graph, with the copies from and to the host, and those after it launch the graphs.

    Attributes:
        stream: That everything is enqueued in.
        slots: Where what the loops around a body's steps set points.
    """

    def __init__(self, program: CudaProgram) -> None:
        variant = program.variant
        self._program = program
        self._device = device = program.device
        self._owned = contextlib.ExitStack()
        self._inputs: Sequence[Any] = ()
        self._outputs: list[Any] = []
        self._objects: list[Any] = [None] * variant.objects
        self._object_blocks: dict[int, Block] = {}
        self.slots = [0] * len(variant.slots)
        self._written = 0
        what = f"a call of {program.model!r}"
        with device, contextlib.ExitStack() as failing:
            # What was had so far goes at once where the rest is not to be had: others need the memory.
            failing.callback(self._owned.close)
            self.stream = call("cuStreamCreate", _NON_BLOCKING)
            self._owned.callback(device.free, "cuStreamDestroy", self.stream)
            self._graphs = self._owns(Graphs(device, self.stream, len(program.runs)))
            self._marks = self._owns(Marks(device, self.stream))
            self._arena = self._owns(Block(device, variant.arena_size, f"{what} (its intermediate values)"))
            self._ends = self._owns(Ends(device, program.input_rows, program.outputs, self.stream, program.model))
            self._status = self._owns(Status(device, variant, program.statuses, self.stream))
            scratch = self._owns(Block(device, program.scratch, f"{what} (its kernels' scratch memory)"))
            self._read_from, self._written_to = (
                self._owns(Pinned(device, size, f"{what} (operands of host steps)")) for size in program.bounce
            )
            self._launchers = {
                step: Launcher(calls, self.address, self._status.address(step), scratch.address, self.stream)
                for step, calls in program.calls.items()
            }
            failing.pop_all()
        # Where it goes with all that holds it, nobody closes it.
        self._freed = weakref.finalize(self, self._owned.close)
        self._freed.atexit = False

    def _owns(self, part: PartT) -> PartT:
        return self._owned.enter_context(contextlib.closing(part))

    def close(self) -> None:
        """Frees all of it. No call uses it."""
        for block in self._object_blocks.values():
            block.close()
        self._object_blocks = {}
        # They hold this, and this the program with its weights.
        self._launchers = {}
        self._freed()

    def execute(self, inputs: Sequence[Any], outputs: dict[str, Any], stamps: Array | None = None) -> None:
        """As of every context."""
        with self._device:
            try:
                self._begin(inputs, outputs)
                for number, run in enumerate(self._program.runs):
                    self._launch(number, run, stamps)
                    if run.then is not None:
                        started = perf_counter_ns()
                        self._break(run.last, run.then)
                        if stamps is not None:
                            stamps[run.last] = started, perf_counter_ns()
                self._ends.keep_outputs()
                self.synchronize()
                self._ends.fetch_outputs(self._outputs)
                for made in self._program.host_copies:
                    self._copy_on_host(made)
                self._program.is_warm = True
                outputs.update(zip(outputs, self._outputs, strict=True))
            except BaseException:
                # The next call must not find this one's work under way.
                driver.attempt("cuStreamSynchronize", self.stream)
                raise
            finally:
                self._end()

    def walk(self, inputs: Sequence[Any], outputs: dict[str, Any]) -> Iterator[int]:
        """As of every context. Where it yields, the stream is empty, and the thread's CUDA context the caller's."""
        try:
            with self._device:
                self._begin(inputs, outputs)
                self._ends.upload()
                self._status.clear()
            for run in self._program.runs:
                for index in range(run.first, run.last):
                    with self._device:
                        step = self._program.variant.steps[index]
                        assert isinstance(step, KernelStep)
                        self.launch(step)
                        self._status.download()
                        self.synchronize()
                    yield index
                if run.then is not None:
                    with self._device:
                        self._break(run.last, run.then)
                        self.synchronize()
                    yield run.last
        finally:
            with self._device:
                driver.attempt("cuStreamSynchronize", self.stream)
            self._end()

    def read(self, tensor: HostTensor) -> Any:
        """As of every context; a copy of what lies in the GPU's memory."""
        if self._is_on_host(tensor):
            return self._on_host(tensor)
        assert tensor.shape is not None
        return download(self._device, self.address(tensor.location), tensor.shape, numpy_dtype(tensor.dtype))

    def address(self, place: Location) -> int:
        """Where a place lies in the GPU's memory now."""
        match place.kind:
            case "arena":
                return self._arena.address + place.offset
            case "weight":
                return self._program.weights.address(place.offset)
            case "object":
                return self._object_blocks[place.index].address + place.offset
            case "slot":
                return self.slots[place.index] + place.offset
        return self._ends.address(place)

    def launch(self, step: KernelStep) -> None:
        """Enqueues a step's kernels."""
        self._launchers[step]()

    def synchronize(self) -> None:
        """Waits for all that is enqueued.

        Raises:
            ExecutionError: A kernel failed, or found something wrong in its data.
        """
        call("cuStreamSynchronize", self.stream)
        self._status.check()

    def _begin(self, inputs: Sequence[Any], outputs: dict[str, Any]) -> None:
        self._inputs, self._outputs = inputs, list(outputs.values())
        self._ends.place([*inputs, *self._outputs])

    def _end(self) -> None:
        self._inputs, self._outputs = (), []
        self._objects[:] = [None] * len(self._objects)
        self._ends.forget()

    def _launch(self, number: int, run: Run, stamps: Array | None) -> None:
        """Runs kernels; waits for them where something other than the end of the call follows."""
        measured = stamps is not None
        captured = self._program.is_warm and run.fixed and run.last > run.first
        if measured:
            self._marks.prepare(run.first, run.last)
        started = perf_counter_ns()
        if captured:
            key = number, self._ends.binding, measured
            self._graphs.launch(key, lambda: self._enqueue(number, run, measured, True))
        else:
            self._enqueue(number, run, measured, False)
        if run.then is not None or measured:
            self.synchronize()
        if stamps is not None:
            self._marks.write(stamps, run.first, run.last, started)

    def _enqueue(self, number: int, run: Run, measured: bool, captured: bool) -> None:
        if number == 0:
            self._ends.upload()
            self._status.clear()
        if measured:
            self._marks.record(run.first, captured=captured)
        for index in range(run.first, run.last):
            step = self._program.variant.steps[index]
            assert isinstance(step, KernelStep)
            self.launch(step)
            if measured:
                self._marks.record(index + 1, captured=captured)
        if run.then is None:
            for made in self._program.device_copies:
                target = self._ends.address(Location("output", made.output))
                copy(target, self.address(made.source.location), made.source.nbytes, self.stream)
            self._ends.download()
        self._status.download()

    def _break(self, index: int, step: Break) -> None:
        if not isinstance(step, HostStep):
            run_control(self, self._program.variant, step)
            self._status.download()
            return
        assert self._program.evaluate is not None
        self._written = 0
        run_step(index, step, self._program.evaluate, self._operands(step), self._write)

    def _operands(self, step: HostStep) -> list[Any]:
        """What a host step reads, copied to the host where it is not there."""
        operands: list[Any] = []
        used = 0
        for tensor in step.inputs:
            if tensor is None or self._is_on_host(tensor):
                operands.append(None if tensor is None else self._on_host(tensor))
                continue
            operands.append(_window(self._read_from.bytes, used, tensor))
            if tensor.nbytes:
                source = self.address(tensor.location)
                call("cuMemcpyDtoHAsync", self._read_from.address + used, source, tensor.nbytes, self.stream)
            used += aligned(tensor.nbytes)
        if used:
            self.synchronize()
        return operands

    def _write(self, tensor: HostTensor, result: Any) -> None:
        """Keeps what a host step made, none of it in the memory that its operands were copied to."""
        place = tensor.location
        if place.kind == "object":
            self._objects[place.index] = copied(result)
            if place.index in self._program.device_objects:
                self._upload_object(place.index, np.ascontiguousarray(result))
        elif place.kind == "output" and self._ends.is_absent(place):
            self._outputs[place.index] = copied(np.asarray(result, numpy_dtype(tensor.dtype)))
        else:
            assign(_window(self._written_to.bytes, self._written, tensor), np.asarray(result))
            if tensor.nbytes:
                source = self._written_to.address + self._written
                call("cuMemcpyHtoDAsync", self.address(place), source, tensor.nbytes, self.stream)
            self._written += aligned(tensor.nbytes)

    def _upload_object(self, number: int, array: Array) -> None:
        """Lays what is in a slot where kernels read it."""
        block = self._object_blocks.get(number)
        if block is None or block.size < array.nbytes:
            what = f"a call of {self._program.model!r} (what a host step made)"
            self._object_blocks[number] = block = Block(self._device, array.nbytes, what)
        upload(self._device, block.address, array)

    def _is_on_host(self, tensor: HostTensor) -> bool:
        """Whether a place is read without the GPU."""
        place = tensor.location
        if place.kind in ("object", "weight"):
            return True
        if place.kind not in ("input", "output"):
            return False
        if self._ends.is_absent(place) or tensor.shape is None:
            return True
        array = self._inputs[place.index] if place.kind == "input" else None
        same = isinstance(array, np.ndarray) and (array.shape, array.dtype) == (tensor.shape, numpy_dtype(tensor.dtype))
        return same and not place.offset

    def _on_host(self, tensor: HostTensor) -> Any:
        place = tensor.location
        match place.kind:
            case "object":
                return self._objects[place.index]
            case "weight":
                return _window(self._program.host_weights, place.offset, tensor)
            case "input":
                value = self._inputs[place.index]
                return value.numpy() if isinstance(value, DeviceArray) else value
        return self._outputs[place.index]

    def _copy_on_host(self, made: Copy) -> None:
        value, target = self.read(made.source), self._outputs[made.output]
        if isinstance(target, DeviceArray):
            upload(self._device, target.address, np.ascontiguousarray(value))
        elif target is not None and isinstance(value, np.ndarray):
            assign(target, value)
        else:
            self._outputs[made.output] = copied(value)


def _window(region: Array, start: int, tensor: HostTensor) -> Array:
    assert tensor.shape is not None
    return region[start : start + tensor.nbytes].view(numpy_dtype(tensor.dtype)).reshape(tensor.shape)
