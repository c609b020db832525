"""One operator as a model of its own, with seeded inputs."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt

Array: TypeAlias = "npt.NDArray[Any]"
Generator: TypeAlias = np.random.Generator

ONNX_OPSET = 22
IR_VERSION = 10
"""Old enough that ONNX Runtime has every operator."""


@dataclass(frozen=True)
class Draw:
    """An operand that is drawn at random.

    Args:
        dtype: NumPy's name of its element type.
        shape: Its extents.
        low: Least value; a normal distribution, or every value that an integer can have, if None.
        high: Greatest value of floats, one past it of integers.
        constant: Whether it is a weight of the model and no input.
        make: Draws it, where no distribution does.
    """

    dtype: str
    shape: tuple[int, ...]
    low: float | None = None
    high: float | None = None
    constant: bool = False
    make: Callable[[Generator], Array] | None = None

    def within(self, low: float, high: float) -> Draw:
        """The same, uniform between two values."""
        return replace(self, low=low, high=high)

    def array(self, generator: Generator) -> Array:
        """Its elements."""
        dtype = np.dtype(self.dtype)
        if self.make is not None:
            found: Array = self.make(generator)
        elif dtype == np.bool_:
            found = generator.random(self.shape) < 0.5
        elif dtype.kind in "iu":
            info = np.iinfo(dtype)
            low, high = (info.min, info.max + 1) if self.low is None else (int(self.low), int(self.high or 0))
            return generator.integers(low, high, self.shape, dtype)
        elif self.low is not None and self.high is not None:
            found = generator.uniform(self.low, self.high, self.shape)
        else:
            # Weights are scaled so that sums of products stay near one, as training leaves them.
            is_matrix = self.constant and len(self.shape) > 1
            scale = 1 / math.sqrt(math.prod(self.shape[1:])) if is_matrix else 1.0
            found = generator.standard_normal(self.shape) * scale
        return found.astype(dtype)


Operand: TypeAlias = "Draw | Array | None"
"""Drawn, a constant as it is, or an optional one that is left out."""


@dataclass(frozen=True)
class Case:
    """One operator at one size.

    Args:
        family: Whose figures it belongs to.
        op_type: The operator.
        operands: In its own order.
        attributes: Of its node.
        note: What tells it from other cases of the same operator.
        outputs: How many it has.
        domain: Of the operator; empty is ONNX's own.
        opset: Version of the domain.
    """

    family: str
    op_type: str
    operands: tuple[Operand, ...]
    attributes: Mapping[str, Any] = field(default_factory=dict)
    note: str = ""
    outputs: int = 1
    domain: str = ""
    opset: int = ONNX_OPSET

    @property
    def name(self) -> str:
        """The operator and what is special about this one."""
        return f"{self.op_type} {self.note}".strip()

    def model(self) -> bytes:
        """The model: one node, its constants, its inputs in order; outputs have no declared shape."""
        from onnx import helper, numpy_helper

        generator = np.random.default_rng(1)
        inputs, weights, names = [], [], []
        for number, operand in enumerate(self.operands):
            name = "" if operand is None else f"x{number}"
            names.append(name)
            if isinstance(operand, Draw) and not operand.constant:
                kind = helper.np_dtype_to_tensor_dtype(np.dtype(operand.dtype))
                inputs.append(helper.make_tensor_value_info(name, kind, operand.shape))
            elif operand is not None:
                array = operand.array(generator) if isinstance(operand, Draw) else operand
                weights.append(numpy_helper.from_array(array, name))
        outputs = [f"y{number}" for number in range(self.outputs)]
        node = helper.make_node(self.op_type, names, outputs, name="node", domain=self.domain, **self.attributes)
        declared = [helper.make_empty_tensor_value_info(name) for name in outputs]
        graph = helper.make_graph([node], self.op_type, inputs, declared, weights)
        versions = [helper.make_opsetid("", ONNX_OPSET if self.domain else self.opset)]
        versions += [helper.make_opsetid(self.domain, self.opset)] if self.domain else []
        model = helper.make_model(graph, opset_imports=versions, ir_version=IR_VERSION)
        return bytes(model.SerializeToString())

    def inputs(self) -> dict[str, Array]:
        """Seeded inputs by name."""
        generator = np.random.default_rng(0)
        return {
            f"x{number}": operand.array(generator)
            for number, operand in enumerate(self.operands)
            if isinstance(operand, Draw) and not operand.constant
        }


def f32(*shape: int) -> Draw:
    """An input of floats."""
    return Draw("float32", shape)


def f16(*shape: int) -> Draw:
    """An input of half-width floats."""
    return Draw("float16", shape)


def i64(*shape: int, below: int) -> Draw:
    """An input of indices."""
    return Draw("int64", shape, 0, below)


def u8(*shape: int) -> Draw:
    """An input of unsigned bytes."""
    return Draw("uint8", shape)


def flags(*shape: int) -> Draw:
    """An input of truth values."""
    return Draw("bool", shape)


def weight(*shape: int) -> Draw:
    """A weight of floats."""
    return Draw("float32", shape, constant=True)


def bytes_weight(*shape: int) -> Draw:
    """A weight of signed bytes."""
    return Draw("int8", shape, -64, 64, constant=True)


def ints(*values: int) -> Array:
    """A constant vector of int64."""
    return np.array(values, np.int64)


def scalar(value: float, dtype: str = "float32") -> Array:
    """A constant without axes."""
    return np.array(value, dtype)
