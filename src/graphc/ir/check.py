"""What a verifier check is: a name, what it promises, and a search for places where that does not hold."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import TypeAlias

from graphc.ir.graph import GRAPHC_DOMAIN, Graph, Node, Value
from graphc.ir.text import print_node

_NEIGHBOURS = 4


@dataclass(frozen=True)
class Problem:
    """A place where a graph breaks a check's promise.

    Args:
        message: What is wrong there.
        node: The node it is about, None where it is about the graph as such.
    """

    message: str
    node: Node | None = None

    def __str__(self) -> str:
        return self.message if self.node is None else f"{self.message}\n{neighbourhood(self.node)}"


Run: TypeAlias = Callable[[Graph], Iterator[Problem]]


@dataclass(frozen=True)
class Check:
    """One invariant of graphs.

    Args:
        name: One word or two, for `skip` and for messages.
        description: What holds where the check finds nothing.
        run: Finds the problems of a graph and everything nested in it; may rely on the checks before it in the table.
    """

    name: str
    description: str
    run: Run


def neighbourhood(node: Node) -> str:
    """The node between the nodes that feed it and those that read it, in text form, `>` before the node itself."""
    above = dict.fromkeys(v.producer for v in node.inputs if v is not None and v.producer is not None)
    below = dict.fromkeys(user for value in node.outputs for user in value.consumers)
    lines = [f"    {line}" for line in _lines(list(above))]
    lines.append(f"  > {print_node(node)}")
    lines += [f"    {line}" for line in _lines(list(below))]
    return "\n".join(lines)


def _lines(nodes: list[Node]) -> list[str]:
    shown = [print_node(node) for node in nodes[:_NEIGHBOURS]]
    return shown + ([f"... and {len(nodes) - _NEIGHBOURS} more"] if len(nodes) > _NEIGHBOURS else [])


def is_region(node: Node) -> bool:
    """Whether the node is a fused region, whose body is closed."""
    return node.is_op("Region", GRAPHC_DOMAIN)


def all_nodes(graph: Graph) -> Iterator[Node]:
    """Every node of a graph and of the graphs nested in it."""
    for inner in graph.all_graphs():
        yield from inner.nodes


def all_values(graph: Graph) -> Iterator[tuple[Value, Node | None]]:
    """Every value that a graph or a graph nested in it defines, with the node that makes it or holds its graph."""
    for inner, holder in graphs_with_holders(graph):
        for value in inner.inputs:
            yield value, holder
        for node in inner.nodes:
            for value in node.outputs:
                yield value, node


def graphs_with_holders(graph: Graph, holder: Node | None = None) -> Iterator[tuple[Graph, Node | None]]:
    """The graph and every graph nested in it, each with the node whose attribute it is."""
    yield graph, holder
    for node in graph.nodes:
        for _, subgraph in node.subgraphs():
            yield from graphs_with_holders(subgraph, node)
