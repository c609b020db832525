"""Vector-Jacobian products: what the gradient of an operator's output adds to the gradient of each of its inputs.

Reverse-mode differentiation as in Griewank and Walther, Evaluating Derivatives (2008), chapter 3.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TypeAlias

import numpy as np

from graphc.errors import ModelError, UnsupportedError
from graphc.frontend.opset import Draft
from graphc.ir import Dim, Node, TensorType, Value, dtypes
from graphc.ops.base import node_names


@dataclass(frozen=True)
class Product:
    """One node to differentiate, and where the nodes of its derivative go.

    Args:
        draft: The Gradient, in front of which nodes are put.
        node: The node; its inputs and output have types.
        inputs: What it reads.
        output: What it makes.
        gradient: Gradient of the output, of the output's shape.
    """

    draft: Draft
    node: Node
    inputs: Sequence[Value]
    output: Value
    gradient: Value

    def op(self, op_type: str, *inputs: Value | None, **attributes: int | float | tuple[int, ...]) -> Value:
        """A node in front of the Gradient."""
        return self.draft.op(op_type, *inputs, outputs=(), **attributes)

    def number(self, value: float) -> Value:
        """A scalar of the output's dtype."""
        return self.draft.constant(value, type_of(self.output, self.node).dtype)

    def shape(self, index: int) -> tuple[Dim, ...]:
        """Shape of an input.

        Raises:
            UnsupportedError: Its rank is unknown.
        """
        return shape_of(self.inputs[index], self.node)

    def like(self, value: Value, index: int) -> Value:
        """`value` in the shape of an input that has as many elements."""
        return self.op("Reshape", value, self.op("Shape", self.inputs[index]))

    def reduced(self, value: Value, index: int) -> Value:
        """`value` summed over the axes along which an input was repeated to meet the others."""
        return sum_to(self.draft, value, self.inputs[index], self.node)


Pull: TypeAlias = Callable[[Product, int], Value]
"""Gradient of input `int`, of its shape."""


def shape_of(value: Value, node: Node) -> tuple[Dim, ...]:
    """Shape of a value whose rank must be known.

    Raises:
        ModelError: Its type is not.
        UnsupportedError: Its rank is not.
    """
    shape = type_of(value, node).shape
    if shape is None:
        raise UnsupportedError(f"the gradient of {node.op} needs the rank of {value.name!r}", nodes=node_names(node))
    return shape


def type_of(value: Value, node: Node) -> TensorType:
    """Type of a value that must be a tensor: one that follows from a broken node, which is reported, has none.

    Raises:
        ModelError: It is none, or unknown.
    """
    if not isinstance(value.type, TensorType):
        kind = "of unknown type" if value.type is None else str(value.type)
        raise ModelError(
            f"the gradient of {node.op} needs tensors, and {value.name!r} is {kind}", nodes=node_names(node)
        )
    return value.type


def sum_to(draft: Draft, value: Value, like: Value, node: Node) -> Value:
    """Undoes a broadcast of `like` to the shape of `value`."""
    target, source = shape_of(like, node), shape_of(value, node)
    if source == target:
        return value
    extra = len(source) - len(target)
    axes = [*range(extra), *(i + extra for i, dim in enumerate(target) if dim == 1 and source[i + extra] != 1)]
    if axes:
        value = draft.op("ReduceSum", value, draft.integers(axes), keepdims=1)
    return draft.op("Reshape", value, draft.op("Shape", like))


def _add(p: Product, index: int) -> Value:
    return p.reduced(p.gradient, index)


def _subtract(p: Product, index: int) -> Value:
    return p.reduced(p.op("Neg", p.gradient) if index else p.gradient, index)


def _multiply(p: Product, index: int) -> Value:
    return p.reduced(p.op("Mul", p.gradient, p.inputs[1 - index]), index)


def _divide(p: Product, index: int) -> Value:
    share = p.op("Div", p.gradient, p.inputs[1])
    return p.reduced(p.op("Neg", p.op("Mul", share, p.output)) if index else share, index)


def _power(p: Product, index: int) -> Value:
    base, exponent = p.inputs
    if index:
        return p.reduced(p.op("Mul", p.op("Mul", p.gradient, p.output), p.op("Log", base)), 1)
    exponent = p.op("CastLike", exponent, base)
    slope = p.op("Mul", exponent, p.op("Pow", base, p.op("Sub", exponent, p.number(1))))
    return p.reduced(p.op("Mul", p.gradient, slope), 0)


def _mean(p: Product, index: int) -> Value:
    return p.reduced(p.op("Div", p.gradient, p.number(len(p.inputs))), index)


def _matmul(p: Product, index: int) -> Value:
    left, right = p.inputs
    gradient = p.gradient
    # A vector is a matrix of one column on the right, of one row on the left; the product lacks that axis.
    if len(p.shape(1)) == 1:
        right = p.op("Unsqueeze", right, p.draft.integers([1]))
        gradient = p.op("Unsqueeze", gradient, p.draft.integers([-1]))
    if len(p.shape(0)) == 1:
        left = p.op("Unsqueeze", left, p.draft.integers([0]))
        gradient = p.op("Unsqueeze", gradient, p.draft.integers([-2]))
    if index == 0:
        found = p.op("MatMul", gradient, _flipped(p, right))
        return p.like(sum_to(p.draft, found, left, p.node), 0)
    found = p.op("MatMul", _flipped(p, left), gradient)
    return p.like(sum_to(p.draft, found, right, p.node), 1)


