"""Constant folding: values, bounds, laziness, and branches that are always taken."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest

from graphc.errors import InputError
from graphc.ir import Builder, Graph, Tensor, TensorType, Value, dtypes, symbol
from graphc.ops.evaluate import evaluate_graph
from graphc.ops.inference import infer_node
from graphc.passes import PassContext, run_passes
from graphc.testing.oracle import assert_verified


def building(**inputs: TensorType) -> tuple[Graph, Builder]:
    graph = Graph("g", list(inputs.items()), opset=23)
    return graph, Builder(graph, infer=infer_node)


def operators(graph: Graph) -> list[str]:
    return [node.op_type for node in graph.nodes if not node.is_op("Constant")]


def test_a_tower_of_constants_becomes_one() -> None:
    graph, b = building(x=TensorType(dtypes.FLOAT32, (3,)))
    tower = b.constant(np.arange(3, dtype=np.float32))
    for _ in range(50):
        tower = b.op("Add", tower, b.constant(np.ones(3, np.float32)))
    graph.outputs = [b.op("Mul", graph.inputs[0], tower)]
    run_passes(graph, "fold")
    assert operators(graph) == ["Mul"] and len(graph) == 2
    (result,) = evaluate_graph(graph, [np.ones(3, np.float32)])
    np.testing.assert_array_equal(result, [50, 51, 52])


def test_shapes_of_symbolic_tensors_fold_where_they_are_known() -> None:
    graph, b = building(x=TensorType(dtypes.FLOAT32, (symbol("n"), 4, 6)))
    shape = b.op("Shape", graph.inputs[0])
    width = b.op("Gather", shape, b.constant(np.array([2])), axis=0)
    count = b.op("Gather", shape, b.constant(np.array([0])), axis=0)
    graph.outputs = [b.op("Identity", width), b.op("Identity", count)]
    run_passes(graph, "fold,dce")
    known, unknown = graph.outputs
    assert known.constant is not None and known.constant.array().tolist() == [6]
    assert unknown.constant is None, "the batch is not known"


def test_types_follow_from_what_was_folded() -> None:
    """The extent is the maximum of more elements than inference follows; everything after it has a shape at once."""
    graph, b = building(x=TensorType(dtypes.FLOAT32, (1, 3)))
    extent = b.op("ReduceMax", b.constant(np.arange(5000) % 7), keepdims=1)
    shape = b.op("Concat", extent, b.constant(np.array([3])), axis=0)
    wide = b.op("Expand", graph.inputs[0], shape)
    graph.outputs = [b.op("Relu", b.op("Transpose", wide, perm=[1, 0]))]
    assert not graph.outputs[0].tensor_type.is_static
    run_passes(graph, "fold,dce")
    assert str(graph.outputs[0].type) == "float32[3x6]"
    assert_verified(graph)


def test_types_follow_from_the_branch_that_is_taken() -> None:
    graph, b = building(x=TensorType(dtypes.FLOAT32, (2, 3)))
    branches = {}
    for name, perm in (("then", [0, 1]), ("else", [1, 0])):
        inner = Graph(name, opset=23)
        inner.outputs = [Builder(inner, infer=infer_node).op("Transpose", graph.inputs[0], outputs=[name], perm=perm)]
        branches[f"{name}_branch"] = inner
    condition = b.op("Greater", b.op("ReduceMax", b.constant(np.arange(5000)), keepdims=0), b.constant(np.array(9999)))
    graph.outputs = [b.op("Relu", b.op("If", condition, **branches))]
    assert not graph.outputs[0].tensor_type.is_static
    run_passes(graph, "fold,dce")
    assert str(graph.outputs[0].type) == "float32[3x2]"
    assert_verified(graph)


def test_outputs_keep_their_names_and_types() -> None:
    graph, b = building()
    graph.outputs = [b.op("Cast", b.constant(np.array([1.5, 2.5])), outputs=["y"], to=dtypes.FLOAT16.onnx)]
    run_passes(graph, "fold")
    (y,) = graph.outputs
    assert (y.name, str(y.type)) == ("y", "float16[2]") and y.constant is not None


def test_what_would_grow_too_large_is_left_and_says_why() -> None:
    graph, b = building()
    graph.outputs = [b.op("Expand", b.constant(np.float32(1)), b.constant(np.array([1000, 1000])))]
    context = PassContext()
    run_passes(graph, "fold{max_bytes=1000}", context)
    assert operators(graph) == ["Expand"]
    assert [r.reason for r in context.refusals] == ["its result would be 4000000 bytes; max_bytes is 1000"]
    run_passes(graph, "fold")
    assert operators(graph) == []


def test_large_values_are_read_only_when_asked_for_and_not_kept() -> None:
    reads = 0

    def load() -> np.ndarray:
        nonlocal reads
        reads += 1
        return np.ones((256, 256), np.float32)

    graph, b = building(x=TensorType(dtypes.FLOAT32, (256, 256)))
    weight = b.constant(Tensor(dtypes.FLOAT32, (256, 256), load))
    doubled = b.op("Add", weight, weight)
    graph.outputs = [b.op("MatMul", graph.inputs[0], b.op("Transpose", doubled, perm=[1, 0]))]
    run_passes(graph, "fold{lazy_bytes=1000}")
    assert operators(graph) == ["MatMul"]
    assert reads == 0
    matmul = graph.outputs[0].producer
    assert matmul is not None and matmul.inputs[1] is not None
    folded = matmul.inputs[1].constant
    assert folded is not None and reads == 0
    assert folded.array().sum() == 2 * 256 * 256
    assert reads > 0


def test_random_operators_are_not_folded() -> None:
    graph, b = building()
    shape_like = b.constant(np.zeros((2, 3), np.float32))
    graph.outputs = [b.op("RandomNormalLike", shape_like)]
    run_passes(graph, "fold")
    assert operators(graph) == ["RandomNormalLike"]


def test_a_node_that_would_fail_is_left_to_the_run() -> None:
    graph, b = building()
    table, index = b.constant(np.arange(3.0)), b.constant(np.array([7]))
    graph.outputs = [b.op("Gather", table, index, axis=0)]
    context = PassContext()
    run_passes(graph, "fold", context)
    assert operators(graph) == ["Gather"] and context.refusals


def conditional(condition: Callable[[Builder], Value]) -> Graph:
    graph, b = building(x=TensorType(dtypes.FLOAT32, (2,)))
    x = graph.inputs[0]
    then, other = Graph("then", opset=23), Graph("else", opset=23)
    inner = Builder(then, infer=infer_node)
    then.outputs = [
        inner.op("Neg", inner.op("Exp", x, outputs=["e"]), outputs=["n"]),
        inner.op("Identity", x, outputs=["i"]),
    ]
    inner = Builder(other, infer=infer_node)
    other.outputs = [inner.op("Abs", x, outputs=["a"]), inner.op("Relu", x, outputs=["r"])]
    first = b.op("If", condition(b), outputs=["p", "q"], then_branch=then, else_branch=other)
    assert first.producer is not None
    graph.outputs = first.producer.outputs
    return graph


@pytest.mark.parametrize(("taken", "expected"), [(True, ["Exp", "Neg", "Identity"]), (False, ["Abs", "Relu"])])
def test_a_branch_that_is_always_taken_replaces_its_if(taken: bool, expected: list[str]) -> None:
    graph = conditional(lambda b: b.op("Not", b.constant(np.array(not taken))))
    before = graph.clone()
    run_passes(graph, "fold,dce")
    assert operators(graph) == expected
    assert [value.name for value in graph.outputs] == ["p", "q"]
    x = np.array([-1, 2], np.float32)
    for wanted, got in zip(evaluate_graph(before, [x]), evaluate_graph(graph, [x]), strict=True):
        np.testing.assert_array_equal(wanted, got)


def test_a_branch_that_returns_one_value_twice_keeps_both_outputs() -> None:
    graph = conditional(lambda b: b.constant(np.array(True)))
    then = next(node for node in graph.nodes if node.is_op("If")).graph_attribute("then_branch")
    then.outputs = [then.outputs[0], then.outputs[0]]
    run_passes(graph, "fold")
    assert_verified(graph)
    assert len({value.name for value in graph.outputs}) == 2


def test_an_open_condition_leaves_the_if_and_folds_inside_it() -> None:
    graph, b = building(c=TensorType(dtypes.BOOL, ()))
    bodies = []
    for name in ("then", "else"):
        body = Graph(name, opset=23)
        inner = Builder(body, infer=infer_node)
        one = inner.constant(np.float32(1), name=f"{name}_one")
        body.outputs = [inner.op("Exp", inner.op("Neg", one, outputs=[f"{name}_n"]), outputs=[f"{name}_e"])]
        bodies.append(body)
    graph.outputs = [b.op("If", graph.inputs[0], then_branch=bodies[0], else_branch=bodies[1])]
    run_passes(graph, "fold")
    assert [operators(inner) for inner in graph.all_graphs()] == [["If"], [], []]
    (result,) = evaluate_graph(graph, [np.array(True)])
    assert result == np.exp(np.float32(-1))
    with pytest.raises(InputError):
        evaluate_graph(graph, [])


@pytest.mark.parametrize(("extent", "left"), [(1, ["Expand"]), (1 << 16, [])])
def test_what_a_little_swells_to_is_left_and_what_much_is_made_of_is_not(extent: int, left: list[str]) -> None:
    graph, b = building()
    small = b.constant(np.zeros(extent, np.float32))
    graph.outputs = [b.op("Expand", small, b.constant(np.array([2, 1 << 16])))]
    run_passes(graph, "fold{grown_bytes=1024}")
    assert operators(graph) == left


@pytest.mark.parametrize(("reader", "left"), [("weight", ["MatMul"]), ("both", ["Expand", "MatMul", "MatMul"])])
def test_weights_are_folded_whatever_they_are_made_of(reader: str, left: list[str]) -> None:
    graph, b = building(x=TensorType(dtypes.FLOAT32, (64, 64)))
    wide = b.op("Expand", b.constant(np.ones(1, np.float32)), b.constant(np.array([64, 64])))
    y = b.op("MatMul", graph.inputs[0], wide)
    graph.outputs = [y if reader == "weight" else b.op("MatMul", wide, y)]
    run_passes(graph, "fold{grown_bytes=1024}")
    assert operators(graph) == left


def test_weights_of_bytes_stay_for_the_products_that_widen_them() -> None:
    def build(reader: str) -> Graph:
        graph, b = building(x=TensorType(dtypes.FLOAT32, (2, 4)))
        weight = b.constant(np.ones(8000, np.int8).reshape(2000, 4))
        wide = b.op("DequantizeLinear", weight, b.constant(np.ones(2000, np.float32)), axis=0)
        turned = b.op("Transpose", wide, perm=[1, 0])
        y = b.op("MatMul", graph.inputs[0], turned)
        graph.outputs = [y if reader == "MatMul" else b.op("Add", y, b.op("ReduceSum", turned, keepdims=0))]
        return graph

    for reader, kept in (("MatMul", True), ("both", False)):
        for option, expected in (("", False), ("{keep_bytes=true}", kept)):
            graph = build(reader)
            run_passes(graph, f"fold{option},dce")
            assert ("DequantizeLinear" in operators(graph)) is expected
