"""Edits that passes share: one value taking another's place, and nodes that nothing reads going away."""

from __future__ import annotations

from collections.abc import Iterable

from graphc.ir import Builder, Graph, Node, Value, clone_node


def cannot_replace(old: Value, new: Value, *, fresh: bool) -> str | None:
    """Why `new` cannot be read wherever `old` is; None where it can.

    Only outputs of a graph are hard: each must keep its name, and must be made by a node of that very graph.

    Args:
        old: The value that goes.
        new: The value that takes its place.
        fresh: Whether `new` was made for the purpose, so that nothing else knows it.
    """
    if not old.is_graph_output:
        return None
    graph = old.producer.graph if old.producer is not None else None
    if new.producer is None:
        return f"%{old.name} is a graph output, which cannot be an input"
    if new.producer.graph is not graph:
        return f"%{old.name} is an output of a graph, which cannot be a value of an enclosing graph"
    if new.is_graph_output:
        return f"%{old.name} and %{new.name} are both graph outputs"
    if new.constant is not None and not fresh:
        return f"%{old.name} is a graph output, which cannot share the constant %{new.name}"
    return None


def replace_value(old: Value, new: Value) -> None:
    """Makes everything read `new` instead of `old`; where `old` is a graph output, `new` takes its name too.

    `cannot_replace` must have found nothing against it.
    """
    returned = old.is_graph_output
    old.replace_all_uses(new)
    if returned:
        old.name, new.name = new.name, old.name


def copy_nodes(builder: Builder, nodes: Iterable[Node], values: dict[Value, Value]) -> list[Node]:
    """Copies nodes of a subgraph to where a builder stands, under names that are free there.

    Args:
        builder: Of the graph around; its origins go in front of the nodes' own.
        nodes: In order.
        values: What stands for values of the subgraph; those that the copies make are added.

    Returns:
        The copies.
    """
    made = []
    for node in nodes:
        names = [builder.graph.fresh_name(value.name) if value.name else "" for value in node.outputs]
        copy = builder.insert(clone_node(node, values, names))
        copy.origins = tuple(dict.fromkeys((*builder.origins, *node.origins)))
        values.update(zip(node.outputs, copy.outputs, strict=True))
        made.append(copy)
    return made


def erase_unused(nodes: Iterable[Node]) -> list[Value]:
    """Removes those of `nodes` whose outputs nothing reads, then producers that only they read, and so on.

    Returns:
        Values still there that lost a reader.
    """
    touched: list[Value] = []
    stack = list(nodes)
    while stack:
        node = stack.pop()
        if node.graph is None or any(value.is_used for value in node.outputs):
            continue
        inputs = [value for value in node.inputs if value is not None]
        for _, subgraph in node.subgraphs():
            inputs.extend(release(subgraph))
        node.graph.remove(node)
        touched.extend(inputs)
        stack.extend(value.producer for value in inputs if value.producer is not None)
    return [value for value in touched if value.producer is None or value.producer.graph is not None]


def release(graph: Graph) -> list[Value]:
    """Takes a subgraph apart, so that nothing in it reads values of enclosing graphs; answers the values it read."""
    released: list[Value] = []
    graph.outputs = ()
    for node in reversed(list(graph.nodes)):
        released.extend(value for value in node.inputs if value is not None)
        for _, subgraph in node.subgraphs():
            released.extend(release(subgraph))
        graph.remove(node)
    return [value for value in dict.fromkeys(released) if value.producer is not None and value.producer.graph]
