"""Activations from their pieces.

`x * Sigmoid(x)` stays as it is: fused, it is the same kernel as Swish, and ONNX Runtime, the oracle, has no Swish.
"""

from __future__ import annotations

import math

from graphc.passes.raising.base import RAISE, product
from graphc.passes.rules import Const, Filled, P, Var, attr, number

x = Var("x", kinds=("float",))
root_of_half, root_of_two = number(math.sqrt(0.5), "√½"), number(math.sqrt(2), "√2")
sixth = number(1 / 6, "⅙")

RAISE.formula("gelu", product(x, 0.5, P.Erf(x / root_of_two | x * root_of_half) + 1.0), P.Gelu(x))

cubic = x**3.0 * 0.044715 | product(x, x, x, 0.044715)
inner = x + cubic | x * ((product(x, x, 0.044715) | x**2.0 * 0.044715) + 1.0)
tanh_of_inner = P.Tanh(inner * number(math.sqrt(2 / math.pi), "√(2/π)"))
RAISE.formula("gelu_tanh", product(x, 0.5, tanh_of_inner + 1.0), P.Gelu(x, approximate="tanh"))

RAISE.formula("sigmoid", P.Reciprocal(P.Exp(-x) + 1.0) | 1.0 / (P.Exp(-x) + 1.0), P.Sigmoid(x))
RAISE.formula("softplus", P.Log(P.Exp(x) + 1.0), P.Softplus(x))
RAISE.formula("mish", x * P.Tanh(P.Softplus(x)), P.Mish(x))
RAISE.formula("softsign", x / (P.Abs(x) + 1.0), P.Softsign(x))

relu6 = P.Clip(x + 3.0, Const("", Filled(0)), Const("", Filled(6))) | P.Min(P.Relu(x + 3.0), 6.0)
hard = {"alpha": 1 / 6, "beta": 0.5}
RAISE.formula("hard_sigmoid", relu6 / 6.0 | relu6 * sixth, P.HardSigmoid(x, **hard))
RAISE.formula(
    "hard_swish", (x * relu6) / 6.0 | product(x, relu6, sixth) | (x / 6.0) * relu6 | x * (relu6 / 6.0), P.HardSwish(x)
)


def _is_sixth(value: float) -> bool:
    return math.isclose(value, 1 / 6, rel_tol=1e-6)


def _is_half(value: float) -> bool:
    return value == 0.5


standard = P.HardSigmoid(
    x,
    alpha=attr(where=_is_sixth, default=0.2, examples=(1 / 6,)),
    beta=attr(where=_is_half, default=0.5, examples=(0.5,)),
)
RAISE.formula("hard_swish_of_hard_sigmoid", x * standard, P.HardSwish(x))
