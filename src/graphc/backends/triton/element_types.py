"""Element types in memory and in registers: Triton's names, what each is computed in, and casts between them.

Floats of 16 and fewer bits compute in float32, integers of 2 and 4 bits in 8. What a cast gives is stated in
`graphc.ops.expr`.
"""

from __future__ import annotations

import math

from graphc.backends.element_types import compute_dtype, is_narrow_float
from graphc.backends.float_formats import DTYPES as SMALL_FLOATS
from graphc.backends.float_formats import FORMATS
from graphc.backends.triton.scope import Code, Value
from graphc.errors import BackendError
from graphc.ir import dtypes
from graphc.ir.dtypes import DType
from graphc.ops.conversion import ONE_AND_A_HALF_SMALLEST, SMALLEST_NORMAL, SMALLEST_SCALE
from graphc.ops.expr import ScaleRounding

SUPPORTED_DTYPES = frozenset(dtype for dtype in dtypes.ALL if dtype.kind not in ("complex", "string"))
"""Element types that kernels load, store and compute with."""


_KINDS = {"float": "fp", "int": "i", "uint": "u"}


def storage_dtype(dtype: DType) -> DType:
    """What stands in memory for an element: itself, or the integer of its width that holds its bits."""
    if dtype == dtypes.BOOL or dtype in SMALL_FLOATS:
        return dtypes.UINT8
    return compute_dtype(dtype) if dtype.is_integer else dtype


def triton_name(dtype: DType) -> str:
    """Triton's name of the computing type, e.g. `tl.float32`."""
    held = compute_dtype(dtype)
    return "tl.int1" if held == dtypes.BOOL else f"tl.{held.name}"


def pointer_type(dtype: DType) -> str:
    """The type of a pointer to elements, as signatures have it, e.g. `*fp32`.

    Raises:
        BackendError: Kernels do not hold such elements.
    """
    held = storage_dtype(dtype)
    if held not in SUPPORTED_DTYPES:
        raise BackendError(f"elements of {dtype} have no form on GPUs")
    if held == dtypes.BFLOAT16:
        return "*bf16"
    return f"*{_KINDS[held.kind]}{held.bits}"


def constant(value: int | float | bool | complex, dtype: DType) -> Value:
    """A constant in its computing type, as a literal that takes the type of what it meets."""
    if isinstance(value, complex):
        raise BackendError("complex numbers have no arithmetic on GPUs")
    held = compute_dtype(dtype)
    if held == dtypes.BOOL:
        return Value(str(bool(value)), literal=True)
    if not held.is_float:
        return Value(str(int(value)), literal=True)
    number = float(value)
    return Value(repr(number) if math.isfinite(number) else f'float("{number}")', literal=True)


def tensor(code: Code, value: Value, dtype: DType) -> Value:
    """A value that is a tensor: literals become one of no dimensions."""
    if not value.literal:
        return value
    return Value(code.bind(f"tl.full((), {value.text}, {triton_name(dtype)})", "c"))


def from_storage(code: Code, text: str, dtype: DType) -> str:
    """A loaded element in its computing type."""
    if dtype == dtypes.BOOL:
        return f"{text} != 0"
    if dtype == dtypes.FLOAT8E8M0:
        return f"{code.helper('decode_scale')}({text}, {SMALLEST_SCALE})"
    if dtype in FORMATS:
        return f"{code.helper('decode_float')}({text}, {_format(dtype)})"
    if dtype.bits < 8:
        return _wrapped(text, dtype)
    return f"{text}.to(tl.float32)" if is_narrow_float(dtype) else text


