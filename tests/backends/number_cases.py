"""Numbers of every type at which arithmetic goes wrong first: limits, zeros, wild shifts, everything that is narrow."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import ml_dtypes
import numpy as np

from graphc.ir import DType, Value, dtypes
from tests.ops.test_conversion import every

INTEGERS = [d for d in dtypes.ALL if d.is_integer and d.bits >= 8]
UNSIGNED = [d for d in INTEGERS if d.kind == "uint"]
NARROW = [d for d in dtypes.ALL if d.bits <= 16 and d.kind in ("float", "int", "uint")]
MINI = [d for d in NARROW if d.is_float and d.bits <= 8]
NUMBERS = [d for d in dtypes.ALL if d.kind not in ("string", "complex")]
Make = Callable[..., "Value | list[Value]"]


def extremes(dtype: DType, seed: int) -> Any:
    """Every pair of limits and small numbers in two arrays, then random numbers of the whole range."""
    info = np.iinfo(dtype.numpy)
    known = [0, 1, 2, 3, 7, info.max, info.max - 1, info.max // 2, info.min]
    known += [-1, -2, -7, info.min + 1, info.min // 2] if dtype.kind == "int" else [info.max // 3]
    left, right = np.meshgrid(np.array(known, dtype.numpy), np.array(known, dtype.numpy))
    random = np.random.default_rng(seed).integers(info.min, info.max, (2, 50), dtype.numpy, endpoint=True)
    return [np.concatenate([left.ravel(), random[0]]), np.concatenate([right.ravel(), random[1]])]


def numbers_of(dtype: DType, seed: int) -> Any:
    """Some of everything that a type holds."""
    random = np.random.default_rng(seed)
    if dtype.kind == "bool":
        return random.integers(0, 2, 37).astype(np.bool_)
    if dtype.bits <= 16:
        found = random.choice(every(dtype), 37)
        # The sign and the payload of a NaN are nobody's promise.
        return np.where(found == found, found, found.dtype.type(1)) if dtype.is_float else found
    if dtype.is_float:
        spread = random.standard_normal(37) * 10.0 ** random.integers(-40, 40, 37)
        with np.errstate(over="ignore"):
            return np.concatenate([spread, np.float64([0.0, -0.0, np.inf, -np.inf])]).astype(dtype.numpy)
    info = ml_dtypes.iinfo(dtype.numpy)
    wide = random.integers(info.min, info.max, 37, dtype.numpy, endpoint=True)
    return np.concatenate([wide, np.array([info.min, info.max, 0, 1], dtype.numpy)])


def arithmetic(dtype: DType) -> Make:
    """Every operation of two numbers."""

    def make(b: Any, x: Value, y: Value) -> list[Value]:
        names = ("Add", "Sub", "Mul", "Div", "Mod", "Min", "Max", "BitwiseAnd", "BitwiseOr", "BitwiseXor")
        return [*(b.op(name, x, y) for name in names), b.op("Mod", x, y, fmod=1)]

    return make


def comparisons(dtype: DType) -> Make:
    """Comparisons, and operations of one number."""

    def make(b: Any, x: Value, y: Value) -> list[Value]:
        compared = [b.op(name, x, y) for name in ("Equal", "Less", "LessOrEqual", "Greater", "GreaterOrEqual")]
        unary = ["Abs", "Sign", "BitwiseNot"] + (["Neg"] if dtype.kind == "int" else [])
        return [*compared, *(b.op(name, x) for name in unary), b.op("Where", compared[1], x, y)]

    return make


def shifts(dtype: DType) -> Make:
    """Shifts to both sides."""

    def make(b: Any, x: Value, y: Value) -> list[Value]:
        return [b.op("BitShift", x, y, direction=direction) for direction in ("LEFT", "RIGHT")]

    return make


def reductions(dtype: DType) -> Make:
    """Sums wrap, and the identities of minimum and maximum are the type's own limits."""

    def make(b: Any, x: Value) -> list[Value]:
        axis = b.constant(np.array([1]))
        return [b.op(name, x, axis, keepdims=0) for name in ("ReduceSum", "ReduceProd", "ReduceMin", "ReduceMax")]

    return make


def limits(dtype: DType) -> Make:
    """Constants at the limits."""
    info = np.iinfo(dtype.numpy)

    def make(b: Any, x: Value, y: Value) -> list[Value]:
        limits = [b.constant(np.array(n, dtype.numpy)) for n in (info.min, info.max)]
        return [b.op("Equal", x, limits[1]), b.op("Add", x, limits[1]), b.op("Clip", y, *limits)]

    return make


def constants(dtype: DType) -> Make:
    """A constant on either side; what is computed from the results shows that they are still of the type."""
    held = np.array(100, dtype.numpy)

    def make(b: Any, x: Value, y: Value) -> list[Value]:
        constant = b.constant(held)
        results = []
        for name in ("Add", "Sub", "Mul", "Div", "Mod", "Min", "Max", "BitwiseAnd", "BitwiseOr", "BitwiseXor"):
            results += [b.op(name, x, constant), b.op(name, constant, y)]
        return [b.op("Greater", b.op("Add", result, constant), constant) for result in results]

    return make


def wrapped_sums(dtype: DType) -> Make:
    """Compilers may take `x + 1 > x` to be true, and a sum to be the same number in a wider type."""

    def make(b: Any, x: Value, y: Value) -> list[Value]:
        one = b.constant(np.array(1, dtype.numpy))
        after, before, twice = b.op("Add", x, one), b.op("Sub", x, one), b.op("Add", x, x)
        wide = [b.op("Cast", value, to=dtypes.FLOAT64.onnx) for value in (after, before, twice)]
        results = [b.op("Greater", after, x), b.op("Less", before, x), b.op("Div", twice, b.op("Add", one, one)), *wide]
        return [*results, b.op("Abs", b.op("Mul", x, y)), b.op("Mul", b.op("Div", x, y), y)]

    return make
