"""Positions of extremes: along contiguous axes and across vectors, ties first or last, NaN ahead of numbers."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from graphc.backends.tvm import generic
from graphc.ir import dtypes
from graphc.target import Target
from tests.backends.bodies import body
from tests.backends.tvm.harness import TARGETS, check

KINDS = ("float32", "float64", "float16", "bfloat16", "int8", "int32", "int64", "uint8", "uint16")
SHAPES = [((3, 200), 1), ((3, 31), 1), ((200, 37), 0), ((2, 21, 5, 9), 1), ((1000,), 0), ((7, 1), 1)]


def tied(shape: tuple[int, ...], kind: str, *, missing: bool = False) -> Any:
    rng = np.random.default_rng(0)
    x = rng.integers(0 if kind.startswith("u") else -3, 4, shape).astype(dtypes.from_name(kind).numpy)
    if missing:
        x[rng.random(shape) < 0.02] = np.nan
    return x


@pytest.mark.parametrize("target", TARGETS, ids=str)
@pytest.mark.parametrize("kind", KINDS)
def test_every_type(kind: str, target: Target) -> None:
    for shape, axis in SHAPES[:3:2]:
        graph = body([tied(shape, kind)], lambda b, x, a=axis: [b.op(op, x, axis=a) for op in ("ArgMax", "ArgMin")])
        check(graph, [tied(shape, kind)], generic.lower, target)


@pytest.mark.parametrize("target", TARGETS, ids=str)
@pytest.mark.parametrize(("shape", "axis"), SHAPES)
@pytest.mark.parametrize("last", [0, 1])
def test_ties_and_missing_numbers(last: int, shape: tuple[int, ...], axis: int, target: Target) -> None:
    for x in (tied(shape, "float32", missing=True), np.full(shape, -np.inf, np.float32)):
        graph = body([x], lambda b, v: [b.op(op, v, axis=axis, select_last_index=last) for op in ("ArgMax", "ArgMin")])
        check(graph, [x], generic.lower, target)


@pytest.mark.parametrize("target", TARGETS, ids=str)
@pytest.mark.parametrize("axis", [0, 1, 2])
def test_with_what_is_before_and_after(axis: int, target: Target) -> None:
    x = tied((5, 40, 33), "float32")

    def make(b: Any, value: Any) -> Any:
        found = b.op("ArgMax", b.op("Abs", b.op("Sub", value, b.constant(np.float32(0.25)))), axis=axis)
        return b.op("Cast", b.op("Mul", found, found), to=dtypes.FLOAT32.onnx)

    check(body([x], make), [x], generic.lower, target)


@pytest.mark.parametrize("target", TARGETS, ids=str)
@pytest.mark.parametrize("axis", [0, 1, 2])
def test_hardmax_finds_each_winner_once(axis: int, target: Target) -> None:
    x = tied((5, 40, 33), "float32")
    check(body([x], lambda b, value: b.op("Hardmax", value, axis=axis)), [x], generic.lower, target)
