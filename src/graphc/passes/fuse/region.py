"""Regions: a group of nodes as one node that holds them in a closed body, and back again."""

from __future__ import annotations

from graphc.ir import GRAPHC_DOMAIN, Graph, Node, Value, clone_node
from graphc.passes.fuse.grouping import REGION, Group, inner_constants, read_outside
from graphc.passes.views import is_view


def make_region(graph: Graph, group: Group) -> Node:
    """Replaces the group's nodes by a region that computes what is read outside."""
    inside = set(group.nodes)
    body = Graph("region", opset=graph.opset)
    body.bounds = graph.bounds
    mapping: dict[Value, Value] = {}
    inputs: list[Value] = []
    for node in group.nodes:
        for value, inner in zip(node.inputs, inner_constants(node), strict=True):
            if value is None or value in mapping or value.producer in inside:
                continue
            if inner and value.producer is not None:
                mapping[value] = body.append(clone_node(value.producer, {})).output
            else:
                mapping[value] = body.add_input(value.name, value.type)
                inputs.append(value)
        copy = body.append(clone_node(node, mapping))
        mapping.update(zip(node.outputs, copy.outputs, strict=True))
    results = sorted(read_outside(inside), key=lambda v: group.nodes.index(v.producer) if v.producer else -1)
    body.outputs = [mapping[value] for value in results]
    origins = [name for node in group.nodes for name in node.origins]
    last = group.nodes[-1]
    region = Node(
        REGION,
        inputs,
        [value.name for value in results],
        {"body": body, "kind": group.anchor.op_type},
        domain=GRAPHC_DOMAIN,
        version=1,
        name="+".join(node.op_type for node in group.nodes if not is_view(node))[:120],
        origins=origins,
    )
    graph.insert_after(region, last)
    for old, new in zip(results, region.outputs, strict=True):
        new.type = old.type
        old.replace_all_uses(new)
    for node in reversed(group.nodes):
        graph.remove(node)
    return region


def dissolve(graph: Graph, region: Node) -> None:
    """Puts the nodes of a region's body back into the graph in its place."""
    body = region.graph_attribute("body")
    values = dict(zip(body.inputs, (value for value in region.inputs if value is not None), strict=True))
    for node in body.nodes:
        names = [graph.fresh_name(value.name) if value.name else "" for value in node.outputs]
        copy = graph.insert_before(clone_node(node, values, names), region)
        values.update(zip(node.outputs, copy.outputs, strict=True))
    for old, inner in zip(region.outputs, body.outputs, strict=True):
        new = values[inner]
        if old.is_graph_output:
            old.name, new.name = new.name, old.name
        old.replace_all_uses(new)
    graph.remove(region)
