"""What each scalar operation of `graphc.ops.expr` is in TIR, for scalars and vectors alike."""

from __future__ import annotations

import operator
from collections.abc import Callable

from tvm.tirx.script.builder import ir as T

from graphc.backends.element_types import compute_dtype
from graphc.backends.tvm import vector_angles, vector_division, vectormath
from graphc.backends.tvm.element_types import SUPPORTED_DTYPES, equal, isnan, named, number, tir_dtype, unequal
from graphc.backends.tvm.tir import Expr, Register, bind, broadcast, lanes_of
from graphc.errors import BackendError
from graphc.ir import dtypes
from graphc.ir.dtypes import DType
from graphc.ops.expr import SCALAR_OPS

_VECTORS = {**vectormath.FLOAT32, **vector_angles.FLOAT32}


def apply(op: str, dtype: DType, arguments: list[Expr]) -> Expr:
    """A scalar operation on values of element type `dtype` (the arguments'), already in computing form.

    Raises:
        BackendError: The operation is not defined for the type.
    """
    lanes = max(lanes_of(a) for a in arguments)
    values = [broadcast(a, lanes) for a in arguments]
    kind = "bool" if dtype.kind == "bool" else "float" if dtype.is_float else "int"
    found = _TABLE.get((op, kind))
    if found is None:
        raise BackendError(f"{op} of {dtype} has no compiled form on CPUs")
    if kind == "float" and compute_dtype(dtype) == dtypes.FLOAT32 and op in _VECTORS:
        return _VECTORS[op](*values)
    return found(dtype, lanes, *values)


Renderer = Callable[..., Expr]


def _plain(function: Callable[..., Expr]) -> Renderer:
    return lambda dtype, lanes, *values: function(*values)


def _extreme(choose: Callable[[Expr, Expr], Expr]) -> Renderer:
    def render(dtype: DType, lanes: int, left: Expr, right: Expr) -> Expr:
        # The hardware's min and max give the second operand where one is NaN: a constant goes first for free.
        if _is_constant(left):
            return choose(left, right)
        if _is_constant(right):
            return choose(right, left)
        left, right = bind(left), bind(right)
        return T.Select(isnan(left), left, choose(left, right))

    return render


def _is_constant(value: Expr) -> bool:
    inner = getattr(value, "value", None)
    return isinstance(inner, int | float) or type(inner).__name__ in ("FloatImm", "IntImm")


def _integer_division(rounding: str) -> Renderer:
    def render(dtype: DType, lanes: int, left: Expr, right: Expr) -> Expr:
        by_floats = vector_division.applies(dtype, lanes) and (dtype.bits == 64 or not _is_constant(right))
        left, right = bind(left), bind(right)
        zero, one = number(0, dtype, lanes), number(1, dtype, lanes)
        # x / 0 and INT_MIN / -1 trap on x86: both divide by 1 and are put right after.
        unsafe = T.EQ(right, zero)
        if dtype.kind == "int":
            minus_one = T.EQ(right, number(-1, dtype, lanes))
            unsafe = T.Or(unsafe, minus_one)
        divisor = bind(T.Select(unsafe, one, right))
        if by_floats:
            result = vector_division.divided(rounding, dtype, left, divisor)
        else:
            divide = {"floordiv": T.floordiv, "div": T.truncdiv, "mod": T.floormod, "fmod": T.truncmod}[rounding]
            result = divide(left, divisor)
        if rounding in ("mod", "fmod"):
            return T.Select(unsafe, zero, result)
        if dtype.kind == "int":
            result = T.Select(T.EQ(right, number(-1, dtype, lanes)), _negative(dtype, lanes, left), result)
        return T.Select(T.EQ(right, zero), zero, result)

    return render


def _shift(function: Callable[[Expr, Expr], Expr], *, keeps_sign: bool) -> Renderer:
    def render(dtype: DType, lanes: int, left: Expr, right: Expr) -> Expr:
        right = bind(right)
        limit = number(dtype.bits - 1, dtype, lanes)
        outside = right > limit
        if dtype.kind == "int":
            # A negative count shifts everything out, as in NumPy; to LLVM it means nothing.
            outside = T.Or(outside, right < number(0, dtype, lanes))
        inside = function(left, T.Select(outside, limit, right))
        if keeps_sign and dtype.kind == "int":
            return inside
        return T.Select(outside, number(0, dtype, lanes), inside)

    return render


