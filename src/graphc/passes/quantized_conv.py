"""Quantized convolutions written as integer ones, whose sums are scaled and rounded where they are made.

    QLinearConv(x, w, b) = saturate(round((ConvInteger(x, w) + b) * scales) + zero)

A GPU multiplies bytes of images as they lie; what follows the sums is pointwise and stays in registers.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import ClassVar

from graphc.ir import Builder, Value
from graphc.ir.dtypes import INT8, UINT8
from graphc.passes.base import register_pass
from graphc.passes.integer_conv import ATTRIBUTES, examples, requantized
from graphc.passes.rule_pass import RulePass
from graphc.passes.rules import Match, Optional, P, Refusal, Var, attr, refuse, rule_set

RULES = rule_set("quantized_conv")


@register_pass
@dataclass(frozen=True)
class QuantizedConv(RulePass):
    """Writes QLinearConv as ConvInteger and what follows it.

    Before: types are inferred. After: one that remains is not of 8-bit integers, or its scales or zero points are more
    than one number where only the weights may have several. Results are the same bits.
    """

    name: ClassVar[str] = "quantized_conv"


@RULES.rule(
    P.QLinearConv(
        *(Var("x"), Var("x_scale"), Var("x_zero"), Var("w"), Var("w_scale"), Var("w_zero")),
        *(Var("y_scale"), Var("y_zero"), Optional(Var("bias"))),
        **ATTRIBUTES,
        group=attr("group", default=1),
    ),
    examples=examples,
)
def integer_sums(m: Match, b: Builder) -> Value | Refusal:
    """QLinearConv(x, w, b) = saturate(round((ConvInteger(x, w) + b) * scales) + zero)."""
    if m.type("x").dtype not in (INT8, UINT8) or m.type("w").dtype not in (INT8, UINT8):
        return refuse("it is no convolution of 8-bit integers")
    for name in ("x_scale", "x_zero", "y_scale", "y_zero"):
        if math.prod(m.shape(name)) != 1:
            return refuse(f"%{m[name].name} is more than one number")
    if not all(m.type(name).is_static for name in ("w_scale", "w_zero", "bias") if m.get(name) is not None):
        return refuse("the number of its scales or of its biases is open")
    rank = len(m.shape("w")) - 2
    x_zero = b.op("Reshape", m["x_zero"], b.constant([], "int64")) if m.shape("x_zero") else m["x_zero"]
    facts = {name: m.attribute(key) for name, key in _KEYS.items()}
    given = {name: value for name, value in facts.items() if value != ()}
    auto = m.root.str_attribute("auto_pad", "NOTSET")
    sums = b.op("ConvInteger", m["x"], m["w"], x_zero, m["w_zero"], auto_pad=auto, **given)
    return requantized(m, b, sums, trailing=rank)


_KEYS = {**{name: name.removesuffix("_shape") for name in ATTRIBUTES}, "group": "group"}
