"""Circular and hyperbolic functions and their inverses as vector arithmetic in float32, for any number of lanes.

Sources: polynomials of Cephes (S. L. Moshier, netlib.org/cephes: sinf, tanf, asinf, atanf, sinhf); the reduction of
angles in three parts of pi/2 by fused multiply-adds follows W. J. Cody and W. Waite, "Software manual for the
elementary functions" (1980); `log1p` is W. Kahan's, from the rounding of 1 + x.
"""

from __future__ import annotations

from collections.abc import Sequence

from tvm.tirx.script.builder import ir as T

from graphc.backends.tvm import vectormath
from graphc.backends.tvm.tir import Expr, Register, bind, broadcast, lanes_of

_HALF_PI = (1.5707963705062866, -4.371138828673793e-08, -1.7151245100058819e-15)
"""pi/2 as the sum of three float32 numbers."""
_FARTHEST = 1e5
"""Beyond this angle the parts of pi/2 are too few, and the C library is asked."""
_SIN = (-1.9515295891e-4, 8.3321608736e-3, -1.6666654611e-1)
_COS = (2.443315711809948e-5, -1.388731625493765e-3, 4.166664568298827e-2)
_ASIN = (4.2163199048e-2, 2.4181311049e-2, 4.5470025998e-2, 7.4953002686e-2, 1.6666752422e-1)
_ATAN = (8.05374449538e-2, -1.38776856032e-1, 1.99777106478e-1, -3.33329491539e-1)
_SINH = (2.03721912945e-4, 8.33028376239e-3, 1.66667160211e-1)
_EXPM1 = (1.9875691500e-4, 1.3981999507e-3, 8.3334519073e-3, 4.1665795894e-2, 1.6666665459e-1, 5.0000001201e-1)
_LN2 = 0.6931471805599453
_PI = 3.141592653589793


def _number(value: float, like: Expr) -> Expr:
    return broadcast(T.float32(value), lanes_of(like))


def _integer(value: int, like: Expr) -> Expr:
    return broadcast(T.int32(value), lanes_of(like))


def _named(kind: str, like: Expr) -> str:
    lanes = lanes_of(like)
    return kind if lanes == 1 else f"{kind}x{lanes}"


def _of_float(name: str, *values: Expr) -> Expr:
    return T.call_llvm_pure_intrin(_named("float32", values[0]), f"llvm.{name}", *values)


def _horner(x: Expr, coefficients: Sequence[float]) -> Expr:
    result = _number(coefficients[0], x)
    for coefficient in coefficients[1:]:
        result = _of_float("fma", result, x, _number(coefficient, x))
    return bind(result)


def _minus(left: Expr, right: Expr) -> Expr:
    """A difference that TVM looks into no further: to it `x + y - x` is `y`."""
    return bind(_of_float("fma", right, _number(-1.0, right), left))


def _sign_of(x: Expr) -> Expr:
    """The sign bit."""
    return bind(T.bitwise_and(T.reinterpret(_named("int32", x), x), _integer(-(1 << 31), x)))


def _signed(value: Expr, sign: Expr) -> Expr:
    """`value` with its sign turned where the bit is set."""
    pattern = T.bitwise_xor(T.reinterpret(_named("int32", value), value), sign)
    return bind(T.reinterpret(_named("float32", value), pattern))


def _magnitude(x: Expr) -> Expr:
    return bind(_of_float("fabs", x))


def _reduced(x: Expr) -> tuple[Expr, Expr]:
    """An angle within pi/4 of zero, and the number of quarter turns that it was away, for 0 <= x <= `_FARTHEST`."""
    turns = bind(_of_float("rint", x * _number(2 / _PI, x)))
    # To the library's largest angle: what NaN and those beyond become as an integer must be defined.
    turns = bind(T.min(turns, _number(float(1 << 20), x)))
    angle = x
    for part in _HALF_PI:
        angle = bind(_of_float("fma", turns, _number(-part, x), angle))
    return angle, bind(T.Cast(_named("int32", x), turns))


def _waves(angle: Expr) -> tuple[Expr, Expr]:
    """Sine and cosine within pi/4 of zero."""
    square = bind(angle * angle)
    sine = bind(_of_float("fma", _horner(square, _SIN) * square, angle, angle))
    half = _of_float("fma", square, _number(-0.5, angle), _number(1.0, angle))
    return sine, bind(_of_float("fma", _horner(square, _COS) * square, square, half))


def _is_odd(turns: Expr) -> Expr:
    return T.NE(T.bitwise_and(turns, _integer(1, turns)), _integer(0, turns))


