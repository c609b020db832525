"""Why nodes beside each other are not in one region."""

from __future__ import annotations

from collections.abc import Iterator

from graphc.ir import Node, Value
from graphc.passes.base import Finding
from graphc.passes.fuse.grouping import (
    HEAVY,
    INLINED,
    ROWS,
    Group,
    Grouping,
    has,
    inputs_of,
    is_product,
    read_outside,
    result_of,
)
from graphc.passes.views import is_view


def findings(grouping: Grouping) -> Iterator[Finding]:
    """The groups, in graph order, then every edge between two nodes that no group joins, with the reason."""
    groups = list(grouping.groups())
    found = {node: group for group in groups for node in group.nodes}
    for group in sorted(groups, key=lambda group: grouping.position[group.nodes[0]]):
        if len(group.nodes) > 1:
            others = tuple(node for node in group.nodes if node is not group.anchor)
            operators = ", ".join(node.op for node in group.nodes)
            yield Finding(group.anchor, f"one region of {group.anchor.op}: {operators}", done=True, others=others)
    for node in grouping.graph.nodes:
        for value in node.outputs:
            for reader in value.consumers:
                apart = reader.graph is node.graph and (node not in found or found[node] is not found.get(reader))
                if apart and not node.is_op("Constant"):
                    yield Finding(reader, _why_apart(grouping, found, value, reader), others=(node,))


def _why_apart(grouping: Grouping, found: dict[Node, Group], value: Value, reader: Node) -> str:
    producer = value.producer
    assert producer is not None, "inputs of a graph are made by no node"
    edge = f"%{value.name} of {producer.op} is stored"
    for node in (producer, reader):
        reason = grouping.not_compiled(node)
        if reason is not None:
            return f"{edge}: {reason}"
        if is_view(node) and node not in found:
            return f"{edge}: {node.op} is a view, which computes nothing"
    reasons = []
    before, after = found.get(producer), found.get(reader)
    if after is not None and reader is after.anchor and has(reader, HEAVY):
        return f"{edge}: {_not_fed(grouping, value, reader)}"
    if before is not None and has(before.anchor, HEAVY | ROWS):
        reasons.append(_not_after(grouping, before, reader))
    if after is not None and (not reasons or has(producer, INLINED)):
        reasons.append(_not_before(grouping, after, value, reader))
    return f"{edge}: {'; '.join(dict.fromkeys(reasons))}"


def _not_fed(grouping: Grouping, value: Value, anchor: Node) -> str:
    """Why an anchor does not compute what it reads."""
    producer = value.producer
    assert producer is not None, value
    if not grouping.moves or not is_product(anchor) or value not in anchor.inputs[:2]:
        return f"{anchor.op} is the anchor of a region, which reads its operands from memory"
    others = [user for user in value.consumers if user is not anchor]
    if others or value.is_graph_output or len(value.uses) != 1:
        return f"%{value.name} is also read by {others[0].describe() if others else 'others'}"
    return grouping.cannot_feed(producer) or f"what {producer.op} reads is wider, or would be one input too many"


def _not_after(grouping: Grouping, group: Group, reader: Node) -> str:
    """Why `reader` is not in the epilogue of the group whose result it reads."""
    nodes = set(group.nodes)
    if len([value for value in group.anchor.outputs if value.is_used]) != 1:
        return f"{group.anchor.op} has several results that are read"
    reason = grouping.cannot_follow(reader, nodes, group.anchor.output.tensor_type.shape)
    if reason is not None:
        return reason
    if len(nodes) >= grouping.max_nodes:
        return f"the region has {len(nodes)} nodes; max_nodes is {grouping.max_nodes}"
    return _too_many(grouping, nodes | {reader}) or f"{reader.op} is in another region"


def _not_before(grouping: Grouping, group: Group, value: Value, reader: Node) -> str:
    """Why the producer of `value` is not computed in the group of `reader`."""
    producer, nodes = value.producer, set(group.nodes)
    assert producer is not None, value
    reason = grouping.cannot_inline(producer, reader, nodes, result_of(nodes, grouping.position))
    if reason is not None:
        return reason
    others = [user for user in value.consumers if user not in nodes]
    if value.is_graph_output:
        return f"%{value.name} is an output of the graph"
    if others:
        return f"%{value.name} is also read by {others[0].describe()}"
    return _too_many(grouping, nodes | {producer}) or f"{producer.op} is in another region"


def _too_many(grouping: Grouping, nodes: set[Node]) -> str | None:
    if len(nodes) > grouping.max_nodes:
        return f"the region would have {len(nodes)} nodes; max_nodes is {grouping.max_nodes}"
    if len(inputs_of(nodes)) > grouping.max_inputs:
        return f"the region would have {len(inputs_of(nodes))} inputs; max_inputs is {grouping.max_inputs}"
    results = read_outside(nodes)
    if len(results) > 1:
        return f"the region would have {len(results)} results, %{results[0].name} and %{results[-1].name} among them"
    return None
