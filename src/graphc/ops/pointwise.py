"""Arithmetic, comparison and logic: pointwise operators of numbers and truth values, a row each."""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Sequence

import numpy as np

from graphc.ir import Dim, Node, dtypes
from graphc.ir.symbolic import add, floordiv, maximum, minimum, mod, multiply
from graphc.ops.base import Array, InferenceContext, Propagate, Trait
from graphc.ops.elementwise import (
    Domain,
    Meaning,
    binary,
    folded,
    is_any,
    is_bool,
    is_float,
    is_integer,
    is_numeric,
    is_signed,
    like,
    pointwise,
    propagate_elementwise,
    propagate_whole,
    unary,
)
from graphc.ops.expr import Scalar, call, cast, const
from graphc.ops.render_numpy import erf, truncated_division


def _propagate_divide(ctx: InferenceContext) -> tuple[Dim, ...] | None:
    """Integer quotients. Extents are not negative, so truncation is the floor; floats only where they divide evenly."""

    def divide(left: Dim, right: Dim) -> Dim | None:
        if right == 0 or (isinstance(left, int) and left < 0) or (isinstance(right, int) and right < 0):
            return None
        if ctx.tensor(0).dtype.is_float and mod(left, right) != 0:
            return None
        return floordiv(left, right)

    return propagate_elementwise(divide)(ctx)


def _propagate_mod(ctx: InferenceContext) -> tuple[Dim, ...] | None:
    def remainder(left: Dim, right: Dim) -> Dim | None:
        return mod(left, right) if isinstance(right, int) and right > 0 else None

    return propagate_elementwise(remainder)(ctx)


def _propagate_compare(function: Callable[[int, int], bool]) -> Propagate:
    def compare(left: Dim, right: Dim) -> Dim | None:
        if left == right:
            return int(function(0, 0))
        difference = add(left, multiply(-1, right))
        if isinstance(difference, int):
            return int(function(difference, 0))
        return None

    return propagate_elementwise(compare)


def _propagate_equal(left: Dim, right: Dim) -> Dim | None:
    difference = add(left, multiply(-1, right))
    if isinstance(difference, int):
        return int(difference == 0)
    # An extent is not negative: against the -1 of a Reshape pattern it always differs.
    if any(isinstance(side, int) and side < 0 for side in (left, right)):
        return 0
    return None


_UNARY: Sequence[tuple[str, Domain, Meaning, str]] = (
    ("Abs", is_numeric, np.abs, "abs"),
    ("Neg", is_signed, np.negative, "neg"),
    ("Sign", is_numeric, np.sign, "sign"),
    ("Sqrt", is_float, np.sqrt, "sqrt"),
    ("Reciprocal", is_float, lambda x: 1 / x, "reciprocal"),
    ("Exp", is_float, np.exp, "exp"),
    ("Log", is_float, np.log, "log"),
    ("Sin", is_float, np.sin, "sin"),
    ("Cos", is_float, np.cos, "cos"),
    ("Tan", is_float, np.tan, "tan"),
    ("Asin", is_float, np.arcsin, "asin"),
    ("Acos", is_float, np.arccos, "acos"),
    ("Atan", is_float, np.arctan, "atan"),
    ("Sinh", is_float, np.sinh, "sinh"),
    ("Cosh", is_float, np.cosh, "cosh"),
    ("Tanh", is_float, np.tanh, "tanh"),
    ("Asinh", is_float, np.arcsinh, "asinh"),
    ("Acosh", is_float, np.arccosh, "acosh"),
    ("Atanh", is_float, np.arctanh, "atanh"),
    ("Erf", is_numeric, erf, "erf"),
    ("Not", is_bool, np.logical_not, "not"),
    ("BitwiseNot", is_integer, np.invert, "not"),
)
for _name, _domain, _meaning, _op in _UNARY:
    pointwise(_name, 1, _domain, lambda node, x, f=_meaning: f(x), unary(_op))

for _name, _round, _op in (("Floor", np.floor, "floor"), ("Ceil", np.ceil, "ceil"), ("Round", np.rint, "round")):
    pointwise(_name, 1, is_float, lambda node, x, f=_round: f(x), unary(_op), propagate=propagate_whole)

pointwise("IsNaN", 1, is_float, lambda node, x: np.isnan(x), unary("isnan"), result=dtypes.BOOL)


def _infinite_meaning(node: Node, x: Array) -> Array:
    found = np.zeros(x.shape, np.bool_)
    if node.int_attribute("detect_negative", 1):
        found |= np.isneginf(x)
    if node.int_attribute("detect_positive", 1):
        found |= np.isposinf(x)
    return found


def _infinite_form(node: Node, x: Scalar) -> Scalar:
    low, high = (bool(node.int_attribute(f"detect_{side}", 1)) for side in ("negative", "positive"))
    if low and high:
        return call("isinf", x)
    if not low and not high:
        return const(False, dtypes.BOOL)
    return call("eq", x, like(x, math.inf if high else -math.inf))


pointwise("IsInf", 1, is_float, _infinite_meaning, _infinite_form, result=dtypes.BOOL)


