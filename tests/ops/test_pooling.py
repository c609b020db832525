"""Pools and LRN against ONNX Runtime on random geometry."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from graphc.errors import TypeInferenceError
from tests.ops.differential import Case, case, check
from tests.ops.test_contraction import floats, integers, seeds


@st.composite
def pools(draw: st.DrawFn, *, dilate: bool = True) -> tuple[list[int], dict[str, Any]]:
    """Input shape and attributes of a pool whose windows each hold an element."""
    rank = draw(st.integers(1, 3))
    kernel = [draw(st.integers(1, 4)) for _ in range(rank)]
    attributes: dict[str, Any] = {
        "kernel_shape": kernel,
        "strides": [draw(st.integers(1, 3)) for _ in range(rank)],
        "ceil_mode": draw(st.integers(0, 1)),
    }
    auto = draw(st.sampled_from(("NOTSET", "NOTSET", "NOTSET", "VALID", "SAME_UPPER", "SAME_LOWER")))
    dilations = [draw(st.integers(1, 2)) if dilate and auto == "NOTSET" else 1 for _ in range(rank)]
    if max(dilations) > 1:
        attributes["dilations"] = dilations
    pads = [0] * (2 * rank)
    if auto == "NOTSET":
        pads = [draw(st.integers(0, kernel[i % rank] - 1)) for i in range(2 * rank)]
        attributes["pads"] = pads
    else:
        attributes["auto_pad"] = auto
        attributes["ceil_mode"] = 0
        # ONNX Runtime computes negative padding where a stride is longer than its window.
        attributes["strides"] = [min(s, k) for s, k in zip(attributes["strides"], kernel, strict=True)]
    spatial = [draw(st.integers(1, 8)) for _ in range(rank)]
    for i in range(rank):
        reach = dilations[i] * (kernel[i] - 1) + 1
        assume(spatial[i] + pads[i] + pads[rank + i] >= reach)
        # A window that lies in the padding alone has no meaning that implementations share.
        assume(
            all(_touches(o * attributes["strides"][i] - pads[i], kernel[i], dilations[i], spatial[i]) for o in range(9))
        )
    return [draw(st.integers(1, 2)), draw(st.integers(1, 3)), *spatial], attributes


def _touches(start: int, taps: int, dilation: int, extent: int) -> bool:
    return start >= extent or any(0 <= start + k * dilation < extent for k in range(taps))


@given(pools(), seeds)
@settings(max_examples=60)
def test_max_pool(pool: tuple[list[int], dict[str, Any]], seed: int) -> None:
    shape, attributes = pool
    check(case("MaxPool", [floats(seed, *shape)], **attributes))


@given(pools(), seeds, st.integers(0, 1))
@settings(max_examples=40)
def test_max_pool_with_indices(pool: tuple[list[int], dict[str, Any]], seed: int, order: int) -> None:
    shape, attributes = pool
    attributes["storage_order"] = order
    check(case("MaxPool", [floats(seed, *shape)], 2, **attributes))


@pytest.mark.parametrize("dtype", [np.int8, np.uint8])
def test_max_pool_of_integers_pads_with_the_least(dtype: Any) -> None:
    x = integers(0, 1, 2, 5, 5, dtype=dtype)
    check(case("MaxPool", [x], kernel_shape=[3, 3], pads=[1, 1, 1, 1]))


@given(pools(), seeds, st.integers(0, 1))
@settings(max_examples=60)
def test_average_pool(pool: tuple[list[int], dict[str, Any]], seed: int, include: int) -> None:
    shape, attributes = pool
    check(case("AveragePool", [floats(seed, *shape)], count_include_pad=include, **attributes))


@given(pools(dilate=False), seeds, st.integers(1, 3))
@settings(max_examples=30)
def test_lp_pool(pool: tuple[list[int], dict[str, Any]], seed: int, order: int) -> None:
    shape, attributes = pool
    del attributes["ceil_mode"]
    check(case("LpPool", [floats(seed, *shape)], p=order, **attributes), rtol=1e-4)


@pytest.mark.parametrize("order", [1, 2, 3])
def test_global_lp_pool(order: int) -> None:
    x = floats(0, 2, 3, 4, 5)
    norm = np.power(np.sum(np.abs(x.astype(np.float64)) ** order, axis=(2, 3), keepdims=True), 1 / order)
    check(case("GlobalLpPool", [x], p=order), [norm.astype(np.float32)])


@given(st.integers(1, 6), st.integers(1, 7), st.sampled_from([0.6, 0.5, 0.75, 1.0]), seeds)
@settings(max_examples=20)
def test_lrn(size: int, channels: int, beta: float, seed: int) -> None:
    x = floats(seed, 2, channels, 3, 2)
    subject = case("LRN", [x], size=size, alpha=0.2, beta=beta, bias=1.5)
    if size % 2:
        check(subject)
        return
    # ONNX Runtime knows odd sizes only, and onnx.reference fills as many channels as there are images.
    expected = np.empty_like(x)
    for c in range(channels):
        near = x[:, max(0, c - (size - 1) // 2) : c + size // 2 + 1]
        expected[:, c] = x[:, c] / (1.5 + 0.2 / size * (near**2).sum(axis=1)) ** beta
    check(subject, [expected])


def test_max_unpool_puts_back_what_max_pool_took() -> None:
    x = floats(0, 2, 2, 6, 4)
    attributes: dict[str, Any] = {"kernel_shape": [2, 2], "strides": [2, 2]}
    values, indices = case("MaxPool", [x], 2, **attributes).evaluate()
    unpool = case("MaxUnpool", [values, indices], **attributes)
    check(unpool, expression=False)
    assert (unpool.evaluate()[0].reshape(-1)[indices] == values).all()
    wanted = np.array([2, 2, 8, 5], np.int64)
    check(case("MaxUnpool", [values, indices, wanted], constants=[2], **attributes), Case.reference, expression=False)


def test_a_window_larger_than_its_input_is_refused() -> None:
    with pytest.raises(TypeInferenceError, match="does not fit"):
        case("MaxPool", [floats(0, 1, 1, 2, 2)], kernel_shape=[3, 3]).infer()
    with pytest.raises(TypeInferenceError, match="kernel of 1 axes"):
        case("MaxPool", [floats(0, 1, 1, 2, 2)], kernel_shape=[3]).infer()
