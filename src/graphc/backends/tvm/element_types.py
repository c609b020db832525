"""Element types in memory and in registers: how each is stored, what it is computed in, and casts between them.

Floats of 16 and fewer bits compute in float32, integers of 2 and 4 bits in 8. What a cast gives is stated in
`graphc.ops.expr`.
"""

from __future__ import annotations

from tvm.tirx.script.builder import ir as T

from graphc.backends import float_formats
from graphc.backends.element_types import compute_dtype, is_narrow_float
from graphc.backends.tvm import minifloat
from graphc.backends.tvm.tir import Expr, bind, broadcast, lanes_of
from graphc.errors import BackendError
from graphc.ir import dtypes
from graphc.ir.dtypes import DType
from graphc.ops.expr import ScaleRounding

SUPPORTED_DTYPES = frozenset(dtype for dtype in dtypes.ALL if dtype.kind not in ("complex", "string"))
"""Element types that kernels load, store and compute with."""


def named(name: str, lanes: int) -> str:
    """A type of TIR with its lanes."""
    return name if lanes == 1 else f"{name}x{lanes}"


def tir_dtype(dtype: DType, lanes: int = 1) -> str:
    """TIR's name of the computing type, with its lanes."""
    return named(compute_dtype(dtype).name, lanes)


def constant(value: int | float | bool | complex, dtype: DType) -> Expr:
    """A scalar constant in its computing type."""
    if isinstance(value, complex):
        raise BackendError("complex numbers have no compiled form on CPUs")
    name = compute_dtype(dtype).name
    if name == "bool":
        return T.boolean(bool(value))
    if name.startswith("float"):
        return {"float32": T.float32, "float64": T.float64}[name](float(value))
    if name == "uint64" and int(value) > _LARGEST_IMMEDIATE:
        return T.reinterpret("uint64", T.int64(int(value) - (1 << 64)))
    return T.IntImm(name, int(value))


_LARGEST_IMMEDIATE = (1 << 63) - 1
"""TIR holds immediate integers in 64 bits with a sign."""


def number(value: int | float | bool, dtype: DType, lanes: int) -> Expr:
    """A constant on every lane, in its computing type."""
    return broadcast(constant(value, dtype), lanes)


def isnan(value: Expr) -> Expr:
    """Whether a float is NaN, by its bits: TVM's simplifier takes `x != x` to be false."""
    lanes = lanes_of(value)
    wide = "64" in str(value.ty).partition("x")[0]
    unsigned = T.uint64 if wide else T.uint32
    magnitude, infinity = (0x7FFFFFFFFFFFFFFF, 0x7FF0000000000000) if wide else (0x7FFFFFFF, 0x7F800000)
    bits = T.reinterpret(named("uint64" if wide else "uint32", lanes), value)
    masked = T.bitwise_and(bits, broadcast(unsigned(magnitude), lanes))
    return masked > broadcast(unsigned(infinity), lanes)


def equal(left: Expr, right: Expr) -> Expr:
    """Whether floats are equal: to TVM everything equals itself, NaN too. LLVM makes one comparison of the two."""
    left, right = bind(left), bind(right)
    return T.And(left <= right, left >= right)


def unequal(left: Expr, right: Expr) -> Expr:
    """Whether floats are not equal, as NaN is to all: TVM's own comparison answers no for NaN."""
    return T.bitwise_xor(equal(left, right), broadcast(T.boolean(True), lanes_of(left)))


def from_storage(value: Expr, dtype: DType) -> Expr:
    """A loaded element, or vector of them, in its computing type."""
    lanes = lanes_of(value)
    if dtype == dtypes.BOOL:
        return T.NE(value, broadcast(T.uint8(0), lanes))
    if dtype == dtypes.FLOAT16:
        return T.Cast(tir_dtype(dtypes.FLOAT32, lanes), T.reinterpret(named("float16", lanes), value))
    if dtype == dtypes.BFLOAT16:
        wide = T.shift_left(T.Cast(named("uint32", lanes), value), broadcast(T.uint32(16), lanes))
        return T.reinterpret(tir_dtype(dtypes.FLOAT32, lanes), wide)
    if dtype in float_formats.DTYPES:
        return minifloat.decode(value, dtype)
    if dtype.bits < 8:
        return _wrapped(T.reinterpret(tir_dtype(dtype, lanes), value), dtype)
    return value


def to_storage(value: Expr, dtype: DType, *, saturate: bool = False, rounding: ScaleRounding = "nearest") -> Expr:
    """A computed value in the type in which it is stored.

    Args:
        value: In the computing type of `dtype`.
        dtype: The element type.
        saturate: Whether what lies beyond the range of an 8-bit float becomes its largest number.
        rounding: How float8_e8m0fnu rounds.
    """
    lanes = lanes_of(value)
    if dtype == dtypes.BOOL:
        return T.Select(value, broadcast(T.uint8(1), lanes), broadcast(T.uint8(0), lanes))
    if dtype == dtypes.FLOAT16:
        return T.reinterpret(named("uint16", lanes), T.Cast(named("float16", lanes), value))
    if dtype == dtypes.BFLOAT16:
        return _round_to_bfloat16(value)
    if dtype in float_formats.DTYPES:
        return minifloat.encode(value, dtype, saturate=saturate, rounding=rounding)
    if dtype.bits < 8:
        mask = broadcast(T.uint8((1 << dtype.bits) - 1), lanes)
        return T.bitwise_and(T.reinterpret(named("uint8", lanes), value), mask)
    return value