def _sign(dtype: DType, lanes: int, value: Expr) -> Expr:
    value = bind(value)
    zero, one = number(0, dtype, lanes), number(1, dtype, lanes)
    negative = zero if dtype.kind == "uint" else number(-1, dtype, lanes)
    result = T.Select(value > zero, one, T.Select(value < zero, negative, zero))
    return T.Select(isnan(value), value, result) if dtype.is_float else result


def _float_mod(dtype: DType, lanes: int, left: Expr, right: Expr) -> Expr:
    zero = number(0, dtype, lanes)
    left, right = bind(left), bind(right)
    remainder = bind(_libm("fmod")(dtype, lanes, left, right))
    signs_differ = T.bitwise_xor(remainder < zero, right < zero)
    return T.Select(T.And(T.NE(remainder, zero), signs_differ), remainder + right, remainder)


def _intrinsic(name: str) -> Renderer:
    return lambda dtype, lanes, value: T.call_llvm_pure_intrin(tir_dtype(dtype, lanes), name, value)


def _libm(name: str) -> Renderer:
    """A call of the C library, one for each lane: exact, and slow."""

    def render(dtype: DType, lanes: int, *values: Expr) -> Expr:
        wide = compute_dtype(dtype) == dtypes.FLOAT64
        element, function = ("float64", name) if wide else ("float32", f"{name}f")
        if lanes == 1:
            return T.call_pure_extern(element, function, *values)
        sources = [Register(lanes, element) for _ in values]
        for source, value in zip(sources, values, strict=True):
            source.value = value
        result = Register(lanes, element)
        for lane in range(lanes):
            result.set_lane(lane, T.call_pure_extern(element, function, *(source.lane(lane) for source in sources)))
        return result.value

    return render


def _not(dtype: DType, lanes: int, value: Expr) -> Expr:
    if dtype.kind != "bool":
        return T.bitwise_not(value)
    # To TVM, what is not less is greater or equal, which NaN is neither; it looks into no bitwise operation.
    return T.bitwise_xor(value, broadcast(T.boolean(True), lanes))


def _opposite(dtype: DType, lanes: int, value: Expr) -> Expr:
    """A float with its sign turned.

    To TVM `x - x` is 0 and `x + y - x` is `y`, which rounding and infinities make wrong. It looks into no bits; LLVM
    makes negations and subtractions of them again.
    """
    wide = compute_dtype(dtype) == dtypes.FLOAT64
    sign = T.int64(-(1 << 63)) if wide else T.int32(-(1 << 31))
    bits = T.reinterpret(named("int64" if wide else "int32", lanes), value)
    return T.reinterpret(tir_dtype(dtype, lanes), T.bitwise_xor(bits, broadcast(sign, lanes)))


def _float_quotient(dtype: DType, lanes: int, left: Expr, right: Expr) -> Expr:
    # TVM divides by no constant zero. What an intrinsic makes of it is left to LLVM.
    is_zero = _is_constant(right) and float(getattr(right.value, "value", right.value)) == 0
    return left / (_intrinsic("llvm.rint")(dtype, lanes, right) if is_zero else right)


def _compare(op: str) -> Renderer:
    return {
        "eq": _plain(T.EQ),
        "ne": _plain(T.NE),
        "lt": _plain(lambda a, b: a < b),
        "le": _plain(lambda a, b: a <= b),
        "gt": _plain(lambda a, b: a > b),
        "ge": _plain(lambda a, b: a >= b),
    }[op]


def _absolute(dtype: DType, lanes: int, value: Expr) -> Expr:
    if dtype.is_float:
        return T.call_llvm_pure_intrin(tir_dtype(dtype, lanes), "llvm.fabs", value)
    value = bind(value)
    if dtype.kind == "uint":
        return value
    return T.Select(value < number(0, dtype, lanes), _negative(dtype, lanes, value), value)


def _wrapping(op: str) -> Renderer:
    """Integer arithmetic that wraps.

    To TVM, sums and products of 32 and 64 bits never overflow, and LLVM makes use of that. At twice the width they do
    not; LLVM narrows what is cut off again back to one plain instruction.
    """
    function: Callable[[Expr, Expr], Expr] = {"add": operator.add, "sub": operator.sub, "mul": operator.mul}[op]

    def render(dtype: DType, lanes: int, left: Expr, right: Expr) -> Expr:
        held = compute_dtype(dtype)
        if held.bits < 32:
            return function(left, right)
        kind = "uint" if op == "mul" and held.kind == "uint" else "int"
        wide = named(f"{kind}{2 * held.bits}", lanes)
        return T.Cast(tir_dtype(held, lanes), function(T.Cast(wide, left), T.Cast(wide, right)))

    return render


