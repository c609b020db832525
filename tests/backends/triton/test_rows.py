"""Long reductions on GPUs: rows of every length, along every axis, whole and in steps and in parts."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from graphc.backends.base import Kernel
from graphc.backends.triton import row_blocks, rows, templates
from graphc.errors import BackendError
from graphc.ir import Builder, Graph, Value
from graphc.target.cuda import GPUS, CudaTarget
from graphc.testing.triton.kernels import check_kernel
from tests.backends.bodies import body
from tests.backends.expression_cases import Make, ints, normal

FEW = replace(GPUS["sm_90"], processors=4)
"""Parts of rows are as many as multiprocessors ask for: with few, grids stay small."""


def lower(graph: Graph, target: CudaTarget) -> Kernel:
    return rows.lower(graph, target, frozenset(), {})


def lower_any(graph: Graph, target: CudaTarget) -> Kernel:
    return templates.lower(graph, target, frozenset(), {})


def layer_norm(b: Builder, x: Value) -> Value:
    mean = b.op("ReduceMean", x, b.constant(ints(-1)), keepdims=1)
    centred = b.op("Sub", x, mean)
    variance = b.op("ReduceMean", b.op("Mul", centred, centred), b.constant(ints(-1)), keepdims=1)
    return b.op("Div", centred, b.op("Sqrt", b.op("Add", variance, b.constant(np.float32(1e-5)))))


@given(st.integers(1, 9), st.sampled_from([28, 31, 128, 257, 1000]), st.integers(0, 2**16))
@settings(max_examples=5, deadline=None)
def test_normalizations_of_rows(count: int, length: int, seed: int) -> None:
    x = np.random.default_rng(seed).standard_normal((count, length)).astype(np.float32)

    def make(b: Builder, value: Value) -> list[Value]:
        return [b.op("Softmax", value, axis=-1), layer_norm(b, value), b.op("LogSoftmax", value, axis=-1)]

    kernel = check_kernel(body([x], make), [x], lower, FEW)
    assert kernel.schedule["launches"] == 1 or count == 1, "one sweep computes all"


@given(
    st.lists(st.sampled_from([1, 2, 5, 17, 33]), min_size=1, max_size=4),
    st.data(),
    st.integers(0, 2**16),
)
@settings(max_examples=10, deadline=None)
def test_normalizations_over_any_axes(shape: list[int], data: st.DataObject, seed: int) -> None:
    axes = data.draw(st.lists(st.integers(0, len(shape) - 1), min_size=1, unique=True))
    x = np.random.default_rng(seed).standard_normal(shape).astype(np.float32) + np.float32(1)

    def make(b: Builder, value: Value) -> Value:
        centred = b.op("MeanVarianceNormalization", value, axes=tuple(axes))
        peak = b.op("ReduceMax", value, b.constant(ints(*axes[:1])), keepdims=1)
        return b.op("Add", centred, peak)

    check_kernel(body([x], make), [x], lower_any, FEW, tolerance=1e-4)


@pytest.mark.parametrize("op", ["ReduceSum", "ReduceMax", "ReduceMin", "ReduceProd", "ReduceL2", "ReduceLogSumExp"])
@pytest.mark.parametrize("shape", [(3, 70), (1, 9000)], ids=str)
def test_reductions_of_rows(op: str, shape: tuple[int, ...]) -> None:
    x = 1 + normal(*shape) * np.float32(0.01)
    check_kernel(body([x], lambda b, v: b.op(op, v, b.constant(ints(1)), keepdims=0)), [x], lower, FEW)


@pytest.mark.parametrize("dtype", ["int8", "uint8", "int16", "int32", "int64", "uint64", "float16", "float64"])
def test_sums_of_every_type(dtype: str) -> None:
    x = np.random.default_rng(3).integers(0, 100, (3, 300)).astype(dtype)
    check_kernel(body([x], lambda b, v: b.op("ReduceSum", v, b.constant(ints(1)))), [x], lower, FEW)


@pytest.mark.parametrize("op", ["ArgMax", "ArgMin"])
@pytest.mark.parametrize("last", [0, 1])
@pytest.mark.parametrize(("shape", "axis"), [((3, 300), 1), ((2, 9000), 1), ((300, 40), 0), ((2, 31, 3), 1)], ids=str)
@pytest.mark.parametrize("odd", [False, True], ids=["numbers", "no numbers"])
def test_positions(op: str, last: int, shape: tuple[int, ...], axis: int, odd: bool) -> None:
    x = np.random.default_rng(0).integers(0, 5, shape).astype(np.float32)
    if odd:
        x[x == 0], x[x == 1] = np.inf, -np.inf
        x.reshape(-1)[[7, 11]] = np.nan
    check_kernel(body([x], lambda b, v: b.op(op, v, axis=axis, select_last_index=last)), [x], lower, FEW)


ODD = np.array([[1, np.nan, 3] * 20, [np.inf, -np.inf, 0] * 20, [-np.inf] * 60, [np.inf] * 60], np.float32)


@pytest.mark.parametrize("op", ["ReduceMax", "ReduceMin", "ReduceSum"])
def test_what_is_no_number(op: str) -> None:
    check_kernel(body([ODD], lambda b, v: b.op(op, v, b.constant(ints(1)))), [ODD], lower, FEW)


def test_rows_longer_than_registers(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(row_blocks, "LONGEST", 256)
    monkeypatch.setattr(row_blocks, "STEP", 128)
    x = normal(5, 1000)

    def make(b: Builder, value: Value) -> list[Value]:
        return [b.op("Softmax", value, axis=-1), layer_norm(b, value)]

    check_kernel(body([x], make), [x], lower, FEW)
    check_kernel(body([x], lambda b, v: b.op("ArgMax", v, axis=1)), [x], lower, FEW)


CASES: dict[str, tuple[list[Any], Make, int]] = {
    "all of a tensor": ([normal(40, 500)], lambda b, x: b.op("ReduceSum", x, keepdims=0), 2),
    "long columns": ([normal(9000, 3)], lambda b, x: b.op("ReduceMean", x, b.constant(ints(0)), keepdims=0), 2),
    "groups of channels": (
        [normal(2, 12, 5, 7), normal(12), normal(12)],
        lambda b, x, s, c: b.op("GroupNormalization", x, s, c, num_groups=3),
        3,
    ),
    "what is shared by larger outputs": (
        [normal(3, 50), normal(3, 40)],
        lambda b, x, y: b.op("Mul", y, b.op("ReduceSum", x, b.constant(ints(1)))),
        2,
    ),
    "two outputs of different shapes": (
        [normal(6, 40)],
        lambda b, x: [b.op("Softmax", x, axis=-1), b.op("ReduceMax", x, b.constant(ints(1)), keepdims=0)],
        2,
    ),
    "rows of halves": ([normal(4, 500).astype(np.float16)], lambda b, x: b.op("Softmax", x, axis=-1), 1),
}


@pytest.mark.parametrize("name", CASES)
def test_launches(name: str) -> None:
    arrays, make, launches = CASES[name]
    kernel = check_kernel(body(arrays, make), arrays, lower, FEW)
    assert kernel.schedule["launches"] == launches


def test_what_has_no_long_reduction_is_refused() -> None:
    with pytest.raises(BackendError, match="no long reduction"):
        lower(body([normal(3, 4)], lambda b, x: b.op("Relu", x)), FEW)
    arrays = [normal(30, 40), normal(40, 30)]
    with pytest.raises(BackendError, match="a product of tensors"):
        lower(body(arrays, lambda b, x, y: b.op("MatMul", x, y)), FEW)


def test_windows_are_read_by_neighbours_together() -> None:
    image = [normal(1, 3, 12, 12)]
    graph = body(image, lambda b, x: b.op("AveragePool", x, kernel_shape=[6, 6]))
    with pytest.raises(BackendError, match="no long reduction"):
        lower(graph, FEW)
    check_kernel(graph, image, lower_any, FEW)
    apart = body(image, lambda b, x: b.op("AveragePool", x, kernel_shape=[6, 6], strides=[6, 6]))
    assert check_kernel(apart, image, lower, FEW).template == "rows"
