"""Scan along the first axis: what is read and collected item by item is made of items that lie one after the other."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from graphc.ir import Builder, Graph, Node, TensorType
from graphc.ops.control import scan_plan
from graphc.passes.base import PassContext, register_pass


@register_pass
@dataclass(frozen=True)
class ScanAxes:
    """Transposes what a Scan scans and collects along other axes than the first.

    Before: types are inferred. After: every Scan whose operands' ranks are known has axes of 0 only.
    """

    name: ClassVar[str] = "scan_axes"

    def run(self, graph: Graph, context: PassContext) -> int:
        """Rewrites each Scan on its own."""
        changes = 0
        for node in list(graph.nodes):
            for _, subgraph in node.subgraphs():
                changes += self.run(subgraph, context)
            if node.is_op("Scan") and _has_other_axes(node) and context.permit(self.name, node):
                _move_inputs(graph, node)
                _move_outputs(graph, node)
                changes += 1
        return changes


def _has_other_axes(node: Node) -> bool:
    plan = scan_plan(node)
    kinds = [value.type for value in (*node.inputs, *node.outputs) if value is not None]
    ranked = all(isinstance(kind, TensorType) and kind.shape is not None for kind in kinds)
    return ranked and any((*plan.input_axes, *plan.output_axes))


def _move_inputs(graph: Graph, node: Node) -> None:
    plan = scan_plan(node)
    builder = Builder(graph, before=node, origins=node.origins)
    for position, axis in enumerate(plan.input_axes, plan.states):
        value = node.inputs[position]
        if axis and value is not None:
            kind = value.tensor_type
            axis %= len(kind.dims)
            order = [axis, *(a for a in range(len(kind.dims)) if a != axis)]
            moved = kind.with_shape(kind.dims[a] for a in order)
            node.set_input(position, builder.op("Transpose", value, perm=order, types=[moved]))
    node.attributes.pop("scan_input_axes", None)


def _move_outputs(graph: Graph, node: Node) -> None:
    plan = scan_plan(node)
    for value, axis in zip(node.outputs[plan.states :], plan.output_axes, strict=True):
        if not axis:
            continue
        kind, readers, returned = value.tensor_type, value.uses, value.is_graph_output
        axis %= len(kind.dims)
        rest = [extent for a, extent in enumerate(kind.dims) if a != axis]
        order = [*range(1, axis + 1), 0, *range(axis + 1, len(kind.dims))]
        value.type = kind.with_shape((kind.dims[axis], *rest))
        version, name = node.version, graph.fresh_name(value.name or "collected")
        move = Node("Transpose", [value], [name], {"perm": tuple(order)}, version=version, origins=node.origins)
        graph.insert_after(move, node).output.type = kind
        for use in readers:
            if isinstance(use.user, Node):
                use.user.set_input(use.position, move.output)
            else:
                use.user.set_output(use.position, move.output)
        if returned:
            value.name, move.output.name = move.output.name, value.name
    node.attributes.pop("scan_output_axes", None)
