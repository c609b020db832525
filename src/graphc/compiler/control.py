"""Control flow whose bodies are compiled: what of it can be, and bodies as graphs that stand alone."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from graphc import memory
from graphc.backends.base import Kernel
from graphc.ir import Graph, Node, TensorType, Value, captured_values, clone_node
from graphc.ops.control import scan_plan
from graphc.ops.evaluate import captured_inputs
from graphc.passes.buffers import BufferPlan

ALIGNMENT = 64
"""Bytes to which the parts of a control node's workspace are aligned: the launcher runs it on a CPU."""
_CONTROL = frozenset({"If", "Loop", "Scan"})


@dataclass(kw_only=True)
class Schedule:
    """A graph lowered, with its memory planned: a whole program, or a body of one of its control nodes.

    Args:
        graph: The graph after all passes; its nodes are in step order.
        kernels: Kernel of each node that has one.
        controls: Control nodes that the launcher runs.
        buffers: Storage of each value.
        plan: Where the arena's buffers lie: first one per storage of `buffers.arena()`, then one per workspace.
        workspaces: Step and operand of each workspace; of a control node, step and 0.
    """

    graph: Graph
    kernels: Mapping[Node, Kernel]
    controls: Mapping[Node, Control]
    buffers: BufferPlan
    plan: memory.Plan
    workspaces: Mapping[tuple[int, int], int]

    def all_kernels(self) -> Iterator[tuple[Node, Kernel]]:
        """Every node that has a kernel, and the kernel; those of bodies last."""
        yield from self.kernels.items()
        for control in self.controls.values():
            for body in control.bodies:
                yield from body.all_kernels()


@dataclass(kw_only=True)
class Body(Schedule):
    """A body of a control node as a graph of its own: its inputs are the body's, then what it captures.

    Args:
        captured: Values of the graph around, one for each of the further inputs.
    """

    captured: tuple[Value, ...]


@dataclass
class Control:
    """A control node that the launcher runs.

    Args:
        node: An If, a Loop or a Scan.
        bodies: Its bodies; of an If, the one that is taken first.
    """

    node: Node
    bodies: tuple[Body, ...]

    COUNTER = 0
    GOING_ON = ALIGNMENT
    KEPT = 2 * ALIGNMENT

    @property
    def states(self) -> int:
        """Number of values that it carries from one iteration to the next."""
        if self.node.is_op("If"):
            return 0
        return scan_plan(self.node).states if self.node.is_op("Scan") else len(self.node.inputs) - 2

    @property
    def spares(self) -> tuple[int, ...]:
        """Where in the workspace each carried value has its second buffer."""
        offsets, offset = [], 3 * ALIGNMENT
        for value in self.node.outputs[: self.states]:
            offsets.append(offset)
            offset = _aligned(offset + bytes_of(value))
        return tuple(offsets)

    @property
    def arena(self) -> int:
        """Where in the workspace the arena of a body begins."""
        if self.node.is_op("If"):
            return 0
        ends = [at + bytes_of(v) for at, v in zip(self.spares, self.node.outputs, strict=False)]
        return _aligned(max(ends, default=3 * ALIGNMENT))

    @property
    def workspace(self) -> int:
        """Bytes of the workspace: counter and conditions, second buffers, and the arena of one body at a time."""
        return self.arena + max(body.plan.peak for body in self.bodies)


def _aligned(offset: int) -> int:
    return -(-offset // ALIGNMENT) * ALIGNMENT


def bytes_of(value: Value) -> int:
    """Bytes of a value of known size."""
    size = value.tensor_type.storage_bytes
    assert isinstance(size, int)
    return size


def is_control(node: Node) -> bool:
    """Whether the launcher may run the node."""
    return node.domain == "" and node.op_type in _CONTROL


def bodies_of(node: Node) -> tuple[Graph, ...]:
    """The graphs of a control node; of an If, the one that is taken first."""
    names = ("then_branch", "else_branch") if node.is_op("If") else ("body",)
    return tuple(node.graph_attribute(name) for name in names)


def refusal(node: Node) -> str | None:
    """Why a control node must run on the host, as far as types tell; None where nothing speaks against compiling it."""
    outside = [value for value in (*node.inputs, *captured_inputs(node), *node.outputs) if value is not None]
    inside = [value for body in bodies_of(node) for graph in body.all_graphs() for value in _values(graph)]
    for value in (*outside, *inside):
        kind = value.type
        if not isinstance(kind, TensorType):
            return f"%{value.name} is {kind}, which has no place in memory"
        if kind.dtype.kind == "string":
            return f"%{value.name} holds strings, which have no place in memory"
        if not kind.is_static:
            return f"only the data tells the shape of %{value.name} ({kind})"
    if node.is_op("Scan"):
        plan = scan_plan(node)
        if any((*plan.input_axes, *plan.output_axes)):
            return "it scans along another axis than the first"
    return None


def _values(graph: Graph) -> Iterator[Value]:
    yield from graph.inputs
    for node in graph.nodes:
        yield from (value for value in node.outputs if value.name)


def close_body(body: Graph) -> tuple[Graph, tuple[Value, ...]]:
    """A body as a graph that reads nothing outside, and the values that its further inputs stand for.

    Constants outside come along; so weights of a body are weights of the package, wherever the model has them.
    """
    closed = Graph(body.name, opset=body.opset)
    values: dict[Value, Value] = {value: closed.add_input(value.name, value.type) for value in body.inputs}
    captured = []
    for value in captured_values(body):
        if value.constant is not None and value.producer is not None:
            values[value] = closed.append(clone_node(value.producer, {})).output
        else:
            values[value] = closed.add_input(value.name, value.type)
            captured.append(value)
    for node in body.nodes:
        copy = closed.append(clone_node(node, values))
        values.update(zip(node.outputs, copy.outputs, strict=True))
    closed.outputs = [values[value] for value in body.outputs]
    return closed, tuple(captured)
