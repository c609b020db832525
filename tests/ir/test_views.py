"""networkx views say the same as the graph."""

from __future__ import annotations

import networkx
import pytest
from hypothesis import given

from graphc.errors import VerifyError
from graphc.ir import Graph, captured_values, parse_graph
from graphc.ir.views import node_graph, value_graph
from tests.ir.strategies import FEW, graphs


@FEW
@given(graphs())
def test_node_graph_has_an_edge_for_every_use(graph: Graph) -> None:
    view = node_graph(graph)
    assert list(view.nodes) == list(graph.nodes)
    reads = [
        (value.producer, node)
        for node in graph.nodes
        for values in (node.inputs, *(captured_values(inner) for _, inner in node.subgraphs()))
        for value in values
        if value is not None and value.producer is not None
    ]
    assert sorted(map(id_pair, view.edges())) == sorted(map(id_pair, reads))
    assert networkx.is_directed_acyclic_graph(view)
    for _, consumer, facts in view.edges(data=True):
        if facts["index"] >= 0:
            assert consumer.inputs[facts["index"]] is facts["value"]


def id_pair(edge: tuple[object, object]) -> tuple[int, int]:
    return id(edge[0]), id(edge[1])


def test_views_of_a_small_graph() -> None:
    graph = parse_graph(
        """
        graph @g(%x: float32[4]) {
          %a, %b = Split(%x)
          %c = Add(%a, %a)
          %d = If(%b)
            then_branch = graph @t() { %e = Neg(%c) return %e }
          return %d
        }
        """
    )
    split, add, branch = graph.nodes
    edges = [(source, target, facts["index"]) for source, target, facts in node_graph(graph).edges(data=True)]
    assert edges == [(split, add, 0), (split, add, 1), (split, branch, 0), (add, branch, -1)]
    values = value_graph(graph)
    assert set(values.edges(data="op")) == {
        ("x", "a", "Split"),
        ("x", "b", "Split"),
        ("a", "c", "Add"),
        ("b", "d", "If"),
    }
    assert str(values.nodes["x"]["type"]) == "float32[4]"


def test_a_cycle_shows_in_the_view_too() -> None:
    graph = parse_graph("graph @g(%x) { %a = Add(%x, %b) %b = Relu(%a) return %b }")
    assert not networkx.is_directed_acyclic_graph(node_graph(graph))
    with pytest.raises(VerifyError):
        graph.topological_sort()
