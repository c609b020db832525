"""What a model takes: turning a call's inputs into arrays that kernels can read, or saying what is wrong with them."""

from __future__ import annotations

import difflib
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from graphc.errors import InputError
from graphc.package import OPTIONAL, Manifest, TensorSpec, evaluate, numpy_dtype, symbols_of
from graphc.runtime.memory import READY
from graphc.runtime.values import collect, refuse_gpu


class Signature:
    """The inputs of a manifest.

    Attributes:
        names: In the model's order.
        dtypes: Likewise.

    Args:
        manifest: Of the package.
        adopt: Makes what programs read of an array in the memory of a GPU, as of `graphc.runtime.engine.Engine`.
        needs: Flags of tensors that are taken as they are.
    """

    def __init__(self, manifest: Manifest, adopt: Callable[[Any, str], Any] = refuse_gpu, needs: int = READY) -> None:
        self._adopt, self._needs = adopt, needs
        self._parameters = frozenset(manifest.parameters)
        self.specs = manifest.inputs
        self.symbols = manifest.symbols
        self.names = [spec.name for spec in manifest.inputs]
        self._tensors_only = not any(spec.wraps for spec in manifest.inputs)
        self.dtypes = [numpy_dtype(spec.dtype) for spec in manifest.inputs]

    def collect(self, inputs: Any) -> list[Any]:
        """The inputs in the model's order: C-contiguous, aligned, native arrays, copied only where they are not.

        Args:
            inputs: A mapping by name or a sequence by position, of NumPy arrays or DLPack objects; where the model
                takes a sequence, an optional or a map, a list, a dict or None.

        Raises:
            InputError: Missing or unknown names, a wrong number, not an array, or a wrong dtype.
        """
        if isinstance(inputs, Mapping):
            values = self._by_name(inputs)
        elif isinstance(inputs, Sequence) and not isinstance(inputs, str | bytes):
            values = list(inputs)
            if len(values) != len(self.specs):
                raise InputError(f"expected {self._describe()}; got {len(values)} by position")
        else:
            raise InputError(
                f"inputs are a dict by name or a list by position, got {type(inputs).__name__}",
                hint=f"the model takes {self._describe()}",
            )
        return [self._collect(spec, value) for spec, value in zip(self.specs, values, strict=True)]

    def _collect(self, spec: TensorSpec, value: Any) -> Any:
        found = collect(spec, value, self._adopt, self._needs)
        # What decides which program runs is looked at here.
        return found.numpy() if spec.name in self._parameters and not isinstance(found, np.ndarray) else found

    def shapes(self, values: Sequence[Any]) -> tuple[tuple[int, ...] | None, ...]:
        """The shapes of a call's inputs, None for what is no tensor: what its variant is found by."""
        if self._tensors_only:
            return tuple([array.shape for array in values])
        pairs = zip(self.specs, values, strict=True)
        return tuple([None if spec.wraps else value.shape for spec, value in pairs])

    def _describe(self) -> str:
        count = len(self.specs)
        return f"{count} input{'' if count == 1 else 's'} ({'; '.join(str(spec) for spec in self.specs)})"

    def _by_name(self, inputs: Mapping[Any, Any]) -> list[Any]:
        for name in inputs:
            if name not in self.names:
                close = difflib.get_close_matches(str(name), self.names, 1)
                raise InputError(
                    f"unknown input {name!r}",
                    hint=f"did you mean {close[0]!r}?" if close else f"it is {self._describe()}",
                )
        for spec in self.specs:
            if spec.name not in inputs and spec.wraps[:1] != (OPTIONAL,):
                raise InputError(f"input {spec.name!r} is missing; expected {spec}")
        return [inputs.get(name) for name in self.names]

    def check_shapes(self, arrays: Sequence[Any]) -> dict[str, int]:
        """The symbols' values that these inputs mean.

        Raises:
            InputError: An extent is not what the model says, or two inputs disagree about a symbol.
        """
        bindings: dict[str, int] = {}
        first: dict[str, str] = {}
        tensors = [(spec, array) for spec, array in zip(self.specs, arrays, strict=True) if not spec.wraps]
        for spec, array in tensors:
            for axis, (extent, found) in enumerate(zip(spec.shape, array.shape, strict=True)):
                if not isinstance(extent, str) or symbols_of(extent) != (extent,):
                    continue
                here = f"dimension {axis} of {spec.name!r}"
                if bindings.setdefault(extent, found) != found:
                    raise InputError(f"{extent} is {bindings[extent]} in {first[extent]}, but {found} in {here}")
                first.setdefault(extent, here)
        for symbol, value in bindings.items():
            limits = self.symbols[symbol]
            if value < limits.minimum or (limits.maximum is not None and value > limits.maximum):
                raise InputError(
                    f"{symbol} is {value} ({first[symbol]}); the model was compiled for "
                    f"{limits.minimum}..{'' if limits.maximum is None else limits.maximum}"
                )
        for spec, array in tensors:
            for axis, (extent, found) in enumerate(zip(spec.shape, array.shape, strict=True)):
                if all(symbol in bindings for symbol in symbols_of(extent)) and evaluate(extent, bindings) != found:
                    raise InputError(
                        f"input {spec.name!r}: expected {spec}, got shape {list(array.shape)}: "
                        f"dimension {axis} is {found}, expected {evaluate(extent, bindings)}"
                    )
        return bindings
