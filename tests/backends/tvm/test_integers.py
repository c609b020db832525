"""Integer arithmetic in kernels: whole ranges, limits, zero divisors and wild shifts, against NumPy."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from graphc.backends.tvm import generic
from graphc.ir import DType, Value, dtypes
from graphc.ops.evaluate import evaluate_graph
from graphc.target import Target
from tests.backends.bodies import body
from tests.backends.tvm.harness import TARGETS, run

INTEGERS = [d for d in dtypes.ALL if d.is_integer and d.bits >= 8]
UNSIGNED = [d for d in INTEGERS if d.kind == "uint"]
every_target = pytest.mark.parametrize("target", TARGETS, ids=str)


def extremes(dtype: DType, seed: int) -> Any:
    """Every pair of limits and small numbers in two arrays, then random numbers of the whole range."""
    info = np.iinfo(dtype.numpy)
    known = [0, 1, 2, 3, 7, info.max, info.max - 1, info.max // 2, info.min]
    known += [-1, -2, -7, info.min + 1, info.min // 2] if dtype.kind == "int" else [info.max // 3]
    left, right = np.meshgrid(np.array(known, dtype.numpy), np.array(known, dtype.numpy))
    random = np.random.default_rng(seed).integers(info.min, info.max, (2, 50), dtype.numpy, endpoint=True)
    return [np.concatenate([left.ravel(), random[0]]), np.concatenate([right.ravel(), random[1]])]


def check(arrays: list[Any], make: Callable[..., Value | list[Value]], target: Target) -> None:
    graph = body(arrays, make, opset=24)
    with np.errstate(all="ignore"):
        expected = evaluate_graph(graph, arrays)
    for found, want in zip(run(generic.lower(graph, target), graph, arrays), expected, strict=True):
        assert found.dtype == np.asarray(want).dtype
        np.testing.assert_array_equal(found, want)


@every_target
@pytest.mark.parametrize("dtype", INTEGERS, ids=str)
def test_arithmetic_wraps_and_division_never_traps(dtype: DType, target: Target) -> None:
    def make(b: Any, x: Value, y: Value) -> list[Value]:
        names = ("Add", "Sub", "Mul", "Div", "Mod", "Min", "Max", "BitwiseAnd", "BitwiseOr", "BitwiseXor")
        return [*(b.op(name, x, y) for name in names), b.op("Mod", x, y, fmod=1)]

    check(extremes(dtype, 0), make, target)


@every_target
@pytest.mark.parametrize("dtype", INTEGERS, ids=str)
def test_comparisons_and_unary_operators(dtype: DType, target: Target) -> None:
    def make(b: Any, x: Value, y: Value) -> list[Value]:
        compared = [b.op(name, x, y) for name in ("Equal", "Less", "LessOrEqual", "Greater", "GreaterOrEqual")]
        unary = ["Abs", "Sign", "BitwiseNot"] + (["Neg"] if dtype.kind == "int" else [])
        return [*compared, *(b.op(name, x) for name in unary), b.op("Where", compared[1], x, y)]

    check(extremes(dtype, 1), make, target)


@every_target
@pytest.mark.parametrize("dtype", INTEGERS, ids=str)
def test_shifts_by_the_width_and_more(dtype: DType, target: Target) -> None:
    x, _ = extremes(dtype, 2)
    counts = np.resize(np.arange(dtype.bits + 3), x.size).astype(dtype.numpy)

    def make(b: Any, x: Value, y: Value) -> list[Value]:
        return [b.op("BitShift", x, y, direction=direction) for direction in ("LEFT", "RIGHT")]

    check([x, counts], make, target)


@every_target
@pytest.mark.parametrize("dtype", INTEGERS, ids=str)
def test_reductions_of_the_whole_range(dtype: DType, target: Target) -> None:
    """Sums wrap, and the identities of minimum and maximum are the type's own limits."""
    x = np.resize(extremes(dtype, 3)[0], (5, 37))

    def make(b: Any, x: Value) -> list[Value]:
        axis = b.constant(np.array([1]))
        return [b.op(name, x, axis, keepdims=0) for name in ("ReduceSum", "ReduceProd", "ReduceMin", "ReduceMax")]

    check([x], make, target)


@every_target
@pytest.mark.parametrize("dtype", INTEGERS, ids=str)
def test_constants_at_the_limits(dtype: DType, target: Target) -> None:
    info = np.iinfo(dtype.numpy)

    def make(b: Any, x: Value, y: Value) -> list[Value]:
        limits = [b.constant(np.array(n, dtype.numpy)) for n in (info.min, info.max)]
        return [b.op("Equal", x, limits[1]), b.op("Add", x, limits[1]), b.op("Clip", y, *limits)]

    check(extremes(dtype, 4), make, target)


@every_target
def test_truth_values(target: Target) -> None:
    x = np.arange(64) % 2 == 0
    y = np.arange(64) % 3 == 0

    def make(b: Any, x: Value, y: Value) -> list[Value]:
        results = [b.op(name, x, y) for name in ("And", "Or", "Xor", "Equal")]
        return [*results, b.op("Not", x), b.op("Cast", x, to=dtypes.INT64.onnx), b.op("Where", x, y, b.op("Not", y))]

    check([x, y], make, target)


@every_target
@pytest.mark.parametrize("dtype", [dtypes.INT32, dtypes.INT64, dtypes.UINT32, dtypes.UINT64], ids=str)
def test_a_sum_that_wraps_is_not_taken_for_larger(dtype: DType, target: Target) -> None:
    """Compilers may take `x + 1 > x` to be true, and a sum to be the same number in a wider type."""

    def make(b: Any, x: Value, y: Value) -> list[Value]:
        one = b.constant(np.array(1, dtype.numpy))
        after, before, twice = b.op("Add", x, one), b.op("Sub", x, one), b.op("Add", x, x)
        wide = [b.op("Cast", value, to=dtypes.FLOAT64.onnx) for value in (after, before, twice)]
        results = [b.op("Greater", after, x), b.op("Less", before, x), b.op("Div", twice, b.op("Add", one, one)), *wide]
        return [*results, b.op("Abs", b.op("Mul", x, y)), b.op("Mul", b.op("Div", x, y), y)]

    check(extremes(dtype, 5), make, target)
