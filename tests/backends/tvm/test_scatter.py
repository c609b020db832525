"""Scatters against NumPy: every reduction and type, repeated and negative places, and indices out of range."""

from __future__ import annotations

import ctypes
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from graphc.backends.tvm import scatter
from graphc.ir import Graph, dtypes
from graphc.target import Target
from tests.backends.bodies import body
from tests.backends.tvm.harness import ARM, HOST, TARGETS, check, load

DTYPES = (
    *("float32", "float64", "float16", "bfloat16", "bool"),
    *("int8", "int16", "int32", "int64", "uint8", "uint16", "uint32", "uint64"),
)
REDUCTIONS = ("none", "add", "mul", "max", "min")


def made(op: str, arrays: list[Any], **attributes: Any) -> Graph:
    return body(arrays, lambda b, *x: b.op(op, *x, **attributes))


def compare(op: str, arrays: list[Any], target: Target = HOST, **attributes: Any) -> None:
    lower = lambda g, t: scatter.lower(g, t, frozenset(), {})  # noqa: E731
    check(made(op, arrays, **attributes), arrays, lower, target)


def numbers(shape: tuple[int, ...], kind: str, seed: int) -> Any:
    low = 0 if kind.startswith("u") or kind == "bool" else -3
    return (
        np.random.default_rng(seed)
        .integers(low, 2 if kind == "bool" else 4, shape)
        .astype(dtypes.from_name(kind).numpy)
    )


def indices(shape: tuple[int, ...], extent: int, seed: int, kind: Any = np.int64) -> Any:
    return np.random.default_rng(seed).integers(-extent, extent, shape).astype(kind)


@pytest.mark.parametrize("target", TARGETS, ids=str)
@pytest.mark.parametrize("kind", DTYPES)
def test_every_type(kind: str, target: Target) -> None:
    arrays = [numbers((6, 7), kind, 0), indices((4, 7), 6, 1, np.int32), numbers((4, 7), kind, 2)]
    compare("ScatterElements", arrays, target)
    if kind == "bool":
        return
    rows = [numbers((6, 40), kind, 0), indices((4, 1), 6, 1), numbers((4, 40), kind, 2)]
    for reduction in ("add", "max"):
        compare("ScatterND", rows, target, reduction=reduction)


@given(
    shape=st.lists(st.integers(1, 6), min_size=1, max_size=4).map(tuple),
    axis=st.integers(0, 3),
    count=st.integers(0, 9),
    reduction=st.sampled_from(REDUCTIONS),
    seed=st.integers(0, 1000),
)
@settings(max_examples=15)
def test_elements_along_any_axis(shape: tuple[int, ...], axis: int, count: int, reduction: str, seed: int) -> None:
    axis %= len(shape)
    inside = tuple(count if i == axis else max(1, extent - seed % 2) for i, extent in enumerate(shape))
    arrays = [numbers(shape, "float32", seed), indices(inside, shape[axis], seed), numbers(inside, "float32", seed + 1)]
    compare("ScatterElements", arrays, axis=axis - (len(shape) if seed % 3 == 0 else 0), reduction=reduction)


@given(
    shape=st.lists(st.integers(1, 5), min_size=1, max_size=3).map(tuple),
    tail=st.sampled_from([(), (3,), (37,), (2, 16)]),
    outer=st.lists(st.integers(0, 4), max_size=2).map(tuple),
    reduction=st.sampled_from(REDUCTIONS),
    seed=st.integers(0, 1000),
)
@settings(max_examples=15)
def test_slices_by_tuples(
    shape: tuple[int, ...], tail: tuple[int, ...], outer: tuple[int, ...], reduction: str, seed: int
) -> None:
    places = np.stack([indices(outer, extent, seed + i) for i, extent in enumerate(shape)], axis=-1)
    arrays = [numbers((*shape, *tail), "int32", seed), places, numbers((*outer, *tail), "int32", seed + 1)]
    compare("ScatterND", arrays, reduction=reduction)


@pytest.mark.parametrize("target", TARGETS, ids=str)
@pytest.mark.parametrize("reduction", ["none", "add"])
def test_threads_share_rows_and_slices(reduction: str, target: Target) -> None:
    wide = [numbers((50, 400), "float32", 0), indices((40, 400), 50, 1), numbers((40, 400), "float32", 2)]
    compare("ScatterElements", wide, target, axis=0, reduction=reduction)
    compare("ScatterElements", [x.T.copy() for x in wide], target, axis=1, reduction=reduction)
    rows = [numbers((9, 3001), "float32", 0), indices((40, 1), 9, 1), numbers((40, 3001), "float32", 2)]
    compare("ScatterND", rows, target, reduction=reduction)


def test_an_index_of_one_element_is_part_of_the_code() -> None:
    arrays = [numbers((5, 7), "float32", 0), numbers((1, 7), "float32", 1)]
    graph = body(arrays, lambda b, x, u: b.op("ScatterND", x, b.constant(np.array([[-2]])), u))
    check(graph, arrays, lambda g, t: scatter.lower(g, t, frozenset(), {}))


@pytest.mark.parametrize("wrong", [5, -6, 1 << 40])
@pytest.mark.parametrize("where", [0, 8, 18])
def test_an_index_out_of_range_is_an_error_and_nothing_is_written(wrong: int, where: int) -> None:
    places = np.zeros((19, 1), np.int64)
    places[where] = wrong
    arrays = [np.zeros((5, 3), np.float32), places, np.ones((19, 3), np.float32)]
    function = load(scatter.lower(made("ScatterND", arrays), HOST, frozenset(), {}))
    result = np.full((5, 3), 7, np.float32)
    assert function(None, *(ctypes.c_void_p(array.ctypes.data) for array in (*arrays, result))) != 0
    assert (result == 7).all()


def test_arm() -> None:
    arrays = [np.zeros((5, 70), np.float32), np.zeros((3, 70), np.int64), np.zeros((3, 70), np.float32)]
    assert scatter.lower(made("ScatterElements", arrays), ARM, frozenset(), {}).compile()
