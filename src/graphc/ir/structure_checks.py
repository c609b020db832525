"""Checks of a graph's structure: node lists, definitions, uses, scopes, names and regions."""

from __future__ import annotations

from collections.abc import Iterator

from graphc.ir.check import Check, Problem, all_nodes, all_values, graphs_with_holders, is_region
from graphc.ir.graph import Graph, Node, Use, Value, captured_values


def _nodes(graph: Graph) -> Iterator[Problem]:
    """Walks the linked lists by hand, since nothing may rely on them before; each graph is entered once."""
    seen: set[Graph] = set()
    waiting: list[tuple[Graph, Node | None]] = [(graph, None)]
    while waiting:
        inner, holder = waiting.pop()
        if inner in seen:
            yield Problem(f"graph {inner.name} is held in two places", holder)
            continue
        seen.add(inner)
        previous: Node | None = None
        node: Node | None = inner._first
        count = 0
        while node is not None:
            count += 1
            if node.graph is not inner:
                owner = "no graph" if node.graph is None else f"graph {node.graph.name}"
                yield Problem(f"a node in the list of graph {inner.name} says that it belongs to {owner}", node)
            if node._previous is not previous:
                yield Problem(f"the node list of graph {inner.name} is not linked both ways", node)
            if count > len(inner):
                break
            waiting.extend((subgraph, node) for _, subgraph in node.subgraphs())
            previous, node = node, node._next
        if count != len(inner) or inner._last is not previous:
            yield Problem(
                f"graph {inner.name} counts {len(inner)} nodes, its list has {count} or ends elsewhere", holder
            )


def _definitions(graph: Graph) -> Iterator[Problem]:
    seen: set[Value] = set()
    for value, node in all_values(graph):
        if value in seen:
            yield Problem(f"%{value.name} is defined in two places", node)
        seen.add(value)
    for inner, holder in graphs_with_holders(graph):
        for index, value in enumerate(inner.inputs):
            if value.producer is not None or value.index != index:
                yield Problem(
                    f"input {index} of graph {inner.name}, %{value.name}, has a producer or a wrong index", holder
                )
        for node in inner.nodes:
            for index, value in enumerate(node.outputs):
                if value.producer is not node or value.index != index:
                    yield Problem(f"output {index}, %{value.name}, has another producer or index", node)


def _uses(graph: Graph) -> Iterator[Problem]:
    graphs = dict(graphs_with_holders(graph))
    reads: dict[Value, set[Use]] = {}
    for inner, holder in graphs.items():
        for node in inner.nodes:
            for index, value in enumerate(node.inputs):
                if value is not None:
                    reads.setdefault(value, set()).add(Use(node, index))
                    if Use(node, index) not in value._uses:
                        yield Problem(f"input {index} reads %{value.name}, whose use list lacks it", node)
        for index, value in enumerate(inner.outputs):
            reads.setdefault(value, set()).add(Use(inner, index))
            if Use(inner, index) not in value._uses:
                yield Problem(f"graph {inner.name} returns %{value.name}, whose use list lacks it", holder)
    for value, maker in all_values(graph):
        for use in value.uses:
            if use not in reads.get(value, ()):
                inside = use.user.graph in graphs if isinstance(use.user, Node) else use.user in graphs
                reader = use.user.describe() if isinstance(use.user, Node) else f"graph {use.user.name}"
                why = "does not read it there" if inside else "is not in this graph"
                yield Problem(f"%{value.name} lists a use by {reader}, position {use.position}, which {why}", maker)


def _scope(graph: Graph) -> Iterator[Problem]:
    homes = {value: inner for inner, _ in graphs_with_holders(graph) for value in _defined(inner)}
    yield from _reads_in_scope(graph, None, set(), [], homes)


def _defined(graph: Graph) -> list[Value]:
    return [*graph.inputs, *(value for node in graph.nodes for value in node.outputs)]


def _reads_in_scope(
    graph: Graph, holder: Node | None, visible: set[Value], around: list[Graph], homes: dict[Value, Graph]
) -> Iterator[Problem]:
    around = [*around, graph]

    def why_not(value: Value) -> str:
        home = homes.get(value)
        if home is None:
            return "which nothing in this graph defines"
        if home not in around:
            return f"which is defined inside graph {home.name} and not visible here"
        return "which is defined only later"

    visible.update(graph.inputs)
    for node in graph.nodes:
        for index, value in enumerate(node.inputs):
            if value is not None and value not in visible:
                yield Problem(f"input {index} reads %{value.name}, {why_not(value)}", node)
        for _, subgraph in node.subgraphs():
            yield from _reads_in_scope(subgraph, node, visible, around, homes)
        visible.update(node.outputs)
    for value in graph.outputs:
        if value not in visible:
            yield Problem(f"graph {graph.name} returns %{value.name}, {why_not(value)}", holder)
    visible.difference_update(_defined(graph))


def _names(graph: Graph) -> Iterator[Problem]:
    roots = [graph]
    while roots:
        yield from _names_of_scope(roots.pop(), None, {}, roots)


def _names_of_scope(
    graph: Graph, holder: Node | None, seen: dict[str, Value], closed: list[Graph]
) -> Iterator[Problem]:
    """Names of a graph and the graphs nested in it; those of regions are scopes of their own, put into `closed`."""
    for value in _defined(graph):
        node = value.producer or holder
        if not value.name:
            if value.is_used or value.producer is None:
                yield Problem("a value without a name is an input or is read", node)
        elif seen.setdefault(value.name, value) is not value:
            yield Problem(f"two values are called %{value.name}", node)
    for node in graph.nodes:
        for _, subgraph in node.subgraphs():
            if is_region(node):
                closed.append(subgraph)
            else:
                yield from _names_of_scope(subgraph, node, seen, closed)


def _regions(graph: Graph) -> Iterator[Problem]:
    for node in all_nodes(graph):
        if not is_region(node):
            continue
        body = node.attributes.get("body")
        if not isinstance(body, Graph):
            yield Problem("a region has no graph as its attribute 'body'", node)
            continue
        captured = captured_values(body)
        if captured:
            yield Problem(f"a region's body reads %{captured[0].name} of the graph around it", node)
        if any(value is None for value in node.inputs):
            yield Problem("a region has an absent input", node)
        pairs = (("input", node.inputs, body.inputs), ("output", node.outputs, body.outputs))
        for what, outside, inside in pairs:
            if len(outside) != len(inside):
                yield Problem(f"a region has {len(outside)} {what}s, its body {len(inside)}", node)
                continue
            for index, (outer, inner) in enumerate(zip(outside, inside, strict=True)):
                if outer is not None and outer.type != inner.type:
                    yield Problem(f"{what} {index} of a region is {outer.type}, in its body {inner.type}", node)


STRUCTURE_CHECKS = (
    Check("nodes", "node lists are linked both ways, and no graph is held in two places", _nodes),
    Check("definitions", "every value is defined once, by the producer and at the index that it names", _definitions),
    Check("uses", "use lists hold exactly the places that read a value", _uses),
    Check("scope", "what a node or graph reads is defined before, in its graph or one around it", _scope),
    Check("names", "no two values of a scope have the same name; what is read has one", _names),
    Check("regions", "regions are closed and their bodies' inputs and outputs are theirs", _regions),
)
