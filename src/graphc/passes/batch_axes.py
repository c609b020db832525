"""Proof that rows are independent: row i of every output depends on row i of the inputs, and on nothing else.

Where that holds, requests of different callers may share a call, and a call may be padded: nobody's answer depends on
who else is in the batch, on how many there are, or on where in it a row stands.

The proof goes through the graph from inputs to outputs, with the dimension that counts rows left symbolic and all
others known. Of every value it says what the value's rows are; what it cannot say is *mixed*, with the reason, and a
graph whose outputs are not mixed is proved. It is conservative: what is not known to keep rows apart mixes them.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TypeAlias

from graphc.ir import Dim, Graph, Node, TensorType, Value, captured_values
from graphc.ir.symbolic import linear_coefficient, multiply, symbol, symbols
from graphc.ops.base import Trait, find, node_names
from graphc.passes.base import PassContext
from graphc.passes.manager import PassManager
from graphc.passes.row_context import RowContext
from graphc.passes.row_rules import ROW_RULES, mixing


@dataclass(frozen=True)
class Free:
    """The same whatever the batch: depends on no input and not on the number of rows."""


@dataclass(frozen=True)
class Rows:
    """Row i is the `factor` places from `factor` * i on along `axis`, and depends on row i of the inputs alone."""

    axis: int
    factor: int = 1


@dataclass(frozen=True)
class RowNumber:
    """Row i, along `axis`, holds the number i; with `first`, only the first element along the last axis does."""

    axis: int
    first: bool = False


@dataclass(frozen=True)
class Extent:
    """Integers computed from the number of rows: good for shapes, not for data."""


@dataclass(frozen=True)
class Mixed:
    """Nothing is known: `reason`, at the node of which it became so."""

    reason: str
    nodes: tuple[str, ...] = ()


State: TypeAlias = "Free | Rows | RowNumber | Extent | Mixed"
FREE = Free()


@dataclass(frozen=True)
class Proof:
    """What `prove` found.

    Args:
        inputs: The axis of each input that counts rows.
        outputs: The axis of each output that does.
        reason: Why there is no proof; empty where there is one.
        nodes: The user's nodes at which it fails.
    """

    inputs: tuple[int, ...] = ()
    outputs: tuple[int, ...] = ()
    reason: str = ""
    nodes: tuple[str, ...] = ()

    def __bool__(self) -> bool:
        return not self.reason


def prove(graph: Graph, rows: str) -> Proof:
    """Whether the rows that the symbol `rows` counts are independent.

    Args:
        graph: Typed, with `rows` symbolic and the other dimensions known; it is changed (constants are folded).
        rows: Name of the symbol.
    """
    PassManager("expand,fold,dce").run(graph, PassContext(keep_refusals=False))
    states: dict[Value, State] = {}
    axes = []
    for value in graph.inputs:
        found = row_axis(value, rows)
        if found is None or found.factor != 1:
            return Proof(reason=f"input {value.name!r} ({value.type}) does not have {rows} along one of its axes")
        states[value] = found
        axes.append(found.axis)
    for node in graph.nodes:
        for value, state in zip(node.outputs, _visit(node, states, rows), strict=True):
            states[value] = state
    outputs = []
    for value in graph.outputs:
        state = states.get(value, FREE)
        if isinstance(state, Mixed):
            return Proof(reason=state.reason, nodes=state.nodes)
        if not isinstance(state, Rows) or state.factor != 1:
            return Proof(reason=f"output {value.name!r} ({value.type}) does not have {rows} along one of its axes")
        outputs.append(state.axis)
    return Proof(tuple(axes), tuple(outputs))


def row_axis(value: Value, rows: str) -> Rows | None:
    """The one axis of a tensor whose extent is a multiple of the number of rows; None where there is no such one."""
    shape = value.type.shape if isinstance(value.type, TensorType) else None
    places = [axis for axis, dim in enumerate(shape or ()) if rows in symbols(dim)]
    if shape is None or len(places) != 1:
        return None
    factor = linear_coefficient(shape[places[0]], rows)
    if not factor or shape[places[0]] != multiply(factor, symbol(rows)):
        return None
    return Rows(places[0], factor)


def _visit(node: Node, states: Mapping[Value, State], rows: str) -> Sequence[State]:
    """What the outputs of a node are."""
    inputs: list[State | None] = [None if value is None else states.get(value, FREE) for value in node.inputs]
    inner = [states.get(value, FREE) for _, graph in node.subgraphs() for value in captured_values(graph)]
    given = [state for state in (*inputs, *inner) if state is not None]

    def mixed(reason: str) -> list[State]:
        return [Mixed(reason, node_names(node))] * len(node.outputs)

    if node.is_op("Shape") or node.is_op("Size"):
        return [_shape_state(node, rows)]
    if (first := next((state for state in given if isinstance(state, Mixed)), None)) is not None:
        return [first] * len(node.outputs)
    operator = find(node)
    if operator is None or operator.has(Trait.RANDOM):
        return mixed(f"{node.op} draws random numbers" if operator else f"{node.op} is unknown")
    if all(isinstance(state, Free) for state in given):
        return [FREE] * len(node.outputs)
    if inner or operator.has(Trait.CONTROL):
        return mixed(f"{node.op} may treat rows differently")
    if not any(isinstance(state, Rows | RowNumber) for state in given):
        return [_from_extents(node, value, rows) for value in node.outputs]
    if any(isinstance(state, RowNumber) for state in given):
        return [_with_row_numbers(node, inputs, rows)] * len(node.outputs)
    context = RowContext(node, [_axis(state) for state in inputs], [isinstance(s, Extent) for s in inputs])
    rule = ROW_RULES.get((node.domain, node.op_type)) or mixing(operator)
    if rule is None:
        return mixed(f"{node.op} is not known to keep rows apart")
    answer = rule(context)
    if isinstance(answer, str):
        return mixed(f"{node.op}: {answer}")
    # Whatever a rule says, the types must say the same.
    found: list[State] = []
    for value, axis in zip(node.outputs, answer, strict=True):
        seen = row_axis(value, rows)
        if not value.is_used and not value.is_graph_output:
            found.append(FREE)
        elif axis is None or seen is None or seen.axis != axis:
            found += mixed(f"{node.op}: its output {value.name!r} ({value.type}) does not have the rows of its input")[
                :1
            ]
        else:
            found.append(Rows(seen.axis, seen.factor))
    return found


def _axis(state: State | None) -> tuple[int, int] | None:
    return (state.axis, state.factor) if isinstance(state, Rows) else None


def _shape_state(node: Node, rows: str) -> State:
    """A shape without the number of rows is the same for every batch."""
    value = node.input(0)
    kind = value.type if value is not None else None
    if not isinstance(kind, TensorType) or kind.shape is None:
        return Extent()
    dims: Sequence[Dim] = kind.shape
    if node.is_op("Shape"):
        end = node.int_attribute("end", len(dims))
        dims = dims[node.int_attribute("start", 0) : end]
    return Extent() if any(rows in symbols(dim) for dim in dims) else FREE


def _from_extents(node: Node, value: Value, rows: str) -> State:
    """What a node makes of shapes alone: shapes again, or a tensor of equal rows, or the numbers of the rows."""
    kind = value.type
    shaped = row_axis(value, rows)
    if shaped is None:
        if isinstance(kind, TensorType) and kind.dtype.numpy.kind in "iub":
            return Extent()
        return Mixed(f"{node.op} computes with the number of rows", node_names(node))
    if node.is_op("ConstantOfShape"):
        return shaped
    if node.is_op("Expand") and _is_new(node.input(0), value, shaped.axis):
        return shaped
    if node.is_op("Range") and shaped == Rows(0) and _is_constant(node.input(0), 0) and _is_constant(node.input(2), 1):
        return RowNumber(0)
    return Mixed(f"{node.op} computes with the number of rows", node_names(node))


def _is_new(source: Value | None, target: Value, axis: int) -> bool:
    """Whether expanding `source` makes `axis` of `target`: every row is then the same."""
    kind = source.type if source is not None else None
    if not isinstance(kind, TensorType) or kind.shape is None:
        return False
    own = axis - (len(target.tensor_type.shape or ()) - len(kind.shape))
    return own < 0 or kind.shape[own] == 1


def _is_constant(value: Value | None, number: int) -> bool:
    return value is not None and value.constant is not None and value.constant.array().item() == number


def _with_row_numbers(node: Node, inputs: Sequence[State | None], rows: str) -> State:
    """The numbers of rows are good for picking one's own row, as exported masks do, and for nothing else."""
    fail = Mixed(f"{node.op} computes with the positions of rows", node_names(node))
    shaped = row_axis(node.outputs[0], rows)
    if shaped is None or shaped.factor != 1:
        return fail
    operator = find(node)
    number = next(state for state in inputs if isinstance(state, RowNumber))
    others = [s for s in inputs if s is not None and not isinstance(s, RowNumber)]
    if operator is not None and operator.has(Trait.VIEW) and not number.first and isinstance(inputs[0], RowNumber):
        return RowNumber(shaped.axis)
    if node.is_op("Expand") and isinstance(inputs[0], RowNumber) and not number.first:
        return RowNumber(shaped.axis)
    rank = len(node.outputs[0].tensor_type.shape or ())
    if node.is_op("Concat") and node.int_attribute("axis", 0) % rank == rank - 1 and inputs[0] is number:
        first = node.inputs[0]
        alone = first is not None and first.tensor_type.shape is not None and first.tensor_type.shape[-1] == 1
        same = all(s == Rows(number.axis) for s in others)
        if alone and same and not number.first and number.axis == shaped.axis < rank - 1:
            return RowNumber(shaped.axis, first=True)
    if node.is_op("GatherND") and inputs[0] == Rows(0) and number.first and node.int_attribute("batch_dims", 0) == 0:
        return Rows(number.axis) if shaped.axis == number.axis else fail
    return fail
