"""Transcendental functions as vector arithmetic, for any number of lanes.

TVM lowers `exp`, `tanh` and their like to one libm call per lane, five to eleven times slower than a polynomial over
the vector. These are the float32 ones that models spend time in; `vector_angles` has the circular and hyperbolic ones.

Sources: `exp`, `log`: Cephes (S. L. Moshier, netlib.org/cephes), expf and logf; `erf`, `tanh`: the rational minimax
approximations used by Eigen; the logistic function follows from `exp`.
"""

from __future__ import annotations

from collections.abc import Sequence

from tvm.tirx.script.builder import ir as T

from graphc.backends.tvm.tir import Expr, bind, lanes_of

_SHIFT = 1.5 * 2**23
"""Floats around it are whole numbers, and their low bits count up."""
_SHIFT_BITS = 0x4B400000
_BIAS = 127
"""Of a float's exponent."""
_LOG2_E = 1.4426950408889634
_LN2_HIGH, _LN2_LOW = 0.693359375, -2.12194440e-4
_EXP = (1.9875691500e-4, 1.3981999507e-3, 8.3334519073e-3, 4.1665795894e-2, 1.6666665459e-1, 5.0000001201e-1)
_LOG = (
    *(7.0376836292e-2, -1.1514610310e-1, 1.1676998740e-1, -1.2420140846e-1, 1.4249322787e-1),
    *(-1.6668057665e-1, 2.0000714765e-1, -2.4999993993e-1, 3.3333331174e-1),
)
_ERF_NUMERATOR = (
    *(-2.72614225801306e-10, 2.77068142495902e-08, -2.10102402082508e-06, -5.69250639462346e-05),
    *(-7.34990630326855e-04, -2.95459980854025e-03, -1.60960333262415e-02),
)
_ERF_DENOMINATOR = (
    *(-1.45660718464996e-05, -2.13374055278905e-04, -1.68282697438203e-03, -7.37332916720468e-03),
    *(-1.42647390514189e-02,),
)
_TANH_NUMERATOR = (
    *(-2.76076847742355e-16, 2.00018790482477e-13, -8.60467152213735e-11, 5.12229709037114e-08),
    *(1.48572235717979e-05, 6.37261928875436e-04, 4.89352455891786e-03),
)
_TANH_DENOMINATOR = (1.19825839466702e-06, 1.18534705686654e-04, 2.26843463243900e-03, 4.89352518554385e-03)


def _float(value: float, lanes: int) -> Expr:
    return T.float32(value) if lanes == 1 else T.Broadcast(T.float32(value), lanes)


def _int(value: int, lanes: int) -> Expr:
    return T.int32(value) if lanes == 1 else T.Broadcast(T.int32(value), lanes)


def _type(name: str, lanes: int) -> str:
    return name if lanes == 1 else f"{name}x{lanes}"


def _horner(x: Expr, coefficients: Sequence[float], lanes: int) -> Expr:
    result = _float(coefficients[0], lanes)
    for coefficient in coefficients[1:]:
        result = result * x + _float(coefficient, lanes)
    return result


def exp(x: Expr) -> Expr:
    """Within 1 ulp; 0 below -104, infinity above 88.73, NaN for NaN."""
    lanes = lanes_of(x)
    # min and max keep the second operand where a comparison fails, so a NaN passes through both.
    x = bind(T.max(_float(-104.0, lanes), T.min(_float(89.0, lanes), x)))
    shifted, n = _rounded(x * _float(_LOG2_E, lanes), 0, lanes)
    y = bind(_exp_of(x, n, lanes))
    # 2**n in two factors, so that neither overflows nor underflows before the product does.
    whole = bind(_bits(shifted, lanes) - _int(_SHIFT_BITS, lanes))
    half = bind(T.shift_right(whole, _int(1, lanes)))
    return y * _power_of_two(half, lanes) * _power_of_two(whole - half, lanes)


def exp_nonpositive(x: Expr) -> Expr:
    """`exp` of what is known to be at most 0, as a softmax needs it: within 1 ulp; 0 below -87.7, NaN for NaN."""
    # At the lower bound n is -127, whose power of two has a zero exponent field: the float 0.
    return _scaled_exp(bind(T.max(_float(-88.0, lanes_of(x)), x)))


def _scaled_exp(x: Expr) -> Expr:
    """`exp` where the integer next to `x / log(2)` is one of -127 to 128: 0 at the lowest, infinity at the highest."""
    lanes = lanes_of(x)
    shifted, n = _rounded(x * _float(_LOG2_E, lanes), _BIAS, lanes)
    # All but the low bits, which are the exponent's field, leave the word.
    power = T.reinterpret(_type("float32", lanes), T.shift_left(_bits(shifted, lanes), _int(23, lanes)))
    return bind(_exp_of(x, n, lanes)) * power


