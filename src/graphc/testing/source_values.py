"""Values of a source model, evaluated in NumPy when they are asked for, and held no longer than they are needed."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from typing import Any

from graphc.ir import Graph, Node, Value
from graphc.ops.evaluate import captured_inputs, evaluate_node


class SourceValues:
    """Values of a graph by name, each made with what it needs and no more.

    What a compiled program makes first is asked for first, so that about as much is held here as is live there,
    whatever the order of the model's own nodes.

    Args:
        graph: The model as imported, its dimensions bound.
        inputs: By name; not copied.
        wanted: How often each value will be asked for, by name. Names that the graph does not have are left out.
    """

    def __init__(self, graph: Graph, inputs: Mapping[str, Any], wanted: Counter[str]) -> None:
        self._values = {value.name: value for node in graph.nodes for value in node.outputs if value.name in wanted}
        self._values |= {value.name: value for value in graph.inputs if value.name in wanted}
        self._data: dict[Value, Any] = {value: inputs[value.name] for value in graph.inputs}
        self._evaluated: set[Node] = set()
        self._left: Counter[Value] = Counter()
        """How often each value that is not made yet, or held, will still be read."""
        for name, value in self._values.items():
            self._left[value] += wanted[name]
        for node in self._ancestors():
            self._left.update(_reads(node))

    def _ancestors(self) -> list[Node]:
        """Every node that some wanted value needs."""
        found: dict[Node, None] = {}
        front = [value.producer for value in self._values.values()]
        while front:
            node = front.pop()
            if node is not None and node not in found:
                found[node] = None
                front.extend(value.producer for value in _reads(node))
        return list(found)

    def __contains__(self, name: str) -> bool:
        return name in self._values

    def take(self, name: str) -> Any:
        """The value of a name; it counts as one of the times that it was wanted.

        Raises:
            ExecutionError: A node cannot run on its data.
        """
        value = self._values[name]
        datum = self._made(value)
        self._release(value)
        return datum

    def _made(self, value: Value) -> Any:
        waiting = [] if value.producer is None else [value.producer]
        while value not in self._data and value.constant is None:
            node = waiting[-1]
            if node in self._evaluated:
                # Several waited for it; what it read may be gone by now.
                waiting.pop()
                continue
            reads = _reads(node)
            missing = [v.producer for v in reads if v not in self._data and v.constant is None]
            if missing:
                waiting.extend(producer for producer in missing if producer is not None)
                continue
            waiting.pop()
            self._evaluate(node)
        return self._read(value)

    def _evaluate(self, node: Node) -> None:
        self._evaluated.add(node)
        data = [None if v is None else self._read(v) for v in node.inputs]
        results = evaluate_node(node, [*data, *(self._read(v) for v in captured_inputs(node))])
        for value, datum in zip(node.outputs, results, strict=False):
            if self._left[value] > 0:
                self._data[value] = datum
        for value in _reads(node):
            self._release(value)

    def _read(self, value: Value) -> Any:
        return value.constant.array() if value.constant is not None else self._data[value]

    def _release(self, value: Value) -> None:
        self._left[value] -= 1
        if self._left[value] <= 0 and value.producer is not None:
            self._data.pop(value, None)


def _reads(node: Node) -> list[Value]:
    return [value for value in (*node.inputs, *captured_inputs(node)) if value is not None]
