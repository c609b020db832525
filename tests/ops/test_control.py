"""Control flow: what inference makes of changing shapes, and evaluation against ONNX Runtime."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from graphc.errors import ExecutionError, TypeInferenceError
from graphc.frontend.exporter import export_model
from graphc.ir import Builder, Graph, SequenceType, TensorType, Value, dtypes, symbol
from graphc.ir.equality import difference
from graphc.ir.parser import parse_graph
from graphc.ir.symbolic import symbols
from graphc.ir.verify import verify
from graphc.ops import host, infer_graph
from graphc.ops.evaluate import evaluate_graph
from tests.ops.test_contraction import floats, seeds

VERSION = 21
FLOAT, INDEX, BOOL = dtypes.FLOAT32, dtypes.INT64, dtypes.BOOL


def _model(**inputs: TensorType) -> tuple[Graph, Builder, list[Value]]:
    graph = Graph("model", inputs.items(), opset=VERSION)
    return graph, Builder(graph), list(graph.inputs)


def _body(name: str, *inputs: str) -> tuple[Graph, Builder, list[Value]]:
    graph = Graph(name, [(f"{name}_{i}", None) for i in inputs], opset=VERSION)
    return graph, Builder(graph), list(graph.inputs)


def _shape(value: Value) -> tuple[Any, ...]:
    assert isinstance(value.type, TensorType) and value.type.shape is not None
    return value.type.shape


def _onnxruntime(graph: Graph, data: list[Any]) -> list[Any]:
    import onnxruntime as ort

    options = ort.SessionOptions()
    options.log_severity_level = 4
    model = export_model(graph)
    model.ir_version = 10
    session = ort.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
    return list(session.run(None, {v.name: a for v, a in zip(graph.inputs, data, strict=True)}))


def _agree(graph: Graph, data: list[Any]) -> list[Any]:
    """Outputs of evaluation, checked against ONNX Runtime and against the graph's own types."""
    expected = _onnxruntime(graph, data)
    found = evaluate_graph(graph, data)
    for value, array, wanted in zip(graph.outputs, found, expected, strict=True):
        np.testing.assert_allclose(array, wanted, rtol=1e-5, atol=1e-5)
        assert isinstance(value.type, TensorType) and value.type.dtype.numpy == wanted.dtype
        if value.type.shape is not None:
            assert len(value.type.shape) == wanted.ndim
            assert all(a == b for a, b in zip(value.type.shape, wanted.shape, strict=True) if isinstance(a, int))
    for node in graph.nodes:
        if any(True for _ in node.subgraphs()):
            assert host.serialize(node) == host.serialize(node)
    return found


def _if(then_rows: int, else_rows: int) -> Graph:
    graph, builder, (condition, x) = _model(c=TensorType(BOOL, ()), x=TensorType(FLOAT, (2, 3)))
    branches = []
    for name, rows in (("then", then_rows), ("else", else_rows)):
        branch, inner, _ = _body(name)
        branch.outputs = [inner.op("Concat", *[x] * rows, axis=0, outputs=[f"{name}_y"])]
        branches.append(branch)
    graph.outputs = [builder.op("If", condition, then_branch=branches[0], else_branch=branches[1], outputs=["y"])]
    infer_graph(graph)
    return graph


@pytest.mark.parametrize("condition", [True, False])
def test_branches_that_read_outer_values(condition: bool) -> None:
    graph = _if(1, 3)
    rows, columns = _shape(graph.outputs[0])
    assert columns == 3 and not isinstance(rows, int), "extents that differ become a symbol, others stay"
    assert _shape(_if(2, 2).outputs[0]) == (4, 3)
    _agree(graph, [np.array(condition), floats(0, 2, 3)])


def test_a_known_condition_gives_the_type_of_its_branch() -> None:
    graph = _if(1, 3)
    (node,) = graph.nodes
    node.set_input(0, Builder(graph, before=node).constant(np.array(True)))
    infer_graph(graph)
    assert _shape(graph.outputs[0]) == (2, 3)


