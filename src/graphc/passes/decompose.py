"""Operators taken apart, so that each part is computed where it costs least.

Each of several results is computed where it is read; a quantized product is the integer product, which kernels have
instructions for, and what follows any product.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from math import prod
from typing import Any, ClassVar

import numpy as np

from graphc.ir import Builder, TensorType, Value
from graphc.ir.dtypes import FLOAT32, INT8, UINT8
from graphc.ops.expr import highest, lowest
from graphc.passes.base import register_pass
from graphc.passes.rule_pass import RulePass
from graphc.passes.rules import Match, P, Refusal, Rest, Var, attr, refuse, rule_set, shape_of
from graphc.passes.rules.predicate import Chooser
from graphc.passes.simplify.slicing import Range, emit

RULES = rule_set("decompose")
_SCALAR = np.zeros(0, np.int64)
"""The shape of rank 0."""


@register_pass
@dataclass(frozen=True)
class Decompose(RulePass):
    """Writes operators of several results as operators of one, which fuse with their readers; QLinearMatMul in parts.

    Before: types are inferred. After: a Split that remains has parts of open extents, a QLinearMatMul a scale for each
    row, or elements that are not of 8 bits. Results are the same bits.
    """

    name: ClassVar[str] = "decompose"


WIDE = 16
"""Operands of a Concat that one kernel takes: each is a pointer, of which a kernel has a few dozen at most."""


@RULES.rule(
    P.Concat(Rest("parts"), axis=attr("axis")),
    examples=lambda choose: {
        "axis": choose.pick((0, 1, -1)),
        "parts": lambda b: [
            b.graph.add_input(f"x{i}", TensorType(FLOAT32, (2, 3))) for i in range(choose.pick((17, 40)))
        ],
    },
)
def concat_of_many(m: Match, b: Builder) -> Refusal | Value:
    """Concat(a, ..., z) = Concat(Concat(a, ...), ..., Concat(..., z)), for more operands than a kernel takes."""
    parts = list(m.rest("parts"))
    if len(parts) <= WIDE:
        return refuse(f"it has {len(parts)} operands, which one kernel takes")
    axis = m.attribute("axis")
    while len(parts) > WIDE:
        groups = [parts[first : first + WIDE] for first in range(0, len(parts), WIDE)]
        parts = [b.op("Concat", *group, axis=axis) if len(group) > 1 else group[0] for group in groups]
    return b.op("Concat", *parts, axis=axis)


@RULES.rule(P.Split(Var("x"), Rest("sizes"), axis=attr("axis", default=0)))
def split_into_slices(m: Match, b: Builder) -> Refusal | tuple[Value, ...]:
    """Split(x) = Slice(x), Slice(x), ..., one for each part."""
    axis = m.attribute("axis") % len(m.shape("x"))
    begin = 0
    parts: list[Value] = []
    for part in m.root.outputs:
        extent = shape_of(part)[axis]
        if not isinstance(extent, int):
            return refuse(f"the extent {extent} of %{part.name} is open")
        parts.append(emit(b, m["x"], {axis: Range(begin, extent, 1)}))
        begin += extent
    return tuple(parts)


def _quantized_product(choose: Chooser) -> Mapping[str, Any]:
    rows, depth, columns = (choose.integer(1, 5) for _ in range(3))
    left, right, result = (choose.pick((INT8, UINT8)) for _ in range(3))
    per = (columns,) if choose.integer(0, 1) else ()
    return {
        "a": TensorType(left, (rows, depth)),
        "b": TensorType(right, (depth, columns)),
        "a_scale": np.float32(0.03),
        "b_scale": np.full(per, 0.02, np.float32),
        "y_scale": np.float32(0.7),
        "a_zero": np.array(3, left.numpy),
        "b_zero": np.full(per, 2, right.numpy),
        "y_zero": np.array(5, result.numpy),
    }


@RULES.rule(
    P.QLinearMatMul(*(Var(name) for name in ("a", "a_scale", "a_zero", "b", "b_scale", "b_zero", "y_scale", "y_zero"))),
    examples=_quantized_product,
)
def quantized_product(m: Match, b: Builder) -> Value | Refusal:
    """QLinearMatMul(a, b) = saturate(round(MatMulInteger(a, b) * (scale of a * scale of b / scale of y)) + zero)."""
    if any(m.type(name).dtype not in (INT8, UINT8) for name in ("a", "b", "y_zero")):
        return refuse("its elements are not of 8 bits")
    for name in ("a_scale", "a_zero", "y_scale", "y_zero"):
        if prod(m.shape(name)) != 1:
            return refuse(f"%{m[name].name} differs from row to row")
    for name in ("b_scale", "b_zero"):
        if len(m.shape(name)) > 1:
            return refuse(f"%{m[name].name} differs from matrix to matrix")
    result = m.type("y_zero").dtype

    def wide(name: str) -> Value:
        """A parameter as a float32 of rank 0, or of one for each column."""
        value = m[name] if m.shape(name) == () or name == "b_scale" else b.op("Reshape", m[name], b.constant(_SCALAR))
        return value if m.type(name).dtype == FLOAT32 else b.op("Cast", value, to=FLOAT32.onnx)

    total = b.op("Cast", b.op("MatMulInteger", m["a"], m["b"], m["a_zero"], m["b_zero"]), to=FLOAT32.onnx)
    factor = b.op("Div", b.op("Mul", wide("a_scale"), wide("b_scale")), wide("y_scale"))
    moved = b.op("Add", b.op("Round", b.op("Mul", total, factor)), wide("y_zero"))
    low, high = (b.constant(np.float32(limit(result))) for limit in (lowest, highest))
    return b.op("Cast", b.op("Clip", moved, low, high), to=result.onnx)
