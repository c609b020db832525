"""Matmul of two activations: against NumPy, in place and packed, batched, broadcast and turned."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import Phase, given, settings
from hypothesis import strategies as st

from graphc.backends.base import Kernel
from graphc.backends.tvm import batch_matmul
from graphc.errors import BackendError
from graphc.ir import Builder, DType, Graph, Value, dtypes
from graphc.target import Target
from tests.backends.bodies import body
from tests.backends.tvm.harness import ARM, HOST, TARGETS, Array, check

Shape = tuple[int, ...]
NO_SHRINKING = [Phase.explicit, Phase.reuse, Phase.generate]
"""Every attempt compiles a kernel."""
every_target = pytest.mark.parametrize("target", TARGETS, ids=str)


def lower(graph: Graph, target: Target) -> Kernel:
    return batch_matmul.lower(graph, target, frozenset(), {})


def normal(*shape: int, seed: int = 0) -> Array:
    return np.random.default_rng([seed, *shape]).standard_normal(shape).astype(np.float32)


BATCHES = [
    ((), ()),
    ((2,), (2,)),
    ((2, 3), (2, 3)),
    ((2, 3), (1, 3)),
    ((2, 1), (2, 3)),
    ((3,), ()),
    ((), (3,)),
    ((2, 3), (3,)),
]


@every_target
@settings(max_examples=12, phases=NO_SHRINKING)
@given(st.data())
def test_matmul_of_any_size_and_batch(target: Target, data: st.DataObject) -> None:
    rows = data.draw(st.integers(1, 80), "rows")
    columns = data.draw(st.integers(1, 70), "columns")
    depth = data.draw(st.integers(1, 40), "depth")
    left, right = data.draw(st.sampled_from(BATCHES), "batches")
    turned = data.draw(st.booleans(), "turned")
    shape = (*right, columns, depth) if turned else (*right, depth, columns)
    arrays = [normal(*left, rows, depth), normal(*shape), normal(columns)]

    def make(b: Builder, x: Value, y: Value, bias: Value) -> Value:
        if turned:
            axes = list(range(len(shape)))
            y = b.op("Transpose", y, perm=[*axes[:-2], axes[-1], axes[-2]])
        return b.op("Relu", b.op("Add", b.op("MatMul", x, y), bias))

    check(body(arrays, make), arrays, lower, target)


@every_target
@pytest.mark.parametrize(
    ("left", "right", "turned"),
    [
        ((12, 64, 64), (12, 64, 64), False),
        ((12, 128, 32), (12, 128, 32), True),
        ((1, 70, 300), (1, 300, 260), False),
        ((3, 100, 40), (1, 90, 40), True),
        ((4, 2, 64, 32), (1, 2, 32, 300), False),
        ((2, 200), (200, 500), False),
        ((260, 30), (30, 300), False),
    ],
)
def test_products_that_threads_share(
    left: tuple[int, ...], right: tuple[int, ...], turned: bool, target: Target
) -> None:
    arrays = [normal(*left), normal(*right)]

    def make(b: Builder, x: Value, y: Value) -> Value:
        axes = list(range(len(right)))
        turn = [*axes[:-2], axes[-1], axes[-2]]
        return b.op("MatMul", x, b.op("Transpose", y, perm=turn) if turned else y)

    kernel = check(body(arrays, make), arrays, lower, target)
    assert kernel.schedule["tasks"] != "serial"


@every_target
def test_scores_of_heads_are_read_through_their_transpositions(target: Target) -> None:
    arrays = [normal(1, 20, 3, 8), normal(1, 20, 3, 8, seed=1), normal(1, 1, 1, 20)]

    def make(b: Builder, q: Value, k: Value, mask: Value) -> Value:
        query, key = b.op("Transpose", q, perm=[0, 2, 1, 3]), b.op("Transpose", k, perm=[0, 2, 3, 1])
        return b.op("Add", b.op("Div", b.op("MatMul", query, key), b.constant(np.float32(3))), mask)

    check(body(arrays, make), arrays, lower, target)


@every_target
def test_gemm_of_activations(target: Target) -> None:
    arrays = [normal(9, 5), normal(7, 9), normal(5, 1)]
    attributes: dict[str, Any] = {"transA": 1, "transB": 1, "alpha": 0.5, "beta": 2.0}
    check(body(arrays, lambda b, *x: b.op("Gemm", *x, **attributes)), arrays, lower, target)


@every_target
def test_a_right_operand_with_neighbours_along_no_axis(target: Target) -> None:
    arrays = [normal(4, 9), normal(9, 21, 3)]

    def make(b: Builder, x: Value, y: Value) -> Value:
        every_third = b.op("Gather", y, b.constant(np.array(1)), axis=2)
        return b.op("MatMul", x, every_third)

    check(body(arrays, make), arrays, lower, target)


@every_target
def test_a_matrix_times_itself(target: Target) -> None:
    arrays = [normal(21, 21)]
    check(body(arrays, lambda b, x: b.op("Add", b.op("MatMul", x, x), x)), arrays, lower, target)


def test_an_arm_object_compiles() -> None:
    arrays = [normal(2, 9, 8), normal(2, 8, 21)]
    assert lower(body(arrays, lambda b, x, y: b.op("MatMul", x, y)), ARM).compile()[:4] == b"\x7fELF"


def test_refusals_say_why() -> None:
    arrays = [normal(4, 5), normal(5, 6)]
    with pytest.raises(BackendError, match="right operand is computed"):
        lower(body(arrays, lambda b, x, y: b.op("MatMul", x, b.op("Relu", y))), HOST)
    with pytest.raises(BackendError, match="right operand is a vector"):
        lower(body([normal(4, 5), normal(5)], lambda b, x, y: b.op("MatMul", x, y)), HOST)


@every_target
@pytest.mark.parametrize("turned", [False, True])
@pytest.mark.parametrize(("left", "right"), [((2, 3), (2, 3)), ((2, 3), (3,)), ((), (3,)), ((2, 1), (2, 3))])
@pytest.mark.parametrize(("dtype", "rtol"), [(dtypes.FLOAT64, 1e-14), (dtypes.FLOAT16, 1e-3), (dtypes.BFLOAT16, 8e-3)])
def test_other_floats(dtype: DType, rtol: float, left: Shape, right: Shape, turned: bool, target: Target) -> None:
    shapes = ((*left, 37, 21), (*right, 50, 21) if turned else (*right, 21, 50))
    arrays = [normal(*shape).astype(dtype.numpy) for shape in shapes]

    def make(b: Builder, x: Value, y: Value) -> Value:
        axes = list(range(len(shapes[1])))
        y = b.op("Transpose", y, perm=[*axes[:-2], axes[-1], axes[-2]]) if turned else y
        return b.op("Mul", b.op("MatMul", x, y), b.constant(np.array(2, dtype.numpy)))

    check(body(arrays, make), arrays, lower, target, rtol=rtol)
