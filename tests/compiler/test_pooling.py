"""Pools of every kind compile without a host step."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from onnx import helper, numpy_helper

from tests.compiler.agreement import assert_agrees
from tests.compiler.compiled import check_compiled
from tests.ops.differential import case
from tests.ops.oracles import numbers, seeds


@st.composite
def windows(draw: st.DrawFn) -> tuple[tuple[int, ...], dict[str, Any]]:
    """Spatial extents, and a pool's attributes that fit them."""
    rank = draw(st.integers(1, 3))
    each = st.lists(st.integers(1, 3), min_size=rank, max_size=rank)
    kernel = draw(each)
    pads = [draw(st.integers(0, k - 1)) for k in (*kernel, *kernel)]
    extents = tuple(draw(st.integers(2 * k + 2, 2 * k + 9)) for k in kernel)
    attributes: dict[str, Any] = {"kernel_shape": kernel, "strides": draw(each), "pads": pads}
    attributes["ceil_mode"] = draw(st.integers(0, 1))
    attributes["dilations"] = [draw(st.integers(1, 2)) for _ in kernel]
    return extents, attributes


@given(windows(), st.sampled_from(["MaxPool", "AveragePool", "LpPool"]), st.integers(0, 1), seeds)
@settings(max_examples=12, deadline=None)
def test_windows_in_one_to_three_axes(
    pool: tuple[tuple[int, ...], dict[str, Any]], kind: str, count: int, seed: int
) -> None:
    extents, attributes = pool
    if kind == "AveragePool":
        attributes["count_include_pad"] = count
    if kind == "LpPool":
        attributes["p"] = 1 + count
    subject = case(kind, [numbers(seed, (2, 3, *extents), "float32")], **attributes)
    check_compiled(subject)


@given(windows(), st.integers(0, 1), st.sampled_from(["float32", "float64", "uint8", "int8", "float16"]), seeds)
@settings(max_examples=12, deadline=None)
def test_where_the_maxima_lie(pool: tuple[tuple[int, ...], dict[str, Any]], order: int, dtype: str, seed: int) -> None:
    extents, attributes = pool
    # Few different numbers, so that windows have several maxima.
    x = np.random.default_rng(seed).integers(0, 4, (2, 3, *extents)).astype(dtype)
    check_compiled(case("MaxPool", [x], 2, storage_order=order, **attributes))


def test_the_place_of_a_maximum_is_never_in_the_padding() -> None:
    x = np.full((1, 1, 3, 4), -np.inf, np.float32)
    check_compiled(case("MaxPool", [x], 2, kernel_shape=[2, 2], pads=[1, 1, 1, 1]))


@pytest.mark.parametrize("grown", [False, True])
def test_unpooling(grown: bool) -> None:
    x = numbers(0, (2, 3, 8, 6), "float32")
    attributes = {"kernel_shape": [2, 2], "strides": [2, 2]}
    values, indices = case("MaxPool", [x], 2, **attributes).evaluate()
    wanted = [np.array([2, 3, 9, 8])] if grown else []
    check_compiled(case("MaxUnpool", [values, indices, *wanted], constants=[2], **attributes))


@pytest.mark.parametrize("channels", [16, 24, 19])
def test_maxima_and_their_places_between_convolutions(channels: int) -> None:
    weights = [
        numpy_helper.from_array(numbers(i, shape, "float32"), f"w{i}")
        for i, shape in enumerate([(channels, 3, 3, 3), (4, channels, 1, 1)])
    ]
    nodes = [
        helper.make_node("Conv", ["x", "w0"], ["c"], pads=[1, 1, 1, 1]),
        helper.make_node("MaxPool", ["c"], ["m", "i"], kernel_shape=[2, 2], strides=[2, 2]),
        helper.make_node("Relu", ["m"], ["r"]),
        helper.make_node("MaxUnpool", ["r", "i"], ["u"], kernel_shape=[2, 2], strides=[2, 2]),
        helper.make_node("Conv", ["u", "w1"], ["y"]),
    ]
    shape = (1, 3, 8, 10)
    graph = helper.make_graph(
        nodes,
        "segnet",
        [helper.make_tensor_value_info("x", onnx.TensorProto.FLOAT, shape)],
        [
            helper.make_tensor_value_info("y", onnx.TensorProto.FLOAT, None),
            helper.make_tensor_value_info("i", onnx.TensorProto.INT64, None),
        ],
        weights,
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 22)], ir_version=10)
    assert_agrees(model, {"x": numbers(2, shape, "float32")}, require_compiled=True).close()
