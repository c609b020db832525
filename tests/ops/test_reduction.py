"""Reductions, running sums and global pools against ONNX Runtime."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from graphc.errors import TypeInferenceError
from graphc.ir import Builder, Graph, TensorType, dtypes, symbol
from graphc.ops import infer_node
from tests.ops.differential import case, check
from tests.ops.oracles import numbers, outside, seeds

shapes = st.lists(st.integers(1, 5), min_size=1, max_size=4).map(tuple)
signs = st.integers(0, 1)

REDUCTIONS = {
    "ReduceSum": ("float32", "float64", "int32", "int64"),
    "ReduceMean": ("float32", "float64", "int32"),
    "ReduceMax": ("float32", "float64", "int32", "int64", "int8", "uint8", "bool"),
    "ReduceMin": ("float32", "float64", "int32", "int64", "int8", "uint8", "bool"),
    # ONNX Runtime's product of int32 saturates.
    "ReduceProd": ("float32", "float64", "int64"),
    "ReduceL1": ("float32", "int32"),
    "ReduceL2": ("float32", "int32"),
    "ReduceLogSum": ("float32", "int32", "int64"),
    "ReduceLogSumExp": ("float32", "float64"),
    "ReduceSumSquare": ("float32", "float64", "int32"),
}


@pytest.mark.parametrize("name", REDUCTIONS)
@given(shape=shapes, keep=signs, data=st.data(), seed=seeds)
@settings(max_examples=15)
def test_reduce(name: str, shape: tuple[int, ...], keep: int, data: st.DataObject, seed: int) -> None:
    kind = data.draw(st.sampled_from(REDUCTIONS[name]))
    array = numbers(seed, shape, kind)
    if name == "ReduceLogSum":
        # The logarithm of zero is no integer.
        array = np.abs(array) + np.array(kind != "float32", kind)
    if name == "ReduceProd" and kind == "int64":
        # ONNX Runtime multiplies through float64: products that leave its 53 bits are no oracle.
        array = array % 5 - 2
    axes: Any = None
    if data.draw(st.booleans()):
        chosen = data.draw(st.permutations(range(len(shape))))[: data.draw(st.integers(1, len(shape)))]
        axes = np.array([axis - len(shape) * data.draw(signs) for axis in chosen], np.int64)
    # ONNX Runtime returns the input itself, where the definition still squares or takes logarithms.
    noop = data.draw(signs) if name in ("ReduceSum", "ReduceMean", "ReduceMax", "ReduceMin") else 0
    subject = case(name, [array, axes], constants=[1], keepdims=keep, noop_with_empty_axes=noop)
    check(subject, outside, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("kind", ["int32", "int64", "uint32"])
def test_logarithms_of_integers_are_taken_in_reals(kind: str) -> None:
    # ONNX Runtime takes the exponentials in integers too; the definition by standard operators casts to double.
    array = np.array([[1, 2, 2], [3, 3, 3]], kind)
    check(case("ReduceLogSumExp", [array, np.array([1])], constants=[1], keepdims=0), [np.array([2, 4], kind)])


@pytest.mark.parametrize("name", ["ReduceL1", "ReduceL2", "ReduceSumSquare", "ReduceLogSum"])
def test_no_axes_still_apply_the_function(name: str) -> None:
    array = np.abs(numbers(0, (2, 3), "float32"))
    subject = case(name, [array, np.zeros(0, np.int64)], constants=[1], noop_with_empty_axes=1)
    check(subject, lambda other: other.reference())


@pytest.mark.parametrize(
    ("name", "identity"),
    [("ReduceSum", 0), ("ReduceProd", 1), ("ReduceMax", -np.inf), ("ReduceMin", np.inf), ("ReduceLogSumExp", -np.inf)],
)
def test_nothing_gives_the_identity(name: str, identity: float) -> None:
    array, axes = np.zeros((2, 0, 3), np.float32), np.array([1], np.int64)
    check(case(name, [array, axes], constants=[1]), [np.full((2, 1, 3), identity, np.float32)])


def test_extremes_keep_nan() -> None:
    array = np.array([[1, np.nan, 3], [4, 5, 6]], np.float32)
    axes = np.array([1], np.int64)
    for name, wanted in (("ReduceMax", [np.nan, 6]), ("ReduceMin", [np.nan, 4])):
        check(case(name, [array, axes], constants=[1], keepdims=0), [np.array(wanted, np.float32)])


def test_large_exponents_do_not_overflow() -> None:
    array = np.array([[1000.0, 1000.0], [-1000.0, -2000.0], [-np.inf, -np.inf], [np.inf, 1.0]], np.float32)
    wanted = np.array([1000 + np.log(2), -1000, -np.inf, np.inf], np.float32)
    axes = np.array([1], np.int64)
    check(case("ReduceLogSumExp", [array, axes], constants=[1], keepdims=0), [wanted])


@pytest.mark.parametrize("kind", ["float16", "bfloat16"])
def test_narrow_floats_accumulate_in_float32(kind: str) -> None:
    # 4096 ones summed in float16 would stop at 2048.
    array = np.ones((4096,), dtypes.from_name(kind).numpy)
    check(case("ReduceSum", [array], keepdims=0), [np.array(4096, array.dtype)])


@pytest.mark.parametrize("name", ["ArgMax", "ArgMin"])
@given(shape=shapes, keep=signs, last=signs, data=st.data(), seed=seeds)
@settings(max_examples=20)
def test_arg(name: str, shape: tuple[int, ...], keep: int, last: int, data: st.DataObject, seed: int) -> None:
    axis = data.draw(st.integers(-len(shape), len(shape) - 1))
    kind = data.draw(st.sampled_from(("float32", "int32", "int8")))
    # Few distinct numbers, so that there are ties.
    array = np.round(numbers(seed, shape, kind).astype(np.float32) / 4).astype(dtypes.from_name(kind).numpy)
    check(case(name, [array], axis=axis, keepdims=keep, select_last_index=last), outside)


@pytest.mark.parametrize("name", ["GlobalAveragePool", "GlobalMaxPool"])
@given(spatial=st.lists(st.integers(1, 6), min_size=1, max_size=3), seed=seeds)
@settings(max_examples=10)
def test_global_pools(name: str, spatial: list[int], seed: int) -> None:
    check(case(name, [numbers(seed, (2, 3, *spatial), "float32")]), outside)


@given(shapes, signs, signs, st.sampled_from(("float32", "int32", "int64")), st.data(), seeds)
@settings(max_examples=30)
def test_running_sum(
    shape: tuple[int, ...], exclusive: int, reverse: int, kind: str, data: st.DataObject, seed: int
) -> None:
    axis = np.array(data.draw(st.integers(-len(shape), len(shape) - 1)), np.int64)
    array = numbers(seed, shape, kind)
    check(case("CumSum", [array, axis], constants=[1], exclusive=exclusive, reverse=reverse), outside, expression=False)


@given(st.integers(1, 5), signs, signs, seeds)
@settings(max_examples=10)
def test_running_product(extent: int, exclusive: int, reverse: int, seed: int) -> None:
    array, axis = numbers(seed, (2, extent), "float32"), np.array(1, np.int64)
    turned = array[:, ::-1] if reverse else array
    wanted = np.cumprod(turned, axis=1)
    if exclusive:
        wanted = np.concatenate([np.ones((2, 1), np.float32), wanted[:, :-1]], axis=1)
    wanted = wanted[:, ::-1] if reverse else wanted
    subject = case("CumProd", [array, axis], constants=[1], exclusive=exclusive, reverse=reverse, version=26)
    check(subject, [wanted.astype(np.float32)], expression=False)


def test_symbolic_extents() -> None:
    n = symbol("n")
    graph = Graph("g", [("x", TensorType(dtypes.FLOAT32, (n, 3, 4 * n)))], opset=24)
    builder = Builder(graph, infer=infer_node)
    axes = builder.constant(np.array([1], np.int64))
    assert builder.op("ReduceSum", graph.inputs[0], axes).tensor_type.dims == (n, 1, 4 * n)
    assert builder.op("ReduceSum", graph.inputs[0], axes, keepdims=0).tensor_type.dims == (n, 4 * n)


def test_unknown_axes_leave_the_rank_or_nothing() -> None:
    graph = Graph("g", opset=24)
    x = graph.add_input("x", TensorType(dtypes.FLOAT32, (2, 3, 4)))
    axes = graph.add_input("axes", TensorType(dtypes.INT64, (2,)))
    builder = Builder(graph, infer=infer_node)
    assert builder.op("ReduceSum", x, axes, keepdims=1).tensor_type.rank == 3
    assert builder.op("ReduceSum", x, axes, keepdims=0).tensor_type.rank == 1


@pytest.mark.parametrize(
    ("name", "arrays", "attributes", "message"),
    [
        ("ReduceSum", [np.zeros((2, 3), "f"), np.array([2])], {}, "axis 2 is out of range for rank 2"),
        ("ReduceSum", [np.zeros((2, 3), "f"), np.array([0, -2])], {}, "not distinct"),
        ("ReduceSum", [np.zeros((2, 3), np.bool_)], {}, "does not take bool"),
        ("ArgMax", [np.zeros((2, 3), "f")], {"axis": 3}, "axis 3 is out of range"),
        ("GlobalMaxPool", [np.zeros((3,), "f")], {}, "at least 2 axes"),
    ],
)
def test_misfits_are_named(name: str, arrays: list[Any], attributes: dict[str, Any], message: str) -> None:
    subject = case(name, arrays, constants=range(1, len(arrays)), **attributes)
    subject.node.name = "culprit"
    with pytest.raises(TypeInferenceError, match=message) as caught:
        subject.infer()
    assert caught.value.nodes == ("culprit",)
