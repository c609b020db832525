"""Casts between all pairs of types: NumPy meaning and tensor expressions against ml_dtypes, C and ONNX's tables."""

from __future__ import annotations

import math
from fractions import Fraction
from typing import Any

import ml_dtypes
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from graphc.errors import TypeInferenceError
from graphc.ir import DType, dtypes
from graphc.ops.conversion import convert
from tests.ops.differential import case, check

FLOATS = [d for d in dtypes.ALL if d.is_float]
MINI = [d for d in FLOATS if d.bits <= 8]
EIGHT = [d for d in MINI if d.bits == 8 and d != dtypes.FLOAT8E8M0]
INTEGERS = [d for d in dtypes.ALL if d.is_integer]
NUMBERS = [d for d in dtypes.ALL if d.kind not in ("string", "complex")]


def bits(array: Any) -> Any:
    """The elements as unsigned integers, so that -0, 0 and every NaN differ."""
    return np.ascontiguousarray(array).view(f"u{min(array.dtype.itemsize, 8)}")


def every(dtype: DType) -> Any:
    """Every value of a type of at most 16 bits."""
    codes = np.arange(1 << dtype.bits).astype(np.uint8 if dtype.bits <= 8 else np.uint16)
    if dtype.bits < 8 and dtype.is_integer:
        return codes.astype(dtype.numpy)
    return codes.view(dtype.numpy)


def interesting(dtype: DType) -> Any:
    """Float32 numbers around everything that matters to a narrow float: its values, their middles, its limits."""
    values = every(dtype).astype(np.float32)
    values = np.unique(values[np.isfinite(values)])
    with np.errstate(all="ignore"):
        middles = (values[:-1] + values[1:]) / 2
        around = np.concatenate([values, middles, values * 2, [np.float32(1e30), np.float32(1e-40)]])
        around = np.concatenate([around, np.nextafter(around, np.inf), np.nextafter(around, -np.inf)])
    special = np.float32([np.nan, -np.nan, np.inf, -np.inf, 0.0, -0.0])
    return np.concatenate([around, special]).astype(np.float32)


@pytest.mark.parametrize("dtype", [d for d in MINI if d != dtypes.FLOAT8E8M0], ids=str)
def test_unsaturated_is_what_ml_dtypes_does(dtype: DType) -> None:
    x = interesting(dtype)
    np.testing.assert_array_equal(bits(convert(x, dtype)), bits(x.astype(dtype.numpy)))


@pytest.mark.parametrize("dtype", EIGHT, ids=str)
def test_saturated_keeps_nan_and_ends_at_the_largest(dtype: DType) -> None:
    x = interesting(dtype)
    largest = np.float32(ml_dtypes.finfo(dtype.numpy).max)
    found = convert(x, dtype, saturate=True).astype(np.float32)
    np.testing.assert_array_equal(np.isnan(found), np.isnan(x))
    np.testing.assert_array_equal(found[x > largest], largest)
    np.testing.assert_array_equal(found[x < -largest], -largest)
    inside = np.abs(x) <= largest
    np.testing.assert_array_equal(bits(convert(x, dtype, saturate=True))[inside], bits(x.astype(dtype.numpy))[inside])


def _scale_by_definition(x: float, rounding: str, *, saturate: bool) -> int:
    """The code of float8_e8m0fnu by exact arithmetic, from the words of ONNX's Cast."""
    low, high = (0, 254) if saturate else (255, 255)
    if math.isnan(x):
        return 255
    if math.isinf(x):
        return high
    exact = abs(Fraction(x))
    if exact < Fraction(1, 2**127):
        return low
    exponent = next(e for e in range(127, -128, -1) if Fraction(2) ** e <= exact)
    rest = exact / Fraction(2) ** exponent
    exponent += {"up": rest > 1, "down": False, "nearest": rest >= Fraction(3, 2)}[rounding]
    return exponent + 127 if exponent <= 127 else high


@pytest.mark.parametrize("saturate", [True, False])
@pytest.mark.parametrize("rounding", ["up", "down", "nearest"])
def test_powers_of_two(rounding: Any, saturate: bool) -> None:
    x = np.abs(interesting(dtypes.FLOAT8E8M0))[::7]
    want = [_scale_by_definition(float(v), rounding, saturate=saturate) for v in x]
    found = convert(x, dtypes.FLOAT8E8M0, saturate=saturate, rounding=rounding)
    np.testing.assert_array_equal(bits(found), want)


