"""TopK, Unique, NonMaxSuppression against ONNX Runtime; random tensors by their distribution."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from graphc.errors import ExecutionError, TypeInferenceError
from graphc.ir import TensorType, dtypes
from tests.ops.differential import Case, case, check
from tests.ops.test_contraction import floats, seeds


@given(
    st.lists(st.integers(1, 6), min_size=1, max_size=3), st.data(), st.integers(0, 1), st.booleans(),
    st.sampled_from(("float32", "int64", "uint8")), seeds,
)  # fmt: skip
@settings(max_examples=60)
def test_top_k(shape: list[int], data: st.DataObject, largest: int, few: bool, dtype: str, seed: int) -> None:
    axis = data.draw(st.integers(-len(shape), len(shape) - 1))
    count = np.array([data.draw(st.integers(0, shape[axis]))])
    # Few different elements make ties.
    x = np.random.default_rng(seed).integers(0, 3 if few else 200, shape).astype(dtype)
    subject = case("TopK", [x, count], 2, axis=axis, largest=largest, constants=[1])
    found = subject.infer()[0]
    assert isinstance(found, TensorType) and found.dims[axis] == count[0]
    if dtype == "uint8":
        expected = case("TopK", [x.astype(np.int64), count], 2, axis=axis, largest=largest).onnxruntime()
        check(subject, [expected[0].astype(np.uint8), expected[1]], expression=False)
    else:
        check(subject, expression=False)


def test_more_elements_than_there_are() -> None:
    with pytest.raises(TypeInferenceError, match="4 elements of an axis of 3"):
        case("TopK", [floats(0, 2, 3), np.array([4])], 2, constants=[1]).infer()
    with pytest.raises(ExecutionError, match="4 elements of an axis of 3"):
        case("TopK", [floats(0, 2, 3), np.array([4])], 2).evaluate()


@given(st.lists(st.integers(1, 5), min_size=1, max_size=3), st.data(), st.integers(0, 1), seeds)
@settings(max_examples=40)
def test_unique(shape: list[int], data: st.DataObject, ordered: int, seed: int) -> None:
    axis = data.draw(st.none() | st.integers(-len(shape), len(shape) - 1))
    x = np.random.default_rng(seed).integers(0, 3, shape).astype(np.float32)
    check(case("Unique", [x], 4, axis=axis, sorted=ordered), expression=False, shapes=False)


@given(st.integers(1, 2), st.integers(1, 3), st.integers(1, 8), st.integers(0, 1), st.data(), seeds)
@settings(max_examples=40)
def test_non_max_suppression(
    batch: int, classes: int, boxes: int, centred: int, data: st.DataObject, seed: int
) -> None:
    random = np.random.default_rng(seed)
    low, size = random.uniform(0, 1, (batch, boxes, 2)), random.uniform(0.1, 1, (batch, boxes, 2))
    corners = np.concatenate([low, size if centred else low + size], axis=-1).astype(np.float32)
    arrays: list[Any] = [corners, random.uniform(0, 1, (batch, classes, boxes)).astype(np.float32)]
    arrays.append(np.array([data.draw(st.integers(0, 4))]))
    arrays.append(np.array([data.draw(st.sampled_from((0.0, 0.3, 0.7)))], np.float32))
    if data.draw(st.booleans()):
        arrays.append(np.array([0.4], np.float32))
    check(case("NonMaxSuppression", arrays, center_point_box=centred), expression=False, shapes=False)


@pytest.mark.parametrize("size", [0.02, 0.3])
@pytest.mark.parametrize("count", [70, 1000])
def test_many_boxes(count: int, size: float) -> None:
    random = np.random.default_rng(0)
    low = random.uniform(0, 1, (1, 400, 2))
    corners = np.concatenate([low, low + random.uniform(0, size, (1, 400, 2))], axis=-1).astype(np.float32)
    scores = random.uniform(0, 1, (1, 2, 400)).astype(np.float32)
    arrays = [corners, scores, np.array([count]), np.array([0.2], np.float32)]
    check(case("NonMaxSuppression", arrays), expression=False, shapes=False)


@pytest.mark.parametrize(
    ("op_type", "attributes", "mean", "deviation"),
    [
        ("RandomNormal", {"shape": [100, 100], "mean": 2.0, "scale": 3.0}, 2, 3),
        ("RandomUniform", {"shape": [100, 100], "low": 1.0, "high": 4.0}, 2.5, 3 / np.sqrt(12)),
    ],
)
def test_random_tensors(op_type: str, attributes: dict[str, Any], mean: float, deviation: float) -> None:
    first, again = (case(op_type, [], seed=7.0, **attributes).evaluate()[0] for _ in range(2))
    np.testing.assert_array_equal(first, again, "the same seed gives the same numbers")
    other = case(op_type, [], seed=8.0, **attributes).evaluate()[0]
    assert (first != other).any()
    assert first.dtype == np.float32
    np.testing.assert_allclose([first.mean(), first.std()], [mean, deviation], atol=0.2)
    assert [str(kind) for kind in case(op_type, [], **attributes).infer()] == [str(_type(first))]


def _type(array: Any) -> TensorType:
    return TensorType(dtypes.from_numpy(array.dtype), array.shape)


@pytest.mark.parametrize("op_type", ["RandomNormalLike", "RandomUniformLike"])
def test_random_like(op_type: str) -> None:
    subject = case(op_type, [floats(0, 50, 60)], dtype=11)
    (found,) = subject.evaluate()
    assert found.dtype == np.float64 and found.shape == (50, 60) and found.std() > 0.1
    assert subject.infer() == [_type(found)]


def test_bernoulli_and_multinomial_follow_their_probabilities() -> None:
    probabilities = np.full((200, 100), 0.25, np.float32)
    drawn = case("Bernoulli", [probabilities], seed=1.0).evaluate()[0]
    assert set(np.unique(drawn)) == {0, 1} and abs(drawn.mean() - 0.25) < 0.02
    logits = np.log(np.array([[0.1, 0.2, 0.7], [0.5, 0.5, 1e-9]], np.float32))
    subject = case("Multinomial", [logits], seed=1.0, sample_size=4000)
    (picked,) = subject.evaluate()
    assert subject.infer() == [_type(picked)]
    for row, wanted in zip(picked, [[0.1, 0.2, 0.7], [0.5, 0.5, 0.0]], strict=True):
        np.testing.assert_allclose(np.bincount(row, minlength=3) / row.size, wanted, atol=0.04)


@pytest.mark.parametrize("reduction", ["none", "sum", "mean"])
@pytest.mark.parametrize("weighted", [False, True])
@pytest.mark.parametrize("ignore", [None, 1])
def test_losses(reduction: str, weighted: bool, ignore: int | None) -> None:
    scores, labels = floats(0, 3, 5, 2), np.random.default_rng(0).integers(0, 5, (3, 2))
    inputs = [scores, labels, *([np.abs(floats(1, 5))] if weighted else [])]
    attributes = {"reduction": reduction, "ignore_index": ignore}
    check(case("NegativeLogLikelihoodLoss", inputs, **attributes), Case.reference, expression=False)
    subject = case("SoftmaxCrossEntropyLoss", inputs, 2, **attributes)
    check(subject, Case.reference, rtol=1e-4, expression=False)
