"""A variant made ready to run: its step table in the launcher's form, and the contexts that calls run in.

A `Program` is what all calls share; a `Context` is what one call in flight owns: arena, pointer tables, object slots.
Contexts are kept and reused, so that a call only fills in where its inputs and outputs lie.
"""

from __future__ import annotations

import contextlib
import ctypes
import threading
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from time import perf_counter_ns
from typing import Any

import numpy as np

from graphc.errors import ExecutionError, GraphcError
from graphc.package import Copy, HostStep, HostTensor, KernelStep, Location, Manifest, Variant, numpy_dtype
from graphc.runtime.host import Evaluate
from graphc.runtime.library import Library
from graphc.runtime.memory import DATA_OFFSET, READY, Array, address, allocate, array_handle

# Bases: arena, weights, then the call's arrays (inputs, outputs), then object slots.
_ARENA, _WEIGHTS, _FIRST_ARRAY = 0, 1, 2
_ARGUMENT = np.dtype([("base", "<i8"), ("offset", "<i8")])
_STEP = np.dtype([("kernel", "<u8"), ("arguments", "<u8"), ("dims", "<u8"), ("argument_count", "<i8")])


class _Call(ctypes.Structure):
    """`Call` of native/launcher.c."""

    _fields_ = (
        ("steps", ctypes.c_void_p),
        ("first", ctypes.c_int64),
        ("last", ctypes.c_int64),
        ("bases", ctypes.c_void_p),
        ("arrays", ctypes.c_void_p),
        ("first_array", ctypes.c_int64),
        ("array_count", ctypes.c_int64),
        ("data_offset", ctypes.c_int64),
        ("threads", ctypes.c_int64),
        ("stamps", ctypes.c_void_p),
    )


@dataclass(frozen=True)
class _KernelRange:
    """Rows [first, last) of the step table; `start` is the variant's index of the first."""

    first: int
    last: int
    start: int


class Program:
    """A variant with its kernels found and its tables built.

    Args:
        manifest: The package's.
        variant: Of this manifest.
        library: With the variant's kernels.
        weights: The package's weights region, uint8.
        threads: That a call may use.
        evaluate: Runs host steps; needed if the variant has any.
    """

    def __init__(
        self,
        manifest: Manifest,
        variant: Variant,
        library: Library,
        weights: Array,
        *,
        threads: int,
        evaluate: Evaluate | None,
    ) -> None:
        self.variant = variant
        self.weights = weights
        self.threads = threads
        self.evaluate = evaluate
        self.run = library.run
        self.input_count, self.output_count = len(manifest.inputs), len(manifest.outputs)
        self.outputs = [
            (spec.name, shape, numpy_dtype(spec.dtype))
            for spec, shape in zip(manifest.outputs, variant.outputs, strict=True)
        ]
        self._by_name = [
            (spec.name, shape, numpy_dtype(spec.dtype))
            for spec, shape in zip(manifest.inputs, variant.inputs, strict=True)
        ]
        self._by_position = [(index, shape, dtype) for index, (_, shape, dtype) in enumerate(self._by_name)]
        self.parts = self._split()
        self._build_table(library)
        self._idle: list[Context] = []
        self._lock = threading.Lock()
        self.arenas = 0

    def _split(self) -> list[_KernelRange | tuple[int, HostStep]]:
        """The steps as runs of kernels and single host steps, in order."""
        parts: list[_KernelRange | tuple[int, HostStep]] = []
        rows = 0
        for index, step in enumerate(self.variant.steps):
            if isinstance(step, HostStep):
                parts.append((index, step))
                continue
            if parts and isinstance(last := parts[-1], _KernelRange):
                parts[-1] = _KernelRange(last.first, rows + 1, last.start)
            else:
                parts.append(_KernelRange(rows, rows + 1, index))
            rows += 1
        return parts

    def _build_table(self, library: Library) -> None:
        kernels = [step for step in self.variant.steps if isinstance(step, KernelStep)]
        addresses = {symbol: library.kernel(symbol) for symbol in {step.symbol for step in kernels}}
        arguments = [(self._base(place), place.offset) for step in kernels for place in step.arguments]
        dims = [dim for step in kernels for dim in step.dims]
        self._arguments = np.array(arguments, _ARGUMENT)
        self._dims = np.array(dims, np.int64)
        self.table = np.zeros(len(kernels), _STEP)
        next_argument, next_dim = address(self._arguments), address(self._dims)
        for row, step in zip(self.table, kernels, strict=True):
            row["kernel"] = addresses[step.symbol]
            row["arguments"], row["dims"] = next_argument, next_dim
            row["argument_count"] = len(step.arguments)
            next_argument += _ARGUMENT.itemsize * len(step.arguments)
            next_dim += self._dims.itemsize * len(step.dims)

    def _base(self, place: Location) -> int:
        first = {
            "arena": _ARENA,
            "weight": _WEIGHTS,
            "input": _FIRST_ARRAY,
            "output": _FIRST_ARRAY + self.input_count,
            "object": _FIRST_ARRAY + self.input_count + self.output_count,
        }
        return first[place.kind] + place.index

    def match(self, inputs: Any) -> list[Array] | None:
        """The inputs by position, if they are of this variant's shapes and ready for kernels as they are.

        This is the short way of calls that repeat: None says nothing is known, least of all that something is wrong.
        """
        keyed: Any = self._by_name
        if type(inputs) is not dict:
            if type(inputs) is not list and type(inputs) is not tuple:
                return None
            keyed = self._by_position
        if len(inputs) != self.input_count:
            return None
        arrays = []
        try:
            for key, shape, dtype in keyed:
                array = inputs[key]
                if (
                    type(array) is not np.ndarray
                    or array.dtype is not dtype
                    or array.shape != shape
                    or array.flags.num & READY != READY
                ):
                    return None
                arrays.append(array)
        except KeyError:
            return None
        return arrays

    def new_outputs(self) -> dict[str, Any]:
        """An array for each output by name; None where its shape is known only at run time."""
        return {name: None if shape is None else _empty(shape, dtype) for name, shape, dtype in self.outputs}

    def acquire(self) -> Context:
        """A context that no other call is using; hand it back with `release`."""
        try:
            return self._idle.pop()
        except IndexError:
            with self._lock:
                self.arenas += 1
            return Context(self)

    def release(self, context: Context) -> None:
        """Keeps a context for the next call."""
        self._idle.append(context)

    def trim(self) -> None:
        """Frees the contexts that no call is using."""
        with self._lock, contextlib.suppress(IndexError):
            while True:
                self._idle.pop()
                self.arenas -= 1


