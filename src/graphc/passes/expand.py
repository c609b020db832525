"""Operators that stand for several others, written out."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from graphc.errors import TypeInferenceError
from graphc.ir import GRAPHC_DOMAIN, Builder, Graph, Node, Value
from graphc.ops import infer_node
from graphc.ops.attention_expansion import joined
from graphc.ops.base import UnfitNodeError, node_names
from graphc.ops.decomposition import OPSET, can_expand, expand
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
        nodes = list(graph.nodes)
        while nodes:
            known = set(graph.nodes)
            changes += sum(self._visit(graph, node, context) for node in nodes)
            nodes = [node for node in graph.nodes if node not in known]
        return changes

    def _visit(self, graph: Graph, node: Node, context: PassContext) -> int:
        changes = sum(self.run(subgraph, context) for _, subgraph in node.subgraphs())
        if not can_expand(node) or _is_compiled(node, context) or not context.permit(self.name, node):
            return changes
        outputs = [(number, value) for number, value in enumerate(graph.outputs) if value.producer is node]
        try:
            if not expand(node, joined if _is_compiled_joined(node, context) else None):
                return changes
        except TypeInferenceError as error:
            raise UnfitNodeError(f"{node.op}: {error.message}", nodes=node_names(node), hint=error.hint) from error
        # A graph's outputs keep their names.
        copies: dict[str, Value] = {}
        for number, old in outputs:
            if old.name not in copies:
                b = Builder(graph, origins=node.origins, infer=infer_node)
                copies[old.name] = b.op("Identity", graph.outputs[number], outputs=[old.name])
            graph.set_output(number, copies[old.name])
        return changes + 1


def _is_compiled_joined(node: Node, context: PassContext) -> bool:
    """Whether an attention with a cache compiles as one without, once keys and values are joined with the cache's."""
    if not node.is_op("Attention") or context.capability is None:
        return False
    trial = Graph(node.op_type, opset=OPSET)
    x = [None if v is None else trial.add_input(f"x{i}", v.type) for i, v in enumerate(node.inputs)]
    if joined(Builder(trial, infer=infer_node), node, x) is None:
        return False
    return any(made.is_op("Attention") and context.capability.supports(made) for made in trial.nodes)


def _is_compiled(node: Node, context: PassContext) -> bool:
    if node.domain == GRAPHC_DOMAIN and context.capability is None:
        return True
    if node.domain not in ("", GRAPHC_DOMAIN):
        return False
    return context.capability is not None and bool(context.capability.supports(node))