@pytest.mark.parametrize("target", INTEGERS, ids=str)
@pytest.mark.parametrize("source", [dtypes.FLOAT32, dtypes.FLOAT64], ids=str)
def test_floats_become_integers_by_truncation(source: DType, target: DType) -> None:
    info = ml_dtypes.iinfo(target.numpy)
    x = np.array([0.0, -0.0, 0.99, -0.99, 1.5, info.min, info.max / 2, info.max / 2 + 0.75], source.numpy)
    want = [math.trunc(v) for v in x.tolist()]
    assert convert(x, target).astype(object).tolist() == want


def test_floats_out_of_range_do_what_c_does_on_x86() -> None:
    x = np.float64([300, -1, -300.5, 3e9, -3e9, 1e20, -1e20, np.nan, np.inf, -np.inf, 1.5 * 2**63])
    low32, low64, top = -(2**31), -(2**63), 2**63
    expected = {
        "int8": [44, -1, -44, 0, 0, 0, 0, 0, 0, 0, 0],
        "uint16": [300, 65535, 65236, 0, 0, 0, 0, 0, 0, 0, 0],
        "int32": [300, -1, -300, *[low32] * 8],
        "uint32": [300, 2**32 - 1, 2**32 - 300, 3 * 10**9, 2**32 * 2 - 3 * 10**9 - 2**32, 0, 0, 0, 0, 0, 0],
        "int64": [300, -1, -300, 3 * 10**9, -3 * 10**9, *[low64] * 6],
        "uint64": [300, 2**64 - 1, 2**64 - 300, 3 * 10**9, 2**64 - 3 * 10**9, *[top] * 5, 3 * 2**62],
        "int4": [-4, -1, 4, 0, 0, 0, 0, 0, 0, 0, 0],
    }
    for name, want in expected.items():
        found = convert(x, dtypes.from_name(name))
        assert found.astype(object if name.endswith("64") else np.int64).tolist() == want, name


@pytest.mark.parametrize("target", INTEGERS, ids=str)
@pytest.mark.parametrize("source", INTEGERS, ids=str)
def test_integers_wrap(source: DType, target: DType) -> None:
    info = ml_dtypes.iinfo(source.numpy)
    numbers = [info.min, info.max, info.min // 3, info.max // 3, 0, 1]
    x = np.array(numbers, np.int64 if source.bits < 64 else source.numpy).astype(source.numpy)
    modulus, half = 1 << target.bits, 1 << (target.bits - 1) if target.kind == "int" else 0
    want = [(n + half) % modulus - half for n in numbers]
    assert [int(v) for v in convert(x, target)] == want


@given(st.sampled_from(NUMBERS), st.sampled_from(NUMBERS), st.booleans(), st.integers(0, 2**32 - 1))
@settings(max_examples=200)
def test_cast_of_everything_to_everything(source: DType, target: DType, saturate: bool, seed: int) -> None:
    """Evaluation, expressions and host steps agree; the values are those that `convert` gives."""
    x = convert(np.random.default_rng(seed).standard_normal(24) * 200, source)
    want = convert(x, target, saturate=saturate, rounding="up")
    subject = case("Cast", [x], to=target.onnx, saturate=int(saturate), version=25)
    assert len(subject.infer()) == 1
    found = subject.express()
    assert found is not None
    for outputs in (subject.evaluate(), found, subject.host()):
        assert outputs[0].dtype == target.numpy
        np.testing.assert_array_equal(bits(outputs[0]), bits(want))


@pytest.mark.parametrize("dtype", EIGHT, ids=str)
@pytest.mark.parametrize("saturate", [0, 1])
def test_cast_as_the_reference_has_it(dtype: DType, saturate: int) -> None:
    x = interesting(dtype)
    found = case("Cast", [x], to=dtype.onnx, saturate=saturate).reference()[0]
    np.testing.assert_array_equal(bits(convert(x, dtype, saturate=bool(saturate))), bits(found))


def test_an_unknown_rounding_is_refused() -> None:
    subject = case("Cast", [np.float32([1])], to=dtypes.FLOAT8E8M0.onnx, round_mode="sideways", version=25)
    with pytest.raises(TypeInferenceError, match="sideways"):
        subject.infer()


@pytest.mark.parametrize("mode", ["up", "down", "nearest"])
def test_round_mode_of_a_node(mode: str) -> None:
    x = np.float32([1.0, 1.1, 1.5, 1.9, 3.0])
    want = {"up": [1, 2, 2, 2, 4], "down": [1, 1, 1, 1, 2], "nearest": [1, 1, 2, 2, 4]}[mode]
    expected = np.array(want, dtypes.FLOAT8E8M0.numpy)
    check(case("Cast", [x], to=dtypes.FLOAT8E8M0.onnx, round_mode=mode, version=25), [expected], shapes=False)
