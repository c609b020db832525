"""Division of vectors of integers by way of floats: processors divide integers one at a time, and slowly.

The quotient of two integers below 2^p in magnitude, rounded once to p bits, is cut off to the same integer as the exact
one: it lies at least 1 / b from the next integer, which is more than rounding moves it (J.-M. Muller and others,
"Handbook of floating-point arithmetic", 2010, on correctly rounded quotients).
"""

from __future__ import annotations

from tvm.tirx.script.builder import ir as T

from graphc.backends.tvm.element_types import number
from graphc.backends.tvm.tir import Expr, Register, bind, lanes_of
from graphc.ir.dtypes import DType

_EXACT = 1 << 53
"""Integers below this are numbers of float64."""


def applies(dtype: DType, lanes: int) -> bool:
    """Whether vectors of a type are divided here."""
    return lanes > 1 and dtype.bits >= 8 and (dtype.kind == "int" or (dtype.kind == "uint" and dtype.bits <= 16))


def divided(rounding: str, dtype: DType, left: Expr, right: Expr) -> Expr:
    """The quotient or the remainder.

    Args:
        rounding: `div`, cut off; `floordiv`, rounded down; `fmod` and `mod`, what is left over of each.
        dtype: Of both.
        left: The dividend.
        right: The divisor, which is neither 0 nor -1.
    """
    quotient = _large(dtype, left, right) if dtype.bits == 64 else _quotient(dtype, left, right)
    rest = bind(left - quotient * right)
    if rounding in ("div", "fmod"):
        return quotient if rounding == "div" else rest
    zero, one = (number(value, dtype, lanes_of(left)) for value in (0, 1))
    if dtype.kind == "uint":
        return quotient if rounding == "floordiv" else rest
    beyond = T.And(T.NE(rest, zero), T.bitwise_xor(rest < zero, right < zero))
    if rounding == "floordiv":
        return bind(quotient - T.Select(beyond, one, zero))
    return bind(rest + T.Select(beyond, right, zero))


def _quotient(dtype: DType, left: Expr, right: Expr) -> Expr:
    lanes = lanes_of(left)
    kind = f"float{32 if dtype.bits <= 16 else 64}x{lanes}"
    whole = "int64" if dtype.bits == 64 else "int32"
    quotient = bind(T.Cast(kind, left) / T.Cast(kind, right))
    return bind(T.Cast(f"{dtype.name}x{lanes}", T.Cast(f"{whole}x{lanes}", quotient)))


def _large(dtype: DType, left: Expr, right: Expr) -> Expr:
    """Of 64 bits: by floats where these are exact on all lanes."""
    lanes = lanes_of(left)
    low, high = number(-_EXACT, dtype, lanes), number(_EXACT, dtype, lanes)
    outside = [T.Or(value < low, value > high) for value in (left, right)]
    register = Register(lanes, "int64")
    with T.If(T.call_llvm_pure_intrin("bool", "llvm.vector.reduce.or", T.Or(*outside))):
        with T.Then():
            register.value = T.truncdiv(left, right)
        with T.Else():
            register.value = _quotient(dtype, left, right)
    return register.value
