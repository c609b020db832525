"""Dead code and common subexpressions."""

from __future__ import annotations

import numpy as np

from graphc.ir import Builder, Graph, Tensor, TensorType, Value, dtypes
from graphc.ops.inference import infer_node
from graphc.passes import run_passes

MATRIX = TensorType(dtypes.FLOAT32, (2, 3))


def building() -> tuple[Graph, Builder, Value]:
    graph = Graph("g", [("x", MATRIX)], opset=23)
    return graph, Builder(graph, infer=infer_node), graph.inputs[0]


def operators(graph: Graph) -> list[str]:
    return [node.op_type for node in graph.nodes]


def test_dead_towers_go_in_one_sweep_and_inputs_stay() -> None:
    graph, b, x = building()
    graph.add_input("unused", MATRIX)
    dead = x
    for _ in range(20):
        dead = b.op("Exp", dead)
    graph.outputs = [b.op("Neg", x)]
    assert run_passes(graph, "dce").changes == 20
    assert operators(graph) == ["Neg"] and [v.name for v in graph.inputs] == ["x", "unused"]


def test_optional_outputs_that_nothing_reads_go() -> None:
    graph, b, _ = building()
    picture = graph.add_input("picture", TensorType(dtypes.FLOAT32, (1, 2, 4, 4)))
    pool = b.op("MaxPool", picture, outputs=2, kernel_shape=[2, 2])
    split = b.op("Split", picture, outputs=2, axis=1, num_outputs=2)
    graph.outputs = [pool, split]
    run_passes(graph, "dce")
    assert [len(node.outputs) for node in graph.nodes] == [1, 2], "Split's outputs are not optional"


def test_an_optional_output_that_is_read_stays() -> None:
    graph, b, _ = building()
    picture = graph.add_input("picture", TensorType(dtypes.FLOAT32, (1, 2, 4, 4)))
    pool = b.op("MaxPool", picture, outputs=2, kernel_shape=[2, 2]).producer
    assert pool is not None
    graph.outputs = [pool.outputs[1]]
    run_passes(graph, "dce")
    assert len(pool.outputs) == 2


def nested(graph: Graph, build: dict[str, list[str]]) -> list[Graph]:
    bodies = []
    for name, names in build.items():
        body = Graph(name, opset=23)
        value: Value = graph.inputs[0]
        inner = Builder(body, infer=infer_node)
        for op_type in names:
            value = inner.op(op_type, value, outputs=[f"{name}_{op_type}"])
        body.outputs = [value]
        bodies.append(body)
    return bodies


def test_a_dead_if_takes_its_branches_and_what_only_they_read() -> None:
    graph, b, x = building()
    condition = graph.add_input("c", TensorType(dtypes.BOOL, ()))
    outer = b.op("Exp", x)
    then, other = nested(graph, {"then": ["Neg"], "else": ["Abs"]})
    next(then.nodes).set_input(0, outer)
    b.op("If", condition, then_branch=then, else_branch=other)
    graph.outputs = [b.op("Tanh", x)]
    run_passes(graph, "dce")
    assert operators(graph) == ["Tanh"]
    assert len(x.uses) == 1


def test_equal_nodes_are_computed_once_and_keep_all_origins() -> None:
    graph, b, x = building()
    left, right = b.op("Exp", x), b.op("Exp", x)
    for value, origin in ((left, "first"), (right, "second")):
        assert value.producer is not None
        value.producer.origins = (origin,)
    graph.outputs = [b.op("Add", b.op("Neg", left), b.op("Neg", right))]
    assert run_passes(graph, "cse").changes == 2
    assert operators(graph) == ["Exp", "Neg", "Add"]
    assert next(graph.nodes).origins == ("first", "second")


def test_commutative_operands_may_be_in_any_order_and_others_not() -> None:
    graph, b, x = building()
    y = graph.add_input("y", MATRIX)
    sums = [b.op("Add", x, y), b.op("Add", y, x)]
    differences = [b.op("Sub", x, y), b.op("Sub", y, x)]
    graph.outputs = [b.op("Concat", *sums, *differences, axis=0)]
    run_passes(graph, "cse")
    assert operators(graph).count("Add") == 1 and operators(graph).count("Sub") == 2


def test_attributes_tell_nodes_apart_by_type_too() -> None:
    graph, b, x = building()
    variants = [b.op("LeakyRelu", x, alpha=alpha) for alpha in (0.1, 0.2, 0.1, 0.0, -0.0)]
    axes = [b.op("Softmax", x, axis=axis) for axis in (0, 1, 0)]
    graph.outputs = [b.op("Concat", *variants, *axes, axis=0)]
    run_passes(graph, "cse")
    assert operators(graph).count("LeakyRelu") == 4 and operators(graph).count("Softmax") == 2


def test_equal_constants_are_shared_and_large_different_ones_are_not_hashed() -> None:
    graph, b, x = building()
    rng = np.random.default_rng(0)
    arrays = [rng.standard_normal((3, 400)).astype(np.float32) for _ in range(3)]
    arrays.append(arrays[0].copy())
    tensors = [Tensor.of(array) for array in arrays]
    products = [b.op("MatMul", x, b.constant(tensor)) for tensor in tensors]
    graph.outputs = [b.op("Concat", *products, axis=0)]
    run_passes(graph, "cse")
    assert operators(graph).count("Constant") == 3 and operators(graph).count("MatMul") == 3
    assert [tensor._digest is not None for tensor in tensors] == [True, False, False, True]


def test_constants_of_one_value_and_two_dtypes_stay_two() -> None:
    graph, b, x = building()
    graph.outputs = [
        b.op("Add", x, b.op("Cast", b.op("Add", b.constant(np.int64(1)), b.constant(np.int32(1), dtypes.INT64)), to=1))
    ]
    run_passes(graph, "cse")
    assert operators(graph).count("Constant") == 1
    graph.outputs = [
        b.op("Concat", b.constant(np.ones((2, 3), np.float64)), axis=0),
        b.constant(np.ones((2, 3), np.float32)),
    ]
    run_passes(graph, "dce,cse")
    assert operators(graph).count("Constant") == 2


def test_random_operators_are_not_merged() -> None:
    graph, b, x = building()
    graph.outputs = [b.op("Add", b.op("RandomNormalLike", x), b.op("RandomNormalLike", x))]
    assert run_passes(graph, "cse").changes == 0


def test_two_graph_outputs_stay_two_values() -> None:
    graph, b, x = building()
    graph.outputs = [b.op("Exp", x), b.op("Exp", x)]
    assert run_passes(graph, "cse").changes == 0


def test_a_subgraph_reads_what_is_computed_around_it_but_not_the_other_way_round() -> None:
    graph, b, x = building()
    condition = graph.add_input("c", TensorType(dtypes.BOOL, ()))
    outer = b.op("Exp", x)
    bodies = nested(graph, {"then": ["Exp", "Neg"], "else": ["Tanh", "Neg"]})
    chosen = b.op("If", condition, then_branch=bodies[0], else_branch=bodies[1])
    graph.outputs = [b.op("Add", b.op("Add", outer, chosen), b.op("Tanh", x))]
    run_passes(graph, "cse")
    assert [operators(body) for body in bodies] == [["Neg"], ["Tanh", "Neg"]]
    assert operators(graph).count("Tanh") == 1