def _with_library(name: str, x: Expr, result: Expr) -> Expr:
    """`result`, and the C library's answer where an angle is too far from zero."""
    far = T.call_llvm_pure_intrin(_named("float32", x), "llvm.fabs", x) > _number(_FARTHEST, x)
    lanes = lanes_of(x)
    source, answer = Register(lanes), Register(lanes)
    source.value, answer.value = x, result
    if lanes == 1:
        with T.If(far), T.Then():
            answer.value = T.call_pure_extern("float32", f"{name}f", source.value)
        return answer.value
    some = T.call_llvm_pure_intrin("bool", "llvm.vector.reduce.or", far)
    with T.If(some), T.Then(), T.serial(0, lanes) as lane:
        found = T.call_pure_extern("float32", f"{name}f", source.lane(lane))
        is_far = T.call_llvm_pure_intrin("float32", "llvm.fabs", source.lane(lane)) > T.float32(_FARTHEST)
        answer.set_lane(lane, T.Select(is_far, found, answer.lane(lane)))
    return answer.value


def sin(x: Expr) -> Expr:
    """Within 2 ulp up to 1e5, as the C library has it beyond; NaN for infinities."""
    x = bind(x)
    angle, turns = _reduced(_magnitude(x))
    sine, cosine = _waves(angle)
    value = bind(T.Select(_is_odd(turns), cosine, sine))
    turned = T.shift_left(T.bitwise_and(turns, _integer(2, turns)), _integer(30, turns))
    return _with_library("sin", x, _signed(value, bind(T.bitwise_xor(turned, _sign_of(x)))))


def cos(x: Expr) -> Expr:
    """Within 2 ulp up to 1e5, as the C library has it beyond; NaN for infinities."""
    x = bind(x)
    angle, turns = _reduced(_magnitude(x))
    sine, cosine = _waves(angle)
    value = bind(T.Select(_is_odd(turns), sine, cosine))
    next_turn = turns + _integer(1, turns)
    turned = T.shift_left(T.bitwise_and(next_turn, _integer(2, turns)), _integer(30, turns))
    return _with_library("cos", x, _signed(value, bind(turned)))


def tan(x: Expr) -> Expr:
    """Within 4 ulp up to 1e5, as the C library has it beyond; NaN for infinities."""
    x = bind(x)
    angle, turns = _reduced(_magnitude(x))
    sine, cosine = _waves(angle)
    odd = _is_odd(turns)
    value = bind(T.Select(odd, cosine, sine) / T.Select(odd, sine, cosine))
    turned = T.shift_left(T.bitwise_and(turns, _integer(1, turns)), _integer(31, turns))
    return _with_library("tan", x, _signed(value, bind(T.bitwise_xor(turned, _sign_of(x)))))


def _arcsine(size: Expr) -> tuple[Expr, Expr]:
    """For 0 <= size: whether it is beyond a half, and its arc sine, or half its arc cosine there."""
    big = size > _number(0.5, size)
    root = bind(_minus(_number(1.0, size), size) * _number(0.5, size))
    square = bind(T.Select(big, root, size * size))
    start = bind(T.Select(big, _of_float("sqrt", root), size))
    return big, bind(_of_float("fma", _horner(square, _ASIN) * square, start, start))


def asin(x: Expr) -> Expr:
    """Within 4 ulp; NaN outside of [-1, 1]."""
    x = bind(x)
    big, arc = _arcsine(_magnitude(x))
    value = bind(T.Select(big, _of_float("fma", arc, _number(-2.0, x), _number(_PI / 2, x)), arc))
    return _signed(value, _sign_of(x))


def acos(x: Expr) -> Expr:
    """Within 4 ulp; NaN outside of [-1, 1]."""
    x = bind(x)
    big, arc = _arcsine(_magnitude(x))
    double = bind(arc + arc)
    negative = x < _number(0.0, x)
    far = T.Select(negative, _minus(_number(_PI, x), double), double)
    near = _minus(_number(_PI / 2, x), _signed(arc, _sign_of(x)))
    return bind(T.Select(big, bind(far), near))


