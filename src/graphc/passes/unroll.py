"""Loops of a few iterations written out, so that each fuses with the next and with what is around."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from graphc.ir import Builder, Graph, Node, TensorType, Value
from graphc.ops.control import scan_plan
from graphc.ops.inference import Inference
from graphc.passes.base import PassContext, register_pass
from graphc.passes.edit import cannot_replace, copy_nodes, erase_unused, replace_value


@register_pass
@dataclass(frozen=True)
class Unroll:
    """Writes out Loops and Scans whose number of iterations is known and small.

    Before: types are inferred, constants are folded. After: no loop that nothing ends early has so few iterations and
    nodes as the options say. What an iteration computes from its number is known in each, so shapes that were open
    in the body may be known now.

    Args:
        max_trips: Most iterations.
        max_nodes: Most nodes that all iterations make together.
    """

    name: ClassVar[str] = "unroll"
    max_trips: int = 4
    max_nodes: int = 32

    def run(self, graph: Graph, context: PassContext) -> int:
        """Innermost loops first: written out, they count for what they are."""
        changes = 0
        for node in list(graph.nodes):
            for _, subgraph in node.subgraphs():
                changes += self.run(subgraph, context)
            if not node.is_op("Loop") and not node.is_op("Scan"):
                continue
            trips = _trips(node)
            if trips is None:
                context.refused(self.name, node, "something may end it early, or nothing says how long it is")
                continue
            size = trips * sum(not inner.is_op("Constant") for inner in node.graph_attribute("body").nodes)
            # A single iteration makes nothing longer.
            if trips != 1 and (not 0 < trips <= self.max_trips or size > self.max_nodes):
                context.refused(self.name, node, f"it has {trips} iterations and {size} nodes")
            elif context.permit(self.name, node):
                _write_out(graph, node, trips)
                changes += 1
        return changes


def _trips(node: Node) -> int | None:
    """How many iterations a loop has, where that is known and nothing ends it early."""
    if any(not isinstance(value.type, TensorType) for value in node.outputs):
        return None
    if node.is_op("Scan"):
        plan = scan_plan(node)
        scanned = node.inputs[plan.states]
        assert scanned is not None
        shape = scanned.tensor_type.shape
        extent = None if shape is None else shape[plan.input_axes[0]]
        return extent if isinstance(extent, int) else None
    body = node.graph_attribute("body")
    limit, start = node.input(0), node.input(1)
    if limit is None or limit.constant is None or not (start is None or _is_true(start)):
        return None
    kept = body.outputs[0]
    while kept.producer is not None and kept.producer.is_op("Identity") and kept.producer.inputs[0] is not None:
        kept = kept.producer.inputs[0]
    if kept is not body.inputs[1] and not _is_true(kept):
        return None
    return max(0, int(limit.constant.array().reshape(())))


def _rename_inside(graph: Graph, node: Node) -> None:
    """Gives values of the graphs in a copied node names of their own."""
    for _, subgraph in node.subgraphs():
        for inner in subgraph.all_graphs():
            for value in (*inner.inputs, *(output for each in inner.nodes for output in each.outputs)):
                if value.name:
                    value.name = graph.fresh_name(value.name)


def _is_true(value: Value) -> bool:
    return value.constant is not None and bool(value.constant.array().all())


def _write_out(graph: Graph, node: Node, trips: int) -> None:
    body = node.graph_attribute("body")
    builder = Builder(graph, before=node, origins=node.origins)
    inference = Inference()

    def op(op_type: str, *inputs: Value, axis: int | None = None) -> Value:
        made = builder.op(op_type, *inputs, version=body.opset, axis=axis)
        assert made.producer is not None
        inference.visit(made.producer)
        return made

    scan = scan_plan(node) if node.is_op("Scan") else None
    begin = 0 if scan is not None else 2
    states = scan.states if scan is not None else len(node.inputs) - 2
    carried = [value for value in node.inputs[begin : begin + states] if value is not None]
    outputs = len(body.outputs) - (scan is None) - states
    parts: list[list[Value]] = [[] for _ in range(outputs)]
    for step in range(trips):
        given = list(carried)
        if scan is None:
            given = [builder.constant(np.array(step)), builder.constant(np.array(True)), *given]
        else:
            for value, axis, back in zip(node.inputs[states:], scan.input_axes, scan.input_reversed, strict=True):
                assert value is not None
                index = builder.constant(np.array(trips - 1 - step if back else step))
                given.append(op("Gather", value, index, axis=axis))
        values = dict(zip(body.inputs, given, strict=True))
        for copy in copy_nodes(builder, body.nodes, values):
            _rename_inside(graph, copy)
            for value in copy.outputs:
                # An extent that is open in the body stands for another one in each iteration.
                if isinstance(value.type, TensorType) and not value.type.is_static:
                    value.type = None
            inference.visit(copy)
        results = [values.get(value, value) for value in body.outputs][scan is None :]
        carried = results[:states]
        for part, value in zip(parts, results[states:], strict=True):
            part.append(value)
    axes = scan.output_axes if scan is not None else (0,) * outputs
    back_to_front = scan.output_reversed if scan is not None else (0,) * outputs
    for part, axis, back in zip(parts, axes, back_to_front, strict=True):
        items = [op("Unsqueeze", value, builder.constant(np.array([axis]))) for value in part]
        carried.append(op("Concat", *(items[::-1] if back else items), axis=axis))
    for old, new in zip(node.outputs, carried, strict=True):
        if cannot_replace(old, new, fresh=False) is not None:
            new = op("Identity", new)
        replace_value(old, new)
    erase_unused([node])