def _round_to_bfloat16(value: Expr) -> Expr:
    """Upper half of a float32, rounded to nearest, ties to even; NaN stays NaN."""
    lanes = lanes_of(value)
    word = named("uint32", lanes)

    def bits_of(n: int) -> Expr:
        return broadcast(T.uint32(n), lanes)

    bits = bind(T.reinterpret(word, value))
    odd = T.bitwise_and(T.shift_right(bits, bits_of(16)), bits_of(1))
    rounded = bits + bits_of(0x7FFF) + odd
    nan = T.bitwise_and(bits, bits_of(0x7FFFFFFF)) > bits_of(0x7F800000)
    chosen = bind(T.Select(nan, T.bitwise_or(bits, bits_of(0x00400000)), rounded))
    return T.Cast(named("uint16", lanes), T.shift_right(chosen, bits_of(16)))


def narrowed(
    value: Expr, source: DType, target: DType, *, saturate: bool = False, rounding: ScaleRounding = "nearest"
) -> Expr:
    """A value of element type `source` cast to a narrow float, in the form in which that is stored."""
    lanes = lanes_of(value)
    if source == dtypes.BOOL:
        value = T.Select(value, number(1, target, lanes), number(0, target, lanes))
    elif source == dtypes.FLOAT64 and target == dtypes.FLOAT16:
        value = _rounded_to_odd(bind(value))
    elif compute_dtype(source) != dtypes.FLOAT32:
        value = T.Cast(named("float32", lanes), value)
    return to_storage(bind(value), target, saturate=saturate, rounding=rounding)


def _rounded_to_odd(value: Expr) -> Expr:
    """A float64 as a float32 that rounds to any narrower type as the float64 itself would.

    S. Boldo and G. Melquiond, "When double rounding is odd", 2005: what is inexact ends in an odd bit.
    """
    lanes = lanes_of(value)
    word = named("uint32", lanes)
    near = bind(T.Cast(named("float32", lanes), value))
    back = bind(T.Cast(named("float64", lanes), near))
    bits = bind(T.reinterpret(word, near))
    one, zero = broadcast(T.uint32(1), lanes), broadcast(T.uint32(0), lanes)

    def magnitude(x: Expr) -> Expr:
        return T.call_llvm_pure_intrin(named("float64", lanes), "llvm.fabs", x)

    other = T.Select(magnitude(back) > magnitude(value), bits - one, bits + one)
    even = T.EQ(T.bitwise_and(bits, one), zero)
    inexact = T.Or(back < value, back > value)
    return T.reinterpret(named("float32", lanes), T.Select(T.And(inexact, even), other, bits))


def cast(
    value: Expr, source: DType, target: DType, *, saturate: bool = False, rounding: ScaleRounding = "nearest"
) -> Expr:
    """Conversion between element types, both in their computing forms."""
    lanes = lanes_of(value)
    if source == target:
        return value
    if target == dtypes.BOOL:
        return (unequal if source.is_float else T.NE)(value, number(0, source, lanes))
    if source == dtypes.BOOL:
        return T.Select(value, number(1, target, lanes), number(0, target, lanes))
    if is_narrow_float(target):
        stored = narrowed(value, source, target, saturate=saturate, rounding=rounding)
        return from_storage(bind(stored), target)
    if target.is_integer and source.is_float:
        return _truncated(bind(value), source, target)
    if compute_dtype(source) != compute_dtype(target):
        value = T.Cast(tir_dtype(target, lanes), value)
    return _wrapped(value, target) if target.bits < 8 else value


def _wrapped(value: Expr, dtype: DType) -> Expr:
    """An integer of 2 or 4 bits from one of 8: the lower bits, the sign spread over the others."""
    lanes = lanes_of(value)
    if dtype.kind == "uint":
        return T.bitwise_and(value, number((1 << dtype.bits) - 1, dtype, lanes))
    places = number(8 - dtype.bits, dtype, lanes)
    return T.shift_right(T.shift_left(value, places), places)


def _truncated(value: Expr, source: DType, target: DType) -> Expr:
    """A float truncated toward zero into int32 or int64 and from there wrapped; out of range, the lowest of those."""
    lanes = lanes_of(value)
    through = dtypes.INT32 if target.bits < 32 or target == dtypes.INT32 else dtypes.INT64
    limit = number(2.0 ** (through.bits - 1), source, lanes)
    lowest = number(-(1 << (through.bits - 1)), through, lanes)
    size = T.call_llvm_pure_intrin(tir_dtype(source, lanes), "llvm.fabs", value)
    whole = T.Select(size < limit, T.Cast(tir_dtype(through, lanes), value), lowest)
    if target == dtypes.UINT64:
        # The upper half of uint64 is the lower half with the sign bit set.
        upper = T.And(value >= limit, value < number(2.0**64, source, lanes))
        raised = T.bitwise_xor(T.Cast(tir_dtype(through, lanes), value - limit), lowest)
        whole = T.Select(upper, raised, whole)
    return cast(bind(whole), through, target)
