"""What each scalar operation of `graphc.ops.expr` is in Triton, for blocks of any shape.

float32 is computed as accurately as NumPy computes it: by the device library where Triton's own functions are
approximations, with divisions and roots rounded to nearest. Types of 16 and fewer bits, which are rounded anyway, take
the fast approximations.
"""

from __future__ import annotations

from collections.abc import Callable

from graphc.backends.element_types import compute_dtype
from graphc.backends.triton.element_types import SUPPORTED_DTYPES, tensor
from graphc.backends.triton.scope import SCALAR, Code, Value
from graphc.errors import BackendError
from graphc.ir import dtypes
from graphc.ir.dtypes import DType
from graphc.ops.expr import SCALAR_OPS

Form = Callable[[Code, DType, tuple[Value, ...]], str]
"""Text of an operation on values of an element type; of several arguments at most some are literals."""

COMBINE = {"sum": "add", "prod": "mul", "max": "max", "min": "min", "any": "or", "all": "and"}
"""The operation of two values that each reduction repeats."""


def apply(code: Code, op: str, dtype: DType, arguments: tuple[Value, ...]) -> Value:
    """A scalar operation on values of element type `dtype` (the arguments'), in computing form.

    Raises:
        BackendError: The operation is not defined for the type.
    """
    form = _TABLE.get((op, _kind(dtype)))
    if form is None:
        raise BackendError(f"{op} of {dtype} has no compiled form on GPUs")
    # Python would compute with literals alone; to 64-bit types Triton gives literals of 32 bits first.
    typed = all(a.literal for a in arguments) or compute_dtype(dtype) == dtypes.FLOAT64
    if typed or op not in _TAKES_LITERALS:
        arguments = tuple(tensor(code, argument, dtype) for argument in arguments)
    text = form(code, dtype, arguments)
    return Value(text, SCALAR.union(*(a.dims for a in arguments)), depth=max(a.depth for a in arguments))


def is_supported(op: str, dtype: DType) -> bool:
    """Whether `apply` is defined for the operation on the element type."""
    return dtype in SUPPORTED_DTYPES and op in SCALAR_OPS and (op, _kind(dtype)) in _TABLE


def _kind(dtype: DType) -> str:
    return "bool" if dtype.kind == "bool" else "float" if dtype.is_float else "int"


def _is_rounded(dtype: DType) -> bool:
    return dtype.is_float and dtype.bits < 32


def _infix(operator: str) -> Form:
    return lambda code, dtype, a: f"{a[0].text} {operator} {a[1].text}"


def _function(name: str) -> Form:
    return lambda code, dtype, a: f"{name}({', '.join(value.text for value in a)})"


def _helper(name: str, *facts: Callable[[DType], object]) -> Form:
    def form(code: Code, dtype: DType, a: tuple[Value, ...]) -> str:
        # Of literals a helper would know neither the type nor the shape.
        arguments = [*(tensor(code, value, dtype).text for value in a), *(str(fact(dtype)) for fact in facts)]
        return f"{code.helper(name)}({', '.join(arguments)})"

    return form


def _library(name: str, fast: Form | None = None) -> Form:
    """A function of the device library; `fast` for types that are rounded after."""
    exact = _function(f"libdevice.{name}")
    return lambda code, dtype, a: (fast if fast is not None and _is_rounded(dtype) else exact)(code, dtype, a)


def _is_signed(dtype: DType) -> bool:
    return dtype.kind == "int"


def _quotient(code: Code, dtype: DType, a: tuple[Value, ...]) -> str:
    if dtype == dtypes.FLOAT32:
        return f"tl.div_rn({tensor(code, a[0], dtype).text}, {tensor(code, a[1], dtype).text})"
    return f"{a[0].text} / {a[1].text}"


def _root(code: Code, dtype: DType, a: tuple[Value, ...]) -> str:
    return f"{'tl.sqrt_rn' if dtype == dtypes.FLOAT32 else 'tl.sqrt'}({a[0].text})"


def _reciprocal(code: Code, dtype: DType, a: tuple[Value, ...]) -> str:
    return _quotient(code, dtype, (Value("1.0", literal=True), *a)) if dtype != dtypes.FLOAT64 else f"1.0 / {a[0].text}"


def _reciprocal_root(code: Code, dtype: DType, a: tuple[Value, ...]) -> str:
    if _is_rounded(dtype):
        return f"tl.rsqrt({a[0].text})"
    return _reciprocal(code, dtype, (Value(code.bind(_root(code, dtype, a)), a[0].dims),))


def _floor_quotient(code: Code, dtype: DType, a: tuple[Value, ...]) -> str:
    return f"tl.floor({_quotient(code, dtype, a)})"


