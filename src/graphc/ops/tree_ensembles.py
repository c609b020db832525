"""TreeEnsemble, TreeEnsembleRegressor and TreeEnsembleClassifier as `graphc::Trees` and what follows it."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any, TypeGuard

import numpy as np

from graphc.errors import TypeInferenceError
from graphc.ir import Builder, Node, Tensor, Value, dtypes
from graphc.ops.base import Array, node_names
from graphc.ops.classical import DOMAIN
from graphc.ops.decomposition import decomposed
from graphc.ops.post_transform import labels_of, post_transformed, with_second_class
from graphc.ops.trees import Branch, Leaf, add_trees

_MODES = ("LEQ", "LT", "GTE", "GT", "EQ", "NEQ", "MEMBER")
"""Modes of a TreeEnsemble's nodes, by number; the older operators call them `BRANCH_LEQ` and so on."""

_AGGREGATES = ("AVERAGE", "SUM", "MIN", "MAX")
_TRANSFORMS = ("NONE", "SOFTMAX", "LOGISTIC", "SOFTMAX_ZERO", "PROBIT")

MOST_DEPTH = 4096
"""Inner nodes on a path beyond which a tree is taken to go in circles."""


def branch(mode: str, feature: int, value: Any, missing: bool, yes: Branch | Leaf, no: Branch | Leaf) -> Branch | Leaf:
    """A node of any mode as nodes that ask whether a feature is at most a threshold.

    NaN answers no, but to NEQ, or yes where `missing` says so.

    Args:
        mode: One of LEQ, LT, GTE, GT, EQ, NEQ, MEMBER.
        feature: Column of the data.
        value: What the feature is compared with, of the type in which it is; a sequence of them for MEMBER.
        missing: Whether NaN answers yes.
        yes: What follows where the comparison holds.
        no: What follows else.
    """
    if mode == "LEQ":
        return Branch(feature, float(value), missing, yes, no)
    if mode == "LT":
        return Branch(feature, _below(value), missing, yes, no)
    if mode == "GT":
        return Branch(feature, float(value), not missing, no, yes)
    if mode == "GTE":
        return Branch(feature, _below(value), not missing, no, yes)
    if mode == "EQ":
        return Branch(feature, float(value), missing, Branch(feature, _below(value), False, no, yes), no)
    if mode == "NEQ":
        # NaN is unlike every number.
        return branch("EQ", feature, value, False, no, yes)
    result = no
    for position, member in enumerate(reversed(value)):
        result = branch("EQ", feature, member, missing and position == len(value) - 1, yes, result)
    return result


def _below(value: Any) -> float:
    return float(np.nextafter(value, value.dtype.type(-np.inf)))


def _built(node: Node, roots: Sequence[int], links: Mapping[int, Sequence[int]], make: Callable[..., Any]) -> list[Any]:
    """Trees from the numbers of their nodes, children before parents.

    Args:
        node: The operator, for messages.
        roots: Number of each tree's root.
        links: Numbers of the children of each inner node; a number without an entry is a leaf.
        make: Answers a tree from a number and the trees of its children.
    """
    made: list[Any] = []
    for root in roots:
        results: list[Any] = []
        path: set[int] = set()
        stack: list[tuple[int, bool]] = [(root, False)]
        while stack:
            number, ready = stack.pop()
            children = links.get(number, ())
            if ready:
                path.discard(number)
                own = results[len(results) - len(children) :]
                del results[len(results) - len(children) :]
                results.append(make(number, *own))
                continue
            if number in path or len(path) > MOST_DEPTH:
                raise TypeInferenceError(f"{node.op}: node {number} is below itself", nodes=node_names(node))
            if not children:
                results.append(make(number))
                continue
            path.add(number)
            stack.append((number, True))
            stack.extend((child, False) for child in reversed(children))
        made.append(results[0])
    return made


# --- the older operators ----------------------------------------------------------------------------------------------


def _list(node: Node, name: str, dtype: Any = np.float32) -> Array:
    """A list attribute, or its form as a tensor."""
    tensor = node.attributes.get(f"{name}_as_tensor")
    if isinstance(tensor, Tensor):
        return tensor.array()
    found = node.attributes.get(name)
    return np.array(found if isinstance(found, tuple) else (), dtype)


def _words(node: Node, name: str) -> list[str]:
    found = node.attributes.get(name)
    return (
        [word.decode() if isinstance(word, bytes) else str(word) for word in found] if isinstance(found, tuple) else []
    )


