"""A graph with inputs that it runs on, and parts cut out of it that run alone."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from graphc.frontend import export_model
from graphc.ir import Graph, Node, Tensor, TensorType, Value, clone_node
from graphc.ir.dtypes import from_numpy
from graphc.ops.evaluate import captured_inputs, evaluate_graph
from graphc.ops.inference import infer_graph

Inputs = Mapping[str, Any]


@dataclass
class Specimen:
    """A graph and an array for each of its inputs.

    Args:
        graph: Not changed any more.
        inputs: By name.
    """

    graph: Graph
    inputs: Inputs
    _values: dict[Value, Any] = field(default_factory=dict, init=False, repr=False)

    @property
    def nodes(self) -> list[Node]:
        """Its nodes, constants left out."""
        return [node for node in self.graph.nodes if not node.is_op("Constant")]

    def model(self) -> Any:
        """The graph as an ONNX model.

        Raises:
            UnsupportedError: It has no ONNX form.
        """
        return export_model(self.graph)

    def values(self) -> Mapping[Value, Any]:
        """What every value is on the inputs, evaluated once.

        Raises:
            ExecutionError: The graph does not run on them.
        """
        if not self._values:
            found = {value: self.inputs[value.name] for value in self.graph.inputs}
            evaluate_graph(self.graph, list(found.values()), watch=found.__setitem__)
            self._values.update(found)
        return self._values

    def part(self, keep: Collection[Node]) -> Specimen | None:
        """Some of the nodes as a graph of their own; None where something that they read is no tensor.

        What the others made becomes inputs, or constants where it follows from constants alone. Outputs are the values
        that nothing in the part reads, and those that were outputs before.

        Args:
            keep: Nodes of the graph, constants not among them.
        """
        kept = set(keep)
        fixed = self._fixed()
        part = Graph(self.graph.name, opset=self.graph.opset)
        values: dict[Value, Value] = {}
        inputs: dict[str, Any] = {}
        for node in self.graph.nodes:
            if node not in kept:
                continue
            for value in (*node.inputs, *captured_inputs(node)):
                if value is None or value in values:
                    continue
                if value.constant is not None and value.producer is not None:
                    values[value] = part.append(clone_node(value.producer, {})).output
                    continue
                datum = self.values()[value]
                if not isinstance(datum, np.ndarray):
                    return None
                kind = TensorType(from_numpy(datum.dtype), datum.shape)
                if value in fixed:
                    holder = Node("Constant", (), [value.name], {"value": Tensor.of(datum)}, version=part.opset)
                    values[value] = part.append(holder).output
                    values[value].type = kind
                else:
                    values[value] = part.add_input(value.name, kind)
                    inputs[value.name] = datum
            copy = part.append(clone_node(node, values))
            values.update(zip(node.outputs, copy.outputs, strict=True))
        made = [value for node in self.graph.nodes if node in kept for value in node.outputs if value.name]
        returned = set(self.graph.outputs)
        part.outputs = [
            values[value] for value in made if value in returned or not any(user in kept for user in value.consumers)
        ]
        infer_graph(part)
        return Specimen(part, inputs)

    def _fixed(self) -> set[Value]:
        """Values that follow from constants alone."""
        found: set[Value] = set()
        for node in self.graph.nodes:
            reads = [value for value in (*node.inputs, *captured_inputs(node)) if value is not None]
            if node.is_op("Constant") or (reads and all(value in found for value in reads)):
                found.update(node.outputs)
        return found


def without_unused(graph: Graph, inputs: Inputs) -> Specimen:
    """A graph after its nodes and inputs that nothing reads are gone; its types are inferred anew.

    Raises:
        TypeInferenceError: A node does not fit its inputs.
    """
    for node in reversed(list(graph.nodes)):
        if not any(value.is_used for value in node.outputs):
            graph.remove(node)
    for value in graph.inputs:
        if not value.is_used:
            graph.remove_input(value)
    infer_graph(graph)
    return Specimen(graph, {value.name: inputs[value.name] for value in graph.inputs})
