"""CUDA's device library in NumPy: the interpreter has stubs that answer nothing. Runs in the interpreter's process."""

from __future__ import annotations

import inspect
import math
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import triton.language as tl
from triton.language.extra import libdevice
from triton.runtime import interpreter

from graphc.errors import UnsupportedError

Function = Callable[..., Any]


_SAME = (
    *("exp", "exp2", "expm1", "log", "log2", "log10", "log1p", "sqrt", "cbrt"),
    *("sin", "cos", "tan", "sinh", "cosh", "tanh"),
    *("floor", "ceil", "trunc", "rint", "fmod", "fmin", "fmax", "hypot", "copysign", "nextafter", "isnan", "isinf"),
)

FUNCTIONS: Mapping[str, Function] = {
    **{name: getattr(np, name) for name in _SAME},
    "asin": np.arcsin,
    "acos": np.arccos,
    "atan": np.arctan,
    "atan2": np.arctan2,
    "asinh": np.arcsinh,
    "acosh": np.arccosh,
    "atanh": np.arctanh,
    "nearbyint": np.rint,
    "abs": np.abs,
    "fabs": np.abs,
    "signbit": np.signbit,
    "pow": np.power,
    "rsqrt": lambda value: 1 / np.sqrt(value),
    "fdim": lambda left, right: np.where(left > right, left - right, 0),
    "round": lambda value: np.copysign(np.floor(np.abs(value) + 0.5), value),
    "erf": np.vectorize(math.erf, otypes=[np.float64]),
    "erfc": np.vectorize(math.erfc, otypes=[np.float64]),
}
"""What each function answers, of float32 and of float64."""

_FLOATS = (tl.float32, tl.float64)


def install() -> None:
    """Has calls of `libdevice` answered; of a function that is not known here, with an error."""
    for name, _ in inspect.getmembers(libdevice, inspect.isfunction):
        setattr(libdevice, name, _called(name, FUNCTIONS.get(name)))


def _called(name: str, function: Function | None) -> Function:
    def call(*values: Any, **_: Any) -> Any:
        if function is None:
            raise UnsupportedError(f"libdevice.{name} is not known to the interpreter")
        tensors = [interpreter.interpreter_semantic.to_tensor(value) for value in values]
        kinds = {tensor.dtype.scalar for tensor in tensors}
        if len(kinds) != 1 or next(iter(kinds)) not in _FLOATS:
            raise TypeError(f"libdevice.{name} of {', '.join(map(str, kinds))}; it takes float32 or float64")
        (kind,) = kinds
        data = np.asarray(function(*(tensor.handle.data for tensor in tensors)))
        if data.dtype == np.bool_:
            kind = tl.int1
        else:
            data = data.astype(tensors[0].handle.data.dtype)
        shaped = [tensor for tensor in tensors if tensor.shape]
        whole = tl.block_type(kind, list(data.shape)) if shaped else kind
        return tl.tensor(interpreter.TensorHandle(data, kind), whole)

    return call
