"""What a recurrence kernel reads and writes: its pointers, and where in them sequences, states and weights lie."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

from tvm.tirx.script.builder import ir as T

from graphc.backends.tvm import element_types
from graphc.backends.tvm.recurrent_plan import Plan
from graphc.backends.tvm.tir import Expr, KernelBuilder, broadcast
from graphc.ir import Dim, Graph, Node, Value
from graphc.ir.symbolic import mod
from graphc.ops.recurrent_cells import CELL, HIDDEN

INPUTS = ("data", "R", "bias", "lengths", "hidden", "cell", "peepholes", "W", "added")
OUTPUTS = ("sequence", "hidden", "cell")
INITIAL = {HIDDEN: "hidden", CELL: "cell"}
"""Names of the state vectors that come in and go out."""


class Memory:
    """The pointers of one kernel.

    Args:
        builder: The kernel under construction.
        body: The region's body.
        node: Its Recurrence.
        plan: The schedule.
        carried: State vectors, in the order of their workspaces.
        stored: Weights that the kernel packs itself, by name, and the number of the workspace of each.
    """

    def __init__(
        self,
        builder: KernelBuilder,
        body: Graph,
        node: Node,
        plan: Plan,
        carried: Sequence[int],
        stored: Mapping[str, int],
    ) -> None:
        self.builder = builder
        self.plan = plan
        self.inputs = {name: value for name, value in zip(INPUTS, node.inputs, strict=False) if value is not None}
        self.pointers = {value: number for number, value in enumerate(body.inputs)}
        first = len(body.inputs)
        self.outputs = {
            name: first + body.outputs.index(value)
            for name, value in zip(OUTPUTS, node.outputs, strict=False)
            if value in body.outputs
        }
        workspace = first + len(body.outputs)
        self.states = {state: workspace + i for i, state in enumerate(carried)}
        self.weights: dict[str, int] = {
            name: workspace + stored[name] if name in stored else self.pointers[self.inputs[name]]
            for name in ("R", "W")
            if name in self.inputs
        }
        self.zero = element_types.number(0.0, plan.dtype, plan.lanes)

    def read(self, name: str, offset: Dim, count: int | None = None, lanes: int | None = None) -> Expr:
        """A vector of an input."""
        value = self.inputs[name]
        width = lanes or self.plan.lanes
        if value not in self.pointers:
            return broadcast(_literal(value), width)
        return self.builder.load(self.pointers[value], offset, width, 1, count if width > 1 else None)

    def length(self, b: Dim) -> Expr:
        """Steps of a sequence that has its length given."""
        return T.Cast("int64", self.read("lengths", b, lanes=1))

    def active(self, b: Dim, time: Dim) -> Expr | None:
        """On every lane, whether a sequence has not ended; None where all steps are of sequences that have not."""
        if "lengths" not in self.inputs or self.plan.extents.batch == 1:
            return None
        return broadcast(self.builder.index(time) < self.length(b), self.plan.lanes)

    def place(self, b: Dim, time: Dim) -> Dim:
        """Number of a sequence's element at a time."""
        extents = self.plan.extents
        return b * extents.steps + time if extents.batch_major else time * extents.batch + b

    def outer_state(self, direction: Dim, b: Dim) -> Dim:
        """Offset of an initial or a last state in its tensor."""
        extents = self.plan.extents
        place = b * extents.directions + direction if extents.batch_major else direction * extents.batch + b
        return place * extents.hidden

    def state(self, state: int, direction: Dim, b: Dim, step: Dim) -> Dim:
        """Offset of a state vector before `step`."""
        extents = self.plan.extents
        place = direction * extents.batch + b
        if state == HIDDEN:
            place = place + mod(step, 2, self.builder.bounds) * (extents.directions * extents.batch)
        return place * self.plan.padded

    def depth(self, name: str) -> int:
        """Elements of the vector that weights multiply."""
        return self.plan.extents.hidden if name == "R" else self.plan.extents.inputs

    def panel_start(self, name: str, direction: Dim, phase: int, panel: Dim) -> Dim:
        """Offset of a panel in packed weights."""
        plan, depth = self.plan, self.depth(name)
        size = depth * len(plan.products[phase]) * plan.vectors * plan.lanes
        return direction * plan.packed_elements(depth) + plan.start(phase, depth) + panel * size

    def each_vector(self, emit: Callable[[Dim, int | None], None]) -> None:
        """`emit(unit, count)` for every vector of hidden units; `count` is of the last one, where it has fewer."""
        whole, rest = divmod(self.plan.extents.hidden, self.plan.lanes)
        if whole:
            with self.builder.serial(whole, "v") as vector:
                emit(vector * self.plan.lanes, None)
        if rest:
            emit(whole * self.plan.lanes, rest)


def _literal(value: Value) -> Expr:
    """A constant of one element, which is part of the body."""
    tensor = value.constant
    assert tensor is not None and tensor.size == 1
    return element_types.constant(tensor.array().reshape(()).item(), tensor.dtype)