def _loop(limit: int | None, *, grow: bool, collect: bool = True) -> Graph:
    """`repeat limit times: x = x + 1 (or concat(x, x0)); collect sum(x)`; the limit is an input if None."""
    graph, builder, (x,) = _model(x=TensorType(FLOAT, (2, symbol("n"))))
    trips = graph.add_input("m", TensorType(INDEX, ())) if limit is None else builder.constant(np.int64(limit))
    body, inner, (_, condition, value) = _body("body", "i", "c", "v")
    new = inner.op("Concat", value, x, axis=0) if grow else inner.op("Add", value, inner.constant(np.float32(1)))
    outputs = [inner.op("Identity", condition), new]
    if collect:
        outputs.append(inner.op("ReduceSum", new, keepdims=0))
    body.outputs = outputs
    made = builder.op("Loop", trips, builder.constant(np.array(True)), x, outputs=len(outputs) - 1, body=body)
    assert made.producer is not None
    graph.outputs = made.producer.outputs
    infer_graph(graph)
    return graph


@given(st.integers(0, 4), st.booleans(), st.booleans(), st.integers(1, 3), seeds)
@settings(max_examples=25)
def test_loops(limit: int, grow: bool, given_limit: bool, extent: int, seed: int) -> None:
    graph = _loop(None if given_limit else limit, grow=grow)
    last, collected = (_shape(value) for value in graph.outputs)
    assert last[1] == symbol("n")
    assert (last[0] == 2) is not grow
    assert given_limit or collected == (limit,)
    data = [floats(seed, 2, extent)] + ([np.array(limit, np.int64)] if given_limit else [])
    _agree(graph, data)


def test_a_loop_reaches_a_fixed_point_and_keeps_what_does_not_change() -> None:
    graph = _loop(3, grow=True, collect=False)
    (loop,) = [node for node in graph.nodes if node.op_type == "Loop"]
    inside = loop.graph_attribute("body").inputs[2]
    rows, columns = _shape(inside)
    assert not isinstance(rows, int) and columns == symbol("n")
    outer, _ = _shape(graph.outputs[0])
    assert symbols(outer).isdisjoint(symbols(rows)), "the last iteration's extent is not that of any one inside"
    before = [str(value.type) for node in loop.graph_attribute("body").nodes for value in node.outputs]
    infer_graph(graph)
    assert before == [str(value.type) for node in loop.graph_attribute("body").nodes for value in node.outputs]


def test_a_loop_ends_when_its_body_says_so() -> None:
    graph, builder, (x,) = _model(x=TensorType(FLOAT, ()))
    body, inner, (_, _, value) = _body("body", "i", "c", "v")
    new = inner.op("Mul", value, inner.constant(np.float32(2)))
    body.outputs = [inner.op("Less", new, inner.constant(np.float32(100))), new, inner.op("Identity", new)]
    made = builder.op("Loop", None, builder.constant(np.array(True)), x, outputs=2, body=body)
    assert made.producer is not None
    graph.outputs = made.producer.outputs
    infer_graph(graph)
    assert not isinstance(_shape(graph.outputs[1])[0], int)
    last, collected = _agree(graph, [np.array(3, np.float32)])
    assert last == 192 and collected.tolist() == [6, 12, 24, 48, 96, 192]


@given(
    st.integers(1, 4), st.integers(0, 1), st.integers(0, 1), st.integers(-2, 1), st.integers(-2, 1), seeds
)  # fmt: skip
@settings(max_examples=25)
def test_scan(length: int, read: int, write: int, input_axis: int, output_axis: int, seed: int) -> None:
    shape = [3, 3]
    shape[input_axis] = length
    graph, builder, (start, x) = _model(s=TensorType(FLOAT, (3,)), x=TensorType(FLOAT, tuple(shape)))
    body, inner, (state, item) = _body("body", "state", "item")
    new = inner.op("Add", state, item)
    body.outputs = [new, inner.op("Mul", new, start)]
    made = builder.op(
        "Scan",
        start,
        x,
        outputs=2,
        body=body,
        num_scan_inputs=1,
        scan_input_directions=[read],
        scan_output_directions=[write],
        scan_input_axes=[input_axis],
        scan_output_axes=[output_axis],
    )
    assert made.producer is not None
    graph.outputs = made.producer.outputs
    infer_graph(graph)
    assert _shape(graph.outputs[1])[output_axis] == length
    _agree(graph, [floats(seed, 3), floats(seed + 1, *shape)])