def _extreme(name: str) -> Form:
    return lambda code, dtype, a: f"tl.{name}({a[0].text}, {a[1].text}, propagate_nan=tl.PropagateNan.ALL)"


def _absolute(code: Code, dtype: DType, a: tuple[Value, ...]) -> str:
    return a[0].text if dtype.kind == "uint" else f"tl.abs({a[0].text})"


def _itself(code: Code, dtype: DType, a: tuple[Value, ...]) -> str:
    return a[0].text


_COMPARISONS: dict[str, Form] = {
    op: _infix(text) for op, text in {"eq": "==", "ne": "!=", "lt": "<", "le": "<=", "gt": ">", "ge": ">="}.items()
}
_BITWISE: dict[str, Form] = {op: _infix(text) for op, text in {"and": "&", "or": "|", "xor": "^"}.items()}
_PLAIN: dict[str, Form] = {op: _infix(text) for op, text in {"add": "+", "sub": "-", "mul": "*"}.items()}

_FLOAT: dict[str, Form] = {
    **_COMPARISONS,
    **_PLAIN,
    "neg": lambda code, dtype, a: f"-{a[0].text}",
    "abs": _function("tl.abs"),
    "sign": _helper("float_sign"),
    "div": _quotient,
    "floordiv": _floor_quotient,
    "mod": _helper("float_remainder"),
    "fmod": _library("fmod"),
    "max": _extreme("maximum"),
    "min": _extreme("minimum"),
    "pow": _library("pow"),
    "atan2": _library("atan2"),
    "floor": _function("tl.floor"),
    "ceil": _function("tl.ceil"),
    "round": _library("rint"),
    "trunc": _library("trunc"),
    "sqrt": _root,
    "rsqrt": _reciprocal_root,
    "reciprocal": _reciprocal,
    "exp": _library("exp", _function("tl.exp")),
    "log": _library("log", _function("tl.log")),
    "tanh": _library("tanh", _helper("fast_tanh")),
    "sigmoid": lambda code, dtype, a: (
        f"{code.helper('fast_logistic' if _is_rounded(dtype) else 'logistic')}({a[0].text})"
    ),
    **{
        name: _library(name)
        for name in (
            *("expm1", "log1p", "sin", "cos", "tan", "asin", "acos", "atan"),
            *("sinh", "cosh", "asinh", "acosh", "atanh", "erf"),
        )
    },
    "isnan": lambda code, dtype, a: f"{a[0].text} != {a[0].text}",
    "isinf": lambda code, dtype, a: f'tl.abs({a[0].text}) == float("inf")',
    "isfinite": lambda code, dtype, a: f'tl.abs({a[0].text}) < float("inf")',
}
_INTEGER: dict[str, Form] = {
    **_COMPARISONS,
    **_PLAIN,
    **_BITWISE,
    "neg": lambda code, dtype, a: f"tl.zeros_like({a[0].text}) - {a[0].text}",
    "abs": _absolute,
    "sign": _helper("sign_of"),
    "div": _helper("integer_quotient", _is_signed, lambda dtype: False),
    "floordiv": _helper("integer_quotient", _is_signed, lambda dtype: True),
    "mod": _helper("integer_remainder", _is_signed, lambda dtype: True),
    "fmod": _helper("integer_remainder", _is_signed, lambda dtype: False),
    "max": _function("tl.maximum"),
    "min": _function("tl.minimum"),
    "not": lambda code, dtype, a: f"~{a[0].text}",
    "shl": _helper("shifted_left", lambda dtype: dtype.bits),
    "shr": _helper("shifted_right", lambda dtype: dtype.bits, _is_signed),
    **{name: _itself for name in ("floor", "ceil", "round", "trunc")},
}
_BOOL: dict[str, Form] = {
    **_BITWISE,
    "eq": lambda code, dtype, a: f"({a[0].text} ^ {a[1].text}) ^ True",
    "ne": _infix("^"),
    "max": _infix("|"),
    "min": _infix("&"),
    "add": _infix("|"),
    "mul": _infix("&"),
    "not": lambda code, dtype, a: f"{a[0].text} ^ True",
}

_TABLE: dict[tuple[str, str], Form] = {
    (op, kind): form
    for kind, table in (("float", _FLOAT), ("int", _INTEGER), ("bool", _BOOL))
    for op, form in table.items()
}

_TAKES_LITERALS = frozenset({*_COMPARISONS, *_PLAIN, *_BITWISE, "max", "min", "div", "reciprocal", "rsqrt"})
"""Operations in which a literal takes the type of the other argument."""
