"""Half-width images computed in float32 from the first convolution to the last.

No convolution has a kernel for half-width floats on CPUs, and what a float16 model saves there is the size of its file.
Written in float32 its convolutions have blocked layouts, Winograd and epilogues, and less is rounded on the way.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import ClassVar

from graphc.ir import Builder, Graph, Node, TensorType, Value
from graphc.ir.dtypes import BFLOAT16, FLOAT16, FLOAT32
from graphc.ops import infer_node
from graphc.ops.base import Trait, find
from graphc.ops.conversion import convert
from graphc.passes.base import PassContext, register_pass

CONVOLUTIONS = frozenset({"Conv", "ConvTranspose"})
FOLLOWING = frozenset(
    {
        *("BatchNormalization", "Concat", "DepthToSpace", "GlobalAveragePool", "GlobalMaxPool"),
        *("InstanceNormalization", "Pad", "Resize", "SpaceToDepth"),
    }
)
"""Operators on images that follow their convolutions into float32, besides pointwise ones and pools."""

CONVERSIONS = frozenset({"BitCast", "Cast", "CastLike", "DequantizeLinear", "QuantizeLinear"})
"""Pointwise operators that mean the type their input has."""


@register_pass
@dataclass(frozen=True)
class Widen:
    """Computes half-width convolutions, and the operators on images between them, in float32.

    Before: types are inferred. After: no Conv or ConvTranspose is of float16 or bfloat16; casts stand where a widened
    value is read by other operators, or returned. Values between widened nodes are not rounded to half width.
    """

    name: ClassVar[str] = "widen"

    def run(self, graph: Graph, context: PassContext) -> int:
        """Widens every group of connected nodes; answers how many nodes."""
        changes = 0
        for inner in list(graph.all_graphs()):
            nodes = self._group(inner, context)
            if nodes:
                _widen(inner, nodes)
                changes += len(nodes)
        return changes

    def _group(self, graph: Graph, context: PassContext) -> set[Node]:
        """Convolutions, and what is connected to them through images."""
        found = {
            node
            for node in graph.nodes
            if node.domain == "" and node.op_type in CONVOLUTIONS and _is_half(node.output)
            if context.permit(self.name, node)
        }
        stack = list(found)
        while stack:
            for node in _neighbours(stack.pop()):
                if node not in found and node.graph is graph and _follows(node):
                    found.add(node)
                    stack.append(node)
        return found


def _is_half(value: Value | None) -> bool:
    return value is not None and isinstance(value.type, TensorType) and value.type.dtype in (FLOAT16, BFLOAT16)


def _is_image(value: Value) -> bool:
    return _is_half(value) and value.tensor_type.shape is not None and len(value.tensor_type.dims) > 2


def _neighbours(node: Node) -> Iterator[Node]:
    for value in node.inputs:
        if value is not None and value.producer is not None and _is_image(value):
            yield value.producer
    for value in node.outputs:
        if _is_image(value):
            yield from value.consumers


def _follows(node: Node) -> bool:
    """Whether a node computes an image from images alike in float32."""
    operator = find(node)
    if operator is None or node.domain != "" or node.op_type in CONVERSIONS or not _is_image(node.outputs[0]):
        return False
    alike = operator.has(Trait.POINTWISE) or operator.has(Trait.WINDOW) or node.op_type in FOLLOWING
    return alike and node.op_type not in CONVOLUTIONS and not any(True for _ in node.subgraphs())


def _widen(graph: Graph, nodes: set[Node]) -> None:
    wide: dict[Value, Value] = {}
    made = {value for node in nodes for value in node.outputs}
    narrow = {value: value.tensor_type.dtype for value in made if _is_half(value)}
    for node in list(graph.nodes):
        if node not in nodes:
            continue
        builder = Builder(graph, before=node, origins=node.origins, infer=infer_node)
        for index, value in enumerate(node.inputs):
            if value is None or value in made or not _is_half(value):
                continue
            if value not in wide:
                tensor = value.constant
                wide[value] = (
                    builder.op("Cast", value, to=FLOAT32.onnx)
                    if tensor is None
                    else builder.constant(convert(tensor.array(), FLOAT32))
                )
            node.set_input(index, wide[value])
    for value, dtype in narrow.items():
        value.type = value.tensor_type.with_dtype(FLOAT32)
        outside = [use for use in value.uses if use.user not in nodes]
        if not outside:
            continue
        assert value.producer is not None, "only nodes are widened"
        returned = value.is_graph_output
        cast = Builder(graph, origins=value.producer.origins, infer=infer_node).op("Cast", value, to=dtype.onnx)
        for use in outside:
            if isinstance(use.user, Graph):
                use.user.set_output(use.position, cast)
            else:
                use.user.set_input(use.position, cast)
        if returned:
            value.name, cast.name = cast.name, value.name
    graph.topological_sort()
