"""Random graphs are valid, varied, and mean the same to NumPy and to ONNX Runtime."""

from __future__ import annotations

from collections import Counter

import pytest
from hypothesis import given, settings

from graphc.errors import UnsupportedError
from graphc.ir import Graph
from graphc.ir.equality import equal
from graphc.ops.base import REGISTRY
from graphc.ops.evaluate import evaluate_graph
from graphc.testing.oracle import assert_verified, calm_inputs, compare_arrays, graph_tolerance, is_static
from graphc.testing.random_graphs import graphs, seeded_graph
from graphc.testing.samples import SAMPLERS


@settings(max_examples=60)
@given(graphs())
def test_graphs_are_verified_static_and_have_calm_inputs(graph: Graph) -> None:
    assert_verified(graph)
    assert is_static(graph)
    inputs = calm_inputs(graph, 0)
    assert inputs is not None
    assert graph.outputs


def test_graphs_use_every_operator_and_differ() -> None:
    sample = [seeded_graph(seed) for seed in range(600)]
    used = Counter(node.op_type for graph in sample for node in graph.nodes)
    assert {name for name in SAMPLERS if REGISTRY.find("", name, 23)} <= set(used)
    assert sum(len(graph.outputs) > 1 for graph in sample) > 100
    assert sum(any(len(v.uses) > 1 for v in graph.inputs) for graph in sample) > 100
    assert len({str(graph) for graph in sample}) > 550


def test_a_seed_gives_one_graph() -> None:
    assert equal(seeded_graph(7), seeded_graph(7))


@settings(max_examples=30)
@given(graphs(operators=("Add", "Relu", "MatMul")))
def test_operators_can_be_chosen(graph: Graph) -> None:
    # Growing backward puts a few simple operators in front whatever is chosen.
    assert not {"Conv", "Softmax", "Concat", "Cast"} & {node.op_type for node in graph.nodes}


def _agrees_with_onnxruntime(seed: int) -> bool:
    pytest.importorskip("onnxruntime")
    from graphc.testing.onnx_oracle import run_onnxruntime

    graph = seeded_graph(seed)
    inputs = calm_inputs(graph, 0)
    if inputs is None:
        return False
    try:
        found = run_onnxruntime(graph, inputs)
    except UnsupportedError:
        return False
    for value, wanted, got in zip(graph.outputs, evaluate_graph(graph, list(inputs)), found, strict=True):
        compare_arrays(f"seed {seed}, %{value.name} of\n{graph}\n", wanted, got, graph_tolerance(graph))
    return True


def test_numpy_and_onnxruntime_agree() -> None:
    assert sum(_agrees_with_onnxruntime(seed) for seed in range(60)) > 50


@pytest.mark.slow
def test_numpy_and_onnxruntime_agree_on_many() -> None:
    assert sum(_agrees_with_onnxruntime(seed) for seed in range(60, 1500)) > 1300
