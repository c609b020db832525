"""Building graphs by hand: tests, rules' replacements and front ends write `b.op("Add", x, y)`."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Any

from graphc.ir.graph import Attribute, Graph, Node, Value
from graphc.ir.tensor import Tensor
from graphc.ir.types import TensorType, Type

Infer = Callable[[Node], Sequence[Type | None]]


class Builder:
    """Adds nodes to a graph at one place: the end, or just before a node.

    Args:
        graph: The graph that grows.
        before: Node before which to insert; the end if None.
        origins: Origins given to every node made.
        infer: Answers the output types of a node made (`graphc.ops.infer_node`); outputs stay untyped if None.
    """

    def __init__(
        self, graph: Graph, *, before: Node | None = None, origins: Iterable[str] = (), infer: Infer | None = None
    ) -> None:
        self.graph = graph
        self.before = before
        self.origins = tuple(origins)
        self.infer = infer

    def op(
        self,
        op_type: str,
        *inputs: Value | None,
        outputs: int | Sequence[str] = 1,
        domain: str = "",
        version: int | None = None,
        types: Sequence[Type | None] | None = None,
        name: str = "",
        **attributes: Any,
    ) -> Value:
        """Adds a node and answers its first output; `.producer.outputs` has the others.

        Args:
            op_type: Operator.
            inputs: Values read; absent ones at the end are left out.
            outputs: How many outputs, or their names.
            domain: Operator's domain.
            version: Operator set version; the graph's for ai.onnx, else 1.
            types: Types of the outputs; inferred if None and the builder can.
            name: Node name.
            attributes: Attribute values; lists become tuples, None is left out.
        """
        base = op_type.lower()
        while inputs and inputs[-1] is None:
            inputs = inputs[:-1]
        names = [self.graph.fresh_name(base) for _ in range(outputs)] if isinstance(outputs, int) else list(outputs)
        kept: dict[str, Attribute] = {
            key: tuple(value) if isinstance(value, list) else value
            for key, value in attributes.items()
            if value is not None
        }
        set_version = version if version is not None else (self.graph.opset if domain == "" else 1)
        node = Node(op_type, inputs, names, kept, domain=domain, version=set_version, name=name, origins=self.origins)
        self.insert(node)
        if types is None and self.infer is not None:
            types = self.infer(node)
        for value, found in zip(node.outputs, types or (), strict=False):
            value.type = found
        return node.output

    def insert(self, node: Node) -> Node:
        """Adds a ready node at the builder's place."""
        return self.graph.append(node) if self.before is None else self.graph.insert_before(node, self.before)

    def constant(self, value: Any, dtype: Any = None, *, name: str = "const") -> Value:
        """Adds a Constant node of an array, a number, a nested list or a Tensor."""
        tensor = value if isinstance(value, Tensor) else Tensor.of(value, dtype)
        result = self.op("Constant", outputs=[self.graph.fresh_name(name)], value=tensor, types=[])
        result.type = TensorType(tensor.dtype, tensor.shape)
        return result
