"""Pools of row-major signals, images and volumes against NumPy, at every vector width, borders and NaN included."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from graphc.backends.base import Kernel
from graphc.backends.tvm import plane_pooling
from graphc.errors import BackendError
from graphc.ir import Graph, TensorType, dtypes, symbol
from graphc.target import Target
from tests.backends.bodies import body
from tests.backends.tvm import harness

Array = np.ndarray[Any, Any]
SAME = {"kernel_shape": [3, 3], "pads": [1, 1, 1, 1]}
CASES: dict[str, tuple[tuple[int, ...], Mapping[str, Any]]] = {
    "3x3 of stride 1": ((1, 3, 13, 35), SAME),
    "3x3 of stride 2": ((2, 2, 14, 37), {**SAME, "strides": [2, 2]}),
    "2x2": ((1, 5, 9, 8), {"kernel_shape": [2, 2], "strides": [2, 2]}),
    "13x13": ((1, 4, 20, 20), {"kernel_shape": [13, 13], "pads": [6, 6, 6, 6]}),
    "wider than the image": ((1, 2, 3, 5), {"kernel_shape": [5, 9], "pads": [2, 4, 2, 4]}),
    "last window cut": ((1, 2, 10, 12), {"kernel_shape": [3, 3], "strides": [2, 2], "ceil_mode": 1}),
    "dilated": ((1, 3, 9, 40), {"kernel_shape": [2, 3], "dilations": [2, 3], "pads": [1, 3, 0, 2]}),
    "stride 3 along rows": ((1, 2, 7, 64), {"kernel_shape": [1, 3], "strides": [1, 3], "pads": [0, 1, 0, 1]}),
    "a signal": ((3, 2, 100), {"kernel_shape": [3], "strides": [2], "pads": [1, 1]}),
    "a volume": ((1, 2, 5, 6, 18), {"kernel_shape": [3, 2, 3], "strides": [2, 1, 2], "pads": [1, 1, 1, 1, 0, 1]}),
    "windows in the padding": ((1, 2, 4, 5), {"kernel_shape": [1, 2], "pads": [2, 3, 1, 3]}),
    "planes shared among threads": ((2, 17, 24, 40), SAME),
}


def region(op: str, shape: tuple[Any, ...], attributes: Mapping[str, Any]) -> Graph:
    kind = TensorType(dtypes.FLOAT32, shape)
    return body([kind], lambda b, x: b.op("Mul", b.op(op, x, **attributes), b.constant(np.float32(2))))


def lower(graph: Graph, target: Target) -> Kernel:
    return plane_pooling.lower(graph, target, frozenset(), {})


def normal(*shape: int) -> Array:
    return np.random.default_rng(list(shape)).standard_normal(shape).astype(np.float32)


@pytest.mark.parametrize("target", harness.TARGETS, ids=str)
@pytest.mark.parametrize("op", ["MaxPool", "AveragePool"])
@pytest.mark.parametrize(("shape", "attributes"), CASES.values(), ids=CASES.keys())
def test_equals_numpy(op: str, shape: tuple[int, ...], attributes: Mapping[str, Any], target: Target) -> None:
    if op == "AveragePool" and shape == (1, 2, 4, 5):
        attributes = {**attributes, "count_include_pad": 1}  # an average of nothing is none
    harness.check(region(op, shape, attributes), [normal(*shape)], lower, target)


@pytest.mark.parametrize("include", [0, 1])
def test_averages_count_the_padding_only_where_asked(include: int) -> None:
    attributes = {**SAME, "strides": [2, 2], "ceil_mode": 1, "count_include_pad": include}
    harness.check(region("AveragePool", (1, 3, 8, 7), attributes), [normal(1, 3, 8, 7)], lower)


@pytest.mark.parametrize("target", harness.TARGETS, ids=str)
def test_a_nan_wins_and_infinities_stay_where_they_are(target: Target) -> None:
    x = normal(1, 4, 9, 21)
    x[0, 0, 4, 4], x[0, 1, 0, 20], x[0, 2, 8], x[0, 3, :, 0] = np.nan, np.nan, -np.inf, np.inf
    for op in ("MaxPool", "AveragePool"):
        harness.check(region(op, x.shape, SAME), [x], lower, target)


@pytest.mark.parametrize("op", ["MaxPool", "AveragePool"])
@pytest.mark.parametrize("target", harness.TARGETS, ids=str)
def test_extents_may_be_open(op: str, target: Target) -> None:
    shape = (symbol("n"), 3, symbol("h"), symbol("w"))
    graph = region(op, shape, {**SAME, "strides": [2, 1]})
    feeds = [
        ({"n": n, "h": h, "w": w}, [normal(n, 3, h, w)])
        for n, h, w in ((1, 3, 3), (2, 8, 16), (1, 7, 33), (3, 12, 50), (1, 1, 1))
    ]
    graph.bounds = {"n": (1, None), "h": (1, None), "w": (1, None)}
    harness.check_open(graph, feeds, lower, target)


@settings(max_examples=10, deadline=None)
@given(st.data(), st.sampled_from(harness.TARGETS))
def test_any_geometry(data: st.DataObject, target: Target) -> None:
    rank = data.draw(st.integers(1, 3), "rank")
    kernel = [data.draw(st.integers(1, 4), "taps") for _ in range(rank)]
    pads = [data.draw(st.integers(0, k - 1), "pad") for k in (*kernel, *kernel)]
    extents = [
        max(data.draw(st.integers(2, 9 if axis < rank - 1 else 40), "extent"), kernel[axis]) for axis in range(rank)
    ]
    attributes = {
        "kernel_shape": kernel,
        "pads": pads,
        "strides": [data.draw(st.integers(1, 3), "stride") for _ in range(rank)],
        "ceil_mode": data.draw(st.integers(0, 1), "ceil"),
    }
    shape = (data.draw(st.integers(1, 2), "batch"), data.draw(st.integers(1, 5), "channels"), *extents)
    op = data.draw(st.sampled_from(["MaxPool", "AveragePool"]), "op")
    harness.check(region(op, shape, attributes), [normal(*shape)], lower, target)


def test_aarch64_compiles() -> None:
    assert isinstance(harness.ARM, Target)
    assert lower(region("AveragePool", (1, 2, 7, 7), SAME), harness.ARM).compile()[:4] == b"\x7fELF"


def test_refusals_say_why() -> None:
    for shape, attributes, reason in (
        ((1, 2, 60, 60), {"kernel_shape": [50, 2]}, "too large"),
        ((symbol("n"), 2, 6, 6), {"kernel_shape": [2, 2]}, "may be zero"),
    ):
        with pytest.raises(BackendError, match=reason):
            lower(region("MaxPool", shape, attributes), harness.HOST)
    halves = body([TensorType(dtypes.FLOAT16, (1, 2, 6, 6))], lambda b, x: b.op("MaxPool", x, kernel_shape=[2, 2]))
    with pytest.raises(BackendError, match="row-major float32"):
        lower(halves, harness.HOST)
