"""Random graphs of further kinds: control flow, open extents, layouts, and inputs at the edges of their types."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import onnx
import pytest
from hypothesis import given, settings

from graphc.errors import UnsupportedError
from graphc.frontend import export_model
from graphc.ir import Builder, Graph, TensorType
from graphc.ir.graph import captured_values
from graphc.ir.symbolic import symbols
from graphc.ops.evaluate import evaluate_graph
from graphc.ops.inference import infer_node
from graphc.passes.base import PassContext
from graphc.passes.edit import replace_value
from graphc.testing import EXACT, DifferenceError, check_backend, check_pass, edge_inputs, graphs, run_onnxruntime
from graphc.testing.choosing import SeedChooser
from graphc.testing.oracle import assert_equivalent, assert_verified, calm_inputs, compare_arrays
from graphc.testing.random_graphs import GraphOptions, random_graph

PIPELINE = "scan_axes,fold,unroll,fold,cse,simplify,raise,simplify,expand,fold,dce,layout{block=4},fuse,dce,order"


def controlled(count: int) -> list[Graph]:
    return [random_graph(SeedChooser(seed), GraphOptions(nesting=2)) for seed in range(count)]


def test_control_flow_of_every_kind_in_one_another_reading_what_is_around() -> None:
    used: Counter[str] = Counter()
    for graph in controlled(200):
        assert_verified(graph)
        for depth, inner in enumerate(graph.all_graphs()):
            used.update(node.op_type for node in inner.nodes)
            used["nested"] += depth > 0 and any(True for node in inner.nodes for _ in node.subgraphs())
            used["capturing"] += depth > 0 and bool(captured_values(inner))
    assert min(used[name] for name in ("If", "Loop", "Scan", "nested", "capturing")) > 30


def test_models_with_control_flow_are_valid_and_mean_what_onnxruntime_says() -> None:
    agreed = 0
    for graph in controlled(80):
        inputs = calm_inputs(graph, 0)
        if inputs is None or not any(node.op_type in ("If", "Loop", "Scan") for node in graph.nodes):
            continue
        onnx.checker.check_model(export_model(graph), full_check=True)
        try:
            found = run_onnxruntime(graph, inputs)
        except UnsupportedError:
            continue
        for value, wanted, got in zip(graph.outputs, evaluate_graph(graph, list(inputs)), found, strict=True):
            compare_arrays(f"%{value.name} of\n{graph}\n", wanted, got, 1e-3)
        agreed += 1
    assert agreed > 25


@settings(max_examples=60)
@given(graphs(open_dims=True))
def test_open_graphs_are_verified_and_take_the_extents_they_were_drawn_at(graph: Graph) -> None:
    assert_verified(graph)
    inputs = calm_inputs(graph, 0)
    assert inputs is not None
    for value, array in zip(graph.inputs, inputs, strict=True):
        assert len(value.tensor_type.dims) == array.ndim
        assert all(symbols(d) or d == extent for d, extent in zip(value.tensor_type.dims, array.shape, strict=True))
    evaluate_graph(graph, list(inputs))


@settings(max_examples=25)
@given(graphs(operators=("Conv", "Relu", "MaxPool", "Add"), layouts=True))
def test_graphs_in_layouts_are_verified(graph: Graph) -> None:
    assert_verified(graph)


def test_layouts_occur() -> None:
    stored = 0

    def run(graph: Graph, inputs: object) -> list[object]:
        nonlocal stored
        kinds = [value.type for node in graph.nodes for value in node.outputs]
        stored += any(isinstance(kind, TensorType) and not kind.layout.is_row_major for kind in kinds)
        return evaluate_graph(graph, list(inputs))  # type: ignore[call-overload]

    check_backend(run, examples=60, operators=("Conv", "Relu", "MaxPool"), layouts=True)
    assert stored > 15


@pytest.mark.parametrize("kinds", [("control_flow", "open_dims"), ("control_flow", "edges")], ids="-".join)
def test_the_passes_keep_the_meaning(kinds: tuple[str, ...]) -> None:
    assert check_pass(PIPELINE, examples=50, **dict.fromkeys(kinds, True)) > 50  # type: ignore[arg-type]


@dataclass(frozen=True)
class Losing:
    """max(x, y) = x > y ? x : y, which takes y where x is NaN."""

    name: ClassVar[str] = "losing"

    def run(self, graph: Graph, context: PassContext) -> int:
        """Every Max of two."""
        found = [node for node in graph.nodes if node.is_op("Max") and len(node.inputs) == 2]
        for node in found:
            b = Builder(graph, before=node, infer=infer_node)
            replace_value(node.output, b.op("Where", b.op("Greater", *node.inputs), *node.inputs))
        return len(found)


def test_edges_are_where_a_lost_nan_shows() -> None:
    with pytest.raises(DifferenceError, match="nan"):
        check_pass(Losing(), operators=("Max", "Abs"), edges=True, max_nodes=4)
    assert check_pass(Losing(), operators=("Max", "Abs"), max_nodes=4) > 0


def test_edges_are_of_every_type_and_evaluate() -> None:
    seen: set[object] = set()
    for seed in range(60):
        graph = random_graph(SeedChooser(seed), GraphOptions(operators=EXACT))
        assert {node.op_type for node in graph.nodes} <= {*EXACT, "Constant"}
        inputs = edge_inputs(graph, seed)
        seen.update(str(element) for array in inputs for element in np.unique(array.reshape(-1)))
        assert_equivalent(graph, graph.clone(), inputs)
    assert {"nan", "inf", "-inf", "2.5"} <= seen
