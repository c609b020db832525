"""Ordering: a schedule of the nodes under which least memory is live at once."""

from __future__ import annotations

import heapq
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import ClassVar

from graphc.ir import Graph, Node, TensorType, Value, captured_values
from graphc.ir.symbolic import typical
from graphc.passes.base import PassContext, register_pass


@register_pass
@dataclass(frozen=True)
class Order:
    """Puts the nodes into the order with the least peak of live bytes among several schedules.

    Before: any typed graph. After: the same nodes in a topological order whose peak is no higher than before.
    """

    name: ClassVar[str] = "order"

    def run(self, graph: Graph, context: PassContext) -> int:
        """Tries each schedule; keeps the given order unless another is strictly better. Answers 1 if it changed."""
        nodes = list(graph.nodes)
        if len(nodes) < 3:
            return 0
        sizes = _sizes(graph)
        best, least = nodes, peak(nodes, graph, sizes)
        for schedule in (_least_growth, _depth_first):
            order = schedule(graph, nodes, sizes)
            found = peak(order, graph, sizes)
            if found < least:
                best, least = order, found
        if best is nodes or not context.permit(self.name, nodes[0]):
            return 0
        graph.reorder(best)
        return 1


def _sizes(graph: Graph) -> dict[Value, int]:
    """Bytes of each value that a node makes at run time; open extents count as they usually are, unknown ones not."""
    sizes = {}
    for node in graph.nodes:
        if node.is_op("Constant"):
            continue
        for value in node.outputs:
            kind = value.type
            known = isinstance(kind, TensorType) and kind.shape is not None and kind.symbols() <= graph.bounds.keys()
            sizes[value] = typical(value.tensor_type.storage_bytes, graph.bounds) if known else 0
    return sizes


def _reads(node: Node) -> list[Value]:
    values = [value for value in node.inputs if value is not None]
    for _, subgraph in node.subgraphs():
        values.extend(captured_values(subgraph))
    return list(dict.fromkeys(values))


def peak(nodes: Sequence[Node], graph: Graph, sizes: dict[Value, int]) -> int:
    """Largest sum of bytes of values live at once when `nodes` run in this order."""
    remaining = {value: 0 for value in sizes}
    for node in nodes:
        for value in _reads(node):
            if value in remaining:
                remaining[value] += 1
    kept = set(graph.outputs)
    live = highest = 0
    for node in nodes:
        live += sum(sizes.get(value, 0) for value in node.outputs)
        highest = max(highest, live)
        for value in _reads(node):
            if value in remaining:
                remaining[value] -= 1
                if remaining[value] == 0 and value not in kept:
                    live -= sizes[value]
        live -= sum(sizes.get(v, 0) for v in node.outputs if remaining.get(v) == 0 and v not in kept and not v.uses)
    return highest


def _least_growth(graph: Graph, nodes: Sequence[Node], sizes: dict[Value, int]) -> list[Node]:
    """List scheduling: of the ready nodes, the one after which least more memory is live."""
    readers = {value: sum(value in _reads(node) for node in value.consumers) for value in sizes}

    def growth(node: Node, left: dict[Value, int]) -> int:
        freed = sum(sizes[value] for value in _reads(node) if left.get(value) == 1 and not value.is_graph_output)
        return sum(sizes.get(value, 0) for value in node.outputs) - freed

    return _list_schedule(nodes, readers, growth)


def _list_schedule(
    nodes: Sequence[Node], left: dict[Value, int], key: Callable[[Node, dict[Value, int]], int]
) -> list[Node]:
    """Topological order that takes, among ready nodes, the least by `key`; ties go to the given order."""
    position = {node: i for i, node in enumerate(nodes)}
    waiting = {}
    readers: dict[Node, list[Node]] = {node: [] for node in nodes}
    for node in nodes:
        producers = {v.producer for v in _reads(node) if v.producer in position}
        waiting[node] = len(producers)
        for producer in producers:
            if producer is not None:
                readers[producer].append(node)
    ready = [(key(node, left), position[node]) for node in nodes if waiting[node] == 0]
    heapq.heapify(ready)
    order: list[Node] = []
    while ready:
        rank, place = heapq.heappop(ready)
        node = nodes[place]
        now = key(node, left)
        if now > rank and ready and (now, place) > ready[0]:
            heapq.heappush(ready, (now, place))
            continue
        order.append(node)
        for value in _reads(node):
            if value in left:
                left[value] -= 1
        for reader in readers[node]:
            waiting[reader] -= 1
            if waiting[reader] == 0:
                heapq.heappush(ready, (key(reader, left), position[reader]))
    return order


def _depth_first(graph: Graph, nodes: Sequence[Node], sizes: dict[Value, int]) -> list[Node]:
    """From the outputs back, producers of the larger values first, so that big results are consumed soon."""
    order: list[Node] = []
    done: set[Node] = set()
    stack: list[tuple[Node, bool]] = [(node, False) for node in reversed(nodes)]
    while stack:
        node, ready = stack.pop()
        if node in done:
            continue
        if ready:
            done.add(node)
            order.append(node)
            continue
        stack.append((node, True))
        values = [v for v in _reads(node) if v.producer is not None and v.producer.graph is graph]
        for value in sorted(values, key=lambda v: sizes.get(v, 0)):
            if value.producer is not None and value.producer not in done:
                stack.append((value.producer, False))
    return order