def _old_trees(node: Node, prefix: str, dtype: Any) -> list[Branch | Leaf]:
    """The trees of a TreeEnsembleRegressor (`prefix` target) or TreeEnsembleClassifier (`prefix` class)."""
    ids = {name: _list(node, f"nodes_{name}", np.int64) for name in ("treeids", "nodeids", "featureids")}
    following = [_list(node, f"nodes_{name}nodeids", np.int64) for name in ("true", "false")]
    values, modes = _list(node, "nodes_values").astype(dtype), _words(node, "nodes_modes")
    missing = _list(node, "nodes_missing_value_tracks_true", np.int64)
    counts = {*(len(x) for x in (*ids.values(), *following, values)), len(modes)}
    if len(counts) != 1:
        raise TypeInferenceError(f"{node.op}: the lists of its nodes differ in length", nodes=node_names(node))
    places = {(int(t), int(n)): i for i, (t, n) in enumerate(zip(ids["treeids"], ids["nodeids"], strict=True))}
    weights: dict[int, dict[int, float]] = {}
    given = [_list(node, f"{prefix}_{name}", np.int64) for name in ("treeids", "nodeids", "ids")]
    given.append(_list(node, f"{prefix}_weights"))
    if len({len(x) for x in given}) != 1:
        raise TypeInferenceError(f"{node.op}: the lists of its leaves differ in length", nodes=node_names(node))
    for tree, number, target, weight in zip(*given, strict=True):
        found = weights.setdefault(_place(node, places, int(tree), int(number)), {})
        found[int(target)] = found.get(int(target), 0.0) + float(weight)
    links: dict[int, list[int]] = {}
    below: set[int] = set()
    for i, mode in enumerate(modes):
        if mode != "LEAF":
            if mode.removeprefix("BRANCH_") not in _MODES:
                raise TypeInferenceError(f"{node.op}: unknown mode {mode!r}", nodes=node_names(node))
            tree = int(ids["treeids"][i])
            links[i] = [_place(node, places, tree, int(child[i])) for child in following]
            below.update(links[i])

    def make(i: int, *children: Branch | Leaf) -> Branch | Leaf:
        if not children:
            return Leaf(weights.get(i, {}))
        tracks = bool(missing[i]) if i < len(missing) else False
        return branch(modes[i].removeprefix("BRANCH_"), int(ids["featureids"][i]), values[i], tracks, *children)

    # A tree's root is its first node, as its own parents would have it.
    roots = {int(tree): i for i, tree in reversed(list(enumerate(ids["treeids"]))) if i not in below}
    order = dict.fromkeys(int(tree) for tree in ids["treeids"])
    if set(order) != set(roots):
        raise TypeInferenceError(f"{node.op}: a tree has no root", nodes=node_names(node))
    return _built(node, [roots[tree] for tree in order], links, make)


def _place(node: Node, places: Mapping[tuple[int, int], int], tree: int, number: int) -> int:
    found = places.get((tree, number))
    if found is None:
        raise TypeInferenceError(f"{node.op}: tree {tree} has no node {number}", nodes=node_names(node))
    return found


def _has_known_columns(x: Value | None) -> TypeGuard[Value]:
    """Whether it is known how many features the data has: nodes that ask for others are errors."""
    return x is not None and bool(x.tensor_type.shape) and isinstance(x.tensor_type.dims[-1], int)


def _matrix(b: Builder, node: Node, x: Value) -> Value:
    """The data as rows, in the type that thresholds have."""
    if len(x.tensor_type.dims) == 1:
        x = b.op("Unsqueeze", x, b.constant(np.array([0])))
    wide = dtypes.FLOAT64 if x.tensor_type.dtype == dtypes.FLOAT64 else dtypes.FLOAT32
    return x if x.tensor_type.dtype == wide else b.op("Cast", x, to=wide.onnx)


def _aggregated(
    b: Builder, node: Node, x: Value, trees: Sequence[Branch | Leaf], targets: int, aggregate: str
) -> Value:
    """What the trees say together, before base values."""
    columns = x.tensor_type.dims[1]
    # No index is looked at when the model runs: a wild one must not come that far.
    features, named = _asked(trees)
    for what, asked, limit in (("feature", features, columns), ("target", named, targets)):
        assert isinstance(limit, int), "data of an unknown number of features is left alone"
        wild = [number for number in asked if not 0 <= number < limit]
        if wild:
            raise TypeInferenceError(f"{node.op}: a node asks for {what} {wild[0]} of {limit}", nodes=node_names(node))
    found = add_trees(b, x, trees, targets, {"MIN": "min", "MAX": "max"}.get(aggregate, "sum"))
    like = x.tensor_type.dtype.numpy
    if aggregate == "AVERAGE":
        return b.op("Div", found, b.constant(np.array(len(trees), like)))
    if aggregate in ("MIN", "MAX"):
        # A target that no leaf names has no extreme; it counts as zero.
        return b.op("Where", b.op("IsInf", found), b.constant(np.array(0, like)), found)
    return found


