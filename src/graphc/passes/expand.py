"""Operators that stand for several others, written out."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from graphc.ir import GRAPHC_DOMAIN, Builder, Graph, Node
from graphc.ops import infer_node
from graphc.ops.decomposition import can_expand, expand
from graphc.passes.base import PassContext, register_pass


@register_pass
@dataclass(frozen=True)
class Expand:
    """Writes operators of other domains, and those that no kernel takes, as the ai.onnx operators they stand for.

    Before: types are inferred. After: no operator remains that has a decomposition, apart from those of ai.onnx and of
    the compiler that the target compiles as they are, and those that lack an input which decides what they stand for.
    """

    name: ClassVar[str] = "expand"

    def run(self, graph: Graph, context: PassContext) -> int:
        """Expands until nothing is left to expand; answers how many nodes went."""
        changes = 0
        for node in list(graph.nodes):
            for _, subgraph in node.subgraphs():
                changes += self.run(subgraph, context)
            if not can_expand(node) or _is_compiled(node, context) or not context.permit(self.name, node):
                continue
            _keep_output_names(graph, node)
            changes += expand(node)
        return changes


def _is_compiled(node: Node, context: PassContext) -> bool:
    if node.domain == GRAPHC_DOMAIN and context.capability is None:
        return True
    if node.domain not in ("", GRAPHC_DOMAIN):
        return False
    return context.capability is not None and bool(context.capability.supports(node))


def _keep_output_names(graph: Graph, node: Node) -> None:
    """Puts an Identity between the node and the graph's outputs, so that they keep their names."""
    for value in node.outputs:
        if value.is_graph_output:
            name, value.name = value.name, graph.fresh_name(f"{value.name}_whole")
            copy = Builder(graph, origins=node.origins, infer=infer_node).op("Identity", value, outputs=[name])
            for use in value.uses:
                if isinstance(use.user, Graph):
                    use.user.set_output(use.position, copy)
