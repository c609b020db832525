"""Decision trees on GPUs: against the walk that Python takes, shallow, deep and lopsided ones."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from graphc.backends.triton import trees
from graphc.ops.trees import Leaf
from graphc.target.cuda import GPUS
from graphc.testing.triton.kernels import run_kernel
from tests.backends.forests import Tree, answer, body_of_trees, forest, rows
from tests.backends.triton.harness import machine_code


def compare(made: list[Tree], x: Any, targets: int = 1, aggregate: str = "sum") -> None:
    graph, arrays = body_of_trees(made, x, targets, aggregate)
    (found,) = run_kernel(trees.lower(graph, GPUS["sm_90"], frozenset(), {}), graph, arrays)
    np.testing.assert_allclose(found, answer(made, x, targets, aggregate), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("missing", [False, True])
@pytest.mark.parametrize("count", [1, 30])
@pytest.mark.parametrize("chain", [False, True])
def test_trees_of_any_depth(chain: bool, count: int, missing: bool) -> None:
    made = forest(40 if count == 1 else 7, 20 if chain else 5, 5, missing=missing, chain=chain)
    compare(made, rows(count, 5, missing=True))


@pytest.mark.parametrize("kind", [np.float32, np.float64])
@pytest.mark.parametrize("aggregate", ["sum", "min", "max"])
@pytest.mark.parametrize("targets", [((0,), (1,), (2,)), ((0, 1, 2), (1,))])
def test_several_targets(targets: Any, aggregate: str, kind: Any) -> None:
    compare(forest(10, 4, 3, targets=targets), rows(9, 3, kind), 3, aggregate)


def test_trees_that_are_leaves() -> None:
    compare([Leaf({0: 2.0}), *forest(1, 3, 2), Leaf({0: -1.0})], rows(30, 2))


@pytest.mark.slow
@pytest.mark.parametrize("target", ["sm_80", "sm_90"])
def test_machine_code(target: str) -> None:
    graph, _ = body_of_trees(forest(100, 6, 5, missing=True), rows(1000, 5))
    machine_code(trees.lower(graph, GPUS[target], frozenset(), {}), GPUS[target])
