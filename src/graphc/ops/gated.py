"""Gated activations: one input opens the gate for the other."""

from __future__ import annotations

from graphc.ir import Node
from graphc.ops.base import Array
from graphc.ops.elementwise import is_float, like, pointwise
from graphc.ops.expr import Scalar, call
from graphc.ops.recurrent_functions import sigmoid


def _swiglu(node: Node, gate: Array, value: Array) -> Array:
    result: Array = gate * sigmoid(gate * gate.dtype.type(node.float_attribute("alpha", 1.0))) * value
    return result


def _swiglu_form(node: Node, gate: Scalar, value: Scalar) -> Scalar:
    steep = call("mul", gate, like(gate, node.float_attribute("alpha", 1.0)))
    return call("mul", call("mul", gate, call("sigmoid", steep)), value)


pointwise("SwiGLU", 2, is_float, _swiglu, _swiglu_form)
