"""Activations from their pieces.

`x * Sigmoid(x)` stays as it is: fused, it is the same kernel as Swish, and ONNX Runtime, the oracle, has no Swish.
"""

from __future__ import annotations

import math

from graphc.ir import Builder, Value
from graphc.passes.raising.base import RAISE, product
from graphc.passes.rules import Const, Filled, Match, P, Var, attr
from graphc.passes.rules.conditions import keeps_shape

x = Var("x", kinds=("float",))
ZERO, SIX = Filled(0), Filled(6)

erf_of_scaled = P.Erf(P.Div(x, math.sqrt(2)) | P.Mul(x, math.sqrt(0.5)))


@RAISE.rule(product(x, 0.5, P.Add(erf_of_scaled, 1.0)), when=keeps_shape("x"))
def gelu(m: Match, b: Builder) -> Value:
    """x * 0.5 * (1 + erf(x / √2)) = Gelu(x)."""
    return b.op("Gelu", m["x"])


cubic = P.Mul(P.Pow(x, 3.0), 0.044715) | product(x, x, x, 0.044715)
inner = P.Add(x, cubic) | P.Mul(x, P.Add(product(x, x, 0.044715) | P.Mul(P.Pow(x, 2.0), 0.044715), 1.0))
tanh_of_inner = P.Tanh(P.Mul(inner, math.sqrt(2 / math.pi)))


@RAISE.rule(product(x, 0.5, P.Add(tanh_of_inner, 1.0)), when=keeps_shape("x"))
def gelu_tanh(m: Match, b: Builder) -> Value:
    """x * 0.5 * (1 + tanh(√(2/π) * (x + 0.044715 * x³))) = Gelu[tanh](x)."""
    return b.op("Gelu", m["x"], approximate="tanh")


@RAISE.rule(P.Reciprocal(P.Add(P.Exp(P.Neg(x)), 1.0)) | P.Div(1.0, P.Add(P.Exp(P.Neg(x)), 1.0)), when=keeps_shape("x"))
def sigmoid(m: Match, b: Builder) -> Value:
    """1 / (1 + exp(-x)) = Sigmoid(x)."""
    return b.op("Sigmoid", m["x"])


@RAISE.rule(P.Log(P.Add(P.Exp(x), 1.0)), when=keeps_shape("x"))
def softplus(m: Match, b: Builder) -> Value:
    """log(1 + exp(x)) = Softplus(x)."""
    return b.op("Softplus", m["x"])


@RAISE.rule(P.Mul(x, P.Tanh(P.Softplus(x))), when=keeps_shape("x"))
def mish(m: Match, b: Builder) -> Value:
    """x * tanh(Softplus(x)) = Mish(x)."""
    return b.op("Mish", m["x"])


@RAISE.rule(P.Div(x, P.Add(P.Abs(x), 1.0)), when=keeps_shape("x"))
def softsign(m: Match, b: Builder) -> Value:
    """x / (1 + |x|) = Softsign(x)."""
    return b.op("Softsign", m["x"])


six = P.Clip(P.Add(x, 3.0), Const("", ZERO), Const("", SIX)) | P.Min(P.Relu(P.Add(x, 3.0)), 6.0)
"""relu6(x + 3)."""


@RAISE.rule(P.Div(six, 6.0) | P.Mul(six, 1 / 6), when=keeps_shape("x"))
def hard_sigmoid(m: Match, b: Builder) -> Value:
    """Clip(x + 3, 0, 6) / 6 = HardSigmoid[1/6, 1/2](x)."""
    return b.op("HardSigmoid", m["x"], alpha=1 / 6, beta=0.5)


@RAISE.rule(
    P.Div(P.Mul(x, six), 6.0) | product(x, six, 1 / 6) | P.Mul(P.Div(x, 6.0), six) | P.Mul(x, P.Div(six, 6.0)),
    when=keeps_shape("x"),
)
def hard_swish(m: Match, b: Builder) -> Value:
    """x * Clip(x + 3, 0, 6) / 6 = HardSwish(x)."""
    return b.op("HardSwish", m["x"])


def _is_sixth(value: float) -> bool:
    return math.isclose(value, 1 / 6, rel_tol=1e-6)


def _is_half(value: float) -> bool:
    return value == 0.5


@RAISE.rule(
    P.Mul(
        x,
        P.HardSigmoid(
            x, alpha=attr(where=_is_sixth, default=0.2, examples=(1 / 6,)), beta=attr(where=_is_half, default=0.5)
        ),
    ),
    when=keeps_shape("x"),
)
def hard_swish_of_hard_sigmoid(m: Match, b: Builder) -> Value:
    """x * HardSigmoid[1/6, 1/2](x) = HardSwish(x)."""
    return b.op("HardSwish", m["x"])
