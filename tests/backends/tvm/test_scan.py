"""Running sums and products: along rows and columns, whole and in blocks, against NumPy."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from graphc.backends.tvm import scan
from graphc.ir import dtypes
from graphc.target import Target
from tests.backends.bodies import body
from tests.backends.tvm.harness import ARM, TARGETS, check

DTYPES = ("float32", "float64", "float16", "bfloat16", "int32", "int64", "uint32", "uint64", "int8", "uint16")


def run(array: Any, axis: int, target: Target, op: str = "CumSum", **attributes: int) -> None:
    graph = body([array], lambda b, x: b.op(op, x, b.constant(np.int64(axis)), **attributes), opset=26)
    check(graph, [array], lambda g, t: scan.lower(g, t, frozenset(), {}), target)


def numbers(shape: tuple[int, ...], kind: str, seed: int = 0) -> Any:
    return np.random.default_rng(seed).integers(-3, 4, shape).astype(dtypes.from_name(kind).numpy)


@pytest.mark.parametrize("target", TARGETS, ids=str)
@pytest.mark.parametrize("kind", DTYPES)
@pytest.mark.parametrize("axis", [0, 1, -1])
def test_every_type_along_every_axis(kind: str, axis: int, target: Target) -> None:
    run(numbers((3, 21, 37), kind), axis, target, exclusive=1)
    run(numbers((3, 21, 37), kind), axis, target, reverse=1)


@given(
    shape=st.lists(st.integers(0, 40), min_size=1, max_size=3).map(tuple),
    axis=st.integers(0, 2),
    exclusive=st.sampled_from((0, 1)),
    reverse=st.sampled_from((0, 1)),
    op=st.sampled_from(("CumSum", "CumProd")),
    target=st.sampled_from(TARGETS),
    seed=st.integers(0, 1000),
)
@settings(max_examples=15)
def test_any_shape(
    shape: tuple[int, ...], axis: int, exclusive: int, reverse: int, op: str, target: Target, seed: int
) -> None:
    run(numbers(shape, "int32", seed), axis % len(shape), target, op, exclusive=exclusive, reverse=reverse)


@pytest.mark.parametrize("target", TARGETS, ids=str)
@pytest.mark.parametrize("reverse", [0, 1])
@pytest.mark.parametrize("exclusive", [0, 1])
@pytest.mark.parametrize(
    ("shape", "axis"), [((70_001,), 0), ((2, 40_000), 1), ((9001, 5), 0), ((1501, 150), 0), ((3, 16384), 1)]
)
def test_axes_cut_into_blocks(shape: tuple[int, ...], axis: int, exclusive: int, reverse: int, target: Target) -> None:
    run(numbers(shape, "float32"), axis, target, exclusive=exclusive, reverse=reverse)


@pytest.mark.parametrize("exclusive", [0, 1])
def test_what_is_not_finite_spreads_only_onwards(exclusive: int) -> None:
    array = np.array([1, 2, np.inf, 3, np.nan, 4], np.float32)
    graph = body([array], lambda b, x: b.op("CumSum", x, b.constant(np.int64(0)), exclusive=exclusive))
    check(graph, [array], lambda g, t: scan.lower(g, t, frozenset(), {}))


def test_arm() -> None:
    graph = body([np.zeros((5, 70), np.float32)], lambda b, x: b.op("CumSum", x, b.constant(np.int64(1))))
    assert scan.lower(graph, ARM, frozenset(), {}).compile()
