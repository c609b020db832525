"""A variant made ready to run, on whatever it runs: what calls of it must look like, and contexts kept for them."""

from __future__ import annotations

import contextlib
import threading
from abc import ABC, abstractmethod
from collections.abc import Collection, Iterator, Sequence
from typing import Any, Generic, Protocol, TypeVar

import numpy as np

from graphc.package import HostTensor, Manifest, Variant, numpy_dtype
from graphc.runtime.memory import READY, Array
from graphc.runtime.shortcut import Function

_empty = np.empty


class Context(Protocol):
    """What one call in flight owns, and how it runs."""

    def execute(self, inputs: Sequence[Any], outputs: dict[str, Any], stamps: Array | None = None) -> None:
        """Runs every step.

        Args:
            inputs: Arrays of exactly the variant's shapes and dtypes, C-contiguous and aligned; or what is no tensor.
            outputs: The same, by name in the model's order; None where the shape is known only at run time, replaced
                here.
            stamps: int64[steps, 2]: receives start and stop of each step in nanoseconds.

        Raises:
            ExecutionError: A step failed; names it and its nodes.
        """

    def walk(self, inputs: Sequence[Any], outputs: dict[str, Any]) -> Iterator[int]:
        """Runs step by step; yields the index of each when it has run, with `read` showing what it left.

        Args:
            inputs: As of `execute`.
            outputs: As of `execute`.
        """

    def read(self, tensor: HostTensor) -> Any:
        """What lies at a place now, valid until the next step."""


ContextT = TypeVar("ContextT", bound=Context)


class Program(ABC, Generic[ContextT]):
    """A variant with its kernels found.

    Attributes:
        arena_size: Bytes of intermediate values of one call.
        outputs: Name, shape and dtype of each; the shape is None where it is known only at run time.
        input_rows: Likewise of each input; the shape is None where it is no tensor.
        takes_objects: Whether some input is no tensor.
        shortens: Whether calls may have a short way.
        opened: Whether it is one of the many bindings of an open variant.
        arenas: Contexts made so far and not freed.
        watched: Position and bytes of each parameter at the call that chose this program; None closes `match`. Setting
            it races with other calls harmlessly: a program is right for every value that its variant is right for.

    Args:
        manifest: The package's.
        variant: Of this manifest.
        keyed: Whether the model has parameters, to whose values `match` must look.
    """

    opened = False

    def __init__(self, manifest: Manifest, variant: Variant, *, keyed: bool = False) -> None:
        self._variant = variant
        self.arena_size = variant.arena_size
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
        self.takes_objects = None in variant.inputs
        self.watched: tuple[tuple[int, bytes], ...] | None = None
        self._keyed = keyed
        self.shortens = False
        self.arenas = 0
        self._idle: list[ContextT] = []
        self._lock = threading.Lock()

    @property
    def variant(self) -> Variant:
        """What it runs."""
        return self._variant

    def match(self, inputs: Any) -> list[Array] | None:
        """The inputs by position, if they are of this variant's shapes and ready for kernels as they are.

        This is the short way of calls that repeat: None says nothing is known, least of all that something is wrong.
        """
        watched = self.watched
        if self._keyed and watched is None:
            return None
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
        for index, data in watched or ():
            if arrays[index].tobytes() != data:
                return None
        return arrays

    def new_outputs(self, on_device: Collection[str] = ()) -> dict[str, Any]:
        """An array for each output by name; None where its shape is known only at run time.

        Args:
            on_device: Names of those that lie in the memory of the GPU that runs the program.
        """
        assert not on_device, "only a GPU has memory of its own"
        return {name: None if shape is None else _empty(shape, dtype) for name, shape, dtype in self.outputs}

    @abstractmethod
    def new_context(self) -> ContextT:
        """What one more call in flight needs."""

    def acquire(self) -> ContextT:
        """A context that no other call is using; hand it back with `release`."""
        try:
            return self._idle.pop()
        except IndexError:
            with self._lock:
                self.arenas += 1
            return self.new_context()

    def release(self, context: ContextT) -> None:
        """Keeps a context for the next call."""
        self._idle.append(context)

    def shortcut(self) -> Function | None:
        """The short way of calls like the last one; None where there is none."""
        return None

    def trim(self) -> None:
        """Frees the contexts that no call is using."""
        with self._lock, contextlib.suppress(IndexError):
            while True:
                self._idle.pop()
                self.arenas -= 1
