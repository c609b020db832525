"""Evaluation in NumPy: nodes and graphs by their operators' meaning. The oracle that passes and kernels answer to."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, TypeAlias

import numpy as np

from graphc.errors import ExecutionError, InputError, UnsupportedError
from graphc.ir import GRAPHC_DOMAIN, Graph, Layout, Node, TensorType, Value, captured_values
from graphc.ir.dtypes import DType
from graphc.ops.base import Datum, Trait, find, node_names
from graphc.ops.expr import highest
from graphc.ops.render_numpy import evaluate_expression as evaluate_expression

Accepts: TypeAlias = Callable[[Node, int, Layout], bool]
"""Whether a node's kernel reads input number `int` in the layout given."""

_LAYOUT_AWARE = frozenset({Trait.POINTWISE, Trait.WINDOW, Trait.CONTRACTION, Trait.REDUCTION, Trait.NORMALIZATION})

_MOVES = frozenset({"Transpose", "Concat", "Slice", "Split", "Pad", "DepthToSpace", "Resize"})


def captured_inputs(node: Node) -> tuple[Value, ...]:
    """Values of enclosing graphs that a node's subgraphs read.

    Evaluation hands them to the operator after the node's own inputs, in this order.
    """
    found: dict[Value, None] = {}
    for _, graph in node.subgraphs():
        found.update(dict.fromkeys(captured_values(graph)))
    return tuple(found)


def evaluate_node(node: Node, data: Sequence[Datum]) -> list[Datum]:
    """Outputs of one node.

    Args:
        node: What to evaluate.
        data: The inputs, None for an absent one; then, for a node with subgraphs, its `captured_inputs`.

    Raises:
        ExecutionError: The data does not fit (an index out of range, shapes that do not match); names the node.
        UnsupportedError: The operator is unknown.
    """
    operator = find(node)
    if operator is None:
        raise UnsupportedError(f"operator {node.op} of version {node.version} is unknown", nodes=node_names(node))
    if operator.evaluate is None:
        from graphc.ops.host import evaluate_with_reference

        return list(evaluate_with_reference(node, data))
    try:
        with np.errstate(all="ignore"):
            results = operator.evaluate(node, data)
    except (ValueError, IndexError, KeyError, TypeError, ArithmeticError, AssertionError) as error:
        raise ExecutionError(f"{node.op} cannot run on this data: {error}", nodes=node_names(node)) from error
    # NumPy answers scalars where a result has rank 0; an operator may answer optional outputs that the node has not.
    wanted = list(results)[: len(node.outputs)]
    return [np.asarray(datum) if isinstance(datum, np.generic) else datum for datum in wanted]


def evaluate_graph(
    graph: Graph,
    inputs: Sequence[Datum],
    *,
    captured: Mapping[Value, Datum] | None = None,
    storage: bool = False,
    accepts: Accepts | None = None,
    watch: Callable[[Value, Datum], None] | None = None,
) -> list[Datum]:
    """Outputs of a graph, node by node; a value is dropped after its last use.

    Args:
        graph: What to evaluate.
        inputs: One datum per graph input.
        captured: Data of values of enclosing graphs that the graph reads.
        storage: Holds every value in its layout, with undefined places poisoned. A node reads an input whose layout
            its kernel does not accept as if it were row-major, so that a missing relayout shows as wrong numbers.
        accepts: Which layouts a kernel reads, for `storage`; by the operators' traits if None.
        watch: Called with every value made and its logical datum.

    Raises:
        InputError: The number of inputs is wrong.
        ExecutionError: A node cannot run on its data.
        UnsupportedError: An operator is unknown.
    """
    if len(inputs) != len(graph.inputs):
        raise InputError(f"graph {graph.name} takes {len(graph.inputs)} inputs, not {len(inputs)}")
    memory = _Storage(accepts or accepts_by_trait) if storage else _Memory()
    for value, datum in (captured or {}).items():
        memory.write(value, datum)
    for value, datum in zip(graph.inputs, inputs, strict=True):
        memory.write(value, datum)
    last_use = _last_uses(graph)
    for node in graph.nodes:
        captures = captured_inputs(node)
        data = [None if value is None else memory.read(value, node, i) for i, value in enumerate(node.inputs)]
        results = evaluate_node(node, [*data, *(memory.read(value) for value in captures)])
        for value, datum in zip(node.outputs, results, strict=False):
            if value.name:
                memory.write(value, datum)
                if watch is not None:
                    watch(value, datum)
        for used in (*node.inputs, *captures):
            if used is not None and last_use.get(used) is node:
                memory.drop(used)
    return [memory.read(value) for value in graph.outputs]


def accepts_by_trait(node: Node, index: int, layout: Layout) -> bool:
    """Whether kernels of this kind of operator read any layout: those that compute each element where it lies.

    And those that only move elements, for which where one lies is all there is.
    """
    operator = find(node)
    computed = operator is not None and bool(operator.traits & _LAYOUT_AWARE)
    return computed or layout.is_row_major or node.domain == GRAPHC_DOMAIN or node.op_type in _MOVES


def poison(dtype: DType) -> Any:
    """What undefined storage holds: NaN, or the largest integer, which no sensible sum survives."""
    if dtype.kind == "complex":
        return float("nan")
    if dtype.kind == "string":
        return "poison"
    return float("nan") if dtype.is_float else highest(dtype)


class _Memory:
    """Logical data of live values."""

    def __init__(self) -> None:
        self.data: dict[Value, Datum] = {}

    def write(self, value: Value, datum: Datum) -> None:
        self.data[value] = datum

    def read(self, value: Value, node: Node | None = None, index: int = 0) -> Datum:
        tensor = value.constant
        if value not in self.data and tensor is not None:
            return tensor.array()
        return self.data[value]

    def drop(self, value: Value) -> None:
        self.data.pop(value, None)


class _Storage(_Memory):
    """Data of live values as their layouts store it."""

    def __init__(self, accepts: Accepts) -> None:
        super().__init__()
        self.accepts = accepts

    def write(self, value: Value, datum: Datum) -> None:
        layout = _layout(value)
        if layout is not None and isinstance(datum, np.ndarray):
            datum = (datum.shape, layout.pack(datum, undefined=poison(value.tensor_type.dtype)))
        super().write(value, datum)

    def read(self, value: Value, node: Node | None = None, index: int = 0) -> Datum:
        datum = super().read(value, node, index)
        layout = _layout(value)
        if layout is None or not isinstance(datum, tuple):
            return datum
        shape, stored = datum
        if node is None or self.accepts(node, index, layout):
            return layout.unpack(stored, shape)
        return stored.reshape(-1)[: int(np.prod(shape))].reshape(shape)


def _layout(value: Value) -> Layout | None:
    """The layout of a tensor that is not simply row-major."""
    kind = value.type
    return kind.layout if isinstance(kind, TensorType) and not kind.layout.is_row_major else None


def _last_uses(graph: Graph) -> dict[Value, Node | None]:
    """The last node that reads each value; None for values that the graph returns."""
    found: dict[Value, Node | None] = {}
    for node in graph.nodes:
        for value in (*node.inputs, *captured_inputs(node)):
            if value is not None:
                found[value] = node
    found.update(dict.fromkeys(graph.outputs, None))
    return found
