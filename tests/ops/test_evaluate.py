"""The NumPy evaluator of graphs: lifetimes, captures, storage and errors."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from graphc.errors import ExecutionError, InputError, UnsupportedError
from graphc.ir import Builder, Graph, Layout, TensorType, Value, blocked, channels_last, dtypes
from graphc.ops import evaluate_graph, evaluate_node, infer_graph, infer_node
from graphc.ops.evaluate import captured_inputs, poison

FLOAT = dtypes.FLOAT32


def image(layout: Layout | None = None) -> tuple[Graph, Builder]:
    kind = TensorType(FLOAT, (1, 5, 2, 3))
    graph = Graph("g", [("x", kind if layout is None else kind.with_layout(layout))], opset=24)
    return graph, Builder(graph, infer=infer_node)


def data() -> Any:
    return np.arange(30, dtype=np.float32).reshape(1, 5, 2, 3) - 15


def test_values_are_watched_in_order() -> None:
    graph, b = image()
    first = b.op("Relu", graph.inputs[0])
    second = b.op("Neg", first)
    graph.outputs = [second, graph.inputs[0], first]
    seen: list[Value] = []
    found = evaluate_graph(graph, [data()], watch=lambda value, datum: seen.append(value))
    assert seen == [first, second]
    np.testing.assert_array_equal(found[0], -np.maximum(data(), 0))
    np.testing.assert_array_equal(found[1], data())
    np.testing.assert_array_equal(found[2], np.maximum(data(), 0))


def test_a_value_dies_after_its_last_use() -> None:
    import weakref

    graph, b = image()
    first = b.op("Neg", graph.inputs[0])
    second = b.op("Abs", first)
    graph.outputs = [b.op("Sqrt", second)]
    alive: dict[str, Any] = {}

    def watch(value: Value, datum: Any) -> None:
        alive[value.name] = weakref.ref(datum)
        if value.name == graph.outputs[0].name:
            assert alive[first.name]() is None

    evaluate_graph(graph, [data()], watch=watch)
    assert len(alive) == 3


def test_branches_read_enclosing_values() -> None:
    graph = Graph("g", [("c", TensorType(dtypes.BOOL, ())), ("x", TensorType(FLOAT, (2,)))], opset=24)
    outer = Builder(graph)
    doubled = outer.op("Add", graph.inputs[1], graph.inputs[1])
    branches = []
    for name, op in (("then", "Neg"), ("else", "Abs")):
        branch = Graph(name, opset=24)
        branch.outputs = [Builder(branch).op(op, doubled, outputs=[f"{name}_out"])]
        branches.append(branch)
    chosen = outer.op("If", graph.inputs[0], then_branch=branches[0], else_branch=branches[1])
    graph.outputs = [chosen]
    infer_graph(graph, strict=True)
    assert chosen.producer is not None and captured_inputs(chosen.producer) == (doubled,)
    x = np.array([1.0, -2.0], np.float32)
    np.testing.assert_array_equal(evaluate_graph(graph, [np.array(True), x])[0], -2 * x)
    np.testing.assert_array_equal(evaluate_graph(graph, [np.array(False), x])[0], np.abs(2 * x))


def test_a_graph_returns_constants_and_duplicates() -> None:
    graph, b = image()
    constant = b.constant(np.array([1, 2], np.float32))
    graph.outputs = [constant, constant]
    found = evaluate_graph(graph, [data()])
    np.testing.assert_array_equal(found[0], [1, 2])
    np.testing.assert_array_equal(found[1], [1, 2])


def test_wrong_number_of_inputs() -> None:
    graph, _ = image()
    with pytest.raises(InputError, match="takes 1 inputs, not 2"):
        evaluate_graph(graph, [data(), data()])


def test_unknown_operators_and_misfitting_data_name_the_node() -> None:
    graph, _ = image()
    b = Builder(graph)
    strange = b.op("Frobnicate", graph.inputs[0], name="strange").producer
    added = b.op("Reshape", graph.inputs[0], b.constant(np.array([7])), name="culprit").producer
    assert strange is not None and added is not None
    with pytest.raises(UnsupportedError) as unsupported:
        evaluate_node(strange, [data()])
    assert unsupported.value.nodes == ("strange",)
    with pytest.raises(ExecutionError) as failed:
        evaluate_node(added, [data(), np.array([7])])
    assert failed.value.nodes == ("culprit",)


LAYOUTS = [
    blocked(1, 4),
    blocked(1, 8, halo=((0, 0), (0, 0), (1, 1), (2, 0))),
    channels_last(4),
    blocked(1, 4, fill=0.0),
]


@pytest.mark.parametrize("layout", LAYOUTS, ids=str)
def test_storage_holds_what_is_logically_there(layout: Layout) -> None:
    graph, b = image(layout)
    value = b.op("Relu", graph.inputs[0])
    assert isinstance(value.type, TensorType)
    value.type = value.type.with_layout(layout)
    pooled = b.op("GlobalAveragePool", value)
    graph.outputs = [value, pooled]
    logical = evaluate_graph(graph, [data()])
    stored = evaluate_graph(graph, [data()], storage=True)
    for left, right in zip(logical, stored, strict=True):
        np.testing.assert_array_equal(left, right)


@pytest.mark.parametrize("layout", LAYOUTS, ids=str)
def test_a_missing_relayout_shows(layout: Layout) -> None:
    """A view takes the bytes as they lie; of a tensor that is not row-major it makes nonsense."""
    graph, b = image(layout)
    graph.outputs = [b.op("Reshape", graph.inputs[0], b.constant(np.array([5, 6])))]
    logical = evaluate_graph(graph, [data()])[0]
    stored = evaluate_graph(graph, [data()], storage=True)[0]
    assert not np.array_equal(logical, stored)


def test_a_relayout_makes_it_right_again() -> None:
    graph, b = image(blocked(1, 4))
    plain = b.op("Relayout", graph.inputs[0], domain="graphc", types=[TensorType(FLOAT, (1, 5, 2, 3))])
    graph.outputs = [b.op("Reshape", plain, b.constant(np.array([5, 6])))]
    np.testing.assert_array_equal(evaluate_graph(graph, [data()], storage=True)[0], data().reshape(5, 6))


def test_who_accepts_a_layout_can_be_told() -> None:
    layout = blocked(1, 4)
    graph, b = image(layout)
    graph.outputs = [b.op("Relu", graph.inputs[0])]
    accepting = evaluate_graph(graph, [data()], storage=True, accepts=lambda node, index, found: True)
    refusing = evaluate_graph(graph, [data()], storage=True, accepts=lambda node, index, found: found.is_row_major)
    np.testing.assert_array_equal(accepting[0], np.maximum(data(), 0))
    assert not np.array_equal(refusing[0], np.maximum(data(), 0))


@pytest.mark.parametrize("kind", ["float32", "float16", "bfloat16", "float8_e5m2", "int8", "uint4", "int64", "bool"])
def test_poison_fits_its_dtype(kind: str) -> None:
    dtype = dtypes.from_name(kind)
    found = np.array(poison(dtype)).astype(dtype.numpy)
    assert np.isnan(found.astype(np.float32)) if dtype.is_float else int(found) == poison(dtype) != 0