class Context:
    """What one call in flight owns."""

    def __init__(self, program: Program) -> None:
        variant = program.variant
        self.program = program
        self.arena = allocate(variant.arena_size)
        count = program.input_count + program.output_count
        self._bases = (ctypes.c_void_p * (_FIRST_ARRAY + count + variant.objects))()
        self._bases[_ARENA], self._bases[_WEIGHTS] = address(self.arena), address(program.weights)
        self._arrays = (ctypes.c_ssize_t * count)()
        self.inputs: Sequence[Array] = ()
        self.outputs: list[Any] = []
        self.objects: list[Any] = [None] * variant.objects
        self._run = program.run
        self._parts = [
            (self._call(part), part.start) if isinstance(part, _KernelRange) else part for part in program.parts
        ]
        # Most models are one run of kernels writing all outputs: that call is made without a loop.
        only = self._parts[0] if len(self._parts) == 1 and isinstance(program.parts[0], _KernelRange) else None
        self._whole = ctypes.byref(only[0]) if only and isinstance(only[0], _Call) and not variant.copies else None
        self._views: dict[HostTensor, Array] = {}

    def _call(self, part: _KernelRange) -> _Call:
        return _Call(
            self.program.table.ctypes.data,
            part.first,
            part.last,
            ctypes.addressof(self._bases),
            ctypes.addressof(self._arrays),
            _FIRST_ARRAY,
            len(self._arrays),
            DATA_OFFSET,
            self.program.threads,
            None,
        )

    def execute(self, inputs: Sequence[Array], outputs: dict[str, Any], stamps: Array | None = None) -> None:
        """Runs every step.

        Args:
            inputs: Arrays of exactly the variant's shapes and dtypes, C-contiguous and aligned.
            outputs: The same, by name in the model's order; None where the shape is known only at run time, replaced
                here.
            stamps: int64[steps, 2]: receives start and stop of each step in nanoseconds.

        Raises:
            ExecutionError: A step failed; names it and its nodes.
        """
        self._point_at(inputs, outputs)
        if self._whole is not None and stamps is None:
            if status := self._run(self._whole):
                self._fail(0, status)
            return
        self.inputs, self.outputs = inputs, list(outputs.values())
        try:
            self._execute_parts(stamps)
            for copy in self.program.variant.copies:
                self._copy_output(copy)
            outputs.update(zip(outputs, self.outputs, strict=True))
        finally:
            self.inputs, self.outputs = (), []
            self.objects[:] = [None] * len(self.objects)

    def walk(self, inputs: Sequence[Array], outputs: dict[str, Any]) -> Iterator[int]:
        """Runs step by step; yields the index of each when it has run, with `read` showing what it left.

        Args:
            inputs: As of `execute`.
            outputs: As of `execute`.
        """
        self._point_at(inputs, outputs)
        self.inputs, self.outputs = inputs, list(outputs.values())
        for part in self.program.parts:
            if isinstance(part, _KernelRange):
                for row in range(part.first, part.last):
                    index = part.start + row - part.first
                    self._execute_kernels(self._call(_KernelRange(row, row + 1, index)), index, None)
                    yield index
            else:
                self._execute_host(*part)
                yield part[0]

    def read(self, tensor: HostTensor) -> Any:
        """What lies at a place now: a view in arena, weights, inputs and outputs; the object in a slot."""
        return self._read(tensor)

    def _point_at(self, inputs: Sequence[Array], outputs: dict[str, Any]) -> None:
        """Tells the launcher where this call's arrays are; the caller keeps them alive."""
        arrays, place = self._arrays, 0
        for array in inputs:
            arrays[place] = array_handle(array)
            place += 1
        for array in outputs.values():
            arrays[place] = array_handle(_NOTHING if array is None else array)
            place += 1

    def _execute_parts(self, stamps: Array | None) -> None:
        for part, start_or_step in self._parts:
            if isinstance(part, _Call):
                assert isinstance(start_or_step, int)
                self._execute_kernels(part, start_or_step, stamps)
            else:
                assert isinstance(start_or_step, HostStep)
                started = perf_counter_ns()
                self._execute_host(part, start_or_step)
                if stamps is not None:
                    stamps[part] = started, perf_counter_ns()

    def _execute_kernels(self, call: _Call, start: int, stamps: Array | None) -> None:
        if stamps is None:
            status = self._run(ctypes.byref(call))
        else:
            # The launcher stamps by row of the table, which counts kernels only.
            call.stamps = address(stamps) + (start - call.first) * stamps.strides[0]
            try:
                status = self._run(ctypes.byref(call))
            finally:
                call.stamps = None
        if status:
            self._fail(start - call.first, status)

    def _fail(self, shift: int, status: int) -> None:
        """Raises for what the launcher answered; `shift` turns its row into the variant's index."""
        index = (status >> 32) + shift
        step = self.program.variant.steps[index]
        assert isinstance(step, KernelStep)
        raise ExecutionError(
            f"step {index} ({step.label or step.symbol}) failed with status {status & 0xFFFFFFFF}", nodes=step.origins
        )

    def _execute_host(self, index: int, step: HostStep) -> None:
        evaluate = self.program.evaluate
        assert evaluate is not None
        try:
            results = evaluate(step.payload, [None if tensor is None else self._read(tensor) for tensor in step.inputs])
            for tensor, result in zip(step.outputs, results, strict=True):
                if tensor is not None:
                    self._write(tensor, result)
        except GraphcError as error:
            raise ExecutionError(f"step {index} ({step.op_type}) failed: {error}", nodes=step.origins) from error
        except Exception as error:
            # An operator's NumPy meaning fails as NumPy fails; the user's model is what the error is about.
            raise ExecutionError(
                f"step {index} ({step.op_type}) failed: {type(error).__name__}: {error}", nodes=step.origins
            ) from error

    def _read(self, tensor: HostTensor) -> Any:
        place = tensor.location
        if place.kind == "object":
            return self.objects[place.index]
        return self._view(tensor)

    def _view(self, tensor: HostTensor) -> Array:
        """The array of an operand with bytes of its own; those in arena and weights are made once."""
        place = tensor.location
        if place.kind in ("input", "output"):
            array = (self.inputs if place.kind == "input" else self.outputs)[place.index]
            if tensor.shape is None or (array.shape == tensor.shape and not place.offset):
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
                self._bases[_FIRST_ARRAY + len(self._arrays) + place.index] = address(result)
            self.objects[place.index] = result
        elif place.kind == "output" and self.outputs[place.index] is None:
            self.outputs[place.index] = np.asarray(result, numpy_dtype(tensor.dtype))
        else:
            _assign(self._view(tensor), np.asarray(result))

    def _copy_output(self, copy: Copy) -> None:
        source, target = self._read(copy.source), self.outputs[copy.output]
        if target is not None and isinstance(source, np.ndarray):
            _assign(target, source)
        else:
            self.outputs[copy.output] = source.copy() if isinstance(source, np.ndarray) else source


_empty = np.empty
_NOTHING = np.zeros(1, np.uint8)


def _window(region: Array, tensor: HostTensor) -> Array:
    assert tensor.shape is not None
    start = tensor.location.offset
    return region[start : start + tensor.nbytes].view(numpy_dtype(tensor.dtype)).reshape(tensor.shape)


def _assign(target: Array, source: Array) -> None:
    if target.shape != source.shape or target.dtype != source.dtype:
        raise ExecutionError(
            f"expected {target.dtype}{list(target.shape)}, the step made {source.dtype}{list(source.shape)}"
        )
    target[...] = source
