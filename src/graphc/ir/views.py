"""networkx views of a graph, for analyses and drawings that a library already does well."""

from __future__ import annotations

from typing import TYPE_CHECKING

from graphc.ir.graph import Graph, Node, captured_values

if TYPE_CHECKING:
    import networkx


def node_graph(graph: Graph) -> networkx.MultiDiGraph[Node]:
    """Nodes as vertices, an edge per use; each edge carries `value` and the consumer's input `index`.

    Reads from a subgraph of a node count as reads of the node, with index -1.
    """
    import networkx

    view: networkx.MultiDiGraph[Node] = networkx.MultiDiGraph(name=graph.name)
    view.add_nodes_from(graph.nodes)
    for node in graph.nodes:
        for index, value in enumerate(node.inputs):
            if value is not None and value.producer is not None and value.producer.graph is graph:
                view.add_edge(value.producer, node, value=value, index=index)
        for _, subgraph in node.subgraphs():
            for value in captured_values(subgraph):
                if value.producer is not None and value.producer.graph is graph:
                    view.add_edge(value.producer, node, value=value, index=-1)
    return view


def value_graph(graph: Graph) -> networkx.DiGraph[str]:
    """Value names as vertices, an edge from each input to each output of a node, labelled with the operator."""
    import networkx

    view: networkx.DiGraph[str] = networkx.DiGraph(name=graph.name)
    view.add_nodes_from((value.name, {"type": value.type}) for value in graph.inputs)
    for node in graph.nodes:
        for output in node.outputs:
            view.add_node(output.name, type=output.type)
            view.add_edges_from((v.name, output.name, {"op": node.op}) for v in node.inputs if v is not None)
    return view