def test_what_does_not_fit_is_an_error() -> None:
    graph, builder, (condition, x) = _model(c=TensorType(BOOL, ()), x=TensorType(FLOAT, (2,)))
    branches = []
    for name, dtype in (("then", FLOAT), ("else", INDEX)):
        branch, inner, _ = _body(name)
        branch.outputs = [inner.op("Cast", x, to=dtype.onnx)]
        branches.append(branch)
    builder.op("If", condition, then_branch=branches[0], else_branch=branches[1], name="fork")
    with pytest.raises(TypeInferenceError, match="branches answer") as caught:
        infer_graph(graph)
    assert caught.value.nodes == ("fork",)


def _sequence_graph() -> tuple[Graph, Value]:
    """Rows of a matrix collected by a loop, as exporters write a list that grows."""
    graph, builder, (x,) = _model(x=TensorType(FLOAT, (symbol("n"), 2)))
    empty = builder.op("SequenceEmpty")
    body, inner, (step, condition, rows) = _body("body", "i", "c", "rows")
    row = inner.op("Gather", x, step)
    body.outputs = [inner.op("Identity", condition), inner.op("SequenceInsert", rows, row)]
    trips = builder.constant(np.int64(3))
    rows = builder.op("Loop", trips, builder.constant(np.array(True)), empty, body=body)
    graph.outputs = [
        builder.op("ConcatFromSequence", rows, axis=0, new_axis=1),
        builder.op("SequenceLength", rows),
        builder.op("SequenceAt", rows, builder.constant(np.int64(-1))),
    ]
    infer_graph(graph)
    return graph, rows


def test_sequences_that_a_loop_fills() -> None:
    graph, rows = _sequence_graph()
    assert isinstance(rows.type, SequenceType)
    x = floats(0, 5, 2)
    stacked, count, last = evaluate_graph(graph, [x])
    np.testing.assert_array_equal(stacked, x[:3])
    assert count == 3
    np.testing.assert_array_equal(last, x[2])


@given(st.integers(1, 5), st.integers(1, 4), st.integers(0, 1), st.booleans(), seeds)
@settings(max_examples=20)
def test_a_split_sequence_joins_to_what_it_was(rows: int, part: int, axis: int, keep: bool, seed: int) -> None:
    graph, builder, (x,) = _model(x=TensorType(FLOAT, (rows, rows)))
    sequence = builder.op("SplitToSequence", x, builder.constant(np.int64(part)) if keep else None, axis=axis)
    graph.outputs = [builder.op("ConcatFromSequence", sequence, axis=axis)]
    infer_graph(graph)
    data = floats(seed, rows, rows)
    (found,) = _agree(graph, [data])
    np.testing.assert_array_equal(found, data)


def test_elements_of_a_sequence_may_differ_in_extent() -> None:
    graph, builder, (x,) = _model(x=TensorType(FLOAT, (5, 2)))
    sequence = builder.op("SplitToSequence", x, builder.constant(np.int64([2, 3])))
    first, second = (builder.op("SequenceAt", sequence, builder.constant(np.int64(i))) for i in (0, 1))
    graph.outputs = [first, second]
    infer_graph(graph)
    assert _shape(first)[0] != _shape(second)[0], "one symbol must not stand for two extents"
    _agree(graph, [floats(0, 5, 2)])
    assert first.producer is not None
    with pytest.raises(ExecutionError, match="position"):
        host.evaluate(host.serialize(first.producer), [[], np.int64(0)])


