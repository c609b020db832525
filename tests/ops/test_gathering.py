"""Gathers and scatters against ONNX Runtime; indices that are out of range are errors, never reads."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from graphc.errors import ExecutionError, TypeInferenceError
from tests.ops.differential import case, check
from tests.ops.oracles import check_late, numbers, outside, seeds

shapes = st.lists(st.integers(1, 5), min_size=1, max_size=4).map(tuple)
small = st.lists(st.integers(1, 4), max_size=3).map(tuple)


def picks(seed: int, shape: tuple[int, ...], extent: int, kind: Any = np.int64) -> Any:
    """Indices over all of `-extent..extent-1`."""
    return np.random.default_rng(seed).integers(-extent, extent, shape).astype(kind)


@given(shapes, small, st.sampled_from((np.int32, np.int64)), st.booleans(), st.data(), seeds)
@settings(max_examples=40)
def test_gather(
    shape: tuple[int, ...], outer: tuple[int, ...], kind: Any, constant: bool, data: st.DataObject, seed: int
) -> None:
    axis = data.draw(st.integers(-len(shape), len(shape) - 1))
    arrays = [numbers(seed, shape, "float32"), picks(seed, outer, shape[axis], kind)]
    check(case("Gather", arrays, constants=[1] if constant else [], axis=axis), outside)


@given(shapes, st.data(), seeds)
@settings(max_examples=30)
def test_gather_elements(shape: tuple[int, ...], data: st.DataObject, seed: int) -> None:
    axis = data.draw(st.integers(-len(shape), len(shape) - 1))
    index_shape = tuple(data.draw(st.integers(1, extent)) for extent in shape)
    arrays = [numbers(seed, shape, "float32"), picks(seed, index_shape, shape[axis])]
    check(case("GatherElements", arrays, axis=axis), outside)


@given(st.lists(st.integers(1, 4), min_size=1, max_size=4).map(tuple), small, st.data(), seeds)
@settings(max_examples=40)
def test_gather_nd(shape: tuple[int, ...], outer: tuple[int, ...], data: st.DataObject, seed: int) -> None:
    batch = data.draw(st.integers(0, len(shape) - 1))
    length = data.draw(st.integers(1, len(shape) - batch))
    random = np.random.default_rng(seed)
    columns = [random.integers(-e, e, (*shape[:batch], *outer)) for e in shape[batch : batch + length]]
    arrays = [numbers(seed, shape, "float32"), np.stack(columns, -1).astype(np.int64)]
    check(case("GatherND", arrays, batch_dims=batch), outside)


@pytest.mark.parametrize("name", ["Gather", "GatherElements"])
@pytest.mark.parametrize("index", [3, -4, 2**40])
def test_indices_out_of_range_are_errors(name: str, index: int) -> None:
    subject = case(name, [numbers(0, (3,), "float32"), np.array([index], np.int64)])
    subject.infer()
    for run in (subject.evaluate, subject.express):
        with pytest.raises(ExecutionError, match="out of range"):
            run()


@given(small, st.integers(1, 5), st.sampled_from((np.int64, np.float32)), st.data(), seeds)
@settings(max_examples=30)
def test_one_hot(shape: tuple[int, ...], depth: int, kind: Any, data: st.DataObject, seed: int) -> None:
    axis = data.draw(st.integers(-len(shape) - 1, len(shape)))
    arrays = [picks(seed, shape, depth + 2, np.int64), np.array(depth, np.int64), np.array([2, 5], kind)]
    check(case("OneHot", arrays, constants=[1], axis=axis), outside)
    check_late(case("OneHot", arrays, axis=axis))


@pytest.mark.parametrize("reduction", ["none", "add", "mul", "max", "min"])
@given(shape=shapes, data=st.data(), seed=seeds)
@settings(max_examples=12)
def test_scatter_elements(reduction: str, shape: tuple[int, ...], data: st.DataObject, seed: int) -> None:
    axis = data.draw(st.integers(-len(shape), len(shape) - 1))
    index_shape = [data.draw(st.integers(1, extent)) for extent in shape]
    # Without a reduction, indices must not repeat.
    random = np.random.default_rng(seed)
    order = np.argsort(random.random((*index_shape[:axis], shape[axis], *index_shape[axis:][1:])), axis)
    places = np.take(order, range(index_shape[axis]), axis).astype(np.int64)
    arrays = [numbers(seed, shape, "float32"), places, numbers(seed + 1, tuple(index_shape), "float32")]
    check(case("ScatterElements", arrays, axis=axis, reduction=reduction), outside, expression=False)


@pytest.mark.parametrize("reduction", ["none", "add", "mul", "max", "min"])
@given(shape=shapes, data=st.data(), seed=seeds)
@settings(max_examples=12)
def test_scatter_nd(reduction: str, shape: tuple[int, ...], data: st.DataObject, seed: int) -> None:
    length = data.draw(st.integers(1, len(shape)))
    total = int(np.prod(shape[:length]))
    count = data.draw(st.integers(1, total))
    chosen = np.random.default_rng(seed).permutation(total)[:count]
    places = np.stack(np.unravel_index(chosen, shape[:length]), -1).astype(np.int64)
    places = places - np.array(shape[:length]) * np.random.default_rng(seed).integers(0, 2, places.shape)
    arrays = [numbers(seed, shape, "float32"), places, numbers(seed + 1, (count, *shape[length:]), "float32")]
    check(case("ScatterND", arrays, reduction=reduction), outside, expression=False)


@given(shapes, st.booleans(), st.booleans(), st.data(), seeds)
@settings(max_examples=20)
def test_compress(shape: tuple[int, ...], flat: bool, constant: bool, data: st.DataObject, seed: int) -> None:
    axis = None if flat else data.draw(st.integers(-len(shape), len(shape) - 1))
    extent = int(np.prod(shape)) if axis is None else shape[axis]
    condition = numbers(seed, (data.draw(st.integers(1, extent)),), "bool")
    arrays = [numbers(seed, shape, "float32"), condition]
    subject = case("Compress", arrays, constants=[1] if constant else [], axis=axis)
    check(subject, outside, expression=False, shapes=constant)


@given(st.lists(st.integers(0, 4), max_size=3).map(tuple), st.sampled_from(("float32", "bool", "int64")), seeds)
@settings(max_examples=20)
def test_non_zero(shape: tuple[int, ...], kind: str, seed: int) -> None:
    array = numbers(seed, shape, kind)
    wanted = [np.array(np.nonzero(array)) if shape else np.zeros((0, int(bool(array))), np.int64)]
    check(case("NonZero", [array]), wanted, expression=False, shapes=False)


@pytest.mark.parametrize(
    ("name", "arrays", "attributes", "message"),
    [
        ("Gather", [np.zeros((2, 3), "f"), np.zeros(1, "f")], {}, "must hold integers"),
        ("Gather", [np.zeros((2, 3), "f"), np.zeros(1, np.int64)], {"axis": 2}, "axis 2 is out of range"),
        ("GatherElements", [np.zeros((2, 3), "f"), np.zeros(1, np.int64)], {}, "indices have 1 axes"),
        ("GatherND", [np.zeros((2,), "f"), np.zeros((1, 2), np.int64)], {}, "address more axes"),
        ("ScatterND", [np.zeros(2, "f"), np.zeros((1, 1), np.int64), np.zeros(1, np.int32)], {}, "updates are int32"),
        ("Compress", [np.zeros(2, "f"), np.zeros(2, np.int64)], {}, "must be bool"),
    ],
)
def test_misfits_are_named(name: str, arrays: list[Any], attributes: dict[str, Any], message: str) -> None:
    subject = case(name, arrays, **attributes)
    subject.node.name = "culprit"
    with pytest.raises(TypeInferenceError, match=message) as caught:
        subject.infer()
    assert caught.value.nodes == ("culprit",)