def _divide_meaning(node: Node, x: Array, y: Array) -> Array:
    return truncated_division(x, y) if x.dtype.kind in "iu" else x / y


def _power_meaning(node: Node, x: Array, y: Array) -> Array:
    """Integer bases are raised in float64, as C's `pow` does."""
    return np.power(x.astype(np.float64), y.astype(np.float64)) if x.dtype.kind in "iu" else np.power(x, y)


def _power_form(node: Node, x: Scalar, y: Scalar) -> Scalar:
    wide = dtypes.FLOAT64 if x.dtype.is_integer else x.dtype
    return cast(call("pow", cast(x, wide), cast(y, wide)), x.dtype)


def _remainder_meaning(node: Node, x: Array, y: Array) -> Array:
    return np.fmod(x, y) if node.int_attribute("fmod", 0) else np.remainder(x, y)


def _remainder_form(node: Node, x: Scalar, y: Scalar) -> Scalar:
    return call("fmod" if node.int_attribute("fmod", 0) else "mod", x, y)


def _is_left(node: Node) -> bool:
    return node.str_attribute("direction", "LEFT") == "LEFT"


_BINARY: Sequence[tuple[str, Domain, Meaning, str, Propagate | None, bool]] = (
    ("Add", is_numeric, np.add, "add", propagate_elementwise(add), True),
    ("Sub", is_numeric, np.subtract, "sub", propagate_elementwise(lambda a, b: add(a, multiply(-1, b))), False),
    ("Mul", is_numeric, np.multiply, "mul", propagate_elementwise(multiply), True),
    ("And", is_bool, np.logical_and, "and", None, True),
    ("Or", is_bool, np.logical_or, "or", None, True),
    ("Xor", is_bool, np.logical_xor, "xor", None, True),
    ("BitwiseAnd", is_integer, np.bitwise_and, "and", None, True),
    ("BitwiseOr", is_integer, np.bitwise_or, "or", None, True),
    ("BitwiseXor", is_integer, np.bitwise_xor, "xor", None, True),
)
for _name, _domain, _meaning, _op, _propagate, _commutes in _BINARY:
    pointwise(
        _name,
        2,
        _domain,
        lambda node, x, y, f=_meaning: f(x, y),
        binary(_op),
        traits=[Trait.COMMUTATIVE] if _commutes else [],
        propagate=_propagate,
    )

pointwise("Div", 2, is_numeric, _divide_meaning, binary("div"), propagate=_propagate_divide)
pointwise("Mod", 2, is_numeric, _remainder_meaning, _remainder_form, propagate=_propagate_mod)
pointwise("Pow", 2, is_numeric, _power_meaning, _power_form, separate=[1])
pointwise(
    "BitShift",
    2,
    is_integer,
    lambda node, x, y: np.left_shift(x, y) if _is_left(node) else np.right_shift(x, y),
    lambda node, x, y: call("shl" if _is_left(node) else "shr", x, y),
)

_COMPARISONS: Sequence[tuple[str, Domain, Meaning, str, Propagate]] = (
    ("Equal", is_any, np.equal, "eq", propagate_elementwise(_propagate_equal)),
    ("Greater", is_numeric, np.greater, "gt", _propagate_compare(lambda a, b: a > b)),
    ("GreaterOrEqual", is_numeric, np.greater_equal, "ge", _propagate_compare(lambda a, b: a >= b)),
    ("Less", is_numeric, np.less, "lt", _propagate_compare(lambda a, b: a < b)),
    ("LessOrEqual", is_numeric, np.less_equal, "le", _propagate_compare(lambda a, b: a <= b)),
)
for _name, _domain, _meaning, _op, _propagate in _COMPARISONS:
    pointwise(
        _name,
        2,
        _domain,
        lambda node, x, y, f=_meaning: f(x, y),
        binary(_op),
        result=dtypes.BOOL,
        traits=[Trait.COMMUTATIVE] if _name == "Equal" else [],
        propagate=_propagate,
    )

_VARIADIC: Sequence[tuple[str, Domain, Meaning, str, Propagate | None]] = (
    ("Min", is_numeric, np.minimum, "min", propagate_elementwise(lambda *e: functools.reduce(minimum, e))),
    ("Max", is_numeric, np.maximum, "max", propagate_elementwise(lambda *e: functools.reduce(maximum, e))),
    ("Sum", is_float, np.add, "add", propagate_elementwise(lambda *e: functools.reduce(add, e))),
)
for _name, _domain, _meaning, _op, _propagate in _VARIADIC:
    pointwise(
        _name,
        None,
        _domain,
        lambda node, *arrays, f=_meaning: functools.reduce(f, arrays),
        folded(_op),
        traits=[Trait.COMMUTATIVE],
        propagate=_propagate,
    )

pointwise(
    "Mean",
    None,
    is_float,
    lambda node, *arrays: functools.reduce(np.add, arrays) / len(arrays),
    lambda node, *elements: call("div", folded("add")(node, *elements), like(elements[0], len(elements))),
    traits=[Trait.COMMUTATIVE],
)
