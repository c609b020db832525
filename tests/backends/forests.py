"""Forests of decision trees for tests of backends, and the walk that Python takes."""

from __future__ import annotations

from typing import Any

import numpy as np

from graphc.ir import Builder, Graph, TensorType, dtypes
from graphc.ops import infer_node
from graphc.ops.trees import Branch, Leaf, add_trees

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


def body_of_trees(forest: list[Tree], x: Any, targets: int = 1, aggregate: str = "sum") -> tuple[Graph, list[Any]]:
    """A body of one Trees node, and what it is given: the tables are inputs, as they are in a compiled model."""
    outer = Graph("tables", opset=24)
    data = outer.add_input("x", TensorType(dtypes.from_numpy(x.dtype), x.shape))
    node = add_trees(Builder(outer, infer=infer_node), data, forest, targets, aggregate).producer
    assert node is not None
    constants = [
        value.constant.array() for value in node.inputs[1:] if value is not None and value.constant is not None
    ]
    graph = Graph("body", opset=24)
    arrays = [x, *constants]
    inputs = [graph.add_input(f"x{i}", TensorType(dtypes.from_numpy(a.dtype), a.shape)) for i, a in enumerate(arrays)]
    result = Builder(graph).op("Trees", *inputs, domain="graphc", types=[node.output.type], **node.attributes)
    graph.outputs = [result]
    return graph, arrays


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
