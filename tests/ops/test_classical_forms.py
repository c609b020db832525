"""Operators of classical models stand for arithmetic that gives what ONNX Runtime gives."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from graphc.errors import TypeInferenceError
from graphc.ir import Tensor
from graphc.ops import evaluate_node
from graphc.ops.decomposition import standard_form
from tests.ops.differential import Case, case
from tests.ops.expanded import check_expanded, form_of

ML = "ai.onnx.ml"
NUMBERS = np.array([[1, -2, 3], [0, 0, 0], [-1, -2, -3], [7, 2, 0.5]], np.float32)


def ml(name: str, *arrays: Any, outputs: int = 1, version: int = 4, **attributes: Any) -> Case:
    return case(name, list(arrays), outputs, domain=ML, version=version, **attributes)


KINDS = [np.float32, np.float64, np.int64, np.int32]


@pytest.mark.parametrize("kind", KINDS)
def test_scaler(kind: Any) -> None:
    check_expanded(ml("Scaler", NUMBERS.astype(kind), version=1, offset=[1.0, 2.0, -1.0], scale=[2.0, 0.5, 3.0]))
    check_expanded(ml("Scaler", NUMBERS.astype(kind)[0], version=1, offset=[1.0], scale=[2.0]))


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("norm", ["MAX", "L1", "L2"])
def test_normalizer(norm: str, kind: Any) -> None:
    check_expanded(ml("Normalizer", NUMBERS.astype(kind), version=1, norm=norm))
    check_expanded(ml("Normalizer", NUMBERS.astype(kind)[0], version=1, norm=norm))


def test_binarizer() -> None:
    check_expanded(ml("Binarizer", NUMBERS, version=1, threshold=0.5))
    integers = NUMBERS.astype(np.int64)
    check_expanded(ml("Binarizer", integers, version=1, threshold=0.5), [(integers > 0.5).astype(np.int64)])


def test_imputer() -> None:
    x = np.where(NUMBERS == 0, np.nan, NUMBERS).astype(np.float32)
    check_expanded(ml("Imputer", x, version=1, imputed_value_floats=[9.0, 8.0, 7.0], replaced_value_float=np.nan))
    check_expanded(ml("Imputer", x, version=1, imputed_value_floats=[9.0], replaced_value_float=-2.0))
    integers = NUMBERS.astype(np.int64)
    check_expanded(ml("Imputer", integers, version=1, imputed_value_int64s=[9, 8, 7], replaced_value_int64=-2))


@pytest.mark.parametrize("kind", [np.float32, np.int64])
def test_one_hot_encoder(kind: Any) -> None:
    check_expanded(ml("OneHotEncoder", NUMBERS.astype(kind), version=1, cats_int64s=[1, 0, 3]))


def test_feature_vectorizer_cuts_and_fills() -> None:
    check_expanded(ml("FeatureVectorizer", NUMBERS, NUMBERS[:, :2].copy(), version=1, inputdimensions=[2, 3]))
    check_expanded(ml("FeatureVectorizer", NUMBERS.astype(np.int32), version=1, inputdimensions=[3]))


@pytest.mark.parametrize("kind", KINDS)
def test_array_feature_extractor(kind: Any) -> None:
    check_expanded(ml("ArrayFeatureExtractor", NUMBERS.astype(kind), np.array([2, 0, 2]), version=1))
    check_expanded(ml("ArrayFeatureExtractor", NUMBERS.astype(kind)[0], np.array([[1, 2]]), version=1))


@given(
    keys=st.lists(st.integers(-40, 40), min_size=1, max_size=60),
    data=st.lists(st.integers(-45, 45), min_size=1, max_size=20),
)
@settings(max_examples=40)
def test_label_encoder_finds_the_first_of_equal_keys(keys: list[int], data: list[int]) -> None:
    values = [float(i) / 2 for i in range(len(keys))]
    check_expanded(ml("LabelEncoder", np.array(data), keys_int64s=keys, values_floats=values, default_float=-7.5))


def test_label_encoder_of_missing_numbers() -> None:
    x = np.array([[1, np.nan], [7, 2.5]], np.float32)
    check_expanded(ml("LabelEncoder", x, keys_floats=[1.0, np.nan, 2.5], values_int64s=[10, 20, 30]))


@pytest.mark.parametrize("kind", [np.int16, np.int32, np.int64, np.float64])
def test_label_encoder_by_tensors(kind: Any) -> None:
    keys, values = np.array([4, 1, 3], kind), np.array([1.5, 2.5, 3.5])
    x = np.array([1, 2, 3, 4], kind)
    subject = ml(
        "LabelEncoder", x, keys_tensor=Tensor.of(keys), values_tensor=Tensor.of(values),
        default_tensor=Tensor.of(np.array([-1.0])),
    )  # fmt: skip
    check_expanded(subject, [np.array([2.5, -1, 3.5, 1.5])])


def test_label_encoder_of_text_stays() -> None:
    subject = ml("LabelEncoder", np.array(["a", "c"], object), keys_strings=["a", "b"], values_int64s=[1, 2])
    subject.infer()
    with pytest.raises(Exception, match="no definition"):
        standard_form(subject.node)
    np.testing.assert_array_equal(evaluate_node(subject.node, list(subject.arrays))[0], [1, -1])


@pytest.mark.parametrize("targets", [1, 2])
@pytest.mark.parametrize("transform", ["NONE", "LOGISTIC", "SOFTMAX", "SOFTMAX_ZERO"])
def test_linear_regressor(transform: str, targets: int) -> None:
    weights = {"coefficients": [0.1, 0.2, 0.3, -0.1, 0.5, 0.25][: 3 * targets], "intercepts": [0.5, -1.0][:targets]}
    check_expanded(ml("LinearRegressor", NUMBERS, version=1, targets=targets, post_transform=transform, **weights))


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("labels", [{"classlabels_ints": [5, 7, 9]}, {"classlabels_strings": ["a", "b", "c"]}])
@pytest.mark.parametrize("classes", [1, 2, 3])
@pytest.mark.parametrize("transform", ["NONE", "LOGISTIC", "SOFTMAX", "SOFTMAX_ZERO"])
def test_linear_classifier(transform: str, classes: int, labels: dict[str, list[Any]], kind: Any) -> None:
    coefficients = [0.1, 0.2, 0.3, -0.1, 0.5, 0.25, 0.3, -0.4, 0.0]
    named = {name: values[: max(classes, 2)] for name, values in labels.items()}
    check_expanded(
        ml(
            "LinearClassifier", NUMBERS.astype(kind), outputs=2, version=1, post_transform=transform,
            coefficients=coefficients[: 3 * classes], intercepts=[0.5, -1.0, 0.125][:classes], **named,
        )
    )  # fmt: skip


@pytest.mark.parametrize("kernel", ["LINEAR", "POLY", "RBF", "SIGMOID"])
@pytest.mark.parametrize("one_class", [0, 1])
def test_svm_regressor(one_class: int, kernel: str) -> None:
    check_expanded(
        ml(
            "SVMRegressor", NUMBERS, version=1, coefficients=[0.5, -0.25], n_supports=2, rho=[0.1],
            support_vectors=[1.0, 0.0, 1.0, 0.0, 1.0, 1.0], kernel_type=kernel, kernel_params=[0.5, 0.1, 2.0],
            one_class=one_class,
        )
    )  # fmt: skip


def test_svm_regressor_without_vectors() -> None:
    check_expanded(
        ml("SVMRegressor", NUMBERS, version=1, coefficients=[0.5, -0.25, 1.0], rho=[0.1], kernel_params=[0.0, 0.0, 3.0])
    )


def machine(classes: int, *, odds: bool = False, vectors: bool = True, **attributes: Any) -> Case:
    """An SVMClassifier of so many classes over seven rows of four columns."""
    random = np.random.default_rng(classes)
    pairs, counts = classes * (classes - 1) // 2, [1 + i % 3 for i in range(classes)] if vectors else []
    numbers = {
        "support_vectors": 4 * sum(counts),
        "coefficients": sum(counts) * (classes - 1) if vectors else 4 * classes,
        "rho": pairs if vectors else 1,
        "prob_a": pairs * odds,
        "prob_b": pairs * odds,
    }
    weights = {name: random.normal(size=size).tolist() for name, size in numbers.items() if size}
    labels = {"classlabels_ints": list(range(5, 5 + classes))} | ({"vectors_per_class": counts} if vectors else {})
    x = random.normal(size=(7, 4)).astype(np.float32)
    given = {**weights, **labels, "kernel_params": [0.5, 0.1, 3.0], **attributes}
    return ml("SVMClassifier", x, outputs=2, version=1, **given)


@pytest.mark.parametrize("odds", [False, True])
@pytest.mark.parametrize("classes", [2, 3, 5])
@pytest.mark.parametrize("kernel", ["LINEAR", "POLY", "RBF", "SIGMOID"])
def test_svm_classifier(kernel: str, classes: int, odds: bool) -> None:
    subject = machine(classes, odds=odds, kernel_type=kernel)
    check_expanded(subject)
    assert [value.tensor_type.static_shape for value in subject.node.outputs] == [
        (7,),
        (7, classes if odds else max(2, classes * (classes - 1) // 2)),
    ]


@pytest.mark.parametrize("transform", ["LOGISTIC", "SOFTMAX", "SOFTMAX_ZERO"])
@pytest.mark.parametrize("odds", [False, True])
@pytest.mark.parametrize("classes", [2, 3])
def test_transforms_of_svm_classifiers(classes: int, odds: bool, transform: str) -> None:
    check_expanded(machine(classes, odds=odds, post_transform=transform))


@pytest.mark.parametrize("positive", [False, True])
@pytest.mark.parametrize("classes", [1, 2, 3])
def test_svm_classifier_of_planes(classes: int, positive: bool) -> None:
    weights = np.linspace(0 if positive else -1, 1, 4 * classes).tolist()
    check_expanded(machine(classes, vectors=False, coefficients=weights, post_transform="LOGISTIC"))


@pytest.mark.parametrize(
    ("attributes", "reason"),
    [
        ({"classlabels_ints": None}, "names no class"),
        ({"rho": [0.5]}, "3 classes take 3 each"),
        ({"prob_a": [0.5, 0.5, 0.5]}, "3 classes take 3 each"),
        ({"vectors_per_class": [1, 2]}, "of 3 classes"),
        ({"vectors_per_class": [-1, 1, 2]}, "of 3 classes"),
        ({"support_vectors": [1.0] * 12}, "must have 2 columns"),
        ({"coefficients": [1.0]}, "take 12 coefficients, not 1"),
        ({"kernel_params": [1.0]}, "kernel_params"),
    ],
)
def test_svm_classifiers_that_do_not_add_up(attributes: dict[str, Any], reason: str) -> None:
    with pytest.raises(TypeInferenceError, match=reason):
        machine(3, **attributes).infer()


def test_no_columns_fit_no_model() -> None:
    subject = ml("LinearRegressor", NUMBERS, version=1, coefficients=[1.0, 2.0], targets=1)
    with pytest.raises(Exception, match="no definition"):
        form_of(subject)
