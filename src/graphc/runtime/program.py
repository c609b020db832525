"""A variant made ready to run: kernels found, its step table built, contexts kept for the calls to come."""

from __future__ import annotations

import contextlib
import threading
from typing import Any

import numpy as np

from graphc.package import HostStep, Location, Manifest, Variant, numpy_dtype
from graphc.runtime import abi
from graphc.runtime.arenas import EMPTY, Arenas
from graphc.runtime.context import Context, HostPart, KernelRange
from graphc.runtime.host import Evaluate
from graphc.runtime.library import Library
from graphc.runtime.memory import READY, Array, allocate
from graphc.runtime.shortcut import Function, build
from graphc.runtime.table import Table

_empty = np.empty


class Program:
    """A variant with its kernels found and its tables built.

    Attributes:
        own_rows: Rows of the variant's steps, before those of bodies.
        shortens: Whether calls may have a short way: one range of kernels writes all outputs.
        takes_objects: Whether some input is no tensor.

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
        # The library stays loaded for as long as this does.
        self._library = library
        self.run = library.run
        self._entry = library.shortcut
        self.input_count, self.output_count = len(manifest.inputs), len(manifest.outputs)
        self.outputs = [
            (spec.name, shape, numpy_dtype(spec.dtype))
            for spec, shape in zip(manifest.outputs, variant.outputs, strict=True)
        ]
        self.input_rows = [
            (spec.name, shape, numpy_dtype(spec.dtype))
            for spec, shape in zip(manifest.inputs, variant.inputs, strict=True)
        ]
        self._by_position = [(index, shape, dtype) for index, (_, shape, dtype) in enumerate(self.input_rows)]
        self.parts = self._split()
        self.table = Table(variant, library.kernel, self._base)
        self.own_rows = sum(part.last - part.first for part in self.parts if isinstance(part, KernelRange))
        self._idle: list[Context] = []
        self._shortcut: Function | None = None
        kernels = len(self.parts) == 1 and isinstance(self.parts[0], KernelRange) and not variant.copies
        self.takes_objects = None in variant.inputs
        self.shortens = kernels and not self.takes_objects and None not in variant.outputs
        self._lock = threading.Lock()
        self.arenas = 0

    def _split(self) -> list[KernelRange | HostPart]:
        """The steps as runs of the launcher and single host steps, in order."""
        parts: list[KernelRange | HostPart] = []
        rows = 0
        for index, step in enumerate(self.variant.steps):
            if isinstance(step, HostStep):
                parts.append(HostPart(index, step))
                continue
            if parts and isinstance(last := parts[-1], KernelRange):
                parts[-1] = KernelRange(last.first, rows + 1, last.start)
            else:
                parts.append(KernelRange(rows, rows + 1, index))
            rows += 1
        return parts

    def _base(self, place: Location) -> int:
        first = {
            "arena": abi.ARENA,
            "weight": abi.WEIGHTS,
            "input": abi.FIRST_ARRAY,
            "output": abi.FIRST_ARRAY + self.input_count,
            "object": abi.FIRST_ARRAY + self.input_count + self.output_count,
            "slot": abi.FIRST_ARRAY + self.input_count + self.output_count + self.variant.objects,
        }
        return first[place.kind] + place.index

    def match(self, inputs: Any) -> list[Array] | None:
        """The inputs by position, if they are of this variant's shapes and ready for kernels as they are.

        This is the short way of calls that repeat: None says nothing is known, least of all that something is wrong.
        """
        keyed: Any = self.input_rows
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

    def new_arena(self) -> Array:
        """Memory for a context's intermediate values."""
        return allocate(self.variant.arena_size)

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

    def shortcut(self) -> Function | None:
        """The short way of calls like the last one, with a context of its own; None where there is none."""
        if self._shortcut is None and self.shortens:
            with self._lock:
                if self._shortcut is None and self._idle:
                    self._shortcut = build(self._idle.pop(), self._entry)
                    self.shortens = self._shortcut is not None
        return self._shortcut

    def trim(self) -> None:
        """Frees the contexts that no call is using."""
        with self._lock, contextlib.suppress(IndexError):
            if self._shortcut is not None:
                self._shortcut = None
                self.arenas -= 1
            while True:
                self._idle.pop()
                self.arenas -= 1


class ParameterProgram(Program):
    """A program of a model with parameters: the short ways are open only to the values that it was chosen for.

    Attributes:
        watched: Position and bytes of each parameter at the call that chose it; None closes the short way. Setting it
            races with other calls harmlessly: a program is right for every value that its variant is right for.
    """

    watched: tuple[tuple[int, bytes], ...] | None = None

    def __init__(self, manifest: Manifest, variant: Variant, *rest: Any, **options: Any) -> None:
        super().__init__(manifest, variant, *rest, **options)
        # A variant for any value may stand in for another, which must be asked for at each call.
        self.shortens = self.shortens and variant.values.keys() == set(manifest.parameters)

    def match(self, inputs: Any) -> list[Array] | None:
        """As of every program, if the parameters have the values watched too."""
        watched = self.watched
        arrays = None if watched is None else super().match(inputs)
        if watched is None or arrays is None:
            return None
        for index, data in watched:
            if arrays[index].tobytes() != data:
                return None
        return arrays


class OpenProgram(Program):
    """A program of an open variant at one binding: contexts borrow their arenas, which serve all bindings.

    Args:
        manifest: The package's.
        variant: Instantiated.
        library: With its kernels.
        weights: The package's weights region, uint8.
        shared: Where arenas come from.
        threads: That a call may use.
    """

    def __init__(
        self, manifest: Manifest, variant: Variant, library: Library, weights: Array, shared: Arenas, *, threads: int
    ) -> None:
        super().__init__(manifest, variant, library, weights, threads=threads, evaluate=None)
        self._shared = shared
        # The short way has an arena of its own, and there are too many bindings for that.
        self.shortens = False

    def new_arena(self) -> Array:
        """Nothing: `acquire` borrows an arena."""
        return EMPTY

    def acquire(self) -> Context:
        """A context with an arena borrowed for it."""
        context = super().acquire()
        context.move(self._shared.take(self.variant.arena_size))
        return context

    def release(self, context: Context) -> None:
        """Gives the arena back and keeps the context for the next call."""
        self._shared.give(context.arena)
        context.move(EMPTY)
        super().release(context)
