"""Order and buffers: schedules that need less memory, and storage that is right about who reads it last."""

from __future__ import annotations

import itertools

import numpy as np

from graphc.ir import Builder, Graph, TensorType, dtypes
from graphc.ir.verify import verify
from graphc.ops import infer_graph
from graphc.passes import PassContext
from graphc.passes.buffers import assign_buffers
from graphc.passes.order import Order, _sizes, peak
from graphc.testing import check_pass, seeded_graph


def _vector(size: int = 16) -> tuple[Graph, Builder]:
    graph = Graph("g", [("x", TensorType(dtypes.FLOAT32, (size,)))], opset=23)
    return graph, Builder(graph)


def _wasteful() -> Graph:
    """Three large values made first, then each reduced to something small."""
    graph, b = _vector()
    (x,) = graph.inputs
    large = [b.op("Expand", x, b.constant(np.array([64, 16]))) for _ in range(3)]
    small = [b.op("ReduceMax", value, keepdims=0) for value in large]
    graph.outputs = [b.op("Sum", *small)]
    infer_graph(graph)
    return graph


def test_large_values_are_consumed_before_more_are_made() -> None:
    graph = _wasteful()
    before = peak(list(graph.nodes), graph, _sizes(graph))
    assert Order().run(graph, PassContext()) == 1
    verify(graph)
    after = peak(list(graph.nodes), graph, _sizes(graph))
    assert before >= 3 * 64 * 16 * 4
    assert after < 2 * 64 * 16 * 4


def test_a_good_order_is_left_alone() -> None:
    graph, b = _vector()
    graph.outputs = [b.op("Exp", b.op("Relu", graph.inputs[0]))]
    infer_graph(graph)
    assert Order().run(graph, PassContext()) == 0


def test_the_order_is_never_worse_and_keeps_the_meaning() -> None:
    for seed in range(60):
        graph = seeded_graph(seed)
        before = peak(list(graph.nodes), graph, _sizes(graph))
        Order().run(graph, PassContext())
        verify(graph)
        assert peak(list(graph.nodes), graph, _sizes(graph)) <= before
    check_pass("order", examples=30)


def test_a_view_shares_storage_with_what_it_shows() -> None:
    graph, b = _vector()
    y = b.op("Relu", graph.inputs[0])
    view = b.op("Reshape", y, b.constant(np.array([4, 4])))
    graph.outputs = [b.op("Exp", view)]
    infer_graph(graph)
    plan = assign_buffers(graph)
    assert [node.op_type for node in plan.steps] == ["Relu", "Exp"]
    assert plan.storage[view] is plan.storage[y]
    assert (plan.storage[y].start, plan.storage[y].end) == (0, 2)
    assert plan.storage[graph.outputs[0]].kind == "output"


def test_a_view_that_is_returned_makes_its_source_the_output() -> None:
    graph, b = _vector()
    y = b.op("Relu", graph.inputs[0])
    graph.outputs = [b.op("Reshape", y, b.constant(np.array([4, 4])))]
    infer_graph(graph)
    plan = assign_buffers(graph)
    assert plan.storage[y].kind == "output"
    assert not plan.copies


def test_inputs_constants_and_second_names_are_copied_out() -> None:
    graph, b = _vector()
    (x,) = graph.inputs
    y = b.op("Relu", x)
    constant = b.constant(np.ones(3, np.float32))
    flat = b.op("Reshape", y, b.constant(np.array([16])))
    graph.outputs = [y, x, constant, flat]
    infer_graph(graph)
    plan = assign_buffers(graph)
    assert [number for number, _ in plan.copies] == [1, 2, 3]


def test_storage_lives_from_its_writer_to_its_last_reader() -> None:
    for seed in range(60):
        graph = seeded_graph(seed)
        plan = assign_buffers(graph)
        at = {node: i for i, node in enumerate(plan.steps)}
        for storage in plan.arena():
            for value in [storage.root, *storage.values]:
                for node in value.consumers:
                    assert node not in at or storage.start < at[node] + 1 <= storage.end
        kinds = [plan.storage[value].kind for value in graph.outputs]
        copied = {number for number, _ in plan.copies}
        assert all(kind == "output" or i in copied for i, kind in enumerate(kinds))
        owners = [plan.storage[v].index for i, v in enumerate(graph.outputs) if i not in copied]
        assert all(a != b for a, b in itertools.combinations(owners, 2))
