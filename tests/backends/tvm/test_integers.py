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
from tests.backends.number_cases import (
    INTEGERS,
    arithmetic,
    comparisons,
    extremes,
    limits,
    reductions,
    shifts,
    wrapped_sums,
)
from tests.backends.tvm.harness import TARGETS, run

every_target = pytest.mark.parametrize("target", TARGETS, ids=str)


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
    check(extremes(dtype, 0), arithmetic(dtype), target)


@every_target
@pytest.mark.parametrize("dtype", INTEGERS, ids=str)
def test_comparisons_and_unary_operators(dtype: DType, target: Target) -> None:
    check(extremes(dtype, 1), comparisons(dtype), target)


@every_target
@pytest.mark.parametrize("dtype", INTEGERS, ids=str)
def test_shifts_by_the_width_and_more(dtype: DType, target: Target) -> None:
    x, _ = extremes(dtype, 2)
    counts = np.resize(np.arange(dtype.bits + 3), x.size).astype(dtype.numpy)

    check([x, counts], shifts(dtype), target)


@every_target
@pytest.mark.parametrize("dtype", INTEGERS, ids=str)
def test_reductions_of_the_whole_range(dtype: DType, target: Target) -> None:
    """Sums wrap, and the identities of minimum and maximum are the type's own limits."""
    x = np.resize(extremes(dtype, 3)[0], (5, 37))

    check([x], reductions(dtype), target)


@every_target
@pytest.mark.parametrize("dtype", INTEGERS, ids=str)
def test_constants_at_the_limits(dtype: DType, target: Target) -> None:
    check(extremes(dtype, 4), limits(dtype), target)


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

    check(extremes(dtype, 5), wrapped_sums(dtype), target)


@every_target
@pytest.mark.parametrize("dtype", [dtypes.INT8, dtypes.UINT16, dtypes.INT32, dtypes.INT64], ids=str)
def test_quotients_next_to_whole_ones(dtype: DType, target: Target) -> None:
    """Where a float would round to the wrong integer: products and their neighbours, up to 2^53 and beyond."""
    rng = np.random.default_rng(int(dtype.bits))
    limit = np.iinfo(dtype.numpy)
    bits = rng.uniform(1, dtype.bits - 2, 4000)
    divisors = np.maximum(2 ** (bits * rng.random(4000)), 2).astype(np.int64) * rng.choice([1, -1], 4000)
    quotients = (2**bits / np.abs(divisors)).astype(np.int64) * rng.choice([1, -1], 4000)
    near = divisors * quotients + rng.integers(-1, 2, 4000)
    if dtype.kind == "uint":
        near, divisors = np.abs(near), np.abs(divisors)
    x, y = (np.clip(values, limit.min, limit.max).astype(dtype.numpy) for values in (near, divisors))
    # Vectors of small numbers only, and of all sizes: each lane must not change what others get.
    order = np.argsort(np.abs(near))
    for where in (np.arange(4000), order):
        check(
            [x[where], y[where]],
            lambda b, x, y: [b.op("Div", x, y), b.op("Mod", x, y), b.op("Mod", x, y, fmod=1)],
            target,
        )
