"""Determinants on GPUs against NumPy's: pivots, singular matrices, batches, every float."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from graphc.backends.base import Kernel
from graphc.backends.triton import determinant
from graphc.errors import BackendError
from graphc.ir import Graph, dtypes
from graphc.target.cuda import GPUS, CudaTarget
from graphc.testing.triton.kernels import check_kernel
from tests.backends.bodies import body
from tests.backends.triton.harness import machine_code


def lower(graph: Graph, target: CudaTarget) -> Kernel:
    return determinant.lower(graph, target, frozenset(), {})


def check(array: Any, *, tolerance: float = 1e-4) -> None:
    check_kernel(body([array], lambda b, x: b.op("Det", x)), [array], lower, tolerance=tolerance)


@pytest.mark.parametrize("shape", [(1, 1), (2, 2), (7, 7), (3, 2, 5, 5), (3, 18, 18), (33, 33), (0, 3, 3), (2, 0, 0)])
def test_matrices(shape: tuple[int, ...]) -> None:
    check(np.random.default_rng(0).standard_normal(shape).astype(np.float32))


@pytest.mark.parametrize("kind", ["float64", "float16", "bfloat16"])
def test_types(kind: str) -> None:
    check(np.random.default_rng(1).integers(-2, 3, (4, 3, 3)).astype(dtypes.from_name(kind).numpy), tolerance=1e-2)


def test_zeros_on_the_diagonal_and_matrices_without_inverse() -> None:
    swapped = np.eye(9, dtype=np.float32)[[3, 0, 1, 2, 4, 8, 6, 7, 5]]
    late = np.diag(np.array([1, 2, 3, 4, 5, 6, 7, 0, 9], np.float32))
    check(np.stack([swapped, np.ones((9, 9), np.float32), np.zeros((9, 9), np.float32), late]))


def test_large_matrices_are_refused() -> None:
    with pytest.raises(BackendError, match="65 rows"):
        lower(body([np.zeros((65, 65), np.float32)], lambda b, x: b.op("Det", x)), GPUS["sm_90"])


@pytest.mark.slow
@pytest.mark.parametrize("kind", [np.float32, np.float64])
def test_machine_code(kind: type) -> None:
    for size in (3, 64):
        graph = body([np.zeros((5, size, size), kind)], lambda b, x: b.op("Det", x))
        machine_code(lower(graph, GPUS["sm_90"]), GPUS["sm_90"])
