"""Normalizations against ONNX Runtime, and at the numbers where naive formulas fail."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from graphc.errors import TypeInferenceError
from graphc.ir import dtypes
from tests.ops.differential import case, check
from tests.ops.oracles import numbers, outside, seeds

shapes = st.lists(st.integers(1, 5), min_size=1, max_size=4).map(tuple)
images = st.lists(st.integers(1, 4), min_size=3, max_size=5).map(tuple)
epsilons = st.sampled_from((1e-5, 1e-3))


@pytest.mark.parametrize("name", ["Softmax", "LogSoftmax", "Hardmax"])
@given(shape=shapes, data=st.data(), seed=seeds)
@settings(max_examples=20)
def test_softmax(name: str, shape: tuple[int, ...], data: st.DataObject, seed: int) -> None:
    axis = data.draw(st.integers(-len(shape), len(shape) - 1))
    check(case(name, [numbers(seed, shape, "float32")], axis=axis), outside)


def test_softmax_of_large_numbers() -> None:
    array = np.array([[1e4, 1e4 + 1, -1e4], [-3e38, 3e38, 0]], np.float32)
    check(case("Softmax", [array]), outside)
    array = np.array([[0, -np.inf], [-np.inf, -np.inf]], np.float32)
    check(case("Softmax", [array]), [np.array([[1, 0], [np.nan, np.nan]], np.float32)])


@pytest.mark.parametrize("kind", ["float16", "bfloat16", "float64"])
def test_softmax_of_other_floats(kind: str) -> None:
    array = numbers(0, (3, 7), kind)
    wide = np.exp(array.astype(np.float64))
    check(case("Softmax", [array]), [(wide / wide.sum(-1, keepdims=True)).astype(array.dtype)], rtol=1e-2, atol=1e-3)


@given(shapes, st.booleans(), epsilons, st.data(), seeds)
@settings(max_examples=40)
def test_layer_normalization(
    shape: tuple[int, ...], biased: bool, epsilon: float, data: st.DataObject, seed: int
) -> None:
    axis = data.draw(st.integers(-len(shape), len(shape) - 1))
    tail = shape[axis:] if axis else shape
    arrays = [numbers(seed, shape, "float32"), numbers(seed + 1, tail, "float32")]
    if biased:
        arrays.append(numbers(seed + 2, tail, "float32"))
    # Equal elements leave rounding errors alone to be normalized.
    check(case("LayerNormalization", arrays, 3, axis=axis, epsilon=epsilon), outside, rtol=1e-4, atol=2e-4)


def test_layer_normalization_far_from_zero() -> None:
    array = numbers(0, (4, 64), "float32") + 1000
    scale = np.ones(64, np.float32)
    wide = array.astype(np.float64)
    wanted = (wide - wide.mean(-1, keepdims=True)) / np.sqrt(wide.var(-1, keepdims=True) + 1e-5)
    check(case("LayerNormalization", [array, scale]), [wanted.astype(np.float32)], rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("kind", ["float16", "bfloat16"])
def test_layer_normalization_stashes_float32(kind: str) -> None:
    array, scale = numbers(0, (3, 16), kind), numbers(1, (16,), kind)
    subject = case("LayerNormalization", [array, scale], 3)
    assert [found.dtype for found in subject.evaluate()] == [array.dtype, np.float32, np.float32]
    check(subject, lambda other: other.evaluate(), rtol=1e-2, atol=1e-2)


@given(shapes, epsilons, st.data(), seeds)
@settings(max_examples=25)
def test_rms_normalization(shape: tuple[int, ...], epsilon: float, data: st.DataObject, seed: int) -> None:
    axis = data.draw(st.integers(-len(shape), len(shape) - 1))
    tail = shape[axis:] if axis else shape
    arrays = [numbers(seed, shape, "float32"), numbers(seed + 1, tail, "float32")]
    check(case("RMSNormalization", arrays, axis=axis, epsilon=epsilon), lambda other: other.reference(), rtol=1e-4)


@given(images, epsilons, seeds)
@settings(max_examples=25)
def test_instance_normalization(shape: tuple[int, ...], epsilon: float, seed: int) -> None:
    arrays = [numbers(seed, shape, "float32"), *(numbers(seed + i, shape[1:2], "float32") for i in (1, 2))]
    check(case("InstanceNormalization", arrays, epsilon=epsilon), outside, rtol=1e-4, atol=2e-4)


@given(st.integers(1, 3), st.integers(1, 3), st.lists(st.integers(1, 4), min_size=1, max_size=2), seeds)
@settings(max_examples=25)
def test_group_normalization(groups: int, width: int, spatial: list[int], seed: int) -> None:
    channels = groups * width
    arrays = [numbers(seed, (2, channels, *spatial), "float32")]
    arrays += [numbers(seed + i, (channels,), "float32") for i in (1, 2)]
    subject = case("GroupNormalization", arrays, num_groups=groups)
    check(subject, lambda other: other.reference(), rtol=1e-4, atol=1e-3)


@given(images, epsilons, seeds)
@settings(max_examples=25)
def test_batch_normalization(shape: tuple[int, ...], epsilon: float, seed: int) -> None:
    parameters = [numbers(seed + i, shape[1:2], "float32") for i in range(1, 5)]
    parameters[3] = np.abs(parameters[3]) + 0.1
    arrays = [numbers(seed, shape, "float32"), *parameters]
    check(case("BatchNormalization", arrays, epsilon=epsilon), outside, rtol=1e-4, atol=1e-4)


def test_training_has_no_expression() -> None:
    arrays = [numbers(0, (2, 3, 4), "float32"), *(np.ones(3, np.float32) for _ in range(4))]
    subject = case("BatchNormalization", arrays, 3, training_mode=1)
    check(subject, lambda other: other.reference(), expression=False)
    assert subject.express() is None


@given(shapes, st.integers(1, 2), st.data(), seeds)
@settings(max_examples=25)
def test_lp_normalization(shape: tuple[int, ...], p: int, data: st.DataObject, seed: int) -> None:
    axis = data.draw(st.integers(-len(shape), len(shape) - 1))
    check(case("LpNormalization", [numbers(seed, shape, "float32")], axis=axis, p=p), outside)


def test_lp_normalization_of_zeros() -> None:
    check(case("LpNormalization", [np.zeros((2, 3), np.float32)]), [np.zeros((2, 3), np.float32)])


@given(st.tuples(*[st.integers(2, 4)] * 4), st.sampled_from(((0, 2, 3), (0, 1, 2, 3), (3,), (-1, 0))), seeds)
@settings(max_examples=15)
def test_mean_variance_normalization(shape: tuple[int, ...], axes: tuple[int, ...], seed: int) -> None:
    array = numbers(seed, shape, "float32").astype(np.float64)
    deviation = array - array.mean(axes, keepdims=True)
    wanted = deviation / (np.sqrt((deviation**2).mean(axes, keepdims=True)) + 1e-9)
    subject = case("MeanVarianceNormalization", [array.astype(np.float32)], axes=axes)
    check(subject, [wanted.astype(np.float32)], rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize(
    ("name", "arrays", "attributes", "message"),
    [
        ("Softmax", [np.zeros((2, 3), "f")], {"axis": 2}, "axis 2 is out of range for rank 2"),
        ("Softmax", [np.zeros((2, 3), np.int32)], {}, "does not take int32"),
        ("LayerNormalization", [np.zeros((2, 3), "f"), np.zeros(4, "f")], {}, "does not broadcast"),
        ("BatchNormalization", [np.zeros((2, 3, 4), "f"), *[np.zeros(4, "f")] * 4], {}, "does not fit 3 channels"),
    ],
)
def test_misfits_are_named(name: str, arrays: list[Any], attributes: dict[str, Any], message: str) -> None:
    subject = case(name, arrays, **attributes)
    subject.node.name = "culprit"
    with pytest.raises(TypeInferenceError, match=message) as caught:
        subject.infer()
    assert caught.value.nodes == ("culprit",)


def test_dtypes_of_statistics_follow_stash_type() -> None:
    arrays = [numbers(0, (2, 4), "float16"), numbers(1, (4,), "float16")]
    subject = case("LayerNormalization", arrays, 3, stash_type=dtypes.BFLOAT16.onnx)
    assert [str(kind) for kind in subject.infer()] == ["float16[2x4]", "bfloat16[2x1]", "bfloat16[2x1]"]
