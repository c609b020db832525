"""Names within one GraphProto: who makes what, and an order in which producers come first.

ONNX asks for sorted nodes, but files with unsorted ones are common and unambiguous, so they are sorted here.
"""

from __future__ import annotations

import heapq
import json
from collections.abc import Iterable, Iterator, Mapping, Sequence

import onnx

from graphc.errors import ModelError

ORIGINS_KEY = "graphc.origins"
"""Metadata of a node in an exported model: names of the original nodes, as a JSON list."""


def node_name(node: onnx.NodeProto, index: int) -> str:
    """What messages and origins call a node: its name, else its first output, else operator and position."""
    return node.name or next((name for name in node.output if name), "") or f"{node.op_type or 'node'}_{index}"


def node_origins(node: onnx.NodeProto, label: str) -> tuple[str, ...]:
    """The nodes of the user's model that a node came from: those that an exported graph noted, else itself."""
    for entry in node.metadata_props:
        if entry.key == ORIGINS_KEY:
            try:
                names = json.loads(entry.value)
            except (ValueError, RecursionError):
                break
            if isinstance(names, list) and names and all(isinstance(name, str) for name in names):
                return tuple(names)
    return (label,)


def producers(nodes: Sequence[onnx.NodeProto], given: Iterable[str], graph: str) -> dict[str, int]:
    """Position of the node that makes each name.

    Args:
        nodes: Nodes of one graph.
        given: Names that the graph has without them: inputs and initializers.
        graph: Name of the graph, for messages.

    Raises:
        ModelError: A name is made twice.
    """
    taken = set(given)
    found: dict[str, int] = {}
    for index, node in enumerate(nodes):
        for name in node.output:
            if not name:
                continue
            if name in found or name in taken:
                own = node_name(node, index)
                other = repr(node_name(nodes[found[name]], found[name])) if name in found else "an input or initializer"
                raise ModelError(
                    f"value {name!r} of graph {graph!r} is defined twice: by {own!r} and by {other}",
                    nodes=(own,),
                    hint="names are unique in ONNX; the tool that wrote the model merged graphs without renaming",
                )
            found[name] = index
    return found


def sort_nodes(nodes: Sequence[onnx.NodeProto], made_by: Mapping[str, int]) -> list[int]:
    """Positions of the nodes, producers first, the file's order where it is free.

    Raises:
        ModelError: The nodes form a cycle; the error names it.
    """
    needs = [sorted({made_by[name] for name in reads(node) if name in made_by}) for node in nodes]
    if all(before < index for index, before_all in enumerate(needs) for before in before_all):
        return list(range(len(nodes)))
    waiting = [len(before) for before in needs]
    consumers: list[list[int]] = [[] for _ in nodes]
    for index, before_all in enumerate(needs):
        for before in before_all:
            consumers[before].append(index)
    ready = [index for index, count in enumerate(waiting) if count == 0]
    heapq.heapify(ready)
    order: list[int] = []
    while ready:
        index = heapq.heappop(ready)
        order.append(index)
        for consumer in consumers[index]:
            waiting[consumer] -= 1
            if waiting[consumer] == 0:
                heapq.heappush(ready, consumer)
    if len(order) != len(nodes):
        cycle = _find_cycle(needs, {index for index, count in enumerate(waiting) if count})
        names = [node_name(nodes[index], index) for index in cycle]
        shown = " → ".join([*names[:8], *(["…"] if len(names) > 8 else []), names[0]])
        raise ModelError(
            f"the graph has a cycle of {len(names)} node{'s' if len(names) > 1 else ''}: {shown}",
            nodes=names[:8],
            hint="a node cannot depend on its own result; loops are written with Loop or Scan",
        )
    return order


def _find_cycle(needs: Sequence[Sequence[int]], stuck: set[int]) -> list[int]:
    """A cycle among nodes each of which waits for another of them, in the order of the data's flow."""
    index = min(stuck)
    seen: dict[int, int] = {}
    path: list[int] = []
    while index not in seen:
        seen[index] = len(path)
        path.append(index)
        index = next(before for before in needs[index] if before in stuck)
    return path[seen[index] :][::-1]


def reads(node: onnx.NodeProto) -> Iterator[str]:
    """Names that a node reads, those that its subgraphs take from outside among them."""
    yield from (name for name in node.input if name)
    if node.op_type == "Gradient":
        # It reads values that its attributes name, and not those that it lists as inputs alone.
        for attribute in node.attribute:
            yield from (text.decode(errors="replace") for text in (attribute.s, *attribute.strings) if text)
    for graph in subgraphs(node):
        inside = {value.name for value in graph.input} | {tensor.name for tensor in graph.initializer}
        inside.update(tensor.values.name for tensor in graph.sparse_initializer)
        for inner in graph.node:
            inside.update(inner.output)
        for inner in graph.node:
            yield from (name for name in reads(inner) if name not in inside)
        yield from (value.name for value in graph.output if value.name not in inside)


def subgraphs(node: onnx.NodeProto) -> Iterator[onnx.GraphProto]:
    """Graphs in a node's attributes."""
    for attribute in node.attribute:
        if attribute.HasField("g"):
            yield attribute.g
        yield from attribute.graphs
