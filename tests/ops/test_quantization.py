"""Quantization against ONNX Runtime: per tensor, per axis, in blocks."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from graphc.errors import TypeInferenceError
from graphc.ir import dtypes
from tests.ops.differential import Case, case, check
from tests.ops.test_contraction import floats, integers, matmul_shapes, seeds
from tests.ops.test_convolution import geometries

INTEGERS = ("int8", "uint8", "int16", "uint16")


@st.composite
def granularities(draw: st.DrawFn) -> tuple[list[int], list[int], dict[str, Any]]:
    """Shape of a tensor, shape of its scale, and the attributes that tie them."""
    shape = draw(st.lists(st.integers(1, 6), min_size=1, max_size=4))
    axis = draw(st.integers(-len(shape), len(shape) - 1))
    # One scale of rank 1 is the whole tensor's to ONNX Runtime, whatever block_size says.
    match draw(st.sampled_from(("tensor", "axis", "block") if len(shape) > 1 else ("tensor", "axis"))):
        case "tensor":
            return shape, [], {}
        case "axis":
            return shape, [shape[axis]], {"axis": axis}
    block = draw(st.integers(1, 4))
    scale = list(shape)
    scale[axis] = -(-shape[axis] // block)
    return shape, scale, {"axis": axis, "block_size": block}


def _scale(seed: int, shape: list[int]) -> Any:
    return np.random.default_rng(seed).uniform(0.05, 0.5, shape).astype(np.float32)


@given(granularities(), st.sampled_from(INTEGERS), st.booleans(), seeds)
@settings(max_examples=80)
def test_quantize(granularity: tuple[Any, Any, dict[str, Any]], dtype: str, zero: bool, seed: int) -> None:
    shape, scale, attributes = granularity
    arrays = [floats(seed, *shape) * 20, _scale(seed, scale)]
    if zero:
        arrays.append(integers(seed, *scale, dtype=dtypes.from_name(dtype).numpy))
    else:
        attributes = attributes | {"output_dtype": dtypes.from_name(dtype).onnx}
    check(case("QuantizeLinear", arrays, **attributes))


@given(granularities(), st.sampled_from(INTEGERS), st.booleans(), seeds)
@settings(max_examples=60)
def test_dequantize(granularity: tuple[Any, Any, dict[str, Any]], dtype: str, zero: bool, seed: int) -> None:
    shape, scale, attributes = granularity
    kind = dtypes.from_name(dtype).numpy
    arrays = [integers(seed, *shape, dtype=kind), _scale(seed, scale)]
    if zero:
        arrays.append(integers(seed + 1, *scale, dtype=kind))
    check(case("DequantizeLinear", arrays, **attributes))


@pytest.mark.parametrize("dtype", ["int4", "uint4", "int2", "uint2"])
def test_narrow_integers_saturate(dtype: str) -> None:
    kind = dtypes.from_name(dtype)
    x = np.float32([-100, -3, -0.5, 0, 0.5, 1.5, 2.5, 100])
    low, high = (-(2 ** (kind.bits - 1)), 2 ** (kind.bits - 1) - 1) if kind.kind == "int" else (0, 2**kind.bits - 1)
    expected = np.clip(np.rint(x), low, high).astype(np.int32).astype(kind.numpy)
    subject = case("QuantizeLinear", [x, np.float32(1)], output_dtype=kind.onnx)
    check(subject, [expected])
    back = case("DequantizeLinear", [expected, np.float32(2)])
    check(back, [expected.astype(np.float32) * 2])


EIGHT_BITS = ["float8_e4m3fn", "float8_e4m3fnuz", "float8_e5m2", "float8_e5m2fnuz"]


@pytest.mark.parametrize("saturate", [0, 1])
@pytest.mark.parametrize("dtype", EIGHT_BITS)
@pytest.mark.parametrize("scale", [np.float32(2), np.float16(0.3)])
def test_floats_of_8_bits(dtype: str, saturate: int, scale: Any) -> None:
    kind = dtypes.from_name(dtype)
    x = np.array([0.1, 1, 1000, -1000, -0.0, 3.3, -7.1, 60000], scale.dtype)
    subject = case("QuantizeLinear", [x, scale, np.zeros((), kind.numpy)], saturate=saturate)
    check(subject, Case.reference)
    codes = np.arange(256).astype(np.uint8).view(kind.numpy)
    check(case("DequantizeLinear", [codes, scale]), Case.reference)


def test_floats_of_4_bits() -> None:
    kind = dtypes.FLOAT4E2M1
    x = np.float32([0.1, 1, 1000, -1000, 3.3, -7.1])
    check(case("QuantizeLinear", [x, np.float32(2), np.array(1, kind.numpy)]), Case.reference)
    codes = np.arange(16).astype(np.uint8).view(kind.numpy)
    check(case("DequantizeLinear", [codes, np.float32(0.7)]), Case.reference)


def test_a_scale_that_is_a_power_of_two_divides_in_the_type_of_the_input() -> None:
    scale = np.array(0.5, dtypes.FLOAT8E8M0.numpy)
    x = np.float32([1.2, -3.4])
    subject = case("QuantizeLinear", [x, scale], output_dtype=dtypes.INT8.onnx, version=28)
    check(subject, [np.int8([2, -7])], shapes=False)
    back = case("DequantizeLinear", [np.int8([2, -7]), scale], output_dtype=dtypes.FLOAT32.onnx, version=28)
    check(back, [np.float32([1, -3.5])], shapes=False)


def test_a_half_precision_scale_divides_at_half_precision() -> None:
    x, scale = (floats(0, 64) * 30).astype(np.float16), np.float16(0.3)
    check(case("QuantizeLinear", [x, scale, np.int8(3)]))


@given(st.lists(st.integers(1, 5), min_size=1, max_size=3), seeds, st.sampled_from((0.0, 1.0, 50.0)))
@settings(max_examples=30)
def test_dynamic(shape: list[int], seed: int, scale: float) -> None:
    check(case("DynamicQuantizeLinear", [floats(seed, *shape) * np.float32(scale)], 3), expression=False)


@given(matmul_shapes(), st.booleans(), seeds)
@settings(max_examples=40)
def test_qlinear_matmul(shapes: tuple[tuple[int, ...], tuple[int, ...]], columns: bool, seed: int) -> None:
    a, b = shapes
    per = [b[-1]] if columns and len(b) == 2 else []
    arrays = [
        integers(seed, *a, dtype=np.uint8),
        np.float32(0.02),
        np.uint8(120),
        integers(seed + 1, *b, dtype=np.int8),
        _scale(seed, per) / 10,
        integers(seed + 2, *per, dtype=np.int8),
        np.float32(0.3),
        np.uint8(100),
    ]
    check(case("QLinearMatMul", arrays))


@given(geometries(), st.booleans(), seeds)
@settings(max_examples=40)
def test_qlinear_conv(geometry: dict[str, Any], channels: bool, seed: int) -> None:
    attributes = geometry["attributes"]
    if attributes.get("auto_pad", "NOTSET").startswith("SAME"):
        attributes["dilations"] = [1] * len(attributes["dilations"])
    per = [geometry["channels"]] if channels else []
    arrays = [
        integers(seed, *geometry["x"], dtype=np.uint8),
        np.float32(0.02),
        np.uint8(120),
        integers(seed + 1, *geometry["w"], dtype=np.int8),
        _scale(seed, per) / 10,
        np.zeros(per, np.int8),
        np.float32(0.2),
        np.uint8(100),
    ]
    if geometry["bias"]:
        arrays.append(integers(seed, geometry["channels"], dtype=np.int8).astype(np.int32) * 10)
    check(case("QLinearConv", arrays, **attributes))


@pytest.mark.parametrize(
    ("subject", "text"),
    [
        (case("QuantizeLinear", [floats(0, 2, 3), floats(0, 4)], axis=1), "4 scales for axis 1"),
        (case("QuantizeLinear", [floats(0, 2, 3), floats(0, 2, 3)]), "needs block_size"),
        (case("QuantizeLinear", [floats(0, 2, 3, 4), floats(0, 2, 3)], block_size=2), "does not fit"),
        (case("DequantizeLinear", [integers(0, 2, 3, dtype=np.int8), floats(0, 3)], axis=5), "axis 5"),
    ],
)
def test_what_does_not_fit_is_an_error(subject: Case, text: str) -> None:
    with pytest.raises(TypeInferenceError, match=text):
        subject.infer()


def test_a_zero_point_of_one_element_beside_a_scale_without_axes() -> None:
    x = np.arange(8).astype(dtypes.UINT4.numpy)
    subject = case("DequantizeLinear", [x, np.float32(2), np.array([1], dtypes.UINT4.numpy)])
    check(subject, [np.float32([-2, 0, 2, 4, 6, 8, 10, 12])])
