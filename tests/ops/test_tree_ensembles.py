"""Tree ensembles stand for the trees that ONNX Runtime walks: modes, missing values, aggregates, labels, transforms."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest

from graphc.errors import TypeInferenceError
from graphc.ir import Tensor
from graphc.ops.decomposition import standard_form
from tests.ops.differential import Case, case
from tests.ops.expanded import check_expanded, form_of

ML = "ai.onnx.ml"
MODES = ["BRANCH_LEQ", "BRANCH_LT", "BRANCH_GTE", "BRANCH_GT", "BRANCH_EQ", "BRANCH_NEQ"]


def rows(rng: Any, kind: Any = np.float32, *, missing: bool = False) -> Any:
    x = (rng.integers(-6, 7, (40, 5)) / (2 if np.dtype(kind).kind == "f" else 1)).astype(kind)
    if missing:
        x[rng.random(x.shape) < 0.2] = np.nan
    return x


def forest(
    rng: Any, prefix: str, targets: Sequence[Sequence[int]], *, modes: Sequence[str] = MODES, missing: bool = False
) -> dict[str, Any]:
    """Attributes of random trees; tree number t names the targets `targets[t]` in each leaf."""
    nodes: dict[str, list[Any]] = {
        f"nodes_{name}": []
        for name in ("treeids", "nodeids", "featureids", "values", "modes", "truenodeids", "falsenodeids")
    }
    tracks: list[int] = []
    leaves: dict[str, list[Any]] = {f"{prefix}_{name}": [] for name in ("treeids", "nodeids", "ids", "weights")}

    def add(tree: int, depth: int) -> int:
        number = nodes["nodes_treeids"].count(tree)
        leaf = depth == 0 or (depth < 4 and rng.random() < 0.2)
        mode = "LEAF" if leaf else str(rng.choice(list(modes)))
        row = (tree, number, int(rng.integers(0, 5)), float(rng.integers(-4, 5) / 2), mode, 0, 0)
        for values, value in zip(nodes.values(), row, strict=True):
            values.append(value)
        tracks.append(int(missing and rng.random() < 0.5))
        place = len(tracks) - 1
        if leaf:
            for target in targets[tree]:
                weight = float(np.float32(rng.standard_normal()))
                for values, value in zip(leaves.values(), (tree, number, target, weight), strict=True):
                    values.append(value)
        else:
            nodes["nodes_truenodeids"][place] = add(tree, depth - 1)
            nodes["nodes_falsenodeids"][place] = add(tree, depth - 1)
        return number

    for tree in range(len(targets)):
        add(tree, 4)
    return {**nodes, **leaves, **({"nodes_missing_value_tracks_true": tracks} if missing else {})}


def ensemble(name: str, x: Any, outputs: int = 1, **attributes: Any) -> Case:
    return case(name, [x], outputs, domain=ML, version=5 if name == "TreeEnsemble" else 3, **attributes)


@pytest.mark.parametrize("aggregate", ["SUM", "AVERAGE", "MIN", "MAX"])
@pytest.mark.parametrize("missing", [False, True])
@pytest.mark.parametrize("base", [None, [1.5, -2.0]])
@pytest.mark.parametrize("targets", [[[0], [1]] * 3, [[0, 1]] * 6])
def test_regressor(targets: list[list[int]], base: list[float] | None, missing: bool, aggregate: str) -> None:
    rng = np.random.default_rng(0)
    trees = forest(rng, "target", targets, missing=missing)
    x = rows(rng, missing=missing)
    check_expanded(
        ensemble("TreeEnsembleRegressor", x, n_targets=2, aggregate_function=aggregate, base_values=base, **trees)
    )


@pytest.mark.parametrize("transform", ["NONE", "LOGISTIC", "SOFTMAX", "SOFTMAX_ZERO", "PROBIT"])
def test_transforms(transform: str) -> None:
    rng = np.random.default_rng(1)
    trees = forest(rng, "target", [[0, 1, 2]] * 5)
    check_expanded(ensemble("TreeEnsembleRegressor", rows(rng), n_targets=3, post_transform=transform, **trees))


@pytest.mark.parametrize("kind", [np.float32, np.float64, np.int64, np.int32])
def test_types_of_data(kind: Any) -> None:
    rng = np.random.default_rng(2)
    trees = forest(rng, "class", [[0], [1], [2]] * 2)
    check_expanded(ensemble("TreeEnsembleClassifier", rows(rng, kind), 2, classlabels_int64s=[0, 1, 2], **trees))


@pytest.mark.parametrize("transform", ["NONE", "LOGISTIC", "SOFTMAX"])
@pytest.mark.parametrize("labels", [[5, 7, 9], [0, 1, 2], ["a", "b", "c"]])
@pytest.mark.parametrize("base", [None, [0.5, 0.25, -1.0]])
def test_classifier_of_three(base: list[float] | None, labels: list[Any], transform: str) -> None:
    rng = np.random.default_rng(3)
    trees = forest(rng, "class", [[0], [1], [2]] * 2)
    name = "classlabels_strings" if isinstance(labels[0], str) else "classlabels_int64s"
    attributes = {**trees, name: labels, "post_transform": transform, "base_values": base}
    check_expanded(ensemble("TreeEnsembleClassifier", rows(rng), 2, **attributes))


@pytest.mark.parametrize("transform", ["NONE", "LOGISTIC", "SOFTMAX", "SOFTMAX_ZERO"])
@pytest.mark.parametrize("positive", [False, True])
@pytest.mark.parametrize(("target", "base"), [(0, None), (0, [0.25]), (1, None)])
def test_classifier_of_two_by_one_score(target: int, base: list[float] | None, positive: bool, transform: str) -> None:
    rng = np.random.default_rng(4)
    trees = forest(rng, "class", [[target]] * 4)
    if positive:
        trees["class_weights"] = [abs(weight) / 4 for weight in trees["class_weights"]]
    attributes = {**trees, "classlabels_int64s": [5, 7], "post_transform": transform, "base_values": base}
    check_expanded(ensemble("TreeEnsembleClassifier", rows(rng), 2, **attributes))


def test_classifier_of_two_by_two_scores_takes_the_larger() -> None:
    rng = np.random.default_rng(5)
    trees = forest(rng, "class", [[0, 1]] * 4)
    subject = ensemble("TreeEnsembleClassifier", rows(rng), 2, classlabels_int64s=[5, 7], **trees)
    scores = subject.onnxruntime()[1]
    # ONNX Runtime's label is whether the second score is positive; the specification's is that of the larger one.
    check_expanded(subject, [np.array([5, 7])[np.argmax(scores, axis=1)], scores])


@pytest.mark.parametrize("kind", [np.float32, np.float64])
@pytest.mark.parametrize("aggregate", [0, 1, 2, 3])
def test_ensemble_of_every_mode(aggregate: int, kind: Any) -> None:
    # One tree for each mode, and sets of members that NaN separates.
    modes = list(range(7))
    x = (np.arange(-8, 9)[:, None] / 2).astype(kind)
    subject = ensemble(
        "TreeEnsemble",
        x,
        n_targets=2,
        aggregate_function=aggregate,
        tree_roots=modes,
        nodes_featureids=[0] * 7,
        nodes_splits=Tensor.of(np.full(7, 1, kind)),
        nodes_modes=Tensor.of(np.array(modes, np.uint8)),
        nodes_truenodeids=[2 * i for i in modes],
        nodes_falsenodeids=[2 * i + 1 for i in modes],
        nodes_trueleafs=[1] * 7,
        nodes_falseleafs=[1] * 7,
        leaf_targetids=[0, 1] * 7,
        leaf_weights=Tensor.of(np.array([2.0**i for i in range(14)], kind)),
        membership_values=Tensor.of(np.array([1, 2, 5, np.nan], kind)),
    )
    check_expanded(subject)


def broken(**changes: Any) -> Case:
    trees = forest(np.random.default_rng(6), "target", [[0]])
    return ensemble("TreeEnsembleRegressor", rows(np.random.default_rng(6)), n_targets=1, **{**trees, **changes})


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"nodes_featureids": [7] * 4}, "differ in length"),
        ({"nodes_values": [0.0]}, "differ in length"),
        ({"target_nodeids": [99] * 100}, "no node 99"),
    ],
)
def test_broken_trees_are_errors(changes: dict[str, Any], message: str) -> None:
    if "target_nodeids" in changes:
        length = len(broken().node.attributes["target_ids"])
        changes = {"target_nodeids": [99] * length}
    with pytest.raises(TypeInferenceError, match=message):
        form_of(broken(**changes))


def test_a_tree_that_goes_in_circles_is_an_error() -> None:
    subject = ensemble(
        "TreeEnsembleRegressor", np.zeros((1, 1), np.float32), n_targets=1,
        nodes_treeids=[0, 0, 0], nodes_nodeids=[0, 1, 2], nodes_featureids=[0] * 3, nodes_values=[0.0] * 3,
        nodes_modes=["BRANCH_LEQ", "BRANCH_LEQ", "LEAF"], nodes_truenodeids=[1, 1, 0], nodes_falsenodeids=[2, 2, 0],
        target_treeids=[0], target_nodeids=[2], target_ids=[0], target_weights=[1.0],
    )  # fmt: skip
    with pytest.raises(TypeInferenceError, match="below itself"):
        standard_form(subject.node)


@pytest.mark.parametrize("target", [1, -1])
def test_a_target_that_is_not_there_is_an_error(target: int) -> None:
    length = len(forest(np.random.default_rng(6), "target", [[0]])["target_ids"])
    with pytest.raises(TypeInferenceError, match=f"target {target} of 1"):
        form_of(broken(target_ids=[target] * length))


def test_leaves_without_weights_are_an_error() -> None:
    with pytest.raises(TypeInferenceError, match="differ in length"):
        form_of(broken(target_weights=[1.0]))


def test_a_feature_that_is_not_there_is_an_error() -> None:
    trees = forest(np.random.default_rng(6), "target", [[0]])
    trees["nodes_featureids"] = [9] * len(trees["nodes_featureids"])
    with pytest.raises(TypeInferenceError, match="feature 9 of 5"):
        form_of(ensemble("TreeEnsembleRegressor", rows(np.random.default_rng(6)), n_targets=1, **trees))
