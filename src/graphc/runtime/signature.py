"""What a model takes: turning a call's inputs into arrays that kernels can read, or saying what is wrong with them."""

from __future__ import annotations

import difflib
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from graphc.errors import InputError
from graphc.package import Manifest, TensorSpec, evaluate, numpy_dtype, symbols_of
from graphc.runtime.memory import READY, Array


class Signature:
    """The inputs of a manifest.

    Attributes:
        names: In the model's order.
        dtypes: Likewise.
    """

    def __init__(self, manifest: Manifest) -> None:
        self.specs = manifest.inputs
        self.symbols = manifest.symbols
        self.names = [spec.name for spec in manifest.inputs]
        self.dtypes = [numpy_dtype(spec.dtype) for spec in manifest.inputs]

    def collect(self, inputs: Any) -> list[Array]:
        """The inputs as C-contiguous, aligned, native arrays in the model's order; copied only where they are not.

        Args:
            inputs: A mapping by name or a sequence by position, of NumPy arrays or DLPack objects.

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
        return [self._array(spec, value) for spec, value in zip(self.specs, values, strict=True)]

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
            if spec.name not in inputs:
                raise InputError(f"input {spec.name!r} is missing; expected {spec}")
        return [inputs[name] for name in self.names]

    def _array(self, spec: TensorSpec, value: Any) -> Array:
        dtype = numpy_dtype(spec.dtype)
        array = _as_array(spec, value)
        if spec.dtype == "string":
            return _strings(spec, array)
        if array.dtype != dtype and array.dtype.newbyteorder("=") != dtype:
            raise InputError(
                f"input {spec.name!r}: expected dtype {spec.dtype}, got {array.dtype}",
                hint=f"convert it with .astype({spec.dtype!r})" if array.dtype.kind in "biufc" else None,
            )
        if len(array.shape) != len(spec.shape):
            raise InputError(
                f"input {spec.name!r}: expected rank {len(spec.shape)} ({spec}), got shape {list(array.shape)}"
            )
        if array.dtype is dtype and array.flags.num & READY == READY:
            return array
        ready = np.require(array, dtype, ["C", "ALIGNED"])
        # np.require makes rank 0 of rank 0, but ascontiguousarray inside of it may not keep it.
        return ready.reshape(array.shape) if ready.shape != array.shape else ready

    def check_shapes(self, arrays: Sequence[Array]) -> dict[str, int]:
        """The symbols' values that these inputs mean.

        Raises:
            InputError: An extent is not what the model says, or two inputs disagree about a symbol.
        """
        bindings: dict[str, int] = {}
        first: dict[str, str] = {}
        for spec, array in zip(self.specs, arrays, strict=True):
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
        for spec, array in zip(self.specs, arrays, strict=True):
            for axis, (extent, found) in enumerate(zip(spec.shape, array.shape, strict=True)):
                if all(symbol in bindings for symbol in symbols_of(extent)) and evaluate(extent, bindings) != found:
                    raise InputError(
                        f"input {spec.name!r}: expected {spec}, got shape {list(array.shape)}: "
                        f"dimension {axis} is {found}, expected {evaluate(extent, bindings)}"
                    )
        return bindings


def _as_array(spec: TensorSpec, value: Any) -> Array:
    if type(value) is np.ndarray:
        return value
    if isinstance(value, np.ndarray | np.generic):
        return np.asarray(value)
    try:
        if hasattr(value, "__dlpack__"):
            return np.from_dlpack(value)
        if hasattr(value, "__array__"):
            return np.asarray(value)
    except (BufferError, RuntimeError, TypeError, ValueError) as error:
        raise InputError(f"input {spec.name!r}: {type(value).__name__} cannot be read as an array: {error}") from error
    raise InputError(
        f"input {spec.name!r}: expected a NumPy array or a DLPack object, got {type(value).__name__}",
        hint=f"convert it with np.asarray(value, {spec.dtype!r})" if spec.dtype != "string" else None,
    )


def _strings(spec: TensorSpec, array: Array) -> Array:
    if array.dtype.kind not in "OUST":
        raise InputError(f"input {spec.name!r}: expected strings, got {array.dtype}")
    if len(array.shape) != len(spec.shape):
        raise InputError(f"input {spec.name!r}: expected rank {len(spec.shape)} ({spec}), got {list(array.shape)}")
    return np.ascontiguousarray(array, object).reshape(array.shape)
