"""Resize against ONNX Runtime in every mode, and where its index is an affine one."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from graphc.errors import TypeInferenceError
from graphc.ir import Builder, Graph, TensorType, dtypes, symbol
from graphc.ops import express, infer_node
from graphc.ops.expr import Load, loads
from graphc.ops.render_numpy import evaluate_expression
from tests.ops.differential import Case, case, check, compare
from tests.ops.oracles import numbers, outside, seeds

TRANSFORMS = ("half_pixel", "asymmetric", "align_corners", "pytorch_half_pixel")
ROUNDINGS = ("round_prefer_floor", "round_prefer_ceil", "floor", "ceil")
extents = st.integers(1, 6)
scales = st.sampled_from((0.5, 0.6, 1.0, 1.5, 2.0, 2.5, 3.0, 4.0, 0.8))


def resize(
    array: Any, *, scales: Any = None, sizes: Any = None, roi: Any = None, constant: bool = True, **attributes: Any
) -> Case:
    """A Resize node by scales or by sizes."""
    scale_array = None if scales is None else np.array(scales, np.float32)
    size_array = None if sizes is None else np.array(sizes, np.int64)
    arrays = [array, roi, scale_array, size_array]
    return case("Resize", arrays, constants=[2, 3] if constant else [], **attributes)


@given(extents, extents, scales, scales, st.sampled_from(TRANSFORMS), st.sampled_from(ROUNDINGS), seeds)
@settings(max_examples=80)
def test_nearest_by_scale(
    height: int, width: int, up: float, across: float, transform: str, rounding: str, seed: int
) -> None:
    subject = resize(
        numbers(seed, (1, 2, height, width), "float32"),
        scales=[1, 1, max(up, 1 / height), max(across, 1 / width)],
        coordinate_transformation_mode=transform,
        nearest_mode=rounding,
    )
    check(subject, Case.onnxruntime, expression=False)
    # An expression there is only where integer quotients agree with ONNX Runtime's float32 places.
    found = subject.express()
    if found is not None:
        np.testing.assert_array_equal(found[0], subject.evaluate()[0])


@given(extents, extents, extents, extents, st.sampled_from(("half_pixel", "asymmetric", "align_corners")), seeds)
@settings(max_examples=60)
def test_nearest_by_size(height: int, width: int, up: int, across: int, transform: str, seed: int) -> None:
    subject = resize(
        numbers(seed, (2, 1, height, width), "int32"),
        sizes=[2, 1, up, across],
        coordinate_transformation_mode=transform,
        nearest_mode="floor",
    )
    check(subject, Case.onnxruntime, expression=False)
    found = subject.express()
    if found is not None:
        np.testing.assert_array_equal(found[0], subject.evaluate()[0])


@pytest.mark.parametrize("factor", [2, 3, 4])
@pytest.mark.parametrize(
    ("transform", "rounding"),
    [("asymmetric", "floor"), ("half_pixel", "round_prefer_floor"), ("half_pixel", "round_prefer_ceil")],
)
def test_whole_factors_repeat_pixels(factor: int, transform: str, rounding: str) -> None:
    subject = resize(
        numbers(0, (1, 2, 5, 7), "float32"),
        scales=[1, 1, factor, factor],
        coordinate_transformation_mode=transform,
        nearest_mode=rounding,
    )
    check(subject)
    expressions = express(subject.node)
    assert expressions is not None
    (load,) = loads(expressions[0].body)
    assert isinstance(load, Load)
    index = str(load.indices)
    assert f"//{factor}" in index and "min" not in index


@given(extents, extents, extents, extents, st.sampled_from(TRANSFORMS), seeds)
@settings(max_examples=60)
def test_linear_by_size(height: int, width: int, up: int, across: int, transform: str, seed: int) -> None:
    subject = resize(
        numbers(seed, (1, 2, height, width), "float32"),
        sizes=[1, 2, up, across],
        mode="linear",
        coordinate_transformation_mode=transform,
    )
    check(subject, Case.onnxruntime, rtol=1e-4, expression=False)
    found = subject.express()
    if found is not None:
        compare(found[0], subject.evaluate()[0], 1e-4, 1e-5, "expression")


@pytest.mark.parametrize("factor", [0.25, 0.5, 2, 4])
@pytest.mark.parametrize("transform", ["half_pixel", "asymmetric", "pytorch_half_pixel"])
def test_linear_by_powers_of_two_is_an_expression(factor: float, transform: str) -> None:
    x = numbers(0, (1, 2, 12, 16), "float32")
    subject = resize(x, scales=[1, 1, factor, factor], mode="linear", coordinate_transformation_mode=transform)
    check(subject, Case.onnxruntime, rtol=1e-4)


@given(extents, st.sampled_from((0.6, 0.8, 1.5, 2.0, 3.0)), st.sampled_from(("half_pixel", "asymmetric")), seeds)
@settings(max_examples=30)
def test_linear_by_scale(extent: int, scale: float, transform: str, seed: int) -> None:
    scale = max(scale, 1 / extent)
    subject = resize(
        numbers(seed, (1, 1, extent, 3), "float32"),
        scales=[1, 1, scale, 1],
        mode="linear",
        coordinate_transformation_mode=transform,
    )
    check(subject, Case.onnxruntime, rtol=1e-4, expression=scale in (0.5, 2.0))


@given(st.integers(2, 6), extents, st.sampled_from((-0.75, -0.5)), st.integers(0, 1), seeds)
@settings(max_examples=30)
def test_cubic(extent: int, output: int, coefficient: float, exclude: int, seed: int) -> None:
    subject = resize(
        numbers(seed, (1, 1, extent, extent), "float32"),
        sizes=[1, 1, output, output + 1],
        mode="cubic",
        cubic_coeff_a=coefficient,
        exclude_outside=exclude,
    )
    check(subject, outside, rtol=1e-3, atol=1e-4, expression=False)
    assert subject.express() is None


@pytest.mark.parametrize("policy", ["stretch", "not_larger", "not_smaller"])
def test_aspect_ratio(policy: str) -> None:
    subject = resize(
        numbers(0, (1, 1, 4, 6), "float32"), sizes=[7, 8], axes=[2, 3], keep_aspect_ratio_policy=policy, mode="linear"
    )
    check(subject, lambda other: other.reference(), rtol=1e-4, expression=False)


def test_crop_and_resize_extrapolates() -> None:
    roi = np.array([0, 0, 0.4, 0.6, 1, 1, 1.2, 1.7], np.float32)
    subject = resize(
        numbers(0, (1, 1, 4, 4), "float32"),
        sizes=[1, 1, 3, 3],
        roi=roi,
        mode="linear",
        coordinate_transformation_mode="tf_crop_and_resize",
        extrapolation_value=10.0,
    )
    check(subject, outside, rtol=1e-4, expression=False)


def test_antialiasing_is_evaluated() -> None:
    subject = resize(numbers(0, (1, 1, 6, 6), "float32"), scales=[1, 1, 0.5, 0.5], mode="linear", antialias=1)
    check(subject, lambda other: other.reference(), rtol=1e-4, expression=False)
    assert subject.express() is None


def test_scales_that_only_the_run_time_knows() -> None:
    subject = resize(numbers(0, (1, 1, 2, 2), "float32"), scales=[1, 1, 2, 2], constant=False)
    check(subject, Case.onnxruntime, expression=False, shapes=False)
    assert subject.express() is None


@pytest.mark.parametrize(("scale", "wanted"), [(2.0, "2*h"), (0.5, "(h//2)"), (1.5, "((3*h)//2)")])
def test_symbolic_extents(scale: float, wanted: str) -> None:
    h = symbol("h")
    graph = Graph("g", [("x", TensorType(dtypes.FLOAT32, (1, 1, h, 8)))], opset=24)
    builder = Builder(graph, infer=infer_node)
    factors = builder.constant(np.array([1, 1, scale, 2], np.float32))
    value = builder.op(
        "Resize", graph.inputs[0], None, factors, coordinate_transformation_mode="asymmetric", nearest_mode="floor"
    )
    assert str(value.tensor_type.dims[2]) == wanted
    assert value.producer is not None
    expressions = express(value.producer)
    assert expressions is not None
    array = numbers(0, (1, 1, 6, 8), "float32")
    subject = resize(array, scales=[1, 1, scale, 2], coordinate_transformation_mode="asymmetric", nearest_mode="floor")
    np.testing.assert_array_equal(
        evaluate_expression(expressions[0], [array, None, None], {"h": 6}), subject.evaluate()[0]
    )


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"scales": [1, 2]}, "2 scales do not fit 4 axes"),
        ({"sizes": [1, 2]}, "2 sizes do not fit 4 axes"),
        ({"scales": [1, 1, -1, 2]}, "is not positive"),
        ({}, "neither scales nor sizes"),
        ({"scales": [2], "axes": [7]}, "axis 7 is out of range"),
    ],
)
def test_misfits_are_named(options: dict[str, Any], message: str) -> None:
    subject = resize(np.zeros((1, 1, 2, 2), np.float32), **options)
    subject.node.name = "culprit"
    with pytest.raises(TypeInferenceError, match=message) as caught:
        subject.infer()
    assert caught.value.nodes == ("culprit",)
