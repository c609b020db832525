"""Scatters: every reduction, duplicates in their order, indices that are none, by both ways."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from graphc.backends.base import Kernel
from graphc.backends.triton import scatter
from graphc.errors import BackendError, ExecutionError
from graphc.ir import Builder, Graph, TensorType, Value, dtypes
from graphc.target.cuda import GPUS, CudaTarget
from graphc.testing.triton.kernels import check_kernel, run_kernel
from tests.backends.bodies import Array, body
from tests.backends.triton.harness import machine_code

WAYS = pytest.mark.parametrize("way", ["fold", "mark"])
REDUCTIONS = ["none", "add", "mul", "max", "min"]


def lower(graph: Graph, target: CudaTarget) -> Kernel:
    return scatter.lower(graph, target, frozenset(), {})


@pytest.fixture
def by(monkeypatch: pytest.MonkeyPatch, way: str) -> str:
    if way == "mark":
        monkeypatch.setattr(scatter, "FOLDED_UPDATES", -1)
        monkeypatch.setattr(scatter, "FOLDED_LOOKS", -1)
    return way


def numbers(shape: tuple[int, ...], dtype: Any, seed: int) -> Array:
    generator = np.random.default_rng([seed, *shape])
    return generator.integers(-9, 9, shape).astype(dtype)


def indices(shape: tuple[int, ...], extent: int, seed: int) -> Array:
    return np.random.default_rng([seed, *shape]).integers(-extent, extent, shape)


def region(op: str, arrays: list[Array], **attributes: Any) -> Graph:
    return body(arrays, lambda b, *values: b.op(op, *values, **attributes), opset=18)


def elements(shape: tuple[int, ...], axis: int, count: int, dtype: Any, seed: int) -> list[Array]:
    inside = tuple(count if i == axis else max(1, extent - seed % 2) for i, extent in enumerate(shape))
    return [numbers(shape, dtype, seed), indices(inside, shape[axis], seed), numbers(inside, dtype, seed + 1)]


@settings(max_examples=20)
@given(
    st.lists(st.integers(1, 7), min_size=1, max_size=3).map(tuple),
    st.integers(0, 2),
    st.integers(1, 9),
    st.sampled_from(REDUCTIONS),
    st.sampled_from([np.float32, np.float16, np.int64, np.int8, np.uint32, np.float64]),
    st.integers(0, 9),
)
def test_elements_along_any_axis(
    shape: tuple[int, ...], axis: int, count: int, reduction: str, dtype: Any, seed: int
) -> None:
    axis %= len(shape)
    arrays = elements(shape, axis, count, dtype, seed)
    if np.dtype(dtype).kind == "i":
        arrays[1] = arrays[1].astype(np.int32)
    signed = axis - (len(shape) if seed % 3 == 0 else 0)
    graph = region("ScatterElements", arrays, axis=signed, reduction=reduction)
    check_kernel(graph, arrays, lower, tolerance=5e-3 if dtype == np.float16 else 1e-6)


@settings(max_examples=20)
@given(
    st.lists(st.integers(1, 6), min_size=1, max_size=3).map(tuple),
    st.integers(1, 3),
    st.lists(st.integers(1, 4), max_size=2).map(tuple),
    st.sampled_from(REDUCTIONS),
    st.integers(0, 9),
)
def test_slices(shape: tuple[int, ...], length: int, outer: tuple[int, ...], reduction: str, seed: int) -> None:
    length = min(length, len(shape))
    places = np.stack([indices(outer, extent, seed + i) for i, extent in enumerate(shape[:length])], axis=-1)
    arrays = [numbers(shape, np.float32, seed), places, numbers((*outer, *shape[length:]), np.float32, seed + 1)]
    check_kernel(region("ScatterND", arrays, reduction=reduction), arrays, lower)


@WAYS
def test_the_last_update_of_a_place_stays(by: str) -> None:
    arrays = elements((20, 15), 0, 45, np.float32, 1)
    kernel = check_kernel(region("ScatterElements", arrays, axis=0), arrays, lower)
    assert kernel.schedule["way"] == by
    wide = [numbers((7, 40), np.float16, 0), indices((20, 1), 7, 0), numbers((20, 40), np.float16, 1)]
    kernel = check_kernel(region("ScatterND", wide), wide, lower)
    assert kernel.schedule["way"] == by


@WAYS
@pytest.mark.parametrize("wrong", [7, -8, 1 << 40])
def test_an_index_that_is_none_is_reported(by: str, wrong: int) -> None:
    arrays = [numbers((7, 3), np.float32, 0), np.full((2, 3), wrong), numbers((2, 3), np.float32, 1)]
    arrays[1][0] = 2
    graph = region("ScatterElements", arrays, axis=0)
    with pytest.raises(ExecutionError, match="status 1"):
        run_kernel(lower(graph, GPUS["sm_90"]), graph, arrays)
    arrays[1][1] = -7
    check_kernel(graph, arrays, lower)


@WAYS
def test_constants_of_one_element_are_part_of_the_code(by: str) -> None:
    x = numbers((5, 3), np.float32, 0)

    def make(b: Builder, value: Value) -> Value:
        return b.op("ScatterElements", value, b.constant(np.array([[-2]])), b.constant(np.array([[9]], np.float32)))

    check_kernel(body([x], make, opset=18), [x], lower)


def test_shapes_that_do_not_fit_are_refused() -> None:
    types = [TensorType(dtypes.FLOAT32, (4, 4)), TensorType(dtypes.INT64, (5, 5)), TensorType(dtypes.FLOAT32, (5, 5))]
    graph = Graph("body", opset=18)
    values = [graph.add_input(f"x{i}", kind) for i, kind in enumerate(types)]
    graph.outputs = [Builder(graph).op("ScatterElements", *values)]
    with pytest.raises(BackendError, match="updates of shape"):
        lower(graph, GPUS["sm_90"])


@pytest.mark.slow
@pytest.mark.parametrize("target", ["sm_80", "sm_90"])
@pytest.mark.parametrize("reduction", ["none", "add"])
def test_machine_code(reduction: str, target: str) -> None:
    arrays = [numbers((1000, 768), np.float16, 0), indices((500, 1), 1000, 0), numbers((500, 768), np.float16, 1)]
    machine_code(lower(region("ScatterND", arrays, reduction=reduction), GPUS[target]), GPUS[target])
