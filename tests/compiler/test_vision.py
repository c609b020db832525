"""Operators on pictures compile without a host step, whatever regions and offsets the data holds."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import graphc
from graphc.errors import ExecutionError
from graphc.frontend.exporter import export_model
from tests.compiler.compiled import check_compiled
from tests.ops.differential import case
from tests.ops.oracles import numbers, seeds


@pytest.mark.parametrize("mode", ["linear", "nearest", "cubic"])
@pytest.mark.parametrize("padding", ["zeros", "border", "reflection"])
def test_grids_sampled(mode: str, padding: str) -> None:
    grid = np.random.default_rng(1).uniform(-1.6, 1.6, (2, 4, 9, 2)).astype(np.float32)
    for corners in (0, 1):
        subject = case(
            "GridSample",
            [numbers(0, (2, 3, 5, 6), "float32"), grid],
            mode=mode,
            padding_mode=padding,
            align_corners=corners,
        )
        check_compiled(subject, tolerance=1e-4)


@pytest.mark.parametrize("padding", ["zeros", "border", "reflection"])
def test_grids_in_volumes(padding: str) -> None:
    grid = np.random.default_rng(1).uniform(-1.6, 1.6, (2, 2, 4, 3, 3)).astype(np.float32)
    subject = case("GridSample", [numbers(0, (2, 2, 3, 4, 5), "float32"), grid], padding_mode=padding)
    check_compiled(subject, tolerance=1e-4)


@pytest.mark.parametrize("size", [[2, 3, 4, 5], [1, 3, 2, 1, 5]])
def test_affine_grids(size: list[int]) -> None:
    rank = len(size) - 2
    for corners in (0, 1):
        arrays = [numbers(0, (size[0], rank, rank + 1), "float32"), np.array(size)]
        check_compiled(case("AffineGrid", arrays, align_corners=corners, constants=[1]))


@given(
    st.sampled_from(["avg", "max"]),
    st.sampled_from(["half_pixel", "output_half_pixel"]),
    st.integers(0, 3),
    st.integers(1, 5),
    seeds,
)
@settings(max_examples=5, deadline=None)
def test_regions_aligned(mode: str, pixels: str, ratio: int, width: int, seed: int) -> None:
    random = np.random.default_rng(seed)
    # Some regions lie outside, some have nothing in them.
    rois = random.uniform(-3, 30, (5, 4)).astype(np.float32)
    arrays = [numbers(seed, (2, 3, 8, 9), "float32"), rois, random.integers(0, 2, 5)]
    subject = case(
        "RoiAlign",
        arrays,
        output_height=3,
        output_width=width,
        sampling_ratio=ratio,
        spatial_scale=0.5,
        mode=mode,
        coordinate_transformation_mode=pixels,
    )
    check_compiled(subject, tolerance=1e-4)


@given(st.integers(1, 4), st.integers(1, 9), st.sampled_from((1.0, 0.5, 0.0625)), seeds)
@settings(max_examples=5, deadline=None)
def test_regions_pooled(height: int, width: int, scale: float, seed: int) -> None:
    random = np.random.default_rng(seed)
    rois = np.concatenate([random.integers(0, 2, (4, 1)), random.integers(-4, 40, (4, 4))], axis=1)
    inputs = [numbers(seed, (2, 3, 8, 9), "float32"), rois.astype(np.float32)]
    check_compiled(case("MaxRoiPool", inputs, pooled_shape=[height, width], spatial_scale=scale))


@given(
    st.sampled_from([(1, 1), (2, 1), (2, 2), (1, 2)]),
    st.integers(1, 2),
    st.integers(1, 2),
    st.booleans(),
    st.booleans(),
    seeds,
)
@settings(max_examples=5, deadline=None)
def test_deformed_convolutions(
    groups: tuple[int, int], stride: int, dilation: int, biased: bool, masked: bool, seed: int
) -> None:
    group, parts = groups
    height, width = ((n + 2 - dilation * 2 - 1) // stride + 1 for n in (7, 9))
    arrays: list[Any] = [
        numbers(seed, (2, 4, 7, 9), "float32"),
        numbers(seed + 1, (6, 4 // group, 3, 3), "float32"),
        numbers(seed + 2, (2, parts * 18, height, width), "float32"),
        numbers(seed + 3, (6,), "float32") if biased else None,
        numbers(seed + 4, (2, parts * 9, height, width), "float32") if masked else None,
    ]
    subject = case(
        "DeformConv",
        arrays if masked else arrays[:4],
        constants=[1, 3],
        group=group,
        offset_group=parts,
        pads=[1, 1, 1, 1],
        strides=[stride, stride],
        dilations=[dilation, dilation],
    )
    check_compiled(subject, tolerance=1e-4)


@pytest.mark.parametrize(
    ("image", "block", "counts", "attributes"),
    [
        ([5, 6], [2, 3], 16, {}),
        ([5, 6], [1, 5], 12, {"strides": [2, 1], "pads": [0, 1, 0, 1]}),
        ([6, 6], [2, 2], 20, {"dilations": [2, 1]}),
        ([7, 33], [3, 3], 64, {"strides": [2, 2], "pads": [1, 1, 1, 0]}),
        ([4, 5, 6], [2, 2, 2], 60, {}),
    ],
)
def test_columns_to_images(image: list[int], block: list[int], counts: int, attributes: dict[str, Any]) -> None:
    x = numbers(0, (2, 3 * int(np.prod(block)), counts), "float32")
    check_compiled(case("Col2Im", [x, np.array(image), np.array(block)], constants=[1, 2], **attributes))


def test_a_region_of_a_picture_that_is_not_there_is_an_error() -> None:
    arrays = [numbers(0, (2, 3, 8, 9), "float32"), np.array([[0, 0, 4, 4]], np.float32), np.array([2])]
    subject = case("RoiAlign", arrays, output_height=3, output_width=3)
    subject.infer()
    graph = subject.node.graph
    assert graph is not None
    graph.outputs = subject.node.outputs
    with (
        graphc.compile(export_model(graph), target="cpu", require_compiled=True) as module,
        pytest.raises(ExecutionError),
    ):
        module(subject.feeds())
