"""The template for any tensor expression, alone: every kind of loop nest at every vector width, against NumPy."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from graphc.backends.tvm import generic
from graphc.ir import Builder, Layout, TensorType, Value, blocked, dtypes
from graphc.target import Target
from tests.backends.bodies import body
from tests.backends.expression_cases import CASES, RNG, Make, ints, normal
from tests.backends.tvm.harness import ARM, TARGETS, check


@pytest.mark.parametrize("target", TARGETS, ids=str)
@pytest.mark.parametrize("name", CASES)
def test_nest(name: str, target: Target) -> None:
    arrays, make = CASES[name]
    check(body(arrays, make), arrays, generic.lower, target)


IMAGE = normal(1, 20, 5, 6)
ROW = Layout()


def _block(target: Target) -> Layout:
    return blocked(1, target.lanes(dtypes.FLOAT32), fill=0.0)


def _haloed(target: Target) -> Layout:
    return blocked(1, target.lanes(dtypes.FLOAT32), halo=((0, 0), (0, 0), (1, 2), (2, 1)), fill=0.0)


@pytest.mark.parametrize("target", TARGETS, ids=str)
@pytest.mark.parametrize(
    "make",
    [
        lambda b, x: b.op("Relu", x),
        lambda b, x: b.op("Add", x, x),
        lambda b, x: b.op("MaxPool", x, kernel_shape=[3, 3], strides=[2, 2], pads=[1, 1, 1, 1]),
        lambda b, x: b.op("AveragePool", x, kernel_shape=[3, 3], pads=[1, 1, 1, 1]),
        lambda b, x: b.op("GlobalAveragePool", x),
        lambda b, x: b.op("Sigmoid", x),
        lambda b, x: b.op("Concat", x, x, axis=1),
    ],
    ids=["relu", "add", "max pool", "average pool", "global pool", "sigmoid", "concat"],
)
@pytest.mark.parametrize("result", [lambda t: ROW, _block, _haloed], ids=["row", "blocked", "haloed"])
@pytest.mark.parametrize("source", [lambda t: ROW, _block, _haloed], ids=["row", "blocked", "haloed"])
def test_layouts(
    target: Target, make: Make, source: Callable[[Target], Layout], result: Callable[[Target], Layout]
) -> None:
    type_ = TensorType(dtypes.FLOAT32, IMAGE.shape, source(target))
    graph = body([type_], make)
    (output,) = graph.outputs
    output.type = output.tensor_type.with_layout(result(target))
    check(graph, [IMAGE], generic.lower, target)


def test_other_processors_get_their_own_code() -> None:
    arrays, make = CASES["softmax"]
    graph = body(arrays, make)
    code = generic.lower(graph, ARM).compile()
    assert code[:4] == b"\x7fELF"
    assert int.from_bytes(code[18:20], "little") == 183, "the machine of the object is AArch64"
    assert code != generic.lower(graph, TARGETS[0]).compile()


@pytest.mark.parametrize("target", TARGETS, ids=str)
@pytest.mark.parametrize("channels", [(16, 32), (24, 24, 16), (8, 16, 8), (5, 11, 16), (20, 20)], ids=str)
def test_concatenation_of_blocked_images(target: Target, channels: tuple[int, ...]) -> None:
    arrays = [normal(1, c, 5, 6) for c in channels]
    types = [TensorType(dtypes.FLOAT32, a.shape, _block(target)) for a in arrays]
    graph = body(types, lambda b, *x: b.op("Concat", *x, axis=1))
    (output,) = graph.outputs
    output.type = output.tensor_type.with_layout(_haloed(target))
    check(graph, arrays, generic.lower, target)


def test_traffic_is_of_what_is_read() -> None:
    table, rows = normal(1000, 16), ints(3, 999, 7)
    kernel = generic.lower(body([table, rows], lambda b, x, i: b.op("Gather", x, i, axis=0)), TARGETS[0])
    assert kernel.bytes == 3 * 16 * 4 + 3 * 8 + 3 * 16 * 4, "three rows, three indices, what is made"
    sliced = generic.lower(
        body([normal(7, 50)], lambda b, x: b.op("Slice", x, *(b.constant(ints(v)) for v in (0, 5, 1)))), TARGETS[0]
    )
    assert sliced.bytes == 2 * 7 * 5 * 4


def test_operations_are_counted_at_each_point_and_reduced_element() -> None:
    one = generic.lower(body([normal(3, 5)], lambda b, x: b.op("Relu", b.op("Neg", x))), TARGETS[0])
    assert one.flops == 2 * 15
    total = generic.lower(body([normal(3, 5)], lambda b, x: b.op("ReduceSum", b.op("Neg", x), keepdims=0)), TARGETS[0])
    assert total.flops == 2 * 15


@given(
    st.lists(st.sampled_from([1, 2, 5, 17, 33]), min_size=1, max_size=4),
    st.data(),
    st.sampled_from(TARGETS),
    st.integers(0, 2**16),
)
@settings(max_examples=25, deadline=None)
def test_normalizations_over_any_axes(shape: list[int], data: st.DataObject, target: Target, seed: int) -> None:
    axes = data.draw(st.lists(st.integers(0, len(shape) - 1), min_size=1, unique=True))
    x = np.random.default_rng(seed).standard_normal(shape).astype(np.float32) + np.float32(1)

    def make(b: Builder, value: Value) -> Value:
        centred = b.op("MeanVarianceNormalization", value, axes=tuple(axes))
        peak = b.op("ReduceMax", value, b.constant(ints(*axes[:1])), keepdims=1)
        return b.op("Add", centred, peak)

    check(body([x], make), [x], generic.lower, target, rtol=1e-4)


@pytest.mark.parametrize("target", TARGETS, ids=str)
@pytest.mark.parametrize("channels", [32, 20])
@pytest.mark.parametrize("axes", [(1,), (0, 2, 3), (2,), (3,), (1, 3)], ids=str)
def test_normalizations_of_blocked_images(target: Target, channels: int, axes: tuple[int, ...]) -> None:
    x = normal(2, channels, 5, 6)
    kind = TensorType(dtypes.FLOAT32, x.shape, _block(target))
    graph = body([kind], lambda b, v: b.op("MeanVarianceNormalization", v, axes=axes))
    graph.outputs[0].type = kind
    check(graph, [x], generic.lower, target, rtol=1e-4)


@pytest.mark.parametrize("target", TARGETS, ids=str)
@pytest.mark.parametrize("channels", [1, 3, 6, 8, 20])
def test_what_channels_share_is_computed_for_several_at_once(target: Target, channels: int) -> None:
    x, grid = normal(2, channels, 7, 9), RNG.uniform(-1.2, 1.2, (2, 5, 37, 2)).astype(np.float32)
    check(body([x, grid], lambda b, *v: b.op("GridSample", *v)), [x, grid], generic.lower, target, rtol=1e-4)


@given(
    st.sampled_from([1, 2, 3, 4, 5, 8]),
    st.sampled_from([-3, -2, -1, 1, 2, 3]),
    st.integers(1, 70),
    st.sampled_from(["float32", "float64", "float16", "int8", "int64"]),
    st.sampled_from(TARGETS),
)
@settings(max_examples=40, deadline=None)
def test_pixels_repeated_skipped_and_turned_round(
    repeats: int, step: int, extent: int, dtype: str, target: Target
) -> None:
    x = RNG.integers(-9, 9, (3, extent)).astype(dtype)
    start, end = (0, extent) if step > 0 else (extent - 1, -extent - 1)

    def make(b: Builder, value: Value) -> list[Value]:
        scales = b.constant(np.array([1, repeats], np.float32))
        how = {"coordinate_transformation_mode": "asymmetric", "nearest_mode": "floor"}
        return [
            b.op("Resize", value, None, scales, mode="nearest", **how),
            b.op("Slice", value, *(b.constant(ints(v)) for v in (start, end, 1, step))),
        ]

    check(body([x], make), [x], generic.lower, target)


@pytest.mark.parametrize("target", TARGETS, ids=str)
@pytest.mark.parametrize("mode", ["reflect", "edge", "wrap"])
def test_borders_are_stretches_of_their_own(mode: str, target: Target) -> None:
    """Borders before and after, longer than a vector and cropped, of row-major and of blocked images."""
    x = normal(2, 17, 6, 40)
    for amounts in ((0, 0, 2, 3, 0, 0, 1, 20), (0, 0, 0, 39, 0, 0, -2, 0), (1, 5, 0, 1, 0, 3, 4, -7)):
        graph = body([x], lambda b, x, n=amounts: b.op("Pad", x, b.constant(ints(*n)), mode=mode))
        check(graph, [x], generic.lower, target)
    kind = TensorType(dtypes.FLOAT32, x.shape, _block(target))
    graph = body([kind], lambda b, x: b.op("Pad", x, b.constant(ints(0, 0, 1, 2, 0, 0, 2, 1)), mode=mode))
    check(graph, [x], generic.lower, target)


@pytest.mark.parametrize("target", TARGETS, ids=str)
@pytest.mark.parametrize("repeats", [(2, 1, 3), (1, 4, 2), (3, 2, 1)], ids=str)
def test_repetitions_are_loops(repeats: tuple[int, ...], target: Target) -> None:
    x, y = normal(2, 9, 21), normal(*(n * r for n, r in zip((2, 9, 21), repeats, strict=True)))
    graph = body([x, y], lambda b, x, y: b.op("Mul", b.op("Tile", x, b.constant(ints(*repeats))), y))
    check(graph, [x, y], generic.lower, target)
