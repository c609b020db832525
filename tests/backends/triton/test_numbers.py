"""Numbers in kernels of GPUs: every code of every narrow type, casts between all types, integers at their limits."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from graphc.backends.triton import templates
from graphc.ir import DType, Graph, Value, dtypes
from graphc.ops.conversion import convert
from graphc.ops.evaluate import evaluate_graph
from graphc.target.cuda import GPUS
from graphc.testing.triton.kernels import run_kernel
from tests.backends import number_cases
from tests.backends.bodies import body
from tests.backends.number_cases import INTEGERS, MINI, NARROW, NUMBERS, extremes, numbers_of
from tests.ops.test_conversion import bits, every, interesting

SOME = (dtypes.INT8, dtypes.UINT32, dtypes.INT64, dtypes.UINT64)
MOVED = [*NARROW, dtypes.BOOL, dtypes.COMPLEX64, dtypes.COMPLEX128]


def few(kinds: Sequence[DType], *fast: DType) -> Any:
    """Some types in every run; the others among the slow tests, since their code differs in width alone."""
    return [pytest.param(d, marks=() if d in fast else pytest.mark.slow, id=str(d)) for d in kinds]


def run(graph: Graph, arrays: list[Any]) -> list[Any]:
    return run_kernel(templates.lower(graph, GPUS["sm_90"], frozenset(), {}), graph, arrays)


def check_bits(graph: Graph, arrays: list[Any]) -> None:
    """Runs the body and compares every output with its NumPy meaning, NaN signs and zeros included."""
    with np.errstate(all="ignore"):
        expected = evaluate_graph(graph, arrays)
    for array, want in zip(run(graph, arrays), expected, strict=True):
        np.testing.assert_array_equal(bits(array), bits(np.asarray(want)))


@pytest.mark.parametrize("source", few(NARROW, *MINI, dtypes.INT4, dtypes.UINT2, dtypes.FLOAT16))
def test_every_code_is_read(source: DType) -> None:
    x = every(source)
    found = run(body([x], lambda b, x: b.op("Cast", x, to=dtypes.FLOAT32.onnx)), [x])[0]
    want = x.astype(np.float32)
    np.testing.assert_array_equal(np.isnan(found), np.isnan(want))
    known = ~np.isnan(want)
    np.testing.assert_array_equal(bits(found)[known], bits(want)[known])


@pytest.mark.parametrize("saturate", [0, 1])
@pytest.mark.parametrize("dtype", [d for d in MINI if d != dtypes.FLOAT8E8M0], ids=str)
def test_every_rounding_to_a_narrow_float(dtype: DType, saturate: int) -> None:
    x = interesting(dtype)
    check_bits(body([x], lambda b, x: b.op("Cast", x, to=dtype.onnx, saturate=saturate)), [x])


@pytest.mark.parametrize("saturate", [0, 1])
@pytest.mark.parametrize("mode", ["up", "down", "nearest"])
def test_every_rounding_to_a_power_of_two(mode: str, saturate: int) -> None:
    x = interesting(dtypes.FLOAT8E8M0)
    to = dtypes.FLOAT8E8M0.onnx
    check_bits(body([x], lambda b, x: b.op("Cast", x, to=to, saturate=saturate, round_mode=mode), opset=25), [x])


@pytest.mark.parametrize("source", few(NUMBERS, *SOME, dtypes.FLOAT64, dtypes.BOOL, dtypes.FLOAT8E4M3FN))
def test_casts_to_every_type(source: DType) -> None:
    """One kernel that casts to all types."""
    x = numbers_of(source, 0)

    def make(b: Any, x: Value) -> list[Value]:
        return [b.op("Cast", x, to=dtype.onnx) for dtype in NUMBERS if dtype != source]

    check_bits(body([x], make, opset=25), [x])


@given(st.lists(st.sampled_from(NUMBERS), min_size=3, max_size=5), st.integers(0, 2**32 - 1))
@settings(max_examples=12, deadline=None)
def test_chains_of_casts(kinds: list[DType], seed: int) -> None:
    x = numbers_of(kinds[0], seed)

    def make(b: Any, x: Value) -> Value:
        for dtype in kinds[1:]:
            x = b.op("Cast", x, to=dtype.onnx)
        return x

    want = x
    for dtype in kinds[1:]:
        want = convert(want, dtype, saturate=True, rounding="up")
    found = run(body([x], make, opset=25), [x])[0]
    missing = want != want
    np.testing.assert_array_equal(found != found, missing)
    np.testing.assert_array_equal(bits(found)[~missing], bits(want)[~missing])


@pytest.mark.parametrize("dtype", few(MOVED, dtypes.BFLOAT16, dtypes.INT4, dtypes.BOOL, *MOVED[-2:]))
def test_moving_keeps_every_bit(dtype: DType) -> None:
    """A transpose beside a join and a border: what is only moved is not converted, whatever NaN it is."""
    if dtype.kind == "complex":
        x = (np.arange(256) * (1 - 2j)).astype(dtype.numpy)
    else:
        x = np.arange(256) % 3 == 0 if dtype.kind == "bool" else np.resize(every(dtype), 1024)
    x = np.resize(x, (x.size // 4, 4))

    def make(b: Any, x: Value) -> list[Value]:
        turned = b.op("Transpose", x, perm=[1, 0])
        border = b.op("Pad", turned, b.constant(np.array([0, 3, 0, 2])), b.constant(np.ones((), dtype.numpy)))
        return [b.op("Concat", turned, turned, axis=0), border]

    check_bits(body([x], make), [x])


@pytest.mark.parametrize("dtype", few(INTEGERS, *SOME))
@pytest.mark.parametrize(
    "case",
    [
        number_cases.arithmetic,
        number_cases.comparisons,
        number_cases.constants,
        number_cases.limits,
        number_cases.wrapped_sums,
    ],
    ids=lambda case: case.__name__,
)
def test_integers_at_their_limits(case: Callable[[DType], number_cases.Make], dtype: DType) -> None:
    arrays = extremes(dtype, 0)
    check_bits(body(arrays, case(dtype), opset=24), arrays)


@pytest.mark.parametrize("dtype", few(INTEGERS, *SOME))
def test_shifts_by_the_width_and_more(dtype: DType) -> None:
    x, _ = extremes(dtype, 2)
    counts = np.resize(np.arange(dtype.bits + 3), x.size).astype(dtype.numpy)
    check_bits(body([x, counts], number_cases.shifts(dtype), opset=24), [x, counts])


@pytest.mark.parametrize("dtype", few(INTEGERS, *SOME))
def test_reductions_of_the_whole_range(dtype: DType) -> None:
    x = np.resize(extremes(dtype, 3)[0], (5, 37))
    check_bits(body([x], number_cases.reductions(dtype), opset=24), [x])


def test_truth_values() -> None:
    x = np.arange(64) % 2 == 0
    y = np.arange(64) % 3 == 0

    def make(b: Any, x: Value, y: Value) -> list[Value]:
        results = [b.op(name, x, y) for name in ("And", "Or", "Xor", "Equal")]
        return [*results, b.op("Not", x), b.op("Cast", x, to=dtypes.INT64.onnx), b.op("Where", x, y, b.op("Not", y))]

    check_bits(body([x, y], make), [x, y])
