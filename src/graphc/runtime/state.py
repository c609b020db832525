"""State across calls: outputs that are inputs of the next call, and never leave.

Key-value caches and recurrent states are given back as they are. Those that are large are written into memory that is
kept: two blocks for each, since a call reads the one while it writes the other; where a cache grows with every call its
blocks are twice as large as they must be, and replaced by larger ones as seldom as a list is.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np

from graphc.errors import InputError, OptionError
from graphc.package import TensorSpec, numpy_dtype
from graphc.runtime.engine import Engine
from graphc.runtime.memory import Array

if TYPE_CHECKING:
    from graphc.runtime.executable import Executable

_LARGE = 1 << 16
"""Bytes from which memory of its own is quicker than an array made for the call."""


class Stateful:
    """A model with some of its outputs bound to its inputs. Made by `Executable.bind_state`; for one caller at a time.

    Args:
        model: The executable.
        engine: What runs it.
        pairs: Names of outputs by the inputs that they become.
        initial: What those inputs are in the first call; zeros where left out, if their shapes are fixed.

    Raises:
        OptionError: A name is unknown, an output becomes two inputs, or the two differ in dtype or shape.
        InputError: An initial state does not fit its input, or has to be given.
    """

    def __init__(
        self, model: Executable, engine: Engine, pairs: Mapping[str, str], initial: Mapping[str, Any] | None = None
    ) -> None:
        self.model = model
        self._engine = engine
        # A GPU's memory is far away: what lies there stays there, however small.
        self._large = _LARGE if engine.device == "cpu" else 0
        self._pairs = dict(pairs)
        self._inputs = {spec.name: spec for spec in model.inputs}
        outputs = {spec.name: spec for spec in model.outputs}
        for name, output in self._pairs.items():
            _check_pair(name, output, self._inputs, outputs)
        if len(set(self._pairs.values())) != len(self._pairs):
            raise OptionError("an output becomes two inputs; bind it to one, and give the other with each call")
        self._blocks: dict[tuple[str, int], Any] = {}
        self._turn = 0
        self._state: dict[str, Any] = {}
        self.reset(initial)

    @property
    def state(self) -> dict[str, Any]:
        """The state by input; its arrays are overwritten two calls later, and `DeviceArray`s where a GPU made them."""
        return dict(self._state)

    @property
    def memory(self) -> int:
        """Bytes of the blocks that large states are written to: at most four times the states' own."""
        return sum(block.nbytes for block in self._blocks.values())

    def reset(self, initial: Mapping[str, Any] | None = None) -> None:
        """Begins anew.

        Args:
            initial: As of the constructor; arrays are read by the next call and never written.

        Raises:
            InputError: An initial state does not fit its input, or has to be given.
        """
        given = dict(initial or {})
        if unknown := sorted(given.keys() - self._pairs.keys()):
            raise InputError(f"{unknown[0]!r} is no state; the states are {', '.join(self._pairs)}")
        self._state = {name: self._initial(self._inputs[name], given.get(name)) for name in self._pairs}

    def __call__(self, inputs: Mapping[str, Any], out: Mapping[str, Array] | None = None) -> dict[str, Any]:
        """Runs the model on its state.

        Args:
            inputs: The other inputs, by name.
            out: Arrays to write other outputs to, by name.

        Returns:
            The other outputs by name. If the call fails, the state is what it was.

        Raises:
            InputError: As of the model's own calls, or a state is among `inputs` or `out`.
            ShapeNotCompiledError: Likewise.
            ExecutionError: Likewise.
        """
        taken = sorted((inputs.keys() & self._pairs.keys()) | ((out or {}).keys() & set(self._pairs.values())))
        if taken:
            raise InputError(f"{taken[0]!r} is state of the model", hint="set it with reset({...: array})")
        feed = {**inputs, **self._state}
        outputs = self.model({**feed}, out={**(out or {}), **self._room(feed)})
        self._turn ^= 1
        self._state = {name: outputs.pop(output) for name, output in self._pairs.items()}
        return outputs

    def _room(self, feed: Mapping[str, Any]) -> dict[str, Any]:
        """Where the large states that this call makes go."""
        shapes = self.model.output_shapes(feed)
        room: dict[str, Any] = {}
        for name, output in self._pairs.items():
            spec, shape = self._inputs[name], shapes[output]
            dtype = numpy_dtype(spec.dtype)
            if shape is None or spec.dtype == "string":
                continue
            size = math.prod(shape) * dtype.itemsize
            if size < self._large:
                continue
            block = self._blocks.get((name, self._turn))
            if block is None or block.nbytes < size:
                # A cache that has grown will grow again.
                grows = self._state[name].nbytes != size
                block = self._blocks[name, self._turn] = self._engine.room(2 * size if grows else size)
            room[output] = self._engine.window(block, shape, dtype)
        return room

    def _initial(self, spec: TensorSpec, given: Any) -> Any:
        if given is None:
            return _zeros(spec)
        array = self._engine.adopt(given, f"initial state of {spec.name!r}")
        array = np.asarray(given) if array is None else array
        if array.dtype != numpy_dtype(spec.dtype) or array.ndim != len(spec.shape):
            raise InputError(f"initial state: expected {spec}, got {array.dtype}{list(array.shape)}")
        return array


def _check_pair(name: str, output: str, inputs: Mapping[str, TensorSpec], outputs: Mapping[str, TensorSpec]) -> None:
    for what, one, known in (("input", name, inputs), ("output", output, outputs)):
        if one not in known:
            raise OptionError(f"the model has no {what} {one!r}; it has {', '.join(known)}")
    before, after = inputs[name], outputs[output]
    pairs = zip(before.shape, after.shape, strict=False)
    differ = any(isinstance(a, int) and isinstance(b, int) and a != b for a, b in pairs)
    ranks = before.ranked and after.ranked and len(before.shape) != len(after.shape)
    if before.wraps or after.wraps or before.dtype != after.dtype or differ or ranks:
        raise OptionError(f"output {after} cannot become input {before}")


def _zeros(spec: TensorSpec) -> Array:
    if any(not isinstance(extent, int) for extent in spec.shape):
        raise InputError(
            f"the shape of {spec} is open, so it needs an initial state",
            hint=f"bind_state(..., initial={{{spec.name!r}: array}}), for example what a model of the prompt gave",
        )
    return np.zeros([extent for extent in spec.shape if isinstance(extent, int)], numpy_dtype(spec.dtype))