def _squeeze_if(rows: int, *, known: bool | None = None) -> Graph:
    """`if c: squeeze(x) else: x[:1]`, which fits one row only, as exporters write ranks out."""
    graph, builder, (condition, x) = _model(c=TensorType(BOOL, ()), x=TensorType(FLOAT, (rows, 3)))
    then, inner, _ = _body("then")
    first = inner.constant(np.int64([0]))
    then.outputs = [inner.op("Unsqueeze", inner.op("Squeeze", x, first), first)]
    other, inner, _ = _body("else")
    other.outputs = [inner.op("Slice", x, inner.constant(np.int64([0])), inner.constant(np.int64([1])))]
    given = condition if known is None else builder.constant(np.array(known))
    graph.outputs = [builder.op("If", given, then_branch=then, else_branch=other, outputs=["y"], name="fork")]
    infer_graph(graph)
    return graph


def test_a_branch_that_does_not_fit_is_an_error_when_it_is_taken() -> None:
    graph = _squeeze_if(2)
    verify(graph)
    assert _shape(graph.outputs[0]) == (1, 3), "the branch that fits tells the type"
    assert difference(parse_graph(str(graph)), graph) is None
    _agree(graph, [np.array(False), floats(0, 2, 3)])
    with pytest.raises(ExecutionError, match="axis 0 of shape"):
        evaluate_graph(graph, [np.array(True), floats(0, 2, 3)])
    with pytest.raises(Exception, match="out of"):
        _onnxruntime(graph, [np.array(True), floats(0, 2, 3)])
    (node,) = graph.nodes
    with pytest.raises(ExecutionError, match="does not fit the shapes"):
        host.evaluate(host.serialize(node), [np.array(True), floats(0, 2, 3)])


def test_a_branch_that_fits_stays_as_it_is() -> None:
    graph = _squeeze_if(1)
    for condition in (True, False):
        _agree(graph, [np.array(condition), floats(0, 1, 3)])


def test_a_branch_that_is_always_taken_must_fit() -> None:
    _agree(_squeeze_if(2, known=False), [np.array(False), floats(0, 2, 3)])
    with pytest.raises(TypeInferenceError, match="Squeeze: axis 0"):
        _squeeze_if(2, known=True)


def test_a_loop_forgets_what_held_in_its_first_round_only() -> None:
    """`repeat 3 times: x = if rows(x) == 2: concat(x, x) else: concat(x, x0)`: the condition changes with the shape."""
    graph, builder, (x,) = _model(x=TensorType(FLOAT, (2, 2)))
    body, inner, (_, condition, value) = _body("body", "i", "c", "v")
    two = inner.op("Equal", inner.op("Shape", value, start=0, end=1), inner.constant(np.int64([2])))
    branches = []
    for name, other in (("then", value), ("else", x)):
        branch, within, _ = _body(name)
        branch.outputs = [within.op("Concat", value, other, axis=0, outputs=[f"{name}_y"])]
        branches.append(branch)
    new = inner.op("If", two, then_branch=branches[0], else_branch=branches[1])
    body.outputs = [inner.op("Identity", condition), new]
    trips = builder.constant(np.int64(3))
    graph.outputs = [builder.op("Loop", trips, builder.constant(np.array(True)), x, body=body)]
    infer_graph(graph)
    (found,) = _agree(graph, [floats(0, 2, 2)])
    assert found.shape == (8, 2)


@pytest.mark.parametrize("op_type", ["Loop", "Scan", "If"])
def test_outputs_are_as_many_as_bodies_make(op_type: str) -> None:
    graph, builder, (x, chosen) = _model(x=TensorType(FLOAT, (3, 2)), chosen=TensorType(BOOL, ()))
    if op_type == "Loop":
        body, inner, (_, condition, value) = _body("body", "i", "c", "v")
        body.outputs = [condition, value, inner.op("Neg", value)]
        made = builder.op("Loop", builder.constant(np.int64(2)), None, x, body=body)
    elif op_type == "Scan":
        body, inner, (row,) = _body("body", "row")
        body.outputs = [row, inner.op("Neg", row)]
        made = builder.op("Scan", x, num_scan_inputs=1, body=body)
    else:
        branches = [_body(name)[0] for name in ("then", "else")]
        for branch in branches:
            branch.outputs = [x, x]
        made = builder.op("If", chosen, then_branch=branches[0], else_branch=branches[1])
    graph.outputs = [made]
    with pytest.raises(TypeInferenceError, match="has 1 outputs, its body makes 2"):
        infer_graph(graph)