def to_storage(
    code: Code, text: str, dtype: DType, *, saturate: bool = False, rounding: ScaleRounding = "nearest"
) -> str:
    """A tensor in its computing type as what is stored.

    Args:
        code: The kernel.
        text: In the computing type of `dtype`.
        dtype: The element type.
        saturate: Whether what lies beyond the range of an 8-bit float becomes its largest number.
        rounding: How float8_e8m0fnu rounds.
    """
    if dtype == dtypes.BOOL:
        return f"{text}.to(tl.uint8)"
    if dtype == dtypes.FLOAT8E8M0:
        rounds = {"up": 0x7FFFFF, "nearest": 0x400000, "down": 0}[rounding]
        threshold = {"up": SMALLEST_SCALE + 1, "nearest": ONE_AND_A_HALF_SMALLEST, "down": SMALLEST_NORMAL}[rounding]
        facts = f"{rounds}, {threshold}, {SMALLEST_NORMAL}, {SMALLEST_SCALE}, {saturate}"
        return f"{code.helper('encode_scale')}({text}, {facts})"
    if dtype in FORMATS:
        return f"{code.helper('encode_float')}({text}, {_format(dtype)}, {saturate})"
    if dtype.bits < 8:
        return f"{text} & {(1 << dtype.bits) - 1}"
    return f"{text}.to(tl.{dtype.name})" if is_narrow_float(dtype) else text


def _format(dtype: DType) -> str:
    form = FORMATS[dtype]
    absent = -1
    nan = absent if form.nan is None else form.nan
    infinity = absent if form.infinity is None else form.infinity
    numbers = (form.exponent, form.mantissa, form.bias, form.largest, nan, infinity)
    return f"{', '.join(map(str, numbers))}, {form.signed_specials}"


def cast(
    code: Code,
    value: Value,
    source: DType,
    target: DType,
    *,
    saturate: bool = False,
    rounding: ScaleRounding = "nearest",
) -> str:
    """Conversion between element types, both in their computing forms.

    Args:
        code: The kernel.
        value: A tensor in the computing type of `source`.
        source: Element type that it has.
        target: Element type that it gets.
        saturate: As of `to_storage`.
        rounding: As of `to_storage`.
    """
    text = value.text
    if source == target:
        return text
    if target == dtypes.BOOL:
        return f"{text} != 0"
    if is_narrow_float(target):
        stored = narrowed(code, value, source, target, saturate=saturate, rounding=rounding)
        return from_storage(code, code.bind(stored), target)
    if target.is_integer and source.is_float:
        return _truncated(code, text, target)
    if compute_dtype(source) != compute_dtype(target):
        text = f"{text}.to({triton_name(target)})"
    return _wrapped(code.bind(text), target) if target.bits < 8 else text


def narrowed(
    code: Code,
    value: Value,
    source: DType,
    target: DType,
    *,
    saturate: bool = False,
    rounding: ScaleRounding = "nearest",
) -> str:
    """A tensor of element type `source` cast to a narrow float, in the form in which that is stored."""
    text = value.text
    if source == dtypes.FLOAT64 and target == dtypes.FLOAT16:
        return f"{text}.to(tl.float16)"
    if compute_dtype(source) != dtypes.FLOAT32:
        text = code.bind(f"{text}.to(tl.float32)")
    return to_storage(code, text, target, saturate=saturate, rounding=rounding)


def _wrapped(text: str, dtype: DType) -> str:
    """An integer of 2 or 4 bits from one of 8: the lower bits, the sign spread over the others."""
    if dtype.kind == "uint":
        return f"{text} & {(1 << dtype.bits) - 1}"
    return f"({text} << {8 - dtype.bits}) >> {8 - dtype.bits}"


def _truncated(code: Code, text: str, target: DType) -> str:
    """A float truncated toward zero into int32 or int64 and from there wrapped; out of range, the lowest of those."""
    if target == dtypes.UINT64:
        return f"{code.helper('to_uint64')}({text})"
    through = 32 if target.bits < 32 or target == dtypes.INT32 else 64
    whole = f"{code.helper(f'to_int{through}')}({text})"
    if target in (dtypes.INT32, dtypes.INT64):
        return whole
    name = code.bind(f"{whole}.to({triton_name(target)})")
    return _wrapped(name, target) if target.bits < 8 else name
