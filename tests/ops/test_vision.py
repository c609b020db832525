"""Operators on pictures against ONNX Runtime, and their types."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from graphc.errors import TypeInferenceError
from tests.ops.differential import Case, case, check
from tests.ops.test_contraction import floats, seeds


@pytest.mark.parametrize("mode", ["linear", "nearest", "cubic"])
@pytest.mark.parametrize("padding", ["zeros", "border", "reflection"])
@pytest.mark.parametrize("corners", [0, 1])
def test_grid_sample(mode: str, padding: str, corners: int) -> None:
    x = floats(0, 2, 3, 5, 6)
    grid = np.random.default_rng(1).uniform(-1.3, 1.3, (2, 4, 3, 2)).astype(np.float32)
    subject = case("GridSample", [x, grid], mode=mode, padding_mode=padding, align_corners=corners)
    check(subject, rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("mode", ["linear", "nearest"])
def test_grid_sample_of_volumes(mode: str) -> None:
    grid = np.random.default_rng(1).uniform(-1.3, 1.3, (2, 2, 4, 3, 3)).astype(np.float32)
    check(case("GridSample", [floats(0, 2, 2, 3, 4, 5), grid], mode=mode), rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("corners", [0, 1])
@pytest.mark.parametrize("size", [[2, 3, 4, 5], [1, 3, 2, 4, 5]])
def test_affine_grid(corners: int, size: list[int]) -> None:
    rank = len(size) - 2
    arrays = [floats(0, size[0], rank, rank + 1), np.array(size)]
    check(case("AffineGrid", arrays, align_corners=corners, constants=[1]), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("mode", ["avg", "max"])
@pytest.mark.parametrize("pixels", ["half_pixel", "output_half_pixel"])
@pytest.mark.parametrize("ratio", [0, 2])
def test_roi_align(mode: str, pixels: str, ratio: int) -> None:
    corners = np.sort(np.random.default_rng(0).uniform(0, 8, (4, 2, 2)), axis=1)
    rois = corners.reshape(4, 4).astype(np.float32)
    arrays = [floats(1, 2, 3, 8, 8), rois, np.array([0, 1, 1, 0])]
    attributes: dict[str, Any] = {"output_height": 3, "output_width": 2, "sampling_ratio": ratio, "mode": mode}
    subject = case("RoiAlign", arrays, version=16, coordinate_transformation_mode=pixels, **attributes)
    check(subject, rtol=1e-4, atol=1e-5)


@given(st.integers(1, 3), st.integers(1, 3), st.sampled_from((1.0, 0.5)), seeds)
@settings(max_examples=20)
def test_max_roi_pool(height: int, width: int, scale: float, seed: int) -> None:
    corners = np.sort(np.random.default_rng(seed).integers(0, 8, (4, 2, 2)), axis=1).reshape(4, 4)
    rois = np.concatenate([[[0], [1], [0], [1]], corners], axis=1).astype(np.float32)
    inputs = [floats(seed, 2, 3, 8, 8), rois]
    subject = case("MaxRoiPool", inputs, version=1, pooled_shape=[height, width], spatial_scale=scale)
    check(subject)


@pytest.mark.parametrize("masked", [False, True])
def test_deformable_convolution(masked: bool) -> None:
    arrays: list[Any] = [floats(0, 1, 4, 6, 6), floats(1, 2, 2, 3, 3), floats(2, 1, 2 * 2 * 9, 6, 6), floats(3, 2)]
    if masked:
        arrays.append(np.abs(floats(4, 1, 2 * 9, 6, 6)))
    subject = case("DeformConv", arrays, group=2, offset_group=2, pads=[1, 1, 1, 1])
    check(subject, rtol=1e-3, atol=1e-4, expression=False)


@pytest.mark.parametrize(
    ("image", "block", "attributes"),
    [
        ([5, 6], [2, 3], {}),
        ([5, 6], [1, 5], {"strides": [2, 1], "pads": [0, 1, 0, 1]}),
        ([6, 6], [2, 2], {"dilations": [2, 1]}),
        ([4, 5, 6], [2, 2, 2], {}),
    ],
)
def test_columns_to_image(image: list[int], block: list[int], attributes: dict[str, Any]) -> None:
    rank = len(image)
    strides, dilations = attributes.get("strides", [1] * rank), attributes.get("dilations", [1] * rank)
    pads = attributes.get("pads", [0] * 2 * rank)
    counts = [
        (extent + pads[i] + pads[rank + i] - dilations[i] * (block[i] - 1) - 1) // strides[i] + 1
        for i, extent in enumerate(image)
    ]
    x = floats(0, 2, 3 * int(np.prod(block)), int(np.prod(counts)))
    subject = case("Col2Im", [x, np.array(image), np.array(block)], constants=[1, 2], **attributes)
    check(subject, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(
    ("subject", "text"),
    [
        (case("GridSample", [floats(0, 1, 2, 3, 3), floats(0, 1, 4, 4, 3)]), "does not fit"),
        (case("Col2Im", [floats(0, 1, 7, 4), np.array([3, 3]), np.array([2, 2])], constants=[1, 2]), "do not divide"),
        (case("MaxRoiPool", [floats(0, 1, 2, 3, 3), floats(0, 1, 5)]), "pooled_shape"),
    ],
)
def test_what_does_not_fit_is_an_error(subject: Case, text: str) -> None:
    with pytest.raises(TypeInferenceError, match=text):
        subject.infer()
