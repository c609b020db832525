"""Products of dequantized matrices written as integer ones, whose sums are scaled where they are made.

    (a - za) * sa @ (b - zb) * sb = (a - za) @ (b - zb) * (sa * sb)

A GPU multiplies bytes at twice the rate of halves, and reads half as many. Sums are exact before they are scaled.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from math import prod
from typing import Any, ClassVar

import numpy as np

from graphc.ir import Builder, TensorType, Value
from graphc.ir.dtypes import FLOAT32, INT8, UINT8
from graphc.passes.base import register_pass
from graphc.passes.rule_pass import RulePass
from graphc.passes.rules import Match, Optional, P, Refusal, Var, attr, refuse, rule_set
from graphc.passes.rules.predicate import Chooser

RULES = rule_set("quantized_matmul")

_LARGEST_TERM = 255 * 255
"""Of a sum of products of bytes, each less its zero point."""


@register_pass
@dataclass(frozen=True)
class QuantizedMatMul(RulePass):
    """Writes MatMul and Gemm of two DequantizeLinear of bytes as MatMulInteger and what follows it.

    Before: types are inferred. After: one that remains is of other types, or its left operand has several scales or its
    right one others than one for each column, or it is so deep that sums may be beyond int32. Results differ by less
    than sums of float32 are rounded.
    """

    name: ClassVar[str] = "quantized_matmul"


def _examples(choose: Chooser) -> Mapping[str, Any]:
    rows, depth, columns = (choose.integer(1, 5) for _ in range(3))
    left, right = (choose.pick((INT8, UINT8)) for _ in range(2))
    turned, several = choose.integer(0, 1), choose.integer(0, 1)
    per = (columns,) if several else ()
    return {
        "a": TensorType(left, (rows, depth)),
        "b": TensorType(right, (columns, depth) if turned else (depth, columns)),
        "c": TensorType(FLOAT32, (columns,)),
        # Powers of two: sums that cancel are 0 on both sides.
        "a_scale": np.float32(1 / 32),
        "b_scale": np.full(per, 1 / 64, np.float32),
        "a_zero": np.array(3, left.numpy),
        "b_zero": np.full(per, 2, right.numpy),
        "turned": turned,
        "axis": 0 if turned else 1,
    }


def _matmul_examples(choose: Chooser) -> Mapping[str, Any]:
    found = dict(_examples(choose))
    while found["turned"]:
        found = dict(_examples(choose))
    return found


_LEFT = P.DequantizeLinear(Var("a"), Var("a_scale"), Optional(Var("a_zero")))
_RIGHT = P.DequantizeLinear(
    *(Var("b"), Var("b_scale"), Optional(Var("b_zero"))),
    axis=attr("axis", default=1),
    block_size=attr("block", default=0),
)


@RULES.rule(P.MatMul(_LEFT, _RIGHT), examples=_matmul_examples)
def integer_matmul(m: Match, b: Builder) -> Value | Refusal:
    """MatMul(DequantizeLinear(a), DequantizeLinear(b)) = MatMulInteger(a, b) * (scale of a * scale of b)."""
    return _scaled(m, b, m["b"], along=len(m.shape("b")) - 1)


@RULES.rule(P.Gemm(_LEFT, _RIGHT, Optional(Var("c")), transB=attr("turned", default=0)), examples=_examples)
def integer_gemm(m: Match, b: Builder) -> Value | Refusal:
    """Gemm(DequantizeLinear(a), DequantizeLinear(b), c) = MatMulInteger(a, b) * (scale of a * scale of b) + c."""
    node = m.root
    if node.int_attribute("transA", 0) or (node.float_attribute("alpha", 1), node.float_attribute("beta", 1)) != (1, 1):
        return refuse("its left operand is transposed, or a term has a factor")
    turned = bool(m.attribute("turned"))
    right = b.op("Transpose", m["b"], perm=[1, 0]) if turned else m["b"]
    result = _scaled(m, b, right, along=0 if turned else 1)
    return b.op("Add", result, m["c"]) if isinstance(result, Value) and m.get("c") is not None else result


def _scaled(m: Match, b: Builder, right: Value, *, along: int) -> Value | Refusal:
    """The integer product, scaled; `along` is the axis of the columns in the right operand as it was given."""
    if any(m.type(name).dtype not in (INT8, UINT8) for name in "ab"):
        return refuse("its operands are no bytes")
    if any(len(m.shape(name)) < 2 for name in "ab"):
        return refuse("an operand is a vector")
    if any(m.type(name).dtype != FLOAT32 for name in ("a_scale", "b_scale")) or m.attribute("block"):
        return refuse("its scales are no float32, or those of blocks")
    if m.output.dtype != FLOAT32:
        return refuse("its result is no float32")
    depth = m.shape("a")[-1]
    if not isinstance(depth, int) or depth * _LARGEST_TERM >= 1 << 31:
        return refuse("its sums may be beyond int32")
    if prod(m.shape("a_scale")) != 1:
        return refuse("its left operand has several scales")
    if prod(m.shape("b_scale")) != 1 and m.attribute("axis") % len(m.shape("b")) != along:
        return refuse("the scales of its right operand are not those of its columns")
    zeros = [None if m.get(name) is None else _scalar(m, b, name) for name in ("a_zero", "b_zero")]
    total = b.op("Cast", b.op("MatMulInteger", m["a"], right, *zeros), to=FLOAT32.onnx)
    scales = [_scalar(m, b, name) for name in ("a_scale", "b_scale")]
    return b.op("Mul", total, b.op("Mul", *scales))


def _scalar(m: Match, b: Builder, name: str) -> Value:
    """A parameter, of rank 0 where it is one number."""
    one = m.shape(name) != () and prod(m.shape(name)) == 1
    return b.op("Reshape", m[name], b.constant(np.zeros(0, np.int64))) if one else m[name]
