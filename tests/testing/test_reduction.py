"""Delta debugging and reduction: minimal where the property is simple, and always with the property."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import onnx
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from graphc.errors import OptionError
from graphc.frontend import export_model
from graphc.ir import Builder, Graph, TensorType, dtypes
from graphc.ops.inference import infer_node
from graphc.testing import graphs, reduce
from graphc.testing.bisection.search import first_bad
from graphc.testing.reduction.ddmin import ddmin


@given(st.integers(1, 60), st.data())
def test_ddmin_is_minimal_for_any_set_of_causes(count: int, data: st.DataObject) -> None:
    causes = data.draw(st.sets(st.integers(0, count - 1), min_size=1))
    asked = []

    def holds(items: list[int]) -> bool:
        asked.append(tuple(items))
        return causes <= set(items)

    assert set(ddmin(range(count), holds)) == causes
    assert all(0 < len(items) < count for items in asked)


def test_one_cause_among_many_takes_few_questions() -> None:
    asked = 0

    def holds(items: list[int]) -> bool:
        nonlocal asked
        asked += 1
        return 700 in items

    assert ddmin(range(1024), holds) == [700]
    assert asked <= 2 * 10


@given(st.lists(st.booleans(), max_size=40))
def test_first_bad_is_where_good_turns_bad(middle: list[bool]) -> None:
    bad = [False, *middle, True]
    found = first_bad(0, len(bad) - 1, lambda number: bad[number])
    assert bad[found]
    assert not bad[found - 1]


def _two_causes() -> tuple[onnx.ModelProto, dict[str, Any]]:
    graph = Graph("model", [("x", TensorType(dtypes.FLOAT32, (4, 6)))], opset=23)
    b = Builder(graph, infer=infer_node)
    value = graph.inputs[0]
    for op in ("Relu", "Exp", "Tanh", "Sigmoid", "Abs", "Sin", "Cos"):
        value = b.op(op, value)
    other = b.op("Softmax", b.op("MatMul", graph.inputs[0], b.constant(np.ones((6, 5), np.float32))))
    graph.outputs = [value, other]
    return export_model(graph), {"x": np.linspace(-1, 1, 24, dtype=np.float32).reshape(4, 6)}


def test_the_smallest_model_with_a_tanh_before_a_sin() -> None:
    model, inputs = _two_causes()

    def has_both(candidate: onnx.ModelProto, data: Mapping[str, Any]) -> bool:
        onnx.checker.check_model(candidate, full_check=True)
        assert {value.name for value in candidate.graph.input} == set(data)
        return {"Tanh", "Sin"} <= {node.op_type for node in candidate.graph.node}

    found = reduce(model, has_both, inputs)
    assert (found.nodes, found.nodes_before, found.complete) == (2, 9, True)
    assert all(array.size == 1 for array in found.inputs.values())
    assert has_both(found.model, found.inputs)


def test_what_the_data_shows_is_kept() -> None:
    import onnxruntime

    graph = Graph("model", [("x", TensorType(dtypes.FLOAT32, (4, 6)))], opset=23)
    b = Builder(graph, infer=infer_node)
    graph.outputs = [b.op("Neg", b.op("Sqrt", b.op("Tanh", graph.inputs[0]))), b.op("Cos", graph.inputs[0])]

    def makes_nan(candidate: onnx.ModelProto, data: Mapping[str, Any]) -> bool:
        session = onnxruntime.InferenceSession(candidate.SerializeToString(), providers=["CPUExecutionProvider"])
        return any(np.isnan(output).any() for output in session.run(None, dict(data))) and not any(
            np.isnan(array).any() for array in data.values()
        )

    model = export_model(graph)
    model.ir_version = 10
    found = reduce(model, makes_nan, {"x": np.linspace(1, -1, 24, dtype=np.float32).reshape(4, 6)})
    assert [node.op_type for node in found.model.graph.node] == ["Sqrt"]
    assert any((array < 0).any() for array in found.inputs.values())


@settings(max_examples=10)
@given(graphs(8))
def test_random_models_keep_one_operator(graph: Graph) -> None:
    model = export_model(graph)
    wanted = model.graph.node[len(model.graph.node) // 2].op_type
    inputs = {v.name: np.ones(v.tensor_type.static_shape, v.tensor_type.dtype.numpy) for v in graph.inputs}
    found = reduce(
        model, lambda candidate, data: wanted in {n.op_type for n in candidate.graph.node}, inputs, attempts=60
    )
    assert wanted in {node.op_type for node in found.model.graph.node}
    assert found.nodes == 1


def test_a_model_that_cannot_be_imported_is_reduced_as_a_message() -> None:
    model, inputs = _two_causes()
    model.graph.node[3].op_type = "NoSuchOperator"

    def is_unknown(candidate: onnx.ModelProto, data: Mapping[str, Any]) -> bool:
        return any(node.op_type == "NoSuchOperator" for node in candidate.graph.node)

    found = reduce(model, is_unknown, inputs)
    assert found.nodes == 1
    assert is_unknown(found.model, found.inputs)


def test_a_model_without_the_property_is_refused() -> None:
    model, inputs = _two_causes()
    with pytest.raises(OptionError, match="does not have the property"):
        reduce(model, lambda candidate, data: False, inputs)


def test_time_ends_it_with_the_best_so_far() -> None:
    model, inputs = _two_causes()
    found = reduce(model, lambda candidate, data: True, inputs, attempts=2)
    assert not found.complete
    assert found.attempts == 2
