"""Buffers: which values share storage, and when each storage is live, before offsets are planned.

A view (a reshape of row-major storage) is its source under another shape. A set of values that are views of one another
has one storage: an input's, a constant's, an output's, or a buffer of the arena.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal, TypeGuard

from graphc.ir import Dim, Graph, Node, TensorType, Type, Value, captured_values
from graphc.passes import views

Kind = Literal["arena", "weight", "input", "output", "object"]


def is_view(node: Node) -> bool:
    """Whether a node's output is its first input's bytes: no step is needed for it."""
    if not views.is_view(node) or not node.inputs or node.inputs[0] is None:
        return False
    values = (node.inputs[0], node.output)
    opened = open_symbols(node.graph)
    if not all(isinstance(value.type, TensorType) for value in values):
        # A sequence is an object of the host: what hands it on is a step.
        return False
    plain = views.turns_no_bytes(node) or all(value.tensor_type.layout.is_row_major for value in values)
    return (
        plain
        and all(_has_bytes(value.type, opened) for value in values)
        and len([value for value in node.outputs if value.is_used]) <= 1
    )


@dataclass
class Storage:
    """One piece of memory and the values that lie in it.

    Args:
        kind: Where it is.
        index: Number of the input, output or object slot.
        size: Bytes; 0 for objects.
        root: The value whose producer writes it.
        start: Step that writes it; -1 for inputs and constants.
        end: One past the last step that reads it.
    """

    kind: Kind
    index: int
    size: Dim
    root: Value
    start: int
    end: int
    values: list[Value] = field(default_factory=list)


@dataclass
class BufferPlan:
    """Storage of every value, and which outputs must be copied at the end.

    Args:
        steps: Nodes that do work, in order.
        storage: By value.
        copies: Output number and the value that it must be copied from.
        objects: Number of object slots.
    """

    steps: list[Node]
    storage: Mapping[Value, Storage]
    copies: Sequence[tuple[int, Value]]
    objects: int

    def arena(self) -> list[Storage]:
        """Storages of the arena, each once, in order of their steps."""
        unique = {id(s): s for s in self.storage.values() if s.kind == "arena"}
        return sorted(unique.values(), key=lambda s: s.start)


def assign_buffers(graph: Graph) -> BufferPlan:
    """Works out storages and lifetimes of a graph in its present order.

    An output is written in place, unless it is an input, a constant, a view of either, or a second name of another
    output: those are copied. Values that are no tensors of known size are objects of the host.
    """
    steps: list[Node] = []
    storage: dict[Value, Storage] = {}
    objects = 0
    opened = open_symbols(graph)
    for number, value in enumerate(graph.inputs):
        storage[value] = Storage("input", number, _size(value, opened), value, -1, 0)
    for node in graph.nodes:
        # Strings are no bytes: they travel in the steps that read them, and a step makes the ones that are outputs.
        if node.is_op("Constant") and (_has_bytes(node.output.type, opened) or not node.output.is_graph_output):
            storage[node.output] = Storage("weight", 0, _size(node.output, opened), node.output, -1, 0)
            continue
        source = node.input(0)
        if is_view(node) and source is not None and storage[source].kind != "object":
            storage[node.output] = storage[source]
            storage[source].values.append(node.output)
            continue
        at = len(steps)
        steps.append(node)
        for value in _reads(node):
            if value in storage:
                storage[value].end = at + 1
        for value in node.outputs:
            if _has_bytes(value.type, opened):
                storage[value] = Storage("arena", 0, _size(value, opened), value, at, at + 1)
            elif value.name:
                storage[value] = Storage("object", objects, 0, value, at, at + 1)
                objects += 1
    copies: list[tuple[int, Value]] = []
    for number, value in enumerate(graph.outputs):
        place = storage[value]
        if place.kind == "arena":
            place.kind, place.index = "output", number
        else:
            copies.append((number, value))
            place.end = len(steps)
    return BufferPlan(steps, storage, copies, objects)


def _reads(node: Node) -> list[Value]:
    values = [value for value in node.inputs if value is not None]
    for _, subgraph in node.subgraphs():
        values.extend(captured_values(subgraph))
    return values


def open_symbols(graph: Graph | None) -> frozenset[str]:
    """Symbols that have a value before anything runs: those that the graph bounds."""
    return frozenset(() if graph is None else graph.bounds)


def _has_bytes(kind: Type | None, opened: frozenset[str]) -> TypeGuard[TensorType]:
    """Whether a value's bytes can be given a place before the call: a tensor of known size, not of strings."""
    return isinstance(kind, TensorType) and _is_known(kind, opened) and kind.dtype.kind != "string"


def _is_known(kind: TensorType, opened: frozenset[str]) -> bool:
    return kind.is_static or (kind.shape is not None and kind.symbols() <= opened)


def _size(value: Value, opened: frozenset[str]) -> Dim:
    kind = value.type
    return kind.storage_bytes if _has_bytes(kind, opened) else 0