def _asked(trees: Sequence[Branch | Leaf]) -> tuple[set[int], set[int]]:
    """Every feature and every target that trees name."""
    features: set[int] = set()
    targets: set[int] = set()
    stack: list[Branch | Leaf] = list(trees)
    while stack:
        node = stack.pop()
        if isinstance(node, Branch):
            features.add(node.feature)
            stack += [node.yes, node.no]
        else:
            targets.update(node.weights)
    return features, targets


def _regressor(b: Builder, node: Node, inputs: Sequence[Value | None]) -> Sequence[Value] | None:
    if not _has_known_columns(inputs[0]):
        return None
    x = _matrix(b, node, inputs[0])
    like = x.tensor_type.dtype.numpy
    targets = node.int_attribute("n_targets", 1)
    trees = _old_trees(node, "target", like)
    scores = _aggregated(b, node, x, trees, targets, node.str_attribute("aggregate_function", "SUM"))
    base = _list(node, "base_values")
    if base.size:
        scores = b.op("Add", scores, b.constant(base.astype(like)))
    if like != np.float32:
        scores = b.op("Cast", scores, to=dtypes.FLOAT32.onnx)
    return [post_transformed(b, scores, node.str_attribute("post_transform", "NONE"))]


def _classifier(b: Builder, node: Node, inputs: Sequence[Value | None]) -> Sequence[Value] | None:
    if not _has_known_columns(inputs[0]):
        return None
    x = _matrix(b, node, inputs[0])
    like = x.tensor_type.dtype.numpy
    names = _words(node, "classlabels_strings")
    labels: Any = names or list(node.ints_attribute("classlabels_int64s") or ())
    classes, weights, base = len(labels), _list(node, "class_weights"), _list(node, "base_values")
    ids = set(_list(node, "class_ids", np.int64).tolist())
    transform = node.str_attribute("post_transform", "NONE")
    trees = _old_trees(node, "class", like)
    if classes == 2 and len(ids) == 1:
        if transform == "PROBIT" or base.size > (1 if ids == {0} else 0):
            return None
        trees = [_renumbered(tree) for tree in trees]
        score = _aggregated(b, node, x, trees, 1, "SUM")
        if base.size:
            score = b.op("Add", score, b.constant(base.astype(like)))
        if like != np.float32:
            score = b.op("Cast", score, to=dtypes.FLOAT32.onnx)
        # One score stands for both classes: if no weight is negative it is a probability, else a margin.
        positive = bool((weights >= 0).all())
        second = b.op("Greater", score, b.constant(np.float32(0.5 if positive else 0)))
        chosen = b.op("Cast", b.op("Squeeze", second, b.constant(np.array([1]))), to=dtypes.INT64.onnx)
        if ids == {0}:
            both = with_second_class(b, score, transform, probability=positive)
        else:
            nothing = b.op("Mul", score, b.constant(np.float32(0)))
            both = post_transformed(b, b.op("Concat", nothing, score, axis=1), transform)
        return [labels_of(b, chosen, labels), both]
    if classes < 2 or (base.size and base.size != classes):
        return None
    scores = _aggregated(b, node, x, trees, classes, "SUM")
    if base.size:
        scores = b.op("Add", scores, b.constant(base.astype(like)))
    if like != np.float32:
        scores = b.op("Cast", scores, to=dtypes.FLOAT32.onnx)
    best = b.op("ArgMax", scores, axis=1, keepdims=0)
    return [labels_of(b, best, labels), post_transformed(b, scores, transform)]


