"""Movement, views and shapes as data against ONNX Runtime on random shapes and attributes."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from graphc.errors import TypeInferenceError
from graphc.ir import Tensor, dtypes
from tests.ops.differential import case, check
from tests.ops.oracles import check_late, numbers, outside, seeds

shapes = st.lists(st.integers(1, 5), min_size=1, max_size=4).map(tuple)
KINDS = ("float32", "int64", "bool", "uint8")


def ints(*values: int) -> Any:
    return np.array(values, np.int64)


@given(st.lists(st.integers(1, 5), max_size=4), st.sampled_from(KINDS), seeds)
@settings(max_examples=30)
def test_transpose(shape: list[int], kind: str, seed: int) -> None:
    order = np.random.default_rng(seed).permutation(len(shape)).tolist()
    check(case("Transpose", [numbers(seed, tuple(shape), kind)], perm=order), outside)


def test_transpose_reverses_by_default() -> None:
    check(case("Transpose", [numbers(0, (2, 3, 4), "float32")]), outside)


@given(shapes, st.integers(1, 4), st.data(), seeds)
@settings(max_examples=30)
def test_concat(shape: tuple[int, ...], count: int, data: st.DataObject, seed: int) -> None:
    axis = data.draw(st.integers(-len(shape), len(shape) - 1))
    arrays = []
    for i in range(count):
        own = list(shape)
        own[axis] = data.draw(st.integers(0, 4))
        arrays.append(numbers(seed + i, tuple(own), "float32"))
    check(case("Concat", arrays, axis=axis), outside)


@given(shapes, st.data(), seeds)
@settings(max_examples=30)
def test_split(shape: tuple[int, ...], data: st.DataObject, seed: int) -> None:
    axis = data.draw(st.integers(-len(shape), len(shape) - 1))
    cuts = sorted(data.draw(st.lists(st.integers(0, shape[axis]), max_size=3)))
    parts = np.diff([0, *cuts, shape[axis]]).tolist()
    array = numbers(seed, shape, "float32")
    check(case("Split", [array, ints(*parts)], outputs=len(parts), constants=[1], axis=axis), outside)
    pieces = data.draw(st.integers(1, shape[axis]))
    # The last piece may be smaller, but not gone.
    assume(-(-shape[axis] // pieces) * (pieces - 1) < shape[axis])
    check(case("Split", [array], outputs=pieces, axis=axis, num_outputs=pieces), outside)


bounds = st.one_of(st.integers(-7, 7), st.sampled_from((2**31 - 1, -(2**31), 2**63 - 1, -(2**63))))


@given(shapes, st.booleans(), st.data(), seeds)
@settings(max_examples=60)
def test_slice(shape: tuple[int, ...], constant: bool, data: st.DataObject, seed: int) -> None:
    count = data.draw(st.integers(1, len(shape)))
    axes = data.draw(st.permutations(range(len(shape))))[:count]
    axes = [axis - len(shape) if data.draw(st.booleans()) else axis for axis in axes]
    starts, ends = (data.draw(st.lists(bounds, min_size=count, max_size=count)) for _ in range(2))
    steps = data.draw(st.lists(st.sampled_from((1, 1, 2, 3, -1, -2)), min_size=count, max_size=count))
    arrays = [numbers(seed, shape, "float32"), ints(*starts), ints(*ends), ints(*axes), ints(*steps)]
    if constant:
        check(case("Slice", arrays, constants=[1, 2, 3, 4]), outside)
    else:
        check_late(case("Slice", arrays, constants=[3, 4]))


def test_slice_without_axes_and_steps() -> None:
    check(case("Slice", [numbers(0, (4, 5), "float32"), ints(1, 0), ints(3, -1)], constants=[1, 2]), outside)


@given(shapes, st.data(), seeds)
@settings(max_examples=20)
def test_tile(shape: tuple[int, ...], data: st.DataObject, seed: int) -> None:
    repeats = data.draw(st.lists(st.integers(0, 3), min_size=len(shape), max_size=len(shape)))
    check(case("Tile", [numbers(seed, shape, "float32"), ints(*repeats)], constants=[1]), outside)


@given(shapes, st.sampled_from(("constant", "edge", "reflect", "wrap")), st.booleans(), st.data(), seeds)
@settings(max_examples=80)
def test_pad(shape: tuple[int, ...], mode: str, some: bool, data: st.DataObject, seed: int) -> None:
    axes = data.draw(st.permutations(range(len(shape))))[: data.draw(st.integers(1, len(shape)))] if some else None
    chosen = range(len(shape)) if axes is None else axes
    # Reflections that come back are not shared by implementations, nor is cropping in other modes.
    most = {"reflect": lambda d: d - 1, "wrap": lambda d: d}.get(mode, lambda d: 3)
    least = (lambda d: -(d // 3)) if mode == "constant" else lambda d: 0
    amounts = [data.draw(st.integers(least(shape[axis]), most(shape[axis]))) for axis in [*chosen] * 2]
    value = np.array(1.5, np.float32) if data.draw(st.booleans()) and mode == "constant" else None
    arrays = [numbers(seed, shape, "float32"), ints(*amounts), value, None if axes is None else ints(*axes)]
    check(case("Pad", arrays, constants=[1, 3], mode=mode), outside)


@given(st.integers(1, 3), st.integers(1, 3), st.integers(1, 3), st.sampled_from(("DCR", "CRD")), seeds)
@settings(max_examples=20)
def test_depth_and_space(block: int, channels: int, extent: int, mode: str, seed: int) -> None:
    deep = numbers(seed, (2, channels * block * block, extent, 2), "float32")
    check(case("DepthToSpace", [deep], blocksize=block, mode=mode), outside)
    wide = numbers(seed, (2, channels, extent * block, block), "float32")
    check(case("SpaceToDepth", [wide], blocksize=block), outside)


@given(st.lists(st.integers(1, 4), min_size=2, max_size=4).map(tuple), st.integers(-5, 5), st.integers(0, 1), seeds)
@settings(max_examples=30)
def test_trilu(shape: tuple[int, ...], k: int, upper: int, seed: int) -> None:
    check(case("Trilu", [numbers(seed, shape, "float32"), np.array(k, np.int64)], upper=upper), outside)
    check(case("Trilu", [numbers(seed, shape, "int64")], upper=upper), outside)


@given(st.integers(1, 5), st.integers(1, 5), st.integers(0, 1), seeds)
@settings(max_examples=20)
def test_reverse_sequence(time: int, batch: int, time_axis: int, seed: int) -> None:
    shape = (time, batch, 2) if time_axis == 0 else (batch, time, 2)
    lengths = np.random.default_rng(seed).integers(1, time + 1, batch).astype(np.int64)
    arrays = [numbers(seed, shape, "float32"), lengths]
    check(case("ReverseSequence", arrays, time_axis=time_axis, batch_axis=1 - time_axis), outside)


def regroup(draw: st.DrawFn, extents: list[int]) -> list[int]:
    """Other extents with the same product."""
    factors = [f for extent in extents for f in ([2, extent // 2] if extent % 2 == 0 else [extent])]
    result = [1]
    for factor in factors:
        if draw(st.booleans()):
            result.append(factor)
        else:
            result[-1] *= factor
    return result


@st.composite
def reshapes(draw: st.DrawFn) -> tuple[tuple[int, ...], list[int]]:
    shape = draw(st.lists(st.sampled_from((1, 2, 3, 4, 6)), min_size=1, max_size=4))
    target = regroup(draw, shape)
    if draw(st.booleans()):
        target[draw(st.integers(0, len(target) - 1))] = -1
    if shape[0] == target[0] and draw(st.booleans()):
        target[0] = 0
    return tuple(shape), target


@given(reshapes(), seeds)
@settings(max_examples=60)
def test_reshape(given_shapes: tuple[tuple[int, ...], list[int]], seed: int) -> None:
    shape, target = given_shapes
    check(case("Reshape", [numbers(seed, shape, "float32"), ints(*target)], constants=[1]), outside)


def test_reshape_of_nothing() -> None:
    check(case("Reshape", [np.zeros((0, 3), np.float32), ints(3, 0)], constants=[1], allowzero=1), outside)
    check(case("Reshape", [np.zeros((2, 0, 3), np.float32), ints(0, 0, 3)], constants=[1]), outside)


@given(shapes, st.data(), seeds)
@settings(max_examples=20)
def test_flatten(shape: tuple[int, ...], data: st.DataObject, seed: int) -> None:
    axis = data.draw(st.integers(-len(shape), len(shape)))
    check(case("Flatten", [numbers(seed, shape, "float32")], axis=axis), outside)


@given(st.lists(st.sampled_from((1, 1, 3)), min_size=1, max_size=4).map(tuple), st.data(), seeds)
@settings(max_examples=20)
def test_squeeze_and_unsqueeze(shape: tuple[int, ...], data: st.DataObject, seed: int) -> None:
    array = numbers(seed, shape, "float32")
    check(case("Squeeze", [array]), outside)
    ones = [axis for axis, extent in enumerate(shape) if extent == 1]
    chosen = [axis - len(shape) * data.draw(st.integers(0, 1)) for axis in ones if data.draw(st.booleans())]
    if chosen:
        check(case("Squeeze", [array, ints(*chosen)], constants=[1]), outside)
    rank = len(shape) + 2
    added = data.draw(st.lists(st.integers(0, rank - 1), min_size=2, max_size=2, unique=True))
    signed = [axis - rank * data.draw(st.integers(0, 1)) for axis in added]
    check(case("Unsqueeze", [array, ints(*signed)], constants=[1]), outside)


@given(st.lists(st.sampled_from((1, 3)), max_size=3).map(tuple), st.data(), seeds)
@settings(max_examples=20)
def test_expand(shape: tuple[int, ...], data: st.DataObject, seed: int) -> None:
    other = [st.integers(1, 4) if extent == 1 else st.sampled_from((extent, 1)) for extent in shape]
    target = data.draw(st.lists(st.integers(1, 3), max_size=2)) + [data.draw(extent) for extent in other]
    check(case("Expand", [numbers(seed, shape, "float32"), ints(*target)], constants=[1]), outside)


@given(shapes, st.integers(-5, 5), st.one_of(st.none(), st.integers(-5, 5)))
@settings(max_examples=20)
def test_shape_and_size(shape: tuple[int, ...], start: int, end: int | None) -> None:
    array = np.zeros(shape, np.float32)
    check(case("Shape", [array], start=start, end=end), outside)
    check(case("Size", [array]), outside)


@given(
    st.sampled_from(("int64", "float32", "float64")),
    st.integers(-5, 5),
    st.integers(-5, 5),
    st.integers(-3, 3).filter(bool),
    st.booleans(),
)
@settings(max_examples=30)
def test_range(kind: str, start: int, limit: int, delta: int, constant: bool) -> None:
    arrays = [np.array(value, kind) for value in (start, limit, delta)]
    if constant:
        check(case("Range", arrays, constants=[0, 1, 2]), outside)
    else:
        check_late(case("Range", arrays))


@given(st.lists(st.integers(0, 4), max_size=3), st.sampled_from(("float32", "int64", "bool")))
@settings(max_examples=15)
def test_constant_of_shape(shape: list[int], kind: str) -> None:
    fill = Tensor.of(np.ones(1, dtypes.from_name(kind).numpy))
    check(case("ConstantOfShape", [ints(*shape)], constants=[0], value=fill), outside)


@given(st.integers(1, 5), st.integers(1, 5), st.integers(-5, 5), st.sampled_from((None, "float32", "int64")))
@settings(max_examples=20)
def test_eye_like(rows: int, columns: int, k: int, kind: str | None) -> None:
    number = None if kind is None else dtypes.from_name(kind).onnx
    check(case("EyeLike", [np.zeros((rows, columns), np.float32)], k=k, dtype=number), outside)


@pytest.mark.parametrize(
    ("name", "arrays", "attributes", "message"),
    [
        ("Transpose", [np.zeros((2, 3), "f")], {"perm": [0, 0]}, "not a permutation"),
        ("Concat", [np.zeros((2, 3), "f"), np.zeros((3, 2), "f")], {"axis": 0}, "differ beside axis 0"),
        ("Concat", [np.zeros((2, 3), "f")], {"axis": 5}, "axis 5 is out of range for rank 2"),
        ("Reshape", [np.zeros((2, 3), "f"), ints(4, 2)], {}, "cannot reshape"),
        ("Reshape", [np.zeros((2, 3), "f"), ints(-1, -1)], {}, "is not valid"),
        ("Reshape", [np.zeros((2, 3), "f"), ints(-1, 4)], {}, "cannot reshape"),
        ("Squeeze", [np.zeros((2, 3), "f"), ints(0)], {}, "is not 1"),
        ("Expand", [np.zeros((2, 3), "f"), ints(2, 4)], {}, "does not broadcast"),
        ("Split", [np.zeros((2, 3), "f"), ints(1, 1)], {"axis": 1}, "cannot split|do not add up"),
        ("Pad", [np.zeros((2, 3), "f"), ints(1, 1)], {}, "do not fit"),
        ("Pad", [np.zeros((2, 3), "f"), ints(-3, 0, 0, 0)], {}, "crop more"),
        ("Slice", [np.zeros((2,), "f"), ints(0), ints(1), ints(0), ints(0)], {}, "must be non-zero"),
        ("Tile", [np.zeros((2,), "f"), ints(-1)], {}, "do not fit"),
        ("ConstantOfShape", [ints(-2)], {}, "negative extent"),
        ("DepthToSpace", [np.zeros((1, 3, 2, 2), "f")], {"blocksize": 2}, "does not divide"),
        ("Range", [np.array(0), np.array(5), np.array(0)], {}, "delta is 0"),
        ("Transpose", [np.zeros((2, 3), "f")], {"perm": "abc"}, "do not fit"),
    ],
)
def test_misfits_are_named(name: str, arrays: list[Any], attributes: dict[str, Any], message: str) -> None:
    constants = range(0 if name in ("Range", "ConstantOfShape") else 1, len(arrays))
    count = 2 if name == "Split" else 1
    subject = case(name, arrays, constants=constants, outputs=count, **attributes)
    subject.node.name = "culprit"
    with pytest.raises(TypeInferenceError, match=message) as caught:
        subject.infer()
    assert caught.value.nodes == ("culprit",)
