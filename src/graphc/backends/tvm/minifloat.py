"""Floats of 8 and fewer bits: from their codes to float32 in registers and back, by integer arithmetic on vectors."""

from __future__ import annotations

from tvm.tirx.script.builder import ir as T

from graphc.backends.float_formats import FORMATS, Format
from graphc.backends.tvm.tir import Expr, bind, broadcast, lanes_of
from graphc.ir import dtypes
from graphc.ir.dtypes import DType
from graphc.ops.conversion import ONE_AND_A_HALF_SMALLEST, SMALLEST_NORMAL, SMALLEST_SCALE
from graphc.ops.expr import ScaleRounding

_INFINITY, _NAN, _MAGNITUDE = 0x7F800000, 0x7FC00000, 0x7FFFFFFF
"""Bits of float32."""


class _Words:
    """Vectors of 32-bit words, and the constants of their width."""

    def __init__(self, lanes: int) -> None:
        self.lanes = lanes

    def type(self, name: str) -> str:
        return name if self.lanes == 1 else f"{name}x{self.lanes}"

    def word(self, value: int) -> Expr:
        return broadcast(T.uint32(value), self.lanes)

    def number(self, value: float) -> Expr:
        return broadcast(T.float32(value), self.lanes)

    def shift(self, value: Expr, places: int) -> Expr:
        """To the left, or to the right where `places` is negative."""
        if places == 0:
            return value
        return (T.shift_left if places > 0 else T.shift_right)(value, self.word(abs(places)))

    def masked(self, value: Expr, mask: int) -> Expr:
        return T.bitwise_and(value, self.word(mask))

    def to_float(self, bits: Expr) -> Expr:
        return T.reinterpret(self.type("float32"), bits)

    def to_bits(self, value: Expr) -> Expr:
        return T.reinterpret(self.type("uint32"), value)


def decode(code: Expr, dtype: DType) -> Expr:
    """The float32 of every uint8 code; bits above the type's are ignored."""
    w = _Words(lanes_of(code))
    code = bind(T.Cast(w.type("uint32"), code))
    if dtype == dtypes.FLOAT8E8M0:
        bits = T.Select(T.EQ(code, w.word(0)), w.word(SMALLEST_SCALE), w.shift(code, 23))
        return w.to_float(T.Select(T.EQ(code, w.word(255)), w.word(_NAN), bits))
    form = FORMATS[dtype]
    width = form.exponent + form.mantissa
    magnitude = bind(w.masked(code, (1 << width) - 1))
    sign = w.shift(w.masked(code, 1 << width), 31 - width)
    normal = w.shift(magnitude, 23 - form.mantissa) + w.word((127 - form.bias) << 23)
    # A number without the leading one is a small integer times a power of two.
    small = T.Cast(w.type("float32"), T.Cast(w.type("int32"), magnitude)) * w.number(
        2.0 ** (1 - form.bias - form.mantissa)
    )
    bits = T.Select(magnitude < w.word(1 << form.mantissa), w.to_bits(small), normal)
    if form.infinity is not None:
        bits = T.Select(T.EQ(magnitude, w.word(form.infinity)), w.word(_INFINITY), bits)
        bits = T.Select(magnitude > w.word(form.infinity), w.word(_NAN), bits)
    elif form.nan is not None and form.signed_specials:
        bits = T.Select(T.EQ(magnitude, w.word(form.nan)), w.word(_NAN), bits)
    signed = T.bitwise_or(bits, sign)
    if form.nan is not None and not form.signed_specials:
        signed = T.Select(T.EQ(code, w.word(form.nan)), w.word(_NAN), signed)
    return w.to_float(signed)


def encode(value: Expr, dtype: DType, *, saturate: bool = False, rounding: ScaleRounding = "nearest") -> Expr:
    """The uint8 code of every float32, rounded to nearest, ties to even.

    Args:
        value: What to convert.
        dtype: One of `DTYPES`.
        saturate: Whether what lies beyond the range, infinity among it, becomes the largest number. Types without NaN
            always saturate.
        rounding: How float8_e8m0fnu rounds.
    """
    w = _Words(lanes_of(value))
    bits = bind(w.to_bits(value))
    magnitude = bind(w.masked(bits, _MAGNITUDE))
    if dtype == dtypes.FLOAT8E8M0:
        code = _exponent(w, magnitude, saturate=saturate, rounding=rounding)
    else:
        code = _rounded(w, bits, magnitude, FORMATS[dtype], saturate=saturate)
    return T.Cast(w.type("uint8"), code)


def _exponent(w: _Words, magnitude: Expr, *, saturate: bool, rounding: ScaleRounding) -> Expr:
    rounds = {"up": 0x7FFFFF, "nearest": 0x400000, "down": 0}[rounding]
    threshold = {"up": SMALLEST_SCALE + 1, "nearest": ONE_AND_A_HALF_SMALLEST, "down": SMALLEST_NORMAL}[rounding]
    code = w.shift(magnitude + w.word(rounds), -23)
    # Below 2**-126 a float32 has no leading one, so what is above 2**-127 is told by comparison.
    small = T.Select(magnitude < w.word(threshold), w.word(0), w.word(1))
    code = bind(T.Select(magnitude < w.word(SMALLEST_NORMAL), small, code))
    code = T.Select(code > w.word(254), w.word(254 if saturate else 255), code)
    code = T.Select(magnitude < w.word(SMALLEST_SCALE), w.word(0 if saturate else 255), code)
    return T.Select(magnitude > w.word(_INFINITY), w.word(255), code)


def _rounded(w: _Words, bits: Expr, magnitude: Expr, form: Format, *, saturate: bool) -> Expr:
    width, dropped = form.exponent + form.mantissa, 23 - form.mantissa
    odd = w.masked(w.shift(magnitude, -dropped), 1)
    normal = w.shift(magnitude + w.word((1 << (dropped - 1)) - 1) + odd, -dropped)
    normal = normal - w.word((127 - form.bias) << form.mantissa)
    # Numbers without the leading one are multiples of one power of two; rounding up may reach the first that has it.
    units = w.to_float(magnitude) * w.number(2.0 ** (form.bias - 1 + form.mantissa))
    whole = T.call_llvm_pure_intrin(w.type("float32"), "llvm.rint", units)
    small = T.Cast(w.type("uint32"), T.Cast(w.type("int32"), whole))
    least = w.word((128 - form.bias) << 23)
    code = bind(T.Select(magnitude < least, small, normal))
    beyond = form.infinity if form.infinity is not None else form.nan
    limit = form.largest if saturate or beyond is None else beyond
    code = T.Select(code > w.word(form.largest), w.word(limit), code)
    missing = magnitude > w.word(_INFINITY)
    sign = w.masked(w.shift(bits, width - 31), 1 << width)
    if form.nan is None:
        # A type without NaN: zero, of the other sign, as ml_dtypes has it.
        zero = T.bitwise_xor(sign, w.word(1 << width))
        return T.Select(missing, zero, T.bitwise_or(code, sign))
    code = bind(T.Select(missing, w.word(form.nan), code))
    if form.signed_specials:
        return T.bitwise_or(code, sign)
    # Neither zero nor NaN has a sign.
    plain = T.Or(T.EQ(code, w.word(0)), T.EQ(code, w.word(form.nan)))
    return T.Select(plain, code, T.bitwise_or(code, sign))
