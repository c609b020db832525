"""`graphc::Trees`: what decision trees answer, from tables of nodes that a kernel can walk.

Every node asks whether one feature is at most a threshold, and goes on to its second child if so, to its first if not.
Inner nodes are numbered before leaves, both tree by tree, and the leaves of a tree from left to right, where "at most"
is to the left. A leaf is its own child. The inputs are

    0  data        (rows, features)
    1  roots       int32 (trees)
    2  features    int32 (nodes)
    3  thresholds  (nodes), of the data's type
    4  records     int32 (nodes, 4 or 5): what a walk reads of a node, in one place: its children, the first where the
                   answer is no, the second where it is yes; its feature; the bits of its threshold
    5  missing     bool (nodes): whether NaN goes the way of "at most"; else it goes the other way
    6  kept        uint64 (inner nodes): the leaves of its tree that remain where the answer is no; 0 in larger trees
    7  inner       int32 (trees + 1): the first inner node of each tree
    8  leaves      int32 (trees + 1): the first leaf of each tree, counted from the first leaf of all
    9  weights     (leaves, width), of the data's type
    10 targets     int32 (trees): the first target that each tree adds to

and the output, (rows, `targets`), is the sum, the least or the greatest (`aggregate`: sum, min, max) of the weights of
the leaves reached. `depth` is that of the deepest tree, `missing` says whether any node takes NaN as "at most", and
`small` that no tree has more than 64 leaves.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np

from graphc.ir import GRAPHC_DOMAIN, Builder, Node, Value
from graphc.ops.base import Array
from graphc.ops.decomposition import decomposed

TREES = "Trees"
"""The operator of domain `graphc`."""

MOST_LEAVES = 64
"""Leaves of a tree that one word has bits for."""


@dataclass(frozen=True)
class Leaf:
    """What a leaf adds: a weight for each target that it names."""

    weights: Mapping[int, float]


@dataclass(frozen=True)
class Branch:
    """An inner node: its feature is at most the threshold, or not.

    Args:
        feature: Column of the data.
        threshold: What the feature is compared with.
        missing: Whether NaN goes the way of "at most".
        yes: What follows where it is at most the threshold.
        no: What follows else.
    """

    feature: int
    threshold: float
    missing: bool
    yes: Branch | Leaf
    no: Branch | Leaf


@dataclass
class Tables:
    """The tables of some trees while they are written: inner nodes, leaves, and which tree has which."""

    features: list[int] = field(default_factory=list)
    thresholds: list[float] = field(default_factory=list)
    missing: list[bool] = field(default_factory=list)
    children: list[tuple[tuple[bool, int], tuple[bool, int]]] = field(default_factory=list)
    kept: list[int] = field(default_factory=list)
    leaves: list[Leaf] = field(default_factory=list)
    roots: list[tuple[bool, int]] = field(default_factory=list)
    inner_starts: list[int] = field(default_factory=lambda: [0])
    leaf_starts: list[int] = field(default_factory=lambda: [0])
    depth: int = 0

    def add(self, tree: Branch | Leaf) -> None:
        """Adds one tree."""
        first_leaf = len(self.leaves)
        # (node, its depth, the place of its parent and which child it is): in preorder, "at most" first.
        stack: list[tuple[Branch | Leaf, int, int, int]] = [(tree, 0, -1, 0)]
        spans: dict[int, list[int]] = {}
        pending: dict[int, list[tuple[bool, int] | None]] = {}
        while stack:
            node, depth, parent, side = stack.pop()
            self.depth = max(self.depth, depth)
            if isinstance(node, Leaf):
                place = (True, len(self.leaves))
                self.leaves.append(node)
            else:
                place = (False, len(self.features))
                self.features.append(node.feature)
                self.thresholds.append(node.threshold)
                self.missing.append(node.missing)
                pending[place[1]] = [None, None]
                spans[place[1]] = [len(self.leaves), 0]
                stack.append((node.no, depth + 1, place[1], 0))
                stack.append((node.yes, depth + 1, place[1], 1))
            if parent < 0:
                self.roots.append(place)
            else:
                pending[parent][side] = place
                if side == 0:
                    # All leaves of the other side stand before this one.
                    spans[parent][1] = len(self.leaves) - (1 if place[0] else 0)
        for number in range(self.inner_starts[-1], len(self.features)):
            no, yes = pending[number]
            assert no is not None and yes is not None, "every branch has two children"
            self.children.append((no, yes))
            low, high = (place - first_leaf for place in spans[number])
            self.kept.append(~(((1 << high) - 1) ^ ((1 << low) - 1)) & _ONES if high <= MOST_LEAVES else 0)
        self.inner_starts.append(len(self.features))
        self.leaf_starts.append(len(self.leaves))


_ONES = (1 << 64) - 1


def add_trees(
    builder: Builder, x: Value, trees: Sequence[Branch | Leaf], targets: int, aggregate: str = "sum"
) -> Value:
    """Adds the node that answers what `trees` say of the rows of `x`.

    Args:
        builder: Where the node goes.
        x: A matrix of float32 or float64.
        trees: The trees.
        targets: Columns of the result.
        aggregate: `sum`, `min` or `max` of the leaves reached.
    """
    tables = Tables()
    for tree in trees:
        tables.add(tree)
    dtype = x.tensor_type.dtype.numpy
    inner = len(tables.features)

    def number(place: tuple[bool, int]) -> int:
        return place[1] + (inner if place[0] else 0)

    own = [[inner + i, inner + i] for i in range(len(tables.leaves))]
    children = [[number(no), number(yes)] for no, yes in tables.children] + own
    blank = [0] * len(tables.leaves)
    weights, first = _weights(tables, targets, {"sum": 0.0, "min": np.inf, "max": -np.inf}[aggregate])
    small = max(np.diff(tables.leaf_starts), default=0) <= MOST_LEAVES
    thresholds = np.array([*tables.thresholds, *blank], dtype)
    features = np.array([*tables.features, *blank], np.int32)
    bits = thresholds.view(np.int32).reshape(len(features), -1)
    constants = [
        np.array([number(root) for root in tables.roots], np.int32),
        features,
        thresholds,
        np.concatenate([np.array(children, np.int32).reshape(-1, 2), features[:, None], bits], axis=1),
        np.array([*tables.missing, *blank], bool),
        np.array(tables.kept, np.uint64),
        np.array(tables.inner_starts, np.int32),
        np.array(tables.leaf_starts, np.int32),
        weights.astype(dtype),
        first.astype(np.int32),
    ]
    return builder.op(
        TREES,
        x,
        *(builder.constant(array) for array in constants),
        domain=GRAPHC_DOMAIN,
        targets=targets,
        aggregate=aggregate,
        depth=tables.depth,
        missing=int(any(tables.missing)),
        small=int(small),
    )


def _weights(tables: Tables, targets: int, neutral: float) -> tuple[Array, Array]:
    """Weights of the leaves and the first target of each tree: one column where each tree has only one target."""
    spans = list(zip(tables.leaf_starts, tables.leaf_starts[1:], strict=False))
    named = [{target for leaf in tables.leaves[low:high] for target in leaf.weights} for low, high in spans]
    if all(len(found) <= 1 for found in named):
        first = np.array([min(found, default=0) for found in named])
        weights = np.array([[next(iter(leaf.weights.values()), neutral)] for leaf in tables.leaves])
        return weights.reshape(-1, 1), first
    weights = np.full((len(tables.leaves), targets), neutral)
    for row, leaf in enumerate(tables.leaves):
        for target, weight in leaf.weights.items():
            weights[row, target] = weight
    return weights, np.zeros(len(spans))


def _write_out(b: Builder, node: Node, inputs: Sequence[Value | None]) -> Sequence[Value | None]:
    """All trees walk at once, a level at a time."""
    x, roots, features, thresholds, records, missing, _, _, _, weights, first = inputs
    assert x and roots and features and thresholds and records and missing and weights and first
    trees = roots.tensor_type.static_shape[0]
    inner = features.tensor_type.static_shape[0] - weights.tensor_type.static_shape[0]
    width = weights.tensor_type.static_shape[1]
    flat = b.op("Reshape", records, b.constant(np.array([-1])))
    rows = b.op("Concat", b.op("Shape", x, end=1), b.constant(np.array([trees])), axis=0)
    at = b.op("Expand", roots, rows)
    size, one, zero = (b.constant(np.int32(n)) for n in (records.tensor_type.static_shape[1], 1, 0))
    for _ in range(node.int_attribute("depth", 0)):
        value = b.op("GatherElements", x, b.op("Gather", features, at), axis=1)
        yes = b.op("LessOrEqual", value, b.op("Gather", thresholds, at))
        yes = b.op("Or", yes, b.op("And", b.op("IsNaN", value), b.op("Gather", missing, at)))
        child = b.op("Add", b.op("Mul", at, size), b.op("Where", yes, one, zero))
        at = b.op("Gather", flat, child)
    reached = b.op("Gather", weights, b.op("Sub", at, b.constant(np.int32(inner))))
    aggregate = node.str_attribute("aggregate", "sum")
    targets = node.int_attribute("targets", 1)
    reduce, neutral = {"sum": ("ReduceSum", 0.0), "min": ("ReduceMin", np.inf), "max": ("ReduceMax", -np.inf)}[
        aggregate
    ]
    if width == 1:
        # Each tree's weight in the column of its target.
        places = b.constant(np.arange(targets, dtype=np.int32).reshape(1, targets))
        here = b.op("Equal", b.op("Unsqueeze", first, b.constant(np.array([1]))), places)
        rest = b.constant(np.array(neutral, x.tensor_type.dtype.numpy))
        reached = b.op("Where", here, reached, rest)
    return [b.op(reduce, reached, b.constant(np.array([1])), keepdims=0)]


decomposed(TREES, _write_out, domain=GRAPHC_DOMAIN)
