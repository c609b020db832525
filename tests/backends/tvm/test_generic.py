"""The template for any tensor expression, alone: every kind of loop nest at every vector width, against NumPy."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from graphc.backends.tvm import generic
from graphc.ir import Builder, Layout, TensorType, Value, blocked, dtypes
from graphc.target import Target
from tests.backends.tvm.harness import ARM, TARGETS, body, check

RNG = np.random.default_rng(0)
Make = Callable[..., Value | list[Value]]


def normal(*shape: int) -> Any:
    return RNG.standard_normal(shape).astype(np.float32)


def ints(*values: int) -> Any:
    return np.array(values, np.int64)


ODD = np.array([np.nan, np.inf, -np.inf, 1, 0, -0.0, 1e8] * 9, np.float32)

CASES: dict[str, tuple[list[Any], Make]] = {
    "pointwise": ([normal(3, 5, 7)], lambda b, x: b.op("Relu", x)),
    # What holds of numbers and not of NaN, infinities or rounded sums: TVM's simplifier knows of numbers only.
    "less itself": ([ODD], lambda b, x: b.op("Sub", x, x)),
    "and its opposite": ([ODD], lambda b, x: b.op("Add", b.op("Neg", x), x)),
    "there and back": ([ODD, ODD[::-1].copy()], lambda b, x, y: b.op("Sub", b.op("Add", x, y), x)),
    "there and back by a number": (
        [ODD],
        lambda b, x: b.op("Sub", b.op("Add", x, b.constant(np.float32(1e8))), b.constant(np.float32(1e8))),
    ),
    "equal to itself": ([ODD], lambda b, x: b.op("Equal", x, x)),
    "unlike itself": ([ODD.astype(np.float64)], lambda b, x: b.op("Not", b.op("Equal", x, x))),
    "not less": ([ODD, ODD[::-1].copy()], lambda b, x, y: b.op("Not", b.op("Less", x, y))),
    "less or not": ([ODD, ODD], lambda b, x, y: b.op("Or", b.op("Less", x, y), b.op("GreaterOrEqual", x, y))),
    "by zero": ([ODD], lambda b, x: b.op("Div", x, b.constant(np.float32(0)))),
    "by less than zero": ([normal()], lambda b, x: b.op("Div", x, b.constant(np.float32(-0.0)))),
    "mean of nothing": ([normal(3, 0)], lambda b, x: b.op("ReduceMean", x, b.constant(ints(1)))),
    "truth of floats": ([ODD], lambda b, x: b.op("Cast", x, to=dtypes.BOOL.onnx)),
    "row broadcast": ([normal(3, 5, 37), normal(37)], lambda b, x, y: b.op("Add", x, y)),
    "column broadcast": ([normal(3, 5, 37), normal(5, 1)], lambda b, x, y: b.op("Mul", b.op("Tanh", x), y)),
    "scalar": ([normal()], lambda b, x: b.op("Exp", x)),
    "long": ([normal(300, 1001)], lambda b, x: b.op("Sigmoid", x)),
    "softmax": ([normal(7, 130)], lambda b, x: b.op("Softmax", x, axis=-1)),
    "short softmax": ([normal(7, 13)], lambda b, x: b.op("Softmax", x, axis=-1)),
    "inner softmax": ([normal(4, 7, 33)], lambda b, x: b.op("Softmax", x, axis=1)),
    "softmax down columns": ([normal(70, 3001)], lambda b, x: b.op("Softmax", x, axis=0)),
    "moments of channels": ([normal(5, 9, 33, 34)], lambda b, x: b.op("MeanVarianceNormalization", x, axes=(0, 2, 3))),
    "layer norm": (
        [normal(7, 384), normal(384), normal(384)],
        lambda b, x, scale, bias: b.op("LayerNormalization", x, scale, bias, axis=-1),
    ),
    "row mean": ([normal(7, 384)], lambda b, x: b.op("ReduceMean", x, b.constant(ints(-1)), keepdims=0)),
    "column max": ([normal(70, 33)], lambda b, x: b.op("ReduceMax", x, b.constant(ints(0)), keepdims=0)),
    "whole sum": ([normal(9, 33, 5)], lambda b, x: b.op("ReduceSum", x, keepdims=0)),
    "argmax": ([normal(7, 50, 3)], lambda b, x: b.op("ArgMax", x, axis=1)),
    "argmin, last": (
        [RNG.integers(0, 5, (7, 50, 3))],
        lambda b, x: b.op("ArgMin", x, axis=1, select_last_index=1, keepdims=0),
    ),
    "transpose": ([normal(7, 38, 5)], lambda b, x: b.op("Transpose", x, perm=[2, 0, 1])),
    "squares": ([normal(3, 37, 53)], lambda b, x: b.op("Transpose", x, perm=[0, 2, 1])),
    "squares with little over": ([normal(33, 9)], lambda b, x: b.op("Neg", b.op("Transpose", x, perm=[1, 0]))),
    "squares of doubles": ([normal(2, 19, 27).astype(np.float64)], lambda b, x: b.op("Transpose", x, perm=[2, 0, 1])),
    "squares of halves": (
        [normal(40, 3, 41).astype(np.float16)],
        lambda b, x: b.op("Transpose", b.op("Relu", x), perm=[2, 1, 0]),
    ),
    "squares of bytes": ([RNG.integers(0, 255, (33, 70)).astype(np.uint8)], lambda b, x: b.op("Transpose", x)),
    "squares of truths": ([normal(40, 36) > 0], lambda b, x: b.op("Transpose", x, perm=[1, 0])),
    "two squares and a row": (
        [normal(5, 24, 33), normal(24, 33), normal(33, 24)],
        lambda b, x, y, z: b.op("Add", b.op("Transpose", b.op("Mul", x, y), perm=[0, 2, 1]), z),
    ),
    "squares of a slice": (
        [normal(30, 50)],
        lambda b, x: b.op(
            "Transpose", b.op("Slice", x, *(b.constant(ints(*v)) for v in ((2, 3), (29, 47)))), perm=[1, 0]
        ),
    ),
    "squares and halves of a concat": (
        [normal(20, 33), normal(20, 21)],
        lambda b, x, y: b.op("Transpose", b.op("Concat", x, y, axis=1), perm=[1, 0]),
    ),
    "reshape and transpose": (
        [normal(7, 38, 6)],
        lambda b, x: b.op("Transpose", b.op("Reshape", x, b.constant(ints(7, 19, 2, 6))), perm=[0, 2, 1, 3]),
    ),
    "concat": ([normal(7, 5), normal(7, 9), normal(7, 16)], lambda b, *x: b.op("Concat", *x, axis=1)),
    "concat of rows": ([normal(7, 5), normal(2, 5)], lambda b, *x: b.op("Concat", *x, axis=0)),
    "pad": ([normal(7, 5)], lambda b, x: b.op("Pad", x, b.constant(ints(1, 2, 0, 3)), b.constant(np.float32(3.5)))),
    "strided slice": (
        [normal(7, 50)],
        lambda b, x: b.op("Slice", x, *(b.constant(ints(v)) for v in (1, 44, 1, 3))),
    ),
    "gather": ([normal(70, 50), RNG.integers(-70, 70, (3, 4))], lambda b, x, i: b.op("Gather", x, i, axis=0)),
    "inner gather": ([normal(70, 50), RNG.integers(0, 50, (3, 4))], lambda b, x, i: b.op("Gather", x, i, axis=1)),
    "where": ([normal(7, 50) > 0, normal(7, 50), normal(50)], lambda b, c, x, y: b.op("Where", c, x, y)),
    "max pool": (
        [normal(1, 5, 9, 9)],
        lambda b, x: b.op("MaxPool", x, kernel_shape=[3, 3], strides=[2, 2], pads=[1, 1, 1, 1]),
    ),
    "matmul": ([normal(7, 33), normal(33, 18)], lambda b, x, y: b.op("MatMul", x, y)),
    "convolution": (
        [normal(1, 6, 9, 9), normal(5, 6, 3, 3), normal(5)],
        lambda b, x, w, c: b.op("Conv", x, w, c, kernel_shape=[3, 3], pads=[1, 1, 1, 1]),
    ),
    "half": ([normal(7, 100).astype(np.float16)], lambda b, x: b.op("Relu", x)),
    "double": ([normal(100).astype(np.float64)], lambda b, x: b.op("Erf", b.op("Sin", x))),
    "libm": ([normal(100) * np.float32(0.1)], lambda b, x: b.op("Asinh", b.op("Atan", x))),
    "two outputs": (
        [normal(7, 96), normal(7, 96)],
        lambda b, x, y: [b.op("Add", x, y), b.op("Mul", x, y)],
    ),
}


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