def atan(x: Expr) -> Expr:
    """Within 3 ulp; half of pi at infinity."""
    x = bind(x)
    size = _magnitude(x)
    big, middle = size > _number(2.414213562373095, x), size > _number(0.4142135623730950, x)
    one = _number(1.0, x)
    numerator = T.Select(big, _number(-1.0, x), bind(T.Select(middle, _minus(size, one), size)))
    denominator = T.Select(big, size, bind(T.Select(middle, size + one, one)))
    start = T.Select(big, _number(_PI / 2, x), bind(T.Select(middle, _number(_PI / 4, x), _number(0.0, x))))
    part = bind(bind(numerator) / bind(denominator))
    square = bind(part * part)
    arc = bind(_of_float("fma", _horner(square, _ATAN) * square, part, part))
    return _signed(bind(bind(start) + arc), _sign_of(x))


def expm1(x: Expr) -> Expr:
    """`exp(x) - 1` within 3 ulp, without the rounding of 1 near zero."""
    x = bind(T.max(_number(-18.0, x), T.min(_number(89.0, x), x)))
    n = bind(_of_float("rint", x * _number(1 / _LN2, x)))
    r = bind(_of_float("fma", n, _number(-0.693359375, x), x))
    r = bind(_of_float("fma", n, _number(2.12194440e-4, x), r))
    part = bind(_of_float("fma", _horner(r, _EXPM1) * r, r, r))
    # Half of the power, because 2**128 is none.
    biased = T.shift_left(T.Cast(_named("int32", x), n) + _integer(126, x), _integer(23, x))
    half = bind(T.reinterpret(_named("float32", x), biased))
    result = bind(_of_float("fma", half, part, bind(half + _number(-0.5, x))))
    return bind(result + result)


def log1p(x: Expr) -> Expr:
    """`log(1 + x)` within 4 ulp, without the rounding of 1 + x near zero."""
    x = bind(x)
    one = _number(1.0, x)
    whole = bind(x + one)
    lost = _minus(_minus(whole, one), x)
    correction = bind(lost / whole)
    finite = T.And(whole > _number(0.0, x), whole < _number(float("inf"), x))
    return _minus(vectormath.log(whole), bind(T.Select(finite, correction, _number(0.0, x))))


def sinh(x: Expr) -> Expr:
    """Within 6 ulp."""
    x = bind(x)
    size = _magnitude(x)
    small = size < _number(1.0, x)
    square = bind(size * size)
    near = bind(_of_float("fma", _horner(square, _SINH) * square, size, size))
    rising, falling = _half_exponentials(size)
    return _signed(bind(T.Select(small, near, _minus(rising, falling))), _sign_of(x))


def cosh(x: Expr) -> Expr:
    """Within 6 ulp."""
    rising, falling = _half_exponentials(_magnitude(bind(x)))
    return bind(rising + falling)


def _half_exponentials(size: Expr) -> tuple[Expr, Expr]:
    """`exp(x) / 2` and `exp(-x) / 2`, finite as long as their sum is."""
    root = bind(vectormath.exp(size * _number(0.5, size)))
    half = bind(root * _number(0.5, size))
    rising = bind(half * root)
    return rising, bind(_number(0.25, size) / rising)


def asinh(x: Expr) -> Expr:
    """Within 6 ulp."""
    x = bind(x)
    size = _magnitude(x)
    square = bind(size * size)
    one = _number(1.0, x)
    near = bind(size + bind(square / (one + _of_float("sqrt", square + one))))
    return _signed(_far_logarithm(size, near), _sign_of(x))


def acosh(x: Expr) -> Expr:
    """Within 6 ulp; NaN below 1."""
    x = bind(x)
    above = _minus(x, _number(1.0, x))
    near = bind(above + _of_float("sqrt", bind(above * bind(above + _number(2.0, x)))))
    value = _far_logarithm(x, near)
    return bind(T.Select(x >= _number(1.0, x), value, _number(float("nan"), x)))


def _far_logarithm(size: Expr, near: Expr) -> Expr:
    """`log1p(near)`, or `log(2 size)` where the square of `size` may be infinite."""
    far = bind(vectormath.log(size) + _number(_LN2, size))
    return bind(T.Select(size > _number(1e9, size), far, log1p(near)))


def atanh(x: Expr) -> Expr:
    """Within 6 ulp; infinite at 1, NaN beyond."""
    x = bind(x)
    size = _magnitude(x)
    ratio = bind(bind(size + size) / _minus(_number(1.0, x), size))
    return _signed(bind(log1p(ratio) * _number(0.5, x)), _sign_of(x))


FLOAT32 = {
    **{"sin": sin, "cos": cos, "tan": tan, "asin": asin, "acos": acos, "atan": atan},
    **{"sinh": sinh, "cosh": cosh, "asinh": asinh, "acosh": acosh, "atanh": atanh, "expm1": expm1, "log1p": log1p},
}
"""Vector implementations by scalar operation."""
