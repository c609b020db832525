"""Resize compiles without a host step in every mode that is known when it is compiled."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from onnx import helper, numpy_helper

from tests.compiler.agreement import assert_agrees
from tests.compiler.compiled import check_compiled
from tests.ops.differential import Case, case
from tests.ops.oracles import numbers, seeds

TRANSFORMS = ("half_pixel", "half_pixel_symmetric", "asymmetric", "align_corners", "pytorch_half_pixel")


def resize(array: Any, roi: Any = None, scales: Any = None, sizes: Any = None, **attributes: Any) -> Case:
    arrays = [
        array,
        None if roi is None else np.array(roi, np.float32),
        None if scales is None else np.array(scales, np.float32),
        None if sizes is None else np.array(sizes, np.int64),
    ]
    return case("Resize", arrays, constants=[1, 2, 3], **attributes)


@given(
    st.sampled_from(["nearest", "linear", "cubic"]),
    st.sampled_from(TRANSFORMS),
    st.sampled_from(["round_prefer_floor", "round_prefer_ceil", "floor", "ceil"]),
    st.tuples(st.integers(2, 9), st.integers(2, 20)),
    st.tuples(*[st.sampled_from([0.5, 0.6, 0.37, 1.0, 1.3, 2.0, 2.5, 3.0])] * 2),
    st.booleans(),
    st.booleans(),
    st.sampled_from(["float32", "float16", "float64", "uint8", "int32", "int64"]),
    seeds,
)
@settings(max_examples=15, deadline=None)
def test_scales(
    mode: str,
    transform: str,
    rounding: str,
    extents: tuple[int, int],
    scales: tuple[float, float],
    exclude: bool,
    antialias: bool,
    dtype: str,
    seed: int,
) -> None:
    attributes = {"exclude_outside": int(exclude)} if mode == "cubic" else {}
    if antialias and mode != "nearest":
        attributes["antialias"] = 1
    subject = resize(
        numbers(seed, (2, 3, *extents), dtype),
        scales=[1, 1, *scales],
        mode=mode,
        coordinate_transformation_mode=transform,
        nearest_mode=rounding,
        **attributes,
    )
    if mode != "nearest" and dtype in ("uint8", "int32", "int64"):
        # What lies a hair from a whole number is truncated to either side of it.
        assume(_far_from_whole(subject))
    # Places are those of float32, whatever is read there.
    check_compiled(subject, tolerance=2e-5 if dtype == "float64" else None)


def _far_from_whole(subject: Case) -> bool:
    wide = resize(subject.arrays[0].astype(np.float64), scales=subject.arrays[2], **subject.node.attributes)
    (values,) = wide.evaluate()
    return bool(np.all(np.abs(values - np.round(values)) > 1e-4))


@pytest.mark.parametrize("mode", ["nearest", "linear", "cubic"])
@pytest.mark.parametrize("policy", ["stretch", "not_larger", "not_smaller"])
def test_sizes_of_some_axes(mode: str, policy: str) -> None:
    x = numbers(0, (1, 2, 5, 7), "float32")
    for axes in ([2, 3], [3, 2], [-1, -2]):
        subject = resize(x, sizes=[8, 9], mode=mode, axes=axes, keep_aspect_ratio_policy=policy)
        check_compiled(subject, targets=["cpu"])


@pytest.mark.parametrize("mode", ["nearest", "linear", "cubic"])
def test_a_region_with_what_lies_outside(mode: str) -> None:
    subject = resize(
        numbers(0, (1, 2, 6, 7), "float32"),
        roi=[0, 0, 0.2, -0.3, 1, 1, 1.4, 0.7],
        sizes=[1, 2, 5, 33],
        mode=mode,
        coordinate_transformation_mode="tf_crop_and_resize",
        extrapolation_value=7.5,
    )
    check_compiled(subject)


@pytest.mark.parametrize("shape", [(9,), (4, 9), (2, 3, 9), (1, 2, 3, 4, 5)])
@pytest.mark.parametrize("mode", ["linear", "cubic"])
def test_any_number_of_axes(shape: tuple[int, ...], mode: str) -> None:
    scales = np.linspace(0.7, 2.1, len(shape))
    check_compiled(resize(numbers(0, shape, "float32"), scales=scales, mode=mode, antialias=1), targets=["cpu"])


@pytest.mark.parametrize("mode", ["nearest", "linear", "cubic"])
def test_between_convolutions_pixels_stay_in_blocks_of_channels(mode: str) -> None:
    weights = [
        numpy_helper.from_array(numbers(i, shape, "float32"), f"w{i}")
        for i, shape in enumerate([(20, 3, 3, 3), (4, 20, 3, 3)])
    ]
    sizes = numpy_helper.from_array(np.array([1, 20, 13, 9]), "sizes")
    nodes = [
        helper.make_node("Conv", ["x", "w0"], ["c"], pads=[1] * 4),
        helper.make_node("Resize", ["c", "", "", "sizes"], ["r"], mode=mode),
        helper.make_node("Relu", ["r"], ["p"]),
        helper.make_node("Conv", ["p", "w1"], ["y"], pads=[1] * 4),
    ]
    shape = (1, 3, 8, 7)
    graph = helper.make_graph(
        nodes,
        "upsampled",
        [helper.make_tensor_value_info("x", onnx.TensorProto.FLOAT, shape)],
        [helper.make_tensor_value_info("y", onnx.TensorProto.FLOAT, None)],
        [*weights, sizes],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 22)], ir_version=10)
    assert_agrees(model, {"x": numbers(2, shape, "float32")}, require_compiled=True, tolerance=1e-4).close()