def _negative(dtype: DType, lanes: int, value: Expr) -> Expr:
    return _wrapping("sub")(dtype, lanes, number(0, dtype, lanes), value)


_ARITHMETIC: dict[str, Renderer] = {
    "abs": _absolute,
    "sign": _sign,
    **{op: _compare(op) for op in ("eq", "ne", "lt", "le", "gt", "ge")},
}
_FLOAT: dict[str, Renderer] = {
    **_ARITHMETIC,
    "add": _plain(lambda a, b: a + b),
    "sub": lambda dtype, lanes, a, b: a + _opposite(dtype, lanes, b),
    "eq": _plain(equal),
    "ne": _plain(unequal),
    "mul": _plain(lambda a, b: a * b),
    "neg": _opposite,
    "div": _float_quotient,
    "floordiv": lambda dtype, lanes, a, b: _intrinsic("llvm.floor")(dtype, lanes, a / b),
    "mod": _float_mod,
    "fmod": _libm("fmod"),
    "max": _extreme(T.max),
    "min": _extreme(T.min),
    "pow": lambda dtype, lanes, a, b: T.call_llvm_pure_intrin(tir_dtype(dtype, lanes), "llvm.pow", a, b),
    "atan2": _libm("atan2"),
    "floor": _intrinsic("llvm.floor"),
    "ceil": _intrinsic("llvm.ceil"),
    "round": _intrinsic("llvm.rint"),
    "trunc": _intrinsic("llvm.trunc"),
    "sqrt": _intrinsic("llvm.sqrt"),
    "rsqrt": lambda dtype, lanes, x: number(1, dtype, lanes) / _intrinsic("llvm.sqrt")(dtype, lanes, x),
    "reciprocal": lambda dtype, lanes, x: number(1, dtype, lanes) / x,
    "sin": _intrinsic("llvm.sin"),
    "cos": _intrinsic("llvm.cos"),
    "isnan": lambda dtype, lanes, x: isnan(x),
    "isinf": lambda dtype, lanes, x: T.EQ(_absolute(dtype, lanes, x), number(float("inf"), dtype, lanes)),
    "isfinite": lambda dtype, lanes, x: _absolute(dtype, lanes, x) < number(float("inf"), dtype, lanes),
    "sigmoid": lambda dtype, lanes, x: (
        number(1, dtype, lanes) / (number(1, dtype, lanes) + _libm("exp")(dtype, lanes, number(0, dtype, lanes) - x))
    ),
    **{
        name: _libm(name)
        for name in (
            *("exp", "expm1", "log", "log1p", "tan", "asin", "acos", "atan", "sinh", "cosh", "tanh"),
            *("asinh", "acosh", "atanh", "erf"),
        )
    },
}
_INTEGER: dict[str, Renderer] = {
    **_ARITHMETIC,
    **{op: _wrapping(op) for op in ("add", "sub", "mul")},
    "neg": _negative,
    **{op: _integer_division(op) for op in ("div", "floordiv", "mod", "fmod")},
    "max": _plain(T.max),
    "min": _plain(T.min),
    "and": _plain(T.bitwise_and),
    "or": _plain(T.bitwise_or),
    "xor": _plain(T.bitwise_xor),
    "not": _not,
    "shl": _shift(T.shift_left, keeps_sign=False),
    "shr": _shift(T.shift_right, keeps_sign=True),
    **{name: _plain(lambda a: a) for name in ("floor", "ceil", "round", "trunc")},
}
_BOOL: dict[str, Renderer] = {
    "and": _plain(T.And),
    "or": _plain(T.bitwise_or),
    "xor": _plain(T.bitwise_xor),
    "eq": lambda dtype, lanes, a, b: _not(dtype, lanes, T.bitwise_xor(a, b)),
    "ne": _plain(T.bitwise_xor),
    "max": _plain(T.bitwise_or),
    "min": _plain(T.And),
    "add": _plain(T.bitwise_or),
    "mul": _plain(T.And),
    "not": _not,
}
"""Of one comparison or another TVM thinks that one must hold, which for NaN none does: it looks into no bits."""

_TABLE: dict[tuple[str, str], Renderer] = {
    (op, kind): render
    for kind, table in (("float", _FLOAT), ("int", _INTEGER), ("bool", _BOOL))
    for op, render in table.items()
}


def is_supported(op: str, dtype: DType) -> bool:
    """Whether `apply` is defined for the operation on the element type."""
    kind = "bool" if dtype.kind == "bool" else "float" if dtype.is_float else "int"
    return dtype in SUPPORTED_DTYPES and op in SCALAR_OPS and (op, kind) in _TABLE
