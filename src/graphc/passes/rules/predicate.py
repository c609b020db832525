"""Predicates over constant tensors, each able to make tensors that fulfil it: a rule's instances need no author."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol, runtime_checkable

import numpy as np

from graphc.ir import DType, Tensor

_PIECE = 1 << 16
"""Elements that are looked at in one go, so that weights are not widened whole, nor beyond the first that differs."""


class Chooser(Protocol):
    """A source of choices: random numbers in a command, Hypothesis's `draw` in a test."""

    def integer(self, low: int, high: int) -> int:
        """An integer in `low..high`, both included."""

    def pick(self, options: Sequence[Any]) -> Any:
        """One of `options`."""


@runtime_checkable
class TensorPredicate(Protocol):
    """Something that a constant tensor fulfils or not."""

    def holds(self, tensor: Tensor) -> bool:
        """Whether `tensor` fulfils it; looks at elements as late as it can."""

    def sample(self, dtype: DType, shape: tuple[int, ...], choose: Chooser) -> np.ndarray[Any, Any] | None:
        """Elements that fulfil it in that dtype and shape, or None where none do."""


@dataclass(frozen=True)
class Filled:
    """All elements are `value`, to the precision of the dtype (and never asked finer than float32's).

    Args:
        value: Of all elements.
        text: What a formula calls it; the number itself if empty.
    """

    value: float
    text: str = field(default="", compare=False)

    def __str__(self) -> str:
        return f"{self.text or format(self.value, 'g')} throughout"

    def holds(self, tensor: Tensor) -> bool:
        """Whether all elements are the value."""
        if tensor.dtype.kind not in ("float", "int", "uint", "bool") or tensor.size == 0:
            return False
        array = tensor.array().reshape(-1)
        if not self._is(array[:1], tensor.dtype):
            return False
        return all(self._is(array[at : at + _PIECE], tensor.dtype) for at in range(0, array.size, _PIECE))

    def _is(self, array: np.ndarray[Any, Any], dtype: DType) -> bool:
        if not dtype.is_float:
            return bool(np.all(array == self.value))
        wide = array.astype(np.float64)
        if not np.isfinite(self.value):
            return bool(np.all(wide == self.value))
        precision = {64: 2.0**-22, 32: 2.0**-22, 16: 2.0**-7 if dtype.name == "bfloat16" else 2.0**-10}
        return bool(np.all(np.abs(wide - self.value) <= abs(self.value) * precision.get(dtype.bits, 2.0**-3)))

    def sample(self, dtype: DType, shape: tuple[int, ...], choose: Chooser) -> np.ndarray[Any, Any] | None:
        """An array of the value."""
        if not dtype.is_float and (self.value != int(self.value) or (dtype.kind == "uint" and self.value < 0)):
            return None
        return np.full(shape, self.value, dtype.numpy)


@dataclass(frozen=True)
class Scalar:
    """One element, of rank 0 or 1 (or of any rank, all extents 1)."""

    def __str__(self) -> str:
        return "of one element"

    def holds(self, tensor: Tensor) -> bool:
        """Whether the tensor has one element."""
        return tensor.size == 1

    def sample(self, dtype: DType, shape: tuple[int, ...], choose: Chooser) -> np.ndarray[Any, Any] | None:
        """One small number."""
        form: tuple[int, ...] = choose.pick([(), (1,)])
        return np.full(form, choose.integer(1, 7) / (4 if dtype.is_float else 1)).astype(dtype.numpy)


@dataclass(frozen=True)
class Fulfils:
    """Elements for which a function of them answers true: `Fulfils(lambda a: (a > 0).all(), [1.0, 3.0], "positive")`.

    Args:
        test: Asked with the elements.
        examples: Numbers that fulfil it when an array is filled with one of them.
        text: What it asks, for messages.
    """

    test: Callable[[np.ndarray[Any, Any]], Any]
    examples: tuple[float, ...]
    text: str

    def __str__(self) -> str:
        return self.text

    def holds(self, tensor: Tensor) -> bool:
        """Whether the function says so."""
        return bool(self.test(tensor.array()))

    def sample(self, dtype: DType, shape: tuple[int, ...], choose: Chooser) -> np.ndarray[Any, Any] | None:
        """An array of one of the examples."""
        return np.full(shape, choose.pick(self.examples), dtype.numpy)


@dataclass(frozen=True)
class OneOf:
    """Any of several predicates."""

    options: tuple[TensorPredicate, ...]

    def __str__(self) -> str:
        return " or ".join(map(str, self.options))

    def holds(self, tensor: Tensor) -> bool:
        """Whether some option holds."""
        return any(option.holds(tensor) for option in self.options)

    def sample(self, dtype: DType, shape: tuple[int, ...], choose: Chooser) -> np.ndarray[Any, Any] | None:
        """A sample of one of the options."""
        option: TensorPredicate = choose.pick(self.options)
        return option.sample(dtype, shape, choose)