def _flipped(p: Product, value: Value) -> Value:
    rank = len(shape_of(value, p.node))
    return p.op("Transpose", value, perm=(*range(rank - 2), rank - 1, rank - 2))


def _gemm(p: Product, index: int) -> Value:
    node = p.node
    alpha, beta = node.float_attribute("alpha", 1.0), node.float_attribute("beta", 1.0)
    flips = (node.int_attribute("transA", 0), node.int_attribute("transB", 0))
    if index == 2:
        return p.reduced(p.op("Mul", p.gradient, p.number(beta)), 2)
    a, b = (p.op("Transpose", v, perm=(1, 0)) if flip else v for v, flip in zip(p.inputs[:2], flips, strict=True))
    scaled = p.op("Mul", p.gradient, p.number(alpha))
    if index == 0:
        found = p.op("MatMul", scaled, p.op("Transpose", b, perm=(1, 0)))
    else:
        found = p.op("MatMul", p.op("Transpose", a, perm=(1, 0)), scaled)
    return p.op("Transpose", found, perm=(1, 0)) if flips[index] else found


def _reduce(p: Product, index: int) -> Value:
    """Of a sum: every element that was added gets the sum's gradient."""
    rank = len(p.shape(0))
    axes_input = p.node.input(1)
    gradient = p.gradient
    if axes_input is not None and axes_input.constant is None:
        raise UnsupportedError(f"the gradient of {p.node.op} needs constant axes", nodes=node_names(p.node))
    axes = [] if axes_input is None or axes_input.constant is None else axes_input.constant.array().reshape(-1).tolist()
    if not axes:
        if p.node.int_attribute("noop_with_empty_axes", 0):
            return gradient
        axes = list(range(rank))
    if not p.node.int_attribute("keepdims", 1):
        gradient = p.op("Unsqueeze", gradient, p.draft.integers(sorted(axis % rank for axis in axes)))
    spread = p.op("Expand", gradient, p.op("Shape", p.inputs[0]))
    if p.node.op_type == "ReduceSum":
        return spread
    count = p.op("Div", p.op("Size", p.inputs[0]), p.op("Max", p.op("Size", p.output), p.draft.integers(1)))
    return p.op("Div", spread, p.op("CastLike", count, spread))


def _transpose(p: Product, index: int) -> Value:
    perm = p.node.ints_attribute("perm") or tuple(reversed(range(len(p.shape(0)))))
    return p.op("Transpose", p.gradient, perm=tuple(int(axis) for axis in np.argsort(perm)))


def _reshape(p: Product, index: int) -> Value:
    return p.like(p.gradient, 0)


def _slope(form: Callable[[Product], Value]) -> Pull:
    """Of an operator on single elements: the gradient times the slope there."""
    return lambda p, index: p.op("Mul", p.gradient, form(p))


def _step(p: Product) -> Value:
    return p.op("CastLike", p.op("Greater", p.inputs[0], p.number(0)), p.gradient)


PULLS: Mapping[str, Pull] = {
    "Add": _add,
    "Sum": _add,
    "Mean": _mean,
    "Sub": _subtract,
    "Mul": _multiply,
    "Div": _divide,
    "Pow": _power,
    "MatMul": _matmul,
    "Gemm": _gemm,
    "ReduceSum": _reduce,
    "ReduceMean": _reduce,
    "Transpose": _transpose,
    **dict.fromkeys(("Reshape", "Flatten", "Squeeze", "Unsqueeze"), _reshape),
    "Identity": lambda p, index: p.gradient,
    "Neg": lambda p, index: p.op("Neg", p.gradient),
    "Exp": _slope(lambda p: p.output),
    "Log": lambda p, index: p.op("Div", p.gradient, p.inputs[0]),
    "Sqrt": lambda p, index: p.op("Div", p.gradient, p.op("Mul", p.output, p.number(2))),
    "Reciprocal": lambda p, index: p.op("Neg", p.op("Mul", p.gradient, p.op("Mul", p.output, p.output))),
    "Sin": _slope(lambda p: p.op("Cos", p.inputs[0])),
    "Cos": _slope(lambda p: p.op("Neg", p.op("Sin", p.inputs[0]))),
    "Abs": _slope(lambda p: p.op("Sign", p.inputs[0])),
    "Tanh": _slope(lambda p: p.op("Sub", p.number(1), p.op("Mul", p.output, p.output))),
    "Sigmoid": _slope(lambda p: p.op("Mul", p.output, p.op("Sub", p.number(1), p.output))),
    "Relu": _slope(_step),
}
"""Derivatives by operator of ai.onnx. Inputs that are shapes or axes have none, and are never asked for."""

FIRST_ONLY = frozenset({"ReduceSum", "ReduceMean", "Reshape", "Squeeze", "Unsqueeze"})
"""Operators of which only the first input has a derivative."""

FLOATS = frozenset(dtype for dtype in dtypes.ALL if dtype.is_float)
