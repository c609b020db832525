"""Determinants against NumPy's: pivots, singular matrices, batches, every float."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from graphc.backends.tvm import determinant
from graphc.ir import dtypes
from graphc.target import Target
from tests.backends.bodies import body
from tests.backends.tvm.harness import ARM, HOST, TARGETS, check


def run(array: Any, target: Target = HOST, *, rtol: float = 1e-4) -> None:
    graph = body([array], lambda b, x: b.op("Det", x))
    check(graph, [array], lambda g, t: determinant.lower(g, t, frozenset(), {}), target, rtol=rtol)


@pytest.mark.parametrize("target", TARGETS, ids=str)
@pytest.mark.parametrize("shape", [(1, 1), (2, 2), (7, 7), (3, 2, 5, 5), (40, 18, 18), (33, 33), (0, 3, 3), (2, 0, 0)])
def test_matrices(shape: tuple[int, ...], target: Target) -> None:
    run(np.random.default_rng(0).standard_normal(shape).astype(np.float32), target)


@pytest.mark.parametrize("kind", ["float64", "float16", "bfloat16"])
def test_types(kind: str) -> None:
    array = np.random.default_rng(1).integers(-2, 3, (4, 3, 3)).astype(dtypes.from_name(kind).numpy)
    run(array, rtol=1e-2)


def test_zeros_on_the_diagonal_and_matrices_without_inverse() -> None:
    swapped = np.eye(9, dtype=np.float32)[[3, 0, 1, 2, 4, 8, 6, 7, 5]]
    singular = np.ones((9, 9), np.float32)
    zero = np.zeros((9, 9), np.float32)
    late = np.diag(np.array([1, 2, 3, 4, 5, 6, 7, 0, 9], np.float32))
    run(np.stack([swapped, singular, zero, late]))


def test_arm() -> None:
    graph = body([np.zeros((5, 5), np.float32)], lambda b, x: b.op("Det", x))
    assert determinant.lower(graph, ARM, frozenset(), {}).compile()
