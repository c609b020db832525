"""Common subexpression elimination."""

from __future__ import annotations

from collections.abc import Hashable
from dataclasses import dataclass
from typing import ClassVar, TypeAlias

import numpy as np

from graphc.ir import Graph, Node, Tensor, TensorType, Type
from graphc.ir.tensor import SAMPLES
from graphc.ops.base import Trait, find
from graphc.passes.base import PassContext, register_pass
from graphc.passes.edit import cannot_replace, replace_value

Key: TypeAlias = Hashable


@register_pass
@dataclass(frozen=True)
class CommonSubexpressionElimination:
    """Computes once what is computed twice: equal operators on the same values, and equal constants.

    Before: any verified graph. After: no two nodes of a graph, or of a graph and one nested in it, make equal values,
    but for random operators, nodes with subgraphs, and results that are two outputs of one graph.
    """

    name: ClassVar[str] = "cse"

    def run(self, graph: Graph, context: PassContext) -> int:
        """Walks in order, so that a node's inputs are already the shared ones when its turn comes."""
        return self._run(graph, context, {})

    def _run(self, graph: Graph, context: PassContext, known: dict[Key, list[Node]]) -> int:
        changes = 0
        for node in list(graph.nodes):
            for _, subgraph in node.subgraphs():
                inner = {} if node.is_op("Region", "graphc") else {key: list(nodes) for key, nodes in known.items()}
                changes += self._run(subgraph, context, inner)
            key = _key(node)
            if key is None:
                continue
            twins = known.setdefault(key, [])
            twin = next((other for other in twins if _is_same(node, other)), None)
            if twin is None:
                twins.append(node)
            elif _can_merge(node, twin) and context.permit(self.name, node):
                _merge(node, twin)
                graph.remove(node)
                changes += 1
        return changes


def _key(node: Node) -> Key | None:
    """Equal for nodes that make equal values; None for nodes that must not be merged.

    Constants share a key by dtype and shape alone, so that elements are read only where two might be equal.
    """
    operator = find(node)
    if any(True for _ in node.subgraphs()) or (operator is not None and operator.has(Trait.RANDOM)):
        return None
    inputs = [0 if value is None else id(value) for value in node.inputs]
    if operator is not None and operator.has(Trait.COMMUTATIVE) and len(inputs) == 2:
        inputs.sort()
    attributes = tuple(sorted((name, _attribute_key(value)) for name, value in node.attributes.items()))
    layouts = tuple(str(v.type.layout) if isinstance(v.type, TensorType) else "" for v in node.outputs)
    return (node.op_type, node.domain, node.version, tuple(inputs), attributes, layouts)


def _attribute_key(value: object) -> str:
    # repr keeps 1, 1.0 and True apart, and 0.0 from -0.0. Types print in full, tensors as dtype and shape.
    return str(value) if isinstance(value, Type) else repr(value)


def _is_same(left: Node, right: Node) -> bool:
    """Whether nodes of one key have equal tensors in their attributes."""
    for name, value in left.attributes.items():
        other = right.attributes[name]
        for mine, theirs in zip(_tensors(value), _tensors(other), strict=True):
            if not _samples_agree(mine, theirs) or mine != theirs:
                return False
    return True


def _tensors(value: object) -> list[Tensor]:
    items = value if isinstance(value, tuple) else (value,)
    return [item for item in items if isinstance(item, Tensor)]


def _samples_agree(left: Tensor, right: Tensor) -> bool:
    """Whether a few elements agree; a model's weights of one shape differ at once, and hashing them all takes long."""
    if left.size <= SAMPLES:
        return True
    one, other = left.sample(), right.sample()
    return bool(np.array_equal(one, other, equal_nan=one.dtype.kind in "fc"))


def _can_merge(node: Node, twin: Node) -> bool:
    return all(
        cannot_replace(old, twin.outputs[i], fresh=False) is None if i < len(twin.outputs) else not old.is_used
        for i, old in enumerate(node.outputs)
    )


def _merge(node: Node, twin: Node) -> None:
    twin.origins = tuple(dict.fromkeys((*twin.origins, *node.origins)))
    for old, new in zip(node.outputs, twin.outputs, strict=False):
        replace_value(old, new)
