"""Problems over fewer axes, and of tensors stored in another order, compute what they computed before."""

from __future__ import annotations

from typing import Any

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from graphc.backends.merging import in_storage_order, merged
from graphc.backends.periods import without_periods
from graphc.backends.problem import Problem, build_problem, work_of
from graphc.ir import ROW_MAJOR, Builder, Graph, TensorType, Value, channels_last, dtypes
from graphc.ops import evaluate_expression, evaluate_graph, infer_graph
from graphc.ops.expr import Reduce, TensorExpr, axes_of, call, load, reduce

NHWC = channels_last(4)


def _graph(shape: tuple[int, ...], layouts: tuple[bool, bool, bool], *, pooled: bool) -> Graph:
    """Two images, added, scaled by channel, clipped, pooled if asked; each of them in either layout."""
    kinds = [TensorType(dtypes.FLOAT32, shape, NHWC if last else ROW_MAJOR) for last in layouts[:2]]
    scale = TensorType(dtypes.FLOAT32, (1, shape[1], 1, 1))
    graph = Graph("g", [("x", kinds[0]), ("y", kinds[1]), ("scale", scale)], opset=23)
    b = Builder(graph)
    x, y, factor = graph.inputs
    result: Value = b.op("Relu", b.op("Mul", b.op("Add", x, y), factor))
    if pooled:
        result = b.op("MaxPool", result, kernel_shape=[2, 2], pads=[0, 1, 1, 0])
    graph.outputs = [result]
    infer_graph(graph)
    result.type = result.tensor_type.with_layout(NHWC if layouts[2] else ROW_MAJOR)
    return graph


def _evaluate(problem: Problem, stored: list[Any], kinds: list[TensorType]) -> Any:
    """What a problem computes of row-major arrays whose storage is `stored`."""
    arrays = [array.reshape(kind.static_shape) for array, kind in zip(stored, kinds, strict=True)]
    return evaluate_expression(TensorExpr(problem.axes, problem.elements[0]), arrays)


@settings(max_examples=40, deadline=None)
@given(
    shape=st.tuples(*[st.integers(1, 4)] * 4).map(lambda s: (s[0], s[1], s[2] + 1, s[3] + 1)),
    layouts=st.tuples(*[st.booleans()] * 3),
    pooled=st.booleans(),
    merge=st.booleans(),
)
def test_storage_order_changes_no_number(
    shape: tuple[int, ...], layouts: tuple[bool, bool, bool], pooled: bool, merge: bool
) -> None:
    graph = _graph(shape, layouts, pooled=pooled)
    rng = np.random.default_rng(0)
    arrays: list[Any] = [rng.standard_normal(v.tensor_type.static_shape).astype(np.float32) for v in graph.inputs]
    (wanted,) = evaluate_graph(graph, arrays)
    stored = [value.tensor_type.layout.pack(a) for value, a in zip(graph.inputs, arrays, strict=True)]
    problem = (merged if merge else in_storage_order)(build_problem(graph))
    assert all(kind.layout.is_row_major for kind in (*problem.inputs, *problem.outputs))
    found = _evaluate(problem, stored, list(problem.inputs))
    layout = graph.outputs[0].tensor_type.layout
    np.testing.assert_array_equal(found.reshape(-1), layout.pack(np.asarray(wanted)).reshape(-1))


def test_pixels_merge_where_all_tensors_walk_them_in_step() -> None:
    graph = _graph((2, 3, 4, 5), (True, True, True), pooled=False)
    problem = merged(build_problem(graph))
    assert [axis.extent for axis in problem.axes] == [2 * 4 * 5, 3]
    mixed = merged(build_problem(_graph((2, 3, 4, 5), (True, False, True), pooled=False)))
    assert [axis.extent for axis in mixed.axes] == [2, 4 * 5, 3], (
        "a row-major image has its channels outside its pixels"
    )


