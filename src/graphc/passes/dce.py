"""Dead code elimination."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from graphc.ir import Graph, Node
from graphc.passes.base import PassContext, register_pass
from graphc.passes.edit import release

OPTIONAL_OUTPUTS: dict[str, int] = {
    "Attention": 1,
    "BatchNormalization": 1,
    "Dropout": 1,
    "GRU": 1,
    "LSTM": 1,
    "LayerNormalization": 1,
    "MaxPool": 1,
    "RNN": 1,
    "Unique": 1,
}
"""Operators of ai.onnx whose outputs from this one on need not be there."""


@register_pass
@dataclass(frozen=True)
class DeadCodeElimination:
    """Removes nodes that nothing reads, and trailing optional outputs that nothing reads.

    Before: any verified graph. After: every node's first output or a later one is read; inputs of the graph stay, read
    or not, because they are its interface.
    """

    name: ClassVar[str] = "dce"

    def run(self, graph: Graph, context: PassContext) -> int:
        """Removes dead nodes, last first, so that one sweep reaches all."""
        changes = 0
        for node in reversed(list(graph.nodes)):
            if not any(value.is_used for value in node.outputs):
                if not context.permit(self.name, node):
                    return changes
                for _, subgraph in node.subgraphs():
                    release(subgraph)
                graph.remove(node)
                changes += 1
                continue
            for _, subgraph in node.subgraphs():
                changes += self.run(subgraph, context)
            if _unread_tail(node) < len(node.outputs) and context.permit(self.name, node):
                node.outputs = node.outputs[: _unread_tail(node)]
                changes += 1
        return changes


def _unread_tail(node: Node) -> int:
    """How many outputs remain when optional ones at the end that nothing reads go."""
    least = OPTIONAL_OUTPUTS.get(node.op_type, len(node.outputs)) if node.domain == "" else len(node.outputs)
    count = len(node.outputs)
    while count > least and not node.outputs[count - 1].is_used:
        count -= 1
    return count
