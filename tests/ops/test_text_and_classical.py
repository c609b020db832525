"""Strings and classical learning: types against what ONNX Runtime answers, values through the host step."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from graphc.errors import TypeInferenceError
from graphc.ir import MapType, SequenceType, TensorType, dtypes
from graphc.ops.base import InferenceContext, find
from tests.ops.differential import Case, case, check
from tests.ops.test_contraction import floats

ML = "ai.onnx.ml"
X = floats(0, 4, 3)
WORDS = np.array(["a", "bb", "ccc"], dtype=object)

TREE: dict[str, Any] = {
    "nodes_treeids": [0, 0, 0],
    "nodes_nodeids": [0, 1, 2],
    "nodes_featureids": [1, 0, 0],
    "nodes_modes": ["BRANCH_LEQ", "LEAF", "LEAF"],
    "nodes_values": [0.1, 0.0, 0.0],
    "nodes_truenodeids": [1, 0, 0],
    "nodes_falsenodeids": [2, 0, 0],
    "nodes_missing_value_tracks_true": [0, 0, 0],
    "nodes_hitrates": [1.0, 1.0, 1.0],
}
SVM: dict[str, Any] = {
    "kernel_type": "RBF",
    "kernel_params": [0.5, 0.0, 3.0],
    "coefficients": [0.5, -0.7],
    "rho": [0.1],
}


@pytest.mark.parametrize(
    ("op_type", "inputs", "attributes"),
    [
        ("ArrayFeatureExtractor", [X, np.array([2, 0])], {}),
        ("Binarizer", [X], {"threshold": 0.2}),
        ("Imputer", [X], {"imputed_value_floats": [1.0, 2.0, 3.0], "replaced_value_float": 0.0}),
        ("LabelEncoder", [WORDS], {"keys_strings": ["a", "bb"], "values_int64s": [5, 6], "default_int64": -3}),
        ("LinearRegressor", [X], {"coefficients": [1.0, 2.0, 3.0], "intercepts": [0.5], "targets": 1}),
        ("Normalizer", [X], {"norm": "L2"}),
        ("OneHotEncoder", [np.array([1, 3, 7])], {"cats_int64s": [1, 2, 3], "zeros": 1}),
        ("Scaler", [X], {"offset": [1.0, 2.0, 3.0], "scale": [0.5, 1.0, 2.0]}),
        ("SVMRegressor", [X], {"n_supports": 2, "support_vectors": [0.0, 1.0, 2.0, 3.0, 4.0, 5.0], **SVM}),
        (
            "TreeEnsembleRegressor",
            [X],
            {
                **TREE,
                "n_targets": 1,
                "target_treeids": [0, 0],
                "target_nodeids": [1, 2],
                "target_ids": [0, 0],
                "target_weights": [1.5, -2.5],
            },
        ),
    ],
)
def test_one_output(op_type: str, inputs: list[Any], attributes: dict[str, Any]) -> None:
    version = {"LabelEncoder": 2, "TreeEnsembleRegressor": 1}.get(op_type, 1)
    subject = case(op_type, inputs, domain=ML, version=version, **attributes)
    check(subject, rtol=1e-4, expression=False)


def test_a_linear_classifier() -> None:
    attributes = {"coefficients": [0.5, -1.0, 2.0, 1.0, 0.0, -1.0], "intercepts": [0.1, -0.1], "multi_class": 0}
    subject = case("LinearClassifier", [X], 2, domain=ML, classlabels_ints=[3, 9], **attributes)
    check(subject, expression=False, rtol=1e-4)


def test_a_tree_classifier() -> None:
    attributes = {
        **TREE,
        "classlabels_int64s": [0, 1, 2],
        "class_treeids": [0, 0, 0],
        "class_nodeids": [1, 2, 2],
        "class_ids": [0, 1, 2],
        "class_weights": [1.0, 0.25, 0.75],
    }
    check(case("TreeEnsembleClassifier", [X], 2, domain=ML, **attributes), expression=False, rtol=1e-4)


@pytest.mark.parametrize(
    ("op_type", "attributes", "expected"),
    [
        ("CategoryMapper", {"cats_strings": ["a"], "cats_int64s": [1]}, TensorType(dtypes.INT64, (3,))),
        ("StringNormalizer", {"case_change_action": "UPPER"}, TensorType(dtypes.STRING, (3,))),
        ("RegexFullMatch", {"pattern": "b+"}, TensorType(dtypes.BOOL, (3,))),
    ],
)
def test_strings(op_type: str, attributes: dict[str, Any], expected: TensorType) -> None:
    domain = ML if op_type == "CategoryMapper" else ""
    assert case(op_type, [WORDS], domain=domain, **attributes).infer() == [expected]


def test_string_values() -> None:
    check(case("StringConcat", [WORDS, np.array("z", dtype=object)]), Case.reference, expression=False)
    check(
        case("StringSplit", [np.array(["a b", "c"], dtype=object)], 2), Case.reference, expression=False, shapes=False
    )
    attributes: dict[str, Any] = {"mode": "TF", "min_gram_length": 1, "max_gram_length": 1, "max_skip_count": 0}
    grams = {"ngram_counts": [0], "ngram_indexes": [0, 1, 3], "pool_int64s": [2, 3, 5]}
    check(case("TfIdfVectorizer", [np.array([2, 3, 3, 7])], **attributes, **grams), expression=False)


def test_what_classifiers_are_wrapped_in() -> None:
    subject = case("ZipMap", [floats(0, 2, 3)], domain=ML, classlabels_strings=["a", "b", "c"])
    assert subject.infer() == [SequenceType(MapType(dtypes.STRING, TensorType(dtypes.FLOAT32, ())))]


@pytest.mark.parametrize(
    ("op_type", "attributes", "expected"),
    [
        ("DictVectorizer", {"string_vocabulary": ["a", "b"]}, TensorType(dtypes.FLOAT32, (1, 2))),
        ("CastMap", {"cast_to": "TO_INT64", "map_form": "SPARSE", "max_map": 5}, TensorType(dtypes.INT64, (1, 5))),
    ],
)
def test_maps(op_type: str, attributes: dict[str, Any], expected: TensorType) -> None:
    node = case(op_type, [np.zeros(1, np.float32)], domain=ML, **attributes).node
    operator = find(node)
    assert operator is not None
    kind = MapType(dtypes.STRING, TensorType(dtypes.FLOAT32, ()))
    context = InferenceContext(node, (kind,), lambda value: None, lambda name: 1)
    assert list(operator.infer(context)) == [expected]


def test_what_does_not_fit_is_an_error() -> None:
    with pytest.raises(TypeInferenceError, match="has no values"):
        case("LabelEncoder", [WORDS], domain=ML, version=4).infer()
    with pytest.raises(TypeInferenceError, match="must be a map"):
        case("DictVectorizer", [X], domain=ML).infer()
