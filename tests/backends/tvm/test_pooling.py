"""Pools over blocks of channels against NumPy, at every vector width, borders and NaN included."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from graphc.backends.base import Kernel
from graphc.backends.tvm import pooling
from graphc.backends.tvm.pooling import Segment, segments
from graphc.errors import BackendError
from graphc.ir import ROW_MAJOR, Graph, Layout, TensorType, blocked, dtypes
from graphc.ops.window import Window
from graphc.target import Target
from tests.backends.bodies import body
from tests.backends.tvm import harness

Array = np.ndarray[Any, Any]
SAME = {"kernel_shape": [3, 3], "strides": [1, 1], "pads": [1, 1, 1, 1]}
CASES: dict[str, tuple[tuple[int, int, int, int], Mapping[str, Any]]] = {
    "3x3 of stride 1": ((1, 32, 13, 11), SAME),
    "3x3 of stride 2": ((2, 24, 14, 15), {**SAME, "strides": [2, 2]}),
    "2x2": ((1, 40, 9, 8), {"kernel_shape": [2, 2], "strides": [2, 2]}),
    "5x5 around one row": ((1, 16, 1, 9), {"kernel_shape": [5, 5], "pads": [2, 2, 2, 2]}),
    "last window cut": ((1, 20, 10, 12), {"kernel_shape": [3, 3], "strides": [2, 2], "ceil_mode": 1}),
    "dilated": ((1, 8, 9, 10), {"kernel_shape": [2, 3], "dilations": [2, 1], "pads": [1, 0, 0, 1]}),
    "rows shared among threads": ((1, 16, 96, 64), SAME),
}


def image(lanes: int, border: int = 0) -> Layout:
    return blocked(1, lanes, halo=((0, 0), (0, 0), (border, border), (border, border)), fill=0.0)


def region(
    op: str, shape: tuple[int, ...], attributes: Mapping[str, Any], target: Target, out: Layout | None = None
) -> Graph:
    lanes = target.lanes(dtypes.FLOAT32)
    kind = TensorType(dtypes.FLOAT32, shape).with_layout(image(lanes, 2))
    graph = body([kind], lambda b, x: b.op("Mul", b.op(op, x, **attributes), b.constant(np.float32(2))))
    for node in graph.nodes:
        if not node.is_op("Constant"):
            node.output.type = node.output.tensor_type.with_layout(image(lanes, 1) if out is None else out)
    return graph


def lower(graph: Graph, target: Target) -> Kernel:
    return pooling.lower(graph, target, frozenset(), {})


def normal(*shape: int) -> Array:
    return np.random.default_rng(list(shape)).standard_normal(shape).astype(np.float32)


@pytest.mark.parametrize("target", harness.TARGETS, ids=str)
@pytest.mark.parametrize("op", ["MaxPool", "AveragePool"])
@pytest.mark.parametrize(("shape", "attributes"), CASES.values(), ids=CASES.keys())
def test_equals_numpy(op: str, shape: tuple[int, ...], attributes: Mapping[str, Any], target: Target) -> None:
    harness.check(region(op, shape, attributes, target), [normal(*shape)], lower, target)


@pytest.mark.parametrize("include", [0, 1])
def test_averages_count_the_padding_only_where_asked(include: int) -> None:
    attributes = {**SAME, "strides": [2, 2], "ceil_mode": 1, "count_include_pad": include}
    harness.check(
        region("AveragePool", (1, 16, 8, 7), attributes, harness.HOST), [normal(1, 16, 8, 7)], lower, harness.HOST
    )


def test_rows_out() -> None:
    graph = region("MaxPool", (1, 21, 6, 7), SAME, harness.HOST, ROW_MAJOR)
    harness.check(graph, [normal(1, 21, 6, 7)], lower, harness.HOST)


@pytest.mark.parametrize("target", harness.TARGETS, ids=str)
def test_a_nan_wins_wherever_it_lies_in_the_window(target: Target) -> None:
    lanes = target.lanes(dtypes.FLOAT32)
    x = normal(1, lanes, 9, 9)
    x[0, np.arange(lanes), np.arange(lanes) % 9, (np.arange(lanes) * 5) % 9] = np.nan
    x[0, 0, 4, 4] = -np.inf
    graph = region("MaxPool", x.shape, SAME, target)
    (storage,) = harness.run(lower(graph, target), graph, [x])
    (found,) = [graph.outputs[0].tensor_type.layout.unpack(storage, x.shape)]
    padded = np.pad(x, ((0, 0), (0, 0), (1, 1), (1, 1)), constant_values=-np.inf)
    windows = np.lib.stride_tricks.sliding_window_view(padded, (3, 3), axis=(2, 3))
    np.testing.assert_array_equal(found, 2 * windows.max(axis=(4, 5)))


@settings(max_examples=8, deadline=None)
@given(st.data(), st.sampled_from(harness.TARGETS))
def test_any_geometry(data: st.DataObject, target: Target) -> None:
    kernel = [data.draw(st.integers(1, 4), "taps") for _ in range(2)]
    pads = [data.draw(st.integers(0, k - 1), "pad") for k in (*kernel, *kernel)]
    extents = [max(data.draw(st.integers(2, 12), "extent"), k) for k in kernel]
    attributes = {
        "kernel_shape": kernel,
        "pads": pads,
        "strides": [data.draw(st.integers(1, 3), "stride") for _ in range(2)],
        "ceil_mode": data.draw(st.integers(0, 1), "ceil"),
    }
    shape = (data.draw(st.integers(1, 2), "batch"), data.draw(st.integers(1, 36), "channels"), *extents)
    op = data.draw(st.sampled_from(["MaxPool", "AveragePool"]), "op")
    harness.check(region(op, shape, attributes, target), [normal(*shape)], lower, target)


def test_windows_are_grouped_by_the_taps_that_lie_inside() -> None:
    window = Window((7, 7), (3, 3), (2, 2), (1, 1), (1, 1), (1, 1), (4, 4))
    assert segments(window, 0, include=False) == [
        Segment(0, 1, 1, 3, 2),
        Segment(1, 2, 0, 3, 3),
        Segment(3, 1, 0, 2, 2),
    ]
    assert {s.counted for s in segments(window, 0, include=True)} == {3}


def test_aarch64_compiles() -> None:
    graph = region("MaxPool", (1, 18, 7, 7), SAME, harness.ARM)
    assert lower(graph, harness.ARM).compile()[:4] == b"\x7fELF"


def test_refusals_say_why() -> None:
    graph = body([normal(1, 16, 8, 8)], lambda b, x: b.op("MaxPool", x, **SAME))
    with pytest.raises(BackendError, match="blocks of one vector"):
        lower(graph, harness.HOST)
    wide = {"kernel_shape": [8, 8]}
    with pytest.raises(BackendError, match="taps"):
        lower(region("MaxPool", (1, 16, 9, 9), wide, harness.HOST), harness.HOST)
