"""Softmax and its logarithm from their pieces."""

from __future__ import annotations

from graphc.ir import Builder, TensorType, Value, dtypes
from graphc.passes.raising.base import RAISE
from graphc.passes.rules import Chooser, Const, Match, P, Refusal, Var, attr, fixed, refuse
from graphc.passes.rules.conditions import keeps_shape

x = Var("x", kinds=("float",))
axes = Const("axes")
kept = fixed(1, default=1)
exponential = P.Exp(x - P.ReduceMax(x, axes, keepdims=kept)) | P.Exp(x)


def _examples(choose: Chooser) -> dict[str, object]:
    return {"x": TensorType(dtypes.FLOAT32, (2, 3, 4)), "axes": [choose.integer(-3, 2)]}


@RAISE.rule(exponential / P.ReduceSum(exponential, axes, keepdims=kept), when=keeps_shape("x"), examples=_examples)
def softmax(m: Match, b: Builder) -> Value | Refusal:
    """exp(x - max) / Σ exp(x - max) = Softmax(x), with the maximum taken off or not."""
    axes = m.integers("axes")
    if len(axes) != 1:
        return refuse("several axes are reduced")
    return b.op("Softmax", m["x"], axis=axes[0])


RAISE.formula(
    "log_softmax",
    P.Log(P.Softmax(x, axis=attr("axis", default=-1)).only_here()),
    P.LogSoftmax(x, axis=attr("axis")),
)
