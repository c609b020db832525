"""Selection, scatters, sums along an axis and classical models compile without a host step, and are right."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

import graphc
from graphc.errors import ExecutionError
from graphc.frontend import export_model, import_model
from graphc.passes import PassContext
from graphc.passes.expand import Expand
from tests.compiler.compiled import check_compiled
from tests.frontend.models import run_ort
from tests.ops.differential import Case, case
from tests.ops.test_tree_ensembles import forest, rows

RNG = np.random.default_rng(0)
ML = "ai.onnx.ml"


def normal(*shape: int) -> Any:
    return RNG.standard_normal(shape).astype(np.float32)


CASES: dict[str, Case] = {
    "best": case("TopK", [normal(4, 300), np.array([7])], 2, constants=[1]),
    "sorted": case("TopK", [normal(2, 1100), np.array([1100])], 2, constants=[1], largest=0),
    "running sum": case("CumSum", [normal(3, 70, 5), np.array(1)], constants=[1], reverse=1),
    "long running sum": case("CumSum", [np.arange(50_000, dtype=np.int64), np.array(0)], constants=[1]),
    "running product": case("CumProd", [normal(3, 7), np.array(-1)], constants=[1], exclusive=1, version=26),
    "scatter elements": case(
        "ScatterElements",
        [normal(20, 6), RNG.integers(-20, 20, (9, 6)), normal(9, 6)],
        axis=0,
        reduction="add",
    ),
    "scatter slices": case("ScatterND", [normal(20, 37), RNG.integers(0, 20, (9, 1)), normal(9, 37)]),
    "positions": case("ArgMax", [normal(5, 21, 33)], axis=1, select_last_index=1),
    "winners": case("Hardmax", [normal(9, 130)], axis=-1),
    "determinants": case("Det", [normal(6, 5, 5)]),
    "n-grams": case(
        "TfIdfVectorizer",
        [RNG.integers(2, 9, (3, 8))],
        mode="TF",
        min_gram_length=1,
        max_gram_length=2,
        max_skip_count=2,
        ngram_counts=[0, 3],
        ngram_indexes=[2, 0, 1, 4, 3],
        pool_int64s=[2, 3, 5, 4, 5, 6, 7],
    ),
}


@pytest.mark.parametrize("name", CASES)
def test_alone(name: str) -> None:
    subject = CASES[name]
    check_compiled(subject, tolerance=1e-4, expected=subject.onnxruntime() if name != "running product" else None)


ENSEMBLE = {"classlabels_int64s": [3, 1, 2], **forest(RNG, "class", [[0], [1], [2]] * 3, missing=True)}
MODELS: dict[str, Case] = {
    "trees": case(
        "TreeEnsembleRegressor",
        [rows(RNG, missing=True)],
        domain=ML,
        version=3,
        n_targets=2,
        aggregate_function="MAX",
        **forest(RNG, "target", [[0], [1]] * 3, missing=True),
    ),
    "trees of classes": case("TreeEnsembleClassifier", [rows(RNG)], 2, domain=ML, version=3, **ENSEMBLE),
    "labels": case(
        "LabelEncoder",
        [RNG.integers(0, 50, 40)],
        domain=ML,
        version=4,
        keys_int64s=list(range(0, 60, 2)),
        values_floats=[i / 4 for i in range(30)],
    ),
    "linear classes": case(
        "LinearClassifier",
        [normal(8, 3)],
        2,
        domain=ML,
        coefficients=[0.5, 1.0, -1.0, 0.25, 0.0, 2.0],
        intercepts=[0.1, -0.1],
        classlabels_ints=[4, 8],
        post_transform="SOFTMAX",
    ),
    "support vectors": case(
        "SVMRegressor",
        [normal(8, 2)],
        domain=ML,
        coefficients=[0.5, -0.25],
        support_vectors=[1.0, 0.0, 1.0, 2.0],
        n_supports=2,
        rho=[0.1],
        kernel_type="RBF",
        kernel_params=[0.5, 0.0, 3.0],
    ),
    "classes by support vectors, and their probabilities": case(
        "SVMClassifier",
        [normal(8, 2)],
        2,
        domain=ML,
        coefficients=[0.5, 1.0, -1.0, 0.25, -0.5, 0.75],
        support_vectors=[1.0, 0.0, 1.0, 2.0, -1.0, 0.5],
        vectors_per_class=[1, 1, 1],
        rho=[0.1, 0.0, -0.1],
        prob_a=[-1.0, -0.5, -2.0],
        prob_b=[0.0, 0.1, 0.2],
        kernel_type="RBF",
        kernel_params=[0.5, 0.0, 3.0],
        classlabels_ints=[4, 8, 2],
    ),
    "norms": case("Normalizer", [normal(8, 5)], domain=ML, norm="L2"),
}


@pytest.mark.parametrize("name", MODELS)
def test_classical_models(name: str) -> None:
    subject = MODELS[name]
    check_compiled(subject, tolerance=1e-4, expected=subject.onnxruntime())


def test_trees_are_written_as_standard_operators() -> None:
    subject = MODELS["trees"]
    graph = import_model(subject.model())
    assert Expand().run(graph, PassContext()) > 0
    assert any(node.op_type == "Trees" for node in graph.nodes)
    (found,) = run_ort(export_model(graph), subject.feeds())
    np.testing.assert_allclose(found, subject.onnxruntime()[0], rtol=1e-5, atol=1e-5)


def test_an_index_out_of_range_names_the_node() -> None:
    subject = case("ScatterND", [normal(4, 3), np.array([[1], [9]]), normal(2, 3)])
    with graphc.compile(subject.model(), target="cpu") as module, pytest.raises(ExecutionError, match="ScatterND"):
        module(subject.feeds())
