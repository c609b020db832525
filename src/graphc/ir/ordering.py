"""Topological order of nodes, and the cycle that stands in its way."""

from __future__ import annotations

import heapq
from collections.abc import Iterable, Mapping, Sequence, Set

from graphc.errors import VerifyError
from graphc.ir.graph import Node, captured_values


def topological_order(nodes: Sequence[Node]) -> list[Node]:
    """The nodes of one graph with producers first, in their present order where it is free (Kahn 1962, by position).

    Raises:
        VerifyError: The nodes form a cycle; the error names it.
    """
    position = {node: i for i, node in enumerate(nodes)}
    producers = {node: producers_of(node) & position.keys() for node in nodes}
    consumers: dict[Node, list[Node]] = {node: [] for node in nodes}
    for node in nodes:
        for producer in producers[node]:
            consumers[producer].append(node)
    waiting = {node: len(producers[node]) for node in nodes}
    ready = [position[node] for node in nodes if waiting[node] == 0]
    heapq.heapify(ready)
    order: list[Node] = []
    while ready:
        node = nodes[heapq.heappop(ready)]
        order.append(node)
        for consumer in consumers[node]:
            waiting[consumer] -= 1
            if waiting[consumer] == 0:
                heapq.heappush(ready, position[consumer])
    if len(order) != len(nodes):
        cycle = _cycle({node: position[node] for node in nodes if waiting[node]}, producers)
        names = tuple(name for node in cycle for name in (node.origins or (node.name or node.op,)))
        raise VerifyError(f"{len(cycle)} node(s) form a cycle: {' <- '.join(map(str, cycle[:5]))}", nodes=names[:10])
    return order


def _cycle(stuck: Mapping[Node, int], producers: Mapping[Node, set[Node]]) -> list[Node]:
    """A cycle, from consumer to producer, among nodes (with their positions) each of which waits for another."""
    path: dict[Node, None] = {}
    node = next(iter(stuck))
    while node not in path:
        path[node] = None
        node = min(producers[node] & stuck.keys(), key=stuck.__getitem__)
    cycle = list(path)
    return cycle[cycle.index(node) :]


def producers_within(nodes: Set[Node], start: Iterable[Node | None]) -> set[Node]:
    """Those of `nodes` that are in `start` or make what others of these read, directly or through others of `nodes`."""
    found: set[Node] = set()
    stack = [node for node in start if node in nodes]
    while stack:
        node = stack.pop()
        if node is not None and node not in found:
            found.add(node)
            stack.extend(producers_of(node) & nodes)
    return found


def producers_of(node: Node) -> set[Node]:
    """The nodes that make what a node, or a graph in it, reads."""
    values = [value for value in node.inputs if value is not None]
    for _, subgraph in node.subgraphs():
        values.extend(captured_values(subgraph))
    return {value.producer for value in values if value.producer is not None}
