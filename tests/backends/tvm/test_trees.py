"""Decision trees by bits and by walks: against the walk that Python takes, shallow, deep and lopsided ones."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from graphc.backends.base import Kernel
from graphc.backends.tvm import trees
from graphc.ir import Builder, Graph, TensorType, dtypes
from graphc.ops import infer_node
from graphc.ops.trees import Branch, Leaf, add_trees
from graphc.target import Target
from tests.backends.tvm.harness import ARM, HOST, TARGETS, run

Tree = Branch | Leaf


def random_tree(
    rng: Any, depth: int, columns: int, targets: tuple[int, ...], *, missing: bool, chain: bool = False
) -> Tree:
    if depth == 0 or (rng.random() < 0.1 and not chain):
        return Leaf({target: float(np.float32(rng.standard_normal())) for target in targets})
    whole = random_tree(rng, depth - 1, columns, targets, missing=missing, chain=chain)
    other = random_tree(rng, 0 if chain else depth - 1, columns, targets, missing=missing)
    yes, no = (whole, other) if rng.random() < 0.5 else (other, whole)
    threshold = float(np.float32(rng.integers(-2, 3) / 2))
    return Branch(int(rng.integers(0, columns)), threshold, missing and rng.random() < 0.5, yes, no)


def answer(forest: list[Tree], x: Any, targets: int, aggregate: str) -> Any:
    start, combine = {"sum": (0.0, np.add), "min": (np.inf, np.minimum), "max": (-np.inf, np.maximum)}[aggregate]
    result = np.full((len(x), targets), start)
    for row, features in enumerate(x):
        for tree in forest:
            at = tree
            while isinstance(at, Branch):
                value = features[at.feature]
                at = at.yes if value <= at.threshold or (np.isnan(value) and at.missing) else at.no
            for target, weight in at.weights.items():
                result[row, target] = combine(result[row, target], weight)
    return result


def lowered(
    forest: list[Tree], x: Any, targets: int = 1, aggregate: str = "sum", target: Target = HOST
) -> tuple[Kernel, Graph, list[Any]]:
    """The kernel, its body and what it is given."""
    outer = Graph("tables", opset=24)
    data = outer.add_input("x", TensorType(dtypes.from_numpy(x.dtype), x.shape))
    node = add_trees(Builder(outer, infer=infer_node), data, forest, targets, aggregate).producer
    assert node is not None
    # The tables are inputs of the kernel, as they are in a compiled model.
    constants = [
        value.constant.array() for value in node.inputs[1:] if value is not None and value.constant is not None
    ]
    graph = Graph("body", opset=24)
    arrays = [x, *constants]
    inputs = [graph.add_input(f"x{i}", TensorType(dtypes.from_numpy(a.dtype), a.shape)) for i, a in enumerate(arrays)]
    result = Builder(graph).op("Trees", *inputs, domain="graphc", types=[node.output.type], **node.attributes)
    graph.outputs = [result]
    return trees.lower(graph, target, frozenset(), {}), graph, arrays


def compare(
    forest: list[Tree], x: Any, targets: int = 1, aggregate: str = "sum", target: Target = HOST, expect: str = ""
) -> None:
    kernel, graph, arrays = lowered(forest, x, targets, aggregate, target)
    assert expect in ("", kernel.schedule["by"])
    (found,) = run(kernel, graph, arrays)
    np.testing.assert_allclose(found, answer(forest, x, targets, aggregate), rtol=1e-5, atol=1e-5)


def rows(count: int, columns: int, kind: Any = np.float32, *, missing: bool = False) -> Any:
    rng = np.random.default_rng(count)
    x = (rng.integers(-5, 6, (count, columns)) / 2).astype(kind)
    if missing:
        x[rng.random(x.shape) < 0.2] = np.nan
    return x


def forest(
    count: int, depth: int, columns: int, *, targets: Any = ((0,),), missing: bool = False, chain: bool = False
) -> Any:
    rng = np.random.default_rng(count * 100 + depth)
    return [
        random_tree(rng, depth, columns, targets[i % len(targets)], missing=missing, chain=chain) for i in range(count)
    ]


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
