"""TopK: best first, the first of equal ones first, by counting and by selection."""

from __future__ import annotations

from typing import Any

import ml_dtypes
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from graphc.backends.base import Kernel
from graphc.backends.triton import top_k
from graphc.errors import BackendError
from graphc.ir import Builder, Graph, Value
from graphc.target.cuda import GPUS, CudaTarget
from graphc.testing.triton.kernels import check_kernel
from tests.backends.bodies import Array, body
from tests.backends.triton.harness import machine_code

NARROW = [np.float32, np.float16, ml_dtypes.bfloat16, np.int32, np.int8, np.uint8, np.uint32]
WIDE = [np.float64, np.int64, np.uint64]


def lower(graph: Graph, target: CudaTarget) -> Kernel:
    return top_k.lower(graph, target, frozenset(), {})


def region(x: Array, count: int, *, outputs: tuple[int, ...] = (0, 1), **attributes: Any) -> Graph:
    def make(b: Builder, value: Value) -> list[Value]:
        first = b.op("TopK", value, b.constant(np.array([count])), outputs=2, **attributes)
        assert first.producer is not None
        return [first.producer.outputs[i] for i in outputs]

    return body([x], make, opset=24)


def elements(shape: tuple[int, ...], dtype: Any, seed: int) -> Array:
    """Many are equal; floats have both zeros, NaN and infinities among them, unsigned ones use their upper half."""
    generator = np.random.default_rng([seed, *shape])
    x = generator.integers(-7, 7, shape)
    if np.dtype(dtype).kind == "u":
        return (x.astype(np.int64) << (8 * np.dtype(dtype).itemsize - 4)).astype(dtype)
    if np.dtype(dtype).kind == "i":
        return x.astype(dtype)
    special = np.array([np.nan, np.inf, -np.inf, 0.0, -0.0, 1.5])
    return np.where(generator.random(shape) < 0.3, generator.choice(special, shape), x).astype(dtype)


@settings(max_examples=20)
@given(
    st.lists(st.integers(1, 9), min_size=1, max_size=3).map(tuple),
    st.integers(0, 2),
    st.sampled_from(NARROW + WIDE),
    st.integers(0, 1),
    st.integers(0, 9),
)
def test_any_axis(shape: tuple[int, ...], axis: int, dtype: Any, largest: int, seed: int) -> None:
    axis %= len(shape)
    x = elements(shape, dtype, seed)
    count = min(seed, shape[axis])
    check_kernel(region(x, count, axis=axis, largest=largest), [x], lower)


@pytest.mark.parametrize("length", [65, 200])
def test_an_axis_of_several_blocks_is_sorted_whole(length: int) -> None:
    x = elements((2, length), np.float32, 0)
    assert check_kernel(region(x, length), [x], lower).schedule["way"] == "count"


@pytest.mark.parametrize("dtype", NARROW)
def test_selection(dtype: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(top_k, "FEW_COMPARISONS", 0)
    monkeypatch.setattr(top_k, "STRETCH", 16)
    x = elements((2, 14), dtype, 0)
    kernel = check_kernel(region(x, 3, largest=x.dtype.itemsize % 2), [x], lower)
    assert (kernel.schedule["way"], kernel.schedule["rounds"]) == ("select", 1)


@pytest.mark.parametrize("largest", [0, 1])
def test_selection_in_rounds(largest: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(top_k, "FEW_COMPARISONS", 0)
    monkeypatch.setattr(top_k, "STRETCH", 8)
    x = elements((1, 30, 2), np.float32, 0)
    assert check_kernel(region(x, 2, axis=1, largest=largest), [x], lower).schedule["rounds"] == 2


@pytest.mark.parametrize("output", [0, 1])
def test_one_result_alone(output: int, monkeypatch: pytest.MonkeyPatch) -> None:
    x = elements((2, 10), np.float32, 0)
    check_kernel(region(x, 3, outputs=(output,)), [x], lower)
    monkeypatch.setattr(top_k, "FEW_COMPARISONS", 0)
    check_kernel(region(x, 3, outputs=(output,)), [x], lower)


def test_what_takes_too_long_is_refused() -> None:
    x = np.broadcast_to(np.float32(0), (1, 1 << 21))
    with pytest.raises(BackendError, match="TopK of 2097152 of 2097152"):
        lower(region(x, 1 << 21), GPUS["sm_90"])


@pytest.mark.slow
@pytest.mark.parametrize("target", ["sm_80", "sm_90"])
@pytest.mark.parametrize("dtype", [np.float32, np.int64])
def test_machine_code(dtype: Any, target: str) -> None:
    for shape, count in (((64, 8), 2), ((1, 8400), 300), ((64, 50_257), 50)):
        x = np.broadcast_to(np.array(0, dtype), shape)
        if dtype == np.int64 and shape[0] * shape[1] ** 2 > top_k.FEW_COMPARISONS:
            continue
        machine_code(lower(region(x, count), GPUS[target]), GPUS[target])
