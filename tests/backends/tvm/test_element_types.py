"""Element types in kernels: every code of every narrow type loaded, stored and cast, bit for bit, at every width."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from graphc.backends.tvm import generic
from graphc.ir import DType, Value, dtypes
from graphc.ops.conversion import convert
from graphc.ops.evaluate import evaluate_graph
from graphc.target import Target
from tests.backends.bodies import body
from tests.backends.number_cases import MINI, NARROW, NUMBERS, numbers_of
from tests.backends.tvm.harness import TARGETS, run
from tests.ops.test_conversion import bits, every, interesting


def check_bits(graph: Any, arrays: list[Any], target: Target) -> None:
    """Runs the body and compares every output with its NumPy meaning, NaN signs and zeros included."""
    found = run(generic.lower(graph, target), graph, arrays)
    for array, want in zip(found, evaluate_graph(graph, arrays), strict=True):
        np.testing.assert_array_equal(bits(array), bits(np.asarray(want)))


@pytest.mark.parametrize("target", TARGETS, ids=str)
@pytest.mark.parametrize("source", NARROW, ids=str)
def test_every_code_is_read(source: DType, target: Target) -> None:
    x = every(source)
    graph = body([x], lambda b, x: b.op("Cast", x, to=dtypes.FLOAT32.onnx))
    found = run(generic.lower(graph, target), graph, [x])[0]
    want = x.astype(np.float32)
    np.testing.assert_array_equal(np.isnan(found), np.isnan(want))
    known = ~np.isnan(want)
    np.testing.assert_array_equal(bits(found)[known], bits(want)[known])


@pytest.mark.parametrize("target", TARGETS, ids=str)
@pytest.mark.parametrize("saturate", [0, 1])
@pytest.mark.parametrize("dtype", [d for d in MINI if d != dtypes.FLOAT8E8M0], ids=str)
def test_every_rounding_to_a_narrow_float(dtype: DType, saturate: int, target: Target) -> None:
    x = interesting(dtype)
    check_bits(body([x], lambda b, x: b.op("Cast", x, to=dtype.onnx, saturate=saturate)), [x], target)


@pytest.mark.parametrize("target", TARGETS, ids=str)
@pytest.mark.parametrize("saturate", [0, 1])
@pytest.mark.parametrize("mode", ["up", "down", "nearest"])
def test_every_rounding_to_a_power_of_two(mode: str, saturate: int, target: Target) -> None:
    x = interesting(dtypes.FLOAT8E8M0)
    to = dtypes.FLOAT8E8M0.onnx
    graph = body([x], lambda b, x: b.op("Cast", x, to=to, saturate=saturate, round_mode=mode), opset=25)
    check_bits(graph, [x], target)


@pytest.mark.parametrize("target", TARGETS, ids=str)
def test_float64_is_rounded_to_half_once(target: Target) -> None:
    half = every(dtypes.FLOAT16)
    half = np.unique(half[np.isfinite(half)]).astype(np.float64)
    middle = (half[:-1] + half[1:]) / 2
    x = np.concatenate([middle, middle * (1 + 1e-12), middle * (1 - 1e-12), [65520, 1e300, 1e-300, np.inf, -0.0]])
    with np.errstate(over="ignore"):
        check_bits(body([x], lambda b, x: b.op("Cast", x, to=dtypes.FLOAT16.onnx)), [x], target)


@pytest.mark.parametrize("target", TARGETS, ids=str)
@pytest.mark.parametrize("source", NUMBERS, ids=str)
def test_casts_to_every_type(source: DType, target: Target) -> None:
    """One kernel that casts to all types."""
    x = numbers_of(source, 0)

    def make(b: Any, x: Value) -> list[Value]:
        return [b.op("Cast", x, to=dtype.onnx) for dtype in NUMBERS if dtype != source]

    check_bits(body([x], make, opset=25), [x], target)


@given(st.lists(st.sampled_from(NUMBERS), min_size=3, max_size=5), st.integers(0, 2**32 - 1))
@settings(max_examples=25, deadline=None)
def test_chains_of_casts(kinds: list[DType], seed: int) -> None:
    x = numbers_of(kinds[0], seed)

    def make(b: Any, x: Value) -> Value:
        for dtype in kinds[1:]:
            x = b.op("Cast", x, to=dtype.onnx)
        return x

    graph = body([x], make, opset=25)
    want = x
    for dtype in kinds[1:]:
        want = convert(want, dtype, saturate=True, rounding="up")
    for target in TARGETS:
        found = run(generic.lower(graph, target), graph, [x])[0]
        missing = want != want
        np.testing.assert_array_equal(found != found, missing)
        np.testing.assert_array_equal(bits(found)[~missing], bits(want)[~missing])


@pytest.mark.parametrize("target", TARGETS, ids=str)
@pytest.mark.parametrize("dtype", [*NARROW, dtypes.BOOL, dtypes.COMPLEX64, dtypes.COMPLEX128], ids=str)
def test_moving_keeps_every_bit(dtype: DType, target: Target) -> None:
    """A transpose beside a join and a border: what is only moved is not converted, whatever NaN it is."""
    if dtype.kind == "complex":
        x = (np.arange(256) * (1 - 2j)).astype(dtype.numpy)
    else:
        x = np.arange(256) % 3 == 0 if dtype.kind == "bool" else every(dtype)
    x = np.resize(x, (x.size // 4, 4))

    def make(b: Any, x: Value) -> list[Value]:
        turned = b.op("Transpose", x, perm=[1, 0])
        border = b.op("Pad", turned, b.constant(np.array([0, 3, 0, 2])), b.constant(np.ones((), dtype.numpy)))
        return [b.op("Concat", turned, turned, axis=0), border]

    check_bits(body([x], make), [x], target)
