"""Buffers: which values share storage, and when each storage is live, before offsets are planned.

A view (a reshape of row-major storage) is its source under another shape. A set of values that are views of one another
has one storage: an input's, a constant's, an output's, or a buffer of the arena.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal, TypeGuard

from graphc.ir import Graph, Node, TensorType, Type, Value, captured_values
from graphc.ops.base import Trait, find

Kind = Literal["arena", "weight", "input", "output", "object"]


def is_view(node: Node) -> bool:
    """Whether a node's output is its first input's bytes: no step is needed for it."""
    operator = find(node)
    if operator is None or not operator.has(Trait.VIEW) or not node.inputs or node.inputs[0] is None:
        return False
    types = (node.inputs[0].type, node.output.type)
    return (
        all(_has_bytes(kind) and kind.layout.is_row_major for kind in types)
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
    size: int
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
    for number, value in enumerate(graph.inputs):
        storage[value] = Storage("input", number, _size(value), value, -1, 0)
    for node in graph.nodes:
        # Strings are no bytes: they travel in the steps that read them, and a step makes the ones that are outputs.
        if node.is_op("Constant") and (_is_placed(node.output) or not node.output.is_graph_output):
            storage[node.output] = Storage("weight", 0, _size(node.output), node.output, -1, 0)
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
            if _is_placed(value):
                storage[value] = Storage("arena", 0, _size(value), value, at, at + 1)
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


def _is_placed(value: Value) -> bool:
    """Whether a value's bytes can be given a place before the call: a tensor of known size, not of strings."""
    return _has_bytes(value.type)


def _has_bytes(kind: Type | None) -> TypeGuard[TensorType]:
    return isinstance(kind, TensorType) and kind.is_static and kind.dtype.kind != "string"


def _size(value: Value) -> int:
    kind = value.type
    if not isinstance(kind, TensorType) or not _is_placed(value):
        return 0
    size = kind.storage_bytes
    assert isinstance(size, int)
    return size