def _rounded(x: Expr, bias: int, lanes: int) -> tuple[Expr, Expr]:
    """A float whose low bits are the integer next to `x` plus `bias`, and that integer as a float.

    Floats of this magnitude are whole numbers: adding rounds to one.
    """
    shift = _float(_SHIFT + bias, lanes)
    # Bound, for TVM takes `x + c - c` for `x`.
    shifted = bind(x + shift)
    return shifted, bind(shifted - shift)


def _exp_of(x: Expr, n: Expr, lanes: int) -> Expr:
    """`exp(x) / 2**n`, where `n` is the integer next to `x / log(2)`."""
    r = bind(x - n * _float(_LN2_HIGH, lanes))
    r = bind(r - n * _float(_LN2_LOW, lanes))
    return _horner(r, (*_EXP, 1.0, 1.0), lanes)


def _bits(x: Expr, lanes: int) -> Expr:
    return T.reinterpret(_type("int32", lanes), x)


def _power_of_two(exponent: Expr, lanes: int) -> Expr:
    biased = T.shift_left(exponent + _int(_BIAS, lanes), _int(23, lanes))
    return T.reinterpret(_type("float32", lanes), biased)


def log(x: Expr) -> Expr:
    """Within 2 ulp for normal numbers; -infinity at 0, NaN below, infinity at infinity."""
    lanes = lanes_of(x)
    x = bind(x)
    tiny = x < _float(1.17549435e-38, lanes)
    scaled = bind(T.Select(tiny, x * _float(33554432.0, lanes), x))
    bits = bind(T.reinterpret(_type("int32", lanes), scaled))
    exponent = bind(
        T.Cast(_type("float32", lanes), T.shift_right(bits, _int(23, lanes)) - _int(126, lanes))
        - T.Select(tiny, _float(25.0, lanes), _float(0.0, lanes))
    )
    fraction = T.bitwise_or(T.bitwise_and(bits, _int(0x007FFFFF, lanes)), _int(0x3F000000, lanes))
    m = bind(T.reinterpret(_type("float32", lanes), fraction))
    low = m < _float(0.707106781186547524, lanes)
    e = bind(exponent - T.Select(low, _float(1.0, lanes), _float(0.0, lanes)))
    r = bind(m - _float(1.0, lanes) + T.Select(low, m, _float(0.0, lanes)))
    z = bind(r * r)
    y = bind(_horner(r, _LOG, lanes) * r * z + e * _float(-2.12194440e-4, lanes) - _float(0.5, lanes) * z)
    result = bind(r + y + e * _float(0.693359375, lanes))
    infinity = _float(float("inf"), lanes)
    result = bind(T.Select(T.EQ(x, infinity), x, result))
    result = bind(T.Select(T.EQ(x, _float(0.0, lanes)), _float(float("-inf"), lanes), result))
    return T.Select(x >= _float(0.0, lanes), result, _float(float("nan"), lanes))


def erf(x: Expr) -> Expr:
    """Within 4 ulp of 1; odd, exactly bounded by 1 beyond |x| = 4, NaN for NaN."""
    lanes = lanes_of(x)
    x = bind(T.max(_float(-4.0, lanes), T.min(_float(4.0, lanes), x)))
    square = bind(x * x)
    return x * _horner(square, _ERF_NUMERATOR, lanes) / _horner(square, _ERF_DENOMINATOR, lanes)


def sigmoid(x: Expr) -> Expr:
    """The logistic function, 1 / (1 + exp(-x)), within 3 ulp; 0 below -88.4, NaN for NaN."""
    lanes = lanes_of(x)
    one = _float(1.0, lanes)
    # At the lower bound the result is 1; at the upper one n is 128, whose power of two has the exponent of infinity.
    x = bind(T.max(_float(-87.0, lanes), T.min(_float(88.7, lanes), _float(0.0, lanes) - x)))
    return one / (one + _scaled_exp(x))


def tanh(x: Expr) -> Expr:
    """Hyperbolic tangent within 5 ulp; odd, 1 beyond 8, NaN for NaN."""
    lanes = lanes_of(x)
    x = bind(T.max(_float(-7.99881172180175781, lanes), T.min(_float(7.99881172180175781, lanes), x)))
    square = bind(x * x)
    return x * _horner(square, _TANH_NUMERATOR, lanes) / _horner(square, _TANH_DENOMINATOR, lanes)


FLOAT32 = {"exp": exp, "log": log, "erf": erf, "sigmoid": sigmoid, "tanh": tanh}
"""Vector implementations by scalar operation."""
