"""Decision trees by bits and by walks: against the walk that Python takes, shallow, deep and lopsided ones."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from graphc.backends.base import Kernel
from graphc.backends.tvm import trees
from graphc.ir import Graph
from graphc.ops.trees import Leaf
from graphc.target import Target
from tests.backends.forests import Tree, answer, body_of_trees, forest, rows
from tests.backends.tvm.harness import ARM, HOST, TARGETS, run


def lowered(
    forest: list[Tree], x: Any, targets: int = 1, aggregate: str = "sum", target: Target = HOST
) -> tuple[Kernel, Graph, list[Any]]:
    """The kernel, its body and what it is given."""
    graph, arrays = body_of_trees(forest, x, targets, aggregate)
    return trees.lower(graph, target, frozenset(), {}), graph, arrays


def compare(
    forest: list[Tree], x: Any, targets: int = 1, aggregate: str = "sum", target: Target = HOST, expect: str = ""
) -> None:
    kernel, graph, arrays = lowered(forest, x, targets, aggregate, target)
    assert expect in ("", kernel.schedule["by"])
    (found,) = run(kernel, graph, arrays)
    np.testing.assert_allclose(found, answer(forest, x, targets, aggregate), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("target", TARGETS, ids=str)
@pytest.mark.parametrize("missing", [False, True])
@pytest.mark.parametrize(("count", "expect"), [(1, "walks"), (3, "walks"), (9, "bits"), (100, "bits"), (1003, "bits")])
def test_small_trees(count: int, expect: str, missing: bool, target: Target) -> None:
    compare(forest(19, 6, 5, missing=missing), rows(count, 5, missing=True), target=target, expect=expect)


@pytest.mark.parametrize("target", TARGETS, ids=str)
@pytest.mark.parametrize("count", [1, 20, 203])
@pytest.mark.parametrize("chain", [False, True])
def test_large_trees_walk(chain: bool, count: int, target: Target) -> None:
    made = forest(11, 70 if chain else 9, 5, missing=True, chain=chain)
    compare(made, rows(count, 5, missing=True), target=target, expect="walks")


@pytest.mark.parametrize("kind", [np.float32, np.float64])
@pytest.mark.parametrize("aggregate", ["sum", "min", "max"])
@pytest.mark.parametrize("targets", [((0,), (1,), (2,)), ((0, 1, 2), (1,))])
@pytest.mark.parametrize("count", [2, 40])
def test_several_targets(count: int, targets: Any, aggregate: str, kind: Any) -> None:
    compare(forest(10, 4, 3, targets=targets), rows(count, 3, kind), 3, aggregate)


def test_a_tree_of_64_leaves_fits_a_word_and_one_of_65_does_not() -> None:
    for leaves, expect in ((64, "bits"), (65, "walks")):
        compare(forest(2, leaves - 1, 4, chain=True), rows(70, 4), expect=expect)


def test_trees_that_are_leaves() -> None:
    compare([Leaf({0: 2.0}), *forest(1, 3, 2), Leaf({0: -1.0})], rows(30, 2))


@pytest.mark.parametrize("count", [3, 30])
def test_arm(count: int) -> None:
    kernel, _, _ = lowered(forest(3, 3, 2), rows(count, 2), target=ARM)
    assert kernel.compile()