def _renumbered(tree: Branch | Leaf) -> Branch | Leaf:
    """A tree whose only target has number 0."""

    def leaf(found: Leaf) -> Leaf:
        return Leaf(dict.fromkeys([0] * bool(found.weights), sum(found.weights.values())))

    done: dict[int, Branch | Leaf] = {}
    stack: list[tuple[Branch | Leaf, bool]] = [(tree, False)]
    while stack:
        node, ready = stack.pop()
        if isinstance(node, Leaf):
            done[id(node)] = leaf(node)
        elif ready:
            yes, no = done[id(node.yes)], done[id(node.no)]
            done[id(node)] = Branch(node.feature, node.threshold, node.missing, yes, no)
        else:
            stack += [(node, True), (node.yes, False), (node.no, False)]
    return done[id(tree)]


# --- the new operator -------------------------------------------------------------------------------------------------


def _tensor(node: Node, name: str) -> Array:
    found = node.attributes.get(name)
    return found.array() if isinstance(found, Tensor) else np.array([])


def _new_trees(node: Node, dtype: Any) -> list[Branch | Leaf]:
    """The trees of a TreeEnsemble. Leaves are numbered after the inner nodes here."""
    features, splits = _list(node, "nodes_featureids", np.int64), _tensor(node, "nodes_splits").astype(dtype)
    modes, missing = _tensor(node, "nodes_modes"), _list(node, "nodes_missing_value_tracks_true", np.int64)
    weights, targets = _tensor(node, "leaf_weights"), _list(node, "leaf_targetids", np.int64)
    count = len(features)
    ways = [
        (_list(node, f"nodes_{name}nodeids", np.int64), _list(node, f"nodes_{name}leafs", np.int64))
        for name in ("true", "false")
    ]
    if any(len(x) != count for x in (splits, modes, *(part for way in ways for part in way))):
        raise TypeInferenceError(f"{node.op}: the lists of its nodes differ in length", nodes=node_names(node))
    if len(weights) != len(targets):
        raise TypeInferenceError(f"{node.op}: the lists of its leaves differ in length", nodes=node_names(node))
    roots = [int(root) for root in _list(node, "tree_roots", np.int64)]
    if any(not 0 <= root < count for root in roots) or any(not 0 <= int(mode) < len(_MODES) for mode in modes):
        raise TypeInferenceError(f"{node.op}: a root or a mode is unknown", nodes=node_names(node))
    links: dict[int, list[int]] = {}
    for i in range(count):
        links[i] = [int(numbers[i]) + (count if is_leaf[i] else 0) for numbers, is_leaf in ways]
        limits = [(len(weights) if is_leaf[i] else count) for _, is_leaf in ways]
        if any(not 0 <= int(way[0][i]) < limit for way, limit in zip(ways, limits, strict=True)):
            raise TypeInferenceError(f"{node.op}: node {i} goes on to one that is not there", nodes=node_names(node))
    members = _members(_tensor(node, "membership_values").astype(dtype))

    order = [i for i in range(count) if int(modes[i]) == _MODES.index("MEMBER")]
    by_node = dict(zip(order, members, strict=False))

    def make(i: int, *children: Branch | Leaf) -> Branch | Leaf:
        if not children:
            return Leaf({int(targets[i - count]): float(weights[i - count])})
        mode = _MODES[int(modes[i])]
        value: Any = by_node.get(i, ()) if mode == "MEMBER" else splits[i]
        return branch(mode, int(features[i]), value, bool(missing[i]) if i < len(missing) else False, *children)

    return _built(node, roots, links, make)


def _members(values: Array) -> list[list[Any]]:
    """Sets that NaN separates."""
    sets: list[list[Any]] = [[]]
    for value in values:
        if math.isnan(value):
            sets.append([])
        else:
            sets[-1].append(value)
    return sets


def _ensemble(b: Builder, node: Node, inputs: Sequence[Value | None]) -> Sequence[Value] | None:
    if not _has_known_columns(inputs[0]):
        return None
    kind = inputs[0].tensor_type.dtype
    x = _matrix(b, node, inputs[0])
    trees = _new_trees(node, x.tensor_type.dtype.numpy)
    aggregate = _AGGREGATES[node.int_attribute("aggregate_function", 1)]
    scores = _aggregated(b, node, x, trees, node.int_attribute("n_targets", 1), aggregate)
    scores = post_transformed(b, scores, _TRANSFORMS[node.int_attribute("post_transform", 0)])
    return [scores if scores.tensor_type.dtype == kind else b.op("Cast", scores, to=kind.onnx)]


for _name, _decompose in (
    ("TreeEnsemble", _ensemble),
    ("TreeEnsembleClassifier", _classifier),
    ("TreeEnsembleRegressor", _regressor),
):
    decomposed(_name, _decompose, domain=DOMAIN, define=False)
