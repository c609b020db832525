"""Running sums and products: against NumPy, in every direction, where lines are many and where they are long."""

from __future__ import annotations

from typing import Any

import ml_dtypes
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from graphc.backends.base import Kernel
from graphc.backends.triton import scan
from graphc.errors import BackendError
from graphc.ir import Builder, Graph, Value
from graphc.target.cuda import GPUS, CudaTarget
from graphc.testing.triton.kernels import check_kernel
from tests.backends.bodies import Array, body
from tests.backends.triton.harness import machine_code

DTYPES = [np.float32, np.float16, ml_dtypes.bfloat16, np.float64, np.int8, np.int32, np.int64, np.uint8, np.uint32]


def lower(graph: Graph, target: CudaTarget) -> Kernel:
    return scan.lower(graph, target, frozenset(), {})


def region(x: Array, op: str, axis: int, **attributes: Any) -> Graph:
    def make(b: Builder, value: Value) -> Value:
        return b.op(op, value, b.constant(np.array(axis)), **attributes)

    return body([x], make, opset=26 if op == "CumProd" else 14)


def elements(shape: tuple[int, ...], dtype: Any, seed: int = 0) -> Array:
    generator = np.random.default_rng([seed, *shape])
    if np.dtype(dtype).kind in "iu":
        return generator.integers(0, 100, shape).astype(dtype)
    return (1 + generator.standard_normal(shape) / 8).astype(dtype)


@settings(max_examples=25)
@given(st.data())
def test_any_shape_in_any_direction(data: st.DataObject) -> None:
    shape = tuple(data.draw(st.lists(st.integers(1, 9), min_size=1, max_size=3), "shape"))
    axis = data.draw(st.integers(0, len(shape) - 1), "axis")
    dtype = data.draw(st.sampled_from(DTYPES), "dtype")
    flags = {name: data.draw(st.integers(0, 1), name) for name in ("reverse", "exclusive")}
    op = data.draw(st.sampled_from(["CumSum", "CumProd"]), "op")
    x = elements(shape, dtype)
    rtol = {2: 1e-2, 4: 1e-5, 8: 1e-12}.get(x.dtype.itemsize)
    check_kernel(region(x, op, axis, **flags), [x], lower, tolerance=rtol)


@pytest.mark.parametrize(("reverse", "exclusive"), [(0, 0), (1, 1)])
def test_a_long_line_is_cut_into_blocks(reverse: int, exclusive: int) -> None:
    x = elements((2, 20_000), np.int32)
    kernel = check_kernel(region(x, "CumSum", 1, reverse=reverse, exclusive=exclusive), [x], lower)
    assert kernel.schedule["blocks"] > 1


def test_blocks_of_products() -> None:
    x = elements((9_000,), np.int64) | 1
    assert check_kernel(region(x, "CumProd", 0), [x], lower).schedule["blocks"] == 2


@pytest.mark.parametrize("shape", [(3, 5000, 2), (1, 3000, 100)])
def test_lines_of_several_steps(shape: tuple[int, ...]) -> None:
    x = elements(shape, np.float32)
    check_kernel(region(x, "CumSum", 1), [x], lower)


def test_nothing_is_launched_for_nothing() -> None:
    x = elements((3, 0), np.float32)
    check_kernel(region(x, "CumSum", 1), [x], lower)


def test_an_axis_that_comes_when_it_runs_is_refused() -> None:
    x, axis = elements((3, 4), np.float32), np.array(1)
    with pytest.raises(BackendError, match="axis of CumSum"):
        lower(body([x, axis], lambda b, *values: b.op("CumSum", *values)), GPUS["sm_90"])


@pytest.mark.slow
@pytest.mark.parametrize("target", ["sm_80", "sm_90"])
@pytest.mark.parametrize("dtype", [np.float32, np.float16, np.float64, np.int64])
def test_machine_code(dtype: Any, target: str) -> None:
    for shape in ((64, 4096), (1, 100_000), (8, 512, 64)):
        x = elements(shape, dtype)
        machine_code(lower(region(x, "CumSum", 1), GPUS[target]), GPUS[target])
