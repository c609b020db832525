"""Loops written out: the same results, open shapes known, and what is left alone."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from graphc.ir import Builder, Graph, TensorType, dtypes
from graphc.ops import infer_graph
from graphc.ops.evaluate import evaluate_graph
from graphc.passes import PassContext, run_passes
from graphc.testing.oracle import assert_verified

F32 = dtypes.FLOAT32


def operators(graph: Graph) -> list[str]:
    return [node.op_type for node in graph.nodes if not node.is_op("Constant")]


def looped(trips: int, *, early: bool = False, start: bool | None = True) -> Graph:
    """`repeat trips times: v = v * x[i:i+1]; collect v`; ends early where v is large, if `early`."""
    graph = Graph("g", [("x", TensorType(F32, (6, 2))), ("c", TensorType(dtypes.BOOL, ()))], opset=21)
    x, condition = graph.inputs
    b = Builder(graph)
    body = Graph("body", [("i", None), ("going", None), ("v", None)], opset=21)
    inner = Builder(body)
    counter, going, value = body.inputs
    first = inner.op("Unsqueeze", counter, inner.constant(np.array([0]), name="k"), outputs=["first"])
    last = inner.op("Add", first, inner.constant(np.array([1]), name="k"), outputs=["last"])
    row = inner.op("Slice", x, first, last, inner.constant(np.array([0]), name="k"), outputs=["row"])
    new = inner.op("Mul", value, row, outputs=["new"])
    kept = inner.op("Identity", going, outputs=["kept"])
    if early:
        total = inner.op("ReduceMax", new, keepdims=0, outputs=["most"])
        kept = inner.op("Less", total, inner.constant(np.float32(5), name="k"), outputs=["small"])
    body.outputs = [kept, new, inner.op("Identity", new, outputs=["part"])]
    begin = condition if start is None else b.constant(np.array(start))
    initial = b.constant(np.ones((1, 2), np.float32))
    made = b.op("Loop", b.constant(np.array(trips)), begin, initial, body=body, outputs=["last_v", "all"])
    assert made.producer is not None
    graph.outputs = made.producer.outputs
    infer_graph(graph)
    return graph


def data() -> list[Any]:
    return [np.arange(1, 13, dtype=np.float32).reshape(6, 2), np.array(True)]


@pytest.mark.parametrize("trips", [1, 2, 4])
def test_a_short_loop_is_written_out_and_its_shapes_are_known(trips: int) -> None:
    graph = looped(trips)
    expected = evaluate_graph(graph, data())
    run_passes(graph, "unroll,fold,dce")
    assert_verified(graph)
    assert "Loop" not in operators(graph)
    for value, wanted, found in zip(graph.outputs, expected, evaluate_graph(graph, data()), strict=True):
        np.testing.assert_array_equal(found, wanted)
        assert value.tensor_type.shape == wanted.shape, "a slice at a number is of a known extent"
    assert [value.name for value in graph.outputs] == ["last_v", "all"]


@pytest.mark.parametrize(
    ("graph", "reason"),
    [
        (looped(3, early=True), "end it early"),
        (looped(3, start=None), "end it early"),
        (looped(0), "0 iterations"),
        (looped(5), "5 iterations and 30 nodes"),
    ],
)
def test_loops_that_stay_say_why(graph: Graph, reason: str) -> None:
    context = PassContext()
    assert run_passes(graph, "unroll", context).changes == 0
    assert operators(graph) == ["Loop"]
    assert reason in str(next(iter(context.refusals)))


@given(st.integers(1, 4), st.integers(0, 1), st.integers(0, 1), st.integers(-2, 1), st.integers(-2, 1))
def test_scans_in_every_direction_along_every_axis(
    length: int, read: int, write: int, input_axis: int, output_axis: int
) -> None:
    shape = [3, 3]
    shape[input_axis] = length
    graph = Graph("g", [("s", TensorType(F32, (3,))), ("x", TensorType(F32, tuple(shape)))], opset=21)
    start, x = graph.inputs
    body = Graph("body", [("state", None), ("item", None)], opset=21)
    inner = Builder(body)
    new = inner.op("Sub", body.inputs[1], body.inputs[0], outputs=["new"])
    # What the body returns twice, and what it returns as it came, are values like others.
    body.outputs = [new, new, body.inputs[0]]
    made = Builder(graph).op(
        "Scan",
        start,
        x,
        outputs=["last", "news", "olds"],
        body=body,
        num_scan_inputs=1,
        scan_input_directions=[read],
        scan_output_directions=[write, 1 - write],
        scan_input_axes=[input_axis],
        scan_output_axes=[output_axis, 0],
    )
    assert made.producer is not None
    graph.outputs = made.producer.outputs
    infer_graph(graph)
    given_ = [np.arange(3, dtype=np.float32), np.arange(3 * length, dtype=np.float32).reshape(shape)]
    expected = evaluate_graph(graph, given_)
    for passes, left in (("scan_axes", True), ("unroll", False)):
        changed = graph.clone()
        run_passes(changed, passes)
        assert_verified(changed)
        assert ("Scan" in operators(changed)) is left
        for found, wanted in zip(evaluate_graph(changed, given_), expected, strict=True):
            np.testing.assert_array_equal(found, wanted)
    (scan,) = [node for node in _moved(graph).nodes if node.is_op("Scan")]
    assert not any(name.endswith("_axes") for name in scan.attributes)


def _moved(graph: Graph) -> Graph:
    run_passes(graph, "scan_axes")
    if not any(node.is_op("Transpose") for node in graph.nodes):
        (scan,) = [node for node in graph.nodes if node.is_op("Scan")]
        for name in ("scan_input_axes", "scan_output_axes"):
            axes = scan.attributes.pop(name, ())
            assert not any(axes if isinstance(axes, tuple) else ())
    return graph