def test_rows_and_what_is_reduced_of_them_merge_together() -> None:
    channels = TensorType(dtypes.FLOAT32, (3,))
    kinds = {"x": TensorType(dtypes.FLOAT32, (2, 3, 4, 5)), "scale": channels, "bias": channels}
    graph = Graph("g", list(kinds.items()), opset=23)
    graph.outputs = [Builder(graph).op("InstanceNormalization", *graph.inputs)]
    infer_graph(graph)
    alone = merged(build_problem(graph))
    assert [axis.extent for axis in alone.axes] == [2, 3, 4, 5]
    together = merged(build_problem(graph), reductions=True)
    assert [axis.extent for axis in together.axes] == [2, 3, 20]
    sums = [scalar for scalar in together.scalars() if isinstance(scalar, Reduce)]
    assert sums and all([axis.extent for axis in scalar.axes] == [20] for scalar in sums)
    x = np.random.default_rng(1).standard_normal((2, 3, 4, 5)).astype(np.float32)
    arrays = [x, np.arange(1, 4, dtype=np.float32), np.ones(3, np.float32)]
    found = _evaluate(together, arrays, list(together.inputs))
    np.testing.assert_allclose(found.reshape(x.shape), evaluate_graph(graph, arrays)[0], rtol=1e-5, atol=1e-5)


@settings(max_examples=40, deadline=None)
@given(
    shape=st.tuples(*[st.integers(1, 3)] * 4),
    over=st.sets(st.integers(0, 3), min_size=1),
    keep=st.booleans(),
    turned=st.booleans(),
)
def test_merging_reductions_changes_no_sum(shape: tuple[int, ...], over: set[int], keep: bool, turned: bool) -> None:
    graph = Graph("g", [("x", TensorType(dtypes.INT64, shape))], opset=23)
    b = Builder(graph)
    x = graph.inputs[0]
    total = b.op("ReduceSum", x, b.constant(sorted(over)), keepdims=int(keep))
    if keep:
        read = b.op("Transpose", x, perm=(0, 1, 3, 2)) if turned and shape[2] == shape[3] else x
        total = b.op("Mul", b.op("Sub", read, total), b.op("ReduceMax", x, b.constant([3]), keepdims=1))
    graph.outputs = [total]
    infer_graph(graph)
    array = np.random.default_rng(2).integers(-9, 9, shape)
    problem = merged(build_problem(graph), reductions=True)
    found = _evaluate(problem, [array], [problem.inputs[0]])
    np.testing.assert_array_equal(found.reshape(-1), np.asarray(evaluate_graph(graph, [array])[0]).reshape(-1))


@settings(max_examples=40, deadline=None)
@given(
    shape=st.tuples(*[st.integers(1, 4)] * 3),
    repeats=st.tuples(*[st.integers(1, 3)] * 3),
    least=st.integers(2, 3),
)
def test_repetitions_become_axes(shape: tuple[int, ...], repeats: tuple[int, ...], least: int) -> None:
    whole = tuple(extent * times for extent, times in zip(shape, repeats, strict=True))
    kinds = {"x": TensorType(dtypes.INT64, shape), "y": TensorType(dtypes.INT64, whole)}
    graph = Graph("g", list(kinds.items()), opset=23)
    b = Builder(graph)
    graph.outputs = [b.op("Add", b.op("Tile", graph.inputs[0], b.constant(repeats)), graph.inputs[1])]
    infer_graph(graph)
    arrays = [np.random.default_rng(3).integers(-9, 9, kind.static_shape) for kind in kinds.values()]
    problem = without_periods(build_problem(graph), least)
    split = sum(extent >= least and times > 1 for extent, times in zip(shape, repeats, strict=True))
    assert len(problem.axes) == 3 + split
    found = evaluate_expression(TensorExpr(problem.axes, problem.elements[0]), arrays)
    np.testing.assert_array_equal(found.reshape(whole), evaluate_graph(graph, arrays)[0])


def test_work_counts_a_scalar_once_for_each_place_that_it_depends_on() -> None:
    rows, columns = axes_of([8, 16])
    (along,) = axes_of([16], "r")
    kind = TensorType(dtypes.FLOAT32, (8, 16))
    largest = reduce("max", [along], load(0, dtypes.FLOAT32, [rows.index, along.index]))
    element = call("sub", load(0, dtypes.FLOAT32, [rows.index, columns.index]), call("exp", largest))
    work = work_of(Problem((rows, columns), (element,), (kind,), (kind,)))
    # The subtraction for each element, the maximum for each of a row once, its exponential once for a row.
    assert work.operations == 8 * 16 + 8 * 16 + 8
    assert work.reads == {0: 2 * 8 * 16}
