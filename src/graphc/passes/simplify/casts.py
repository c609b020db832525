"""Casts that do nothing or that one cast can do."""

from __future__ import annotations

from typing import Any

from graphc.ir import Builder, DType, Value, dtypes
from graphc.passes.rules import Match, P, Refusal, Var, attr, refuse
from graphc.passes.rules.conditions import copy_op
from graphc.passes.simplify.base import SIMPLIFY

x = Var("x")

MANTISSA_BITS = {"float16": 11, "bfloat16": 8, "float32": 24, "float64": 53}
EXPONENT_BITS = {"float16": 5, "bfloat16": 8, "float32": 8, "float64": 11}


SIMPLIFY.formula("cast_to_same", P.Cast(x, to=attr("to")), x)


@SIMPLIFY.rule(P.CastLike(x, Var("like")))
def cast_like(m: Match, b: Builder) -> Value:
    """CastLike(x, y) = Cast[type of y](x)."""
    attributes: dict[str, Any] = {**m.root.attributes, "to": m.type("like").dtype.onnx}
    return b.op("Cast", m["x"], **attributes)


@SIMPLIFY.rule(P.Cast(P.Cast(x, to=attr("inner"))))
def cast_of_cast(m: Match, b: Builder) -> Value | Refusal:
    """Cast[u](Cast[t](x)) = Cast[u](x) where t holds every value of x."""
    source, middle = m.type("x").dtype, dtypes.from_onnx(m.attribute("inner"))
    if not holds_exactly(middle, source):
        return refuse(f"{middle} does not hold every {source}")
    return copy_op(b, m.root, m["x"])


def holds_exactly(wide: DType, narrow: DType) -> bool:
    """Whether every value of `narrow` has a value in `wide` that converts to whatever `narrow` would convert to."""
    if wide == narrow:
        return True
    if narrow.kind == "bool":
        return wide.is_integer or wide.is_float
    if wide.name in MANTISSA_BITS and narrow.name in MANTISSA_BITS:
        return (
            MANTISSA_BITS[wide.name] >= MANTISSA_BITS[narrow.name]
            and EXPONENT_BITS[wide.name] >= EXPONENT_BITS[narrow.name]
        )
    if wide.is_integer and narrow.is_integer and (wide.kind == "int" or narrow.kind == "uint"):
        return wide.bits - (wide.kind == "int") >= narrow.bits - (narrow.kind == "int")
    # An integer in a float converts to another integer type through that float: out of its range the two differ.
    return False
