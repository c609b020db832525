"""One step of a recurrence for a panel of hidden units: the products in registers, and the new states from them."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import partial

from graphc.backends.tvm.gemm_tiles import multiply
from graphc.backends.tvm.partial_sums import cut
from graphc.backends.tvm.recurrent_memory import INITIAL, Memory
from graphc.backends.tvm.render import Renderer
from graphc.backends.tvm.scope import Lane, Scope
from graphc.backends.tvm.tir import Expr, bind
from graphc.ir import Dim
from graphc.ops.expr import Index, loads
from graphc.ops.recurrent_cells import BIAS, HIDDEN, PEEPHOLES, PROJECTED, STATES, SUMS, Phase


class Tile:
    """A panel of hidden units in one phase of one step, for any sequences.

    Args:
        memory: The kernel's pointers.
        phase: What follows from the product.
        number: The phase's number.
        direction: The direction.
        step: Steps before this one.
        time: Where the step reads and writes the sequence.
        panel: Number of the panel.
        vectors: Vectors of hidden units in it.
    """

    def __init__(
        self,
        memory: Memory,
        phase: Phase,
        number: int,
        direction: Dim,
        step: Dim,
        time: Dim,
        panel: Dim,
        vectors: int,
    ) -> None:
        self.of = memory
        self.phase = phase
        self.direction = direction
        self.step = step
        self.time = time
        self.vectors = vectors
        self.first = panel * (memory.plan.vectors * memory.plan.lanes)
        self.weights: dict[str, Dim] = {
            name: memory.panel_start(name, direction, number, panel) for name in memory.weights
        }

    def emit(self, row: Dim, count: int) -> None:
        """The new states of `count` sequences from `row` on."""
        plan, builder, of = self.of.plan, self.of.builder, self.of
        starts = [of.state(self.phase.left, self.direction, row + r, self.step) for r in range(count)]

        def state(r: int, k: Dim) -> Expr:
            return builder.load(of.states[self.phase.left], starts[r] + k)

        def data(r: int, k: Dim) -> Expr:
            return of.read("data", of.place(row + r, self.time) * plan.extents.inputs + k, lanes=1)

        recurrent = self._product("R", count, state)
        projected = self._product("W", count, data) if "W" in self.weights else None
        for r in range(count):
            for v in range(self.vectors):
                sums = {SUMS + gate: recurrent[r][i][v] for i, gate in enumerate(self.phase.gates)}
                if projected is not None:
                    sums |= {PROJECTED + gate: projected[r][i][v] for i, gate in enumerate(self.phase.gates)}
                self._renew(row + r, self.first + v * plan.lanes, sums)

    def _product(self, name: str, count: int, left: Callable[[int, Dim], Expr]) -> list[list[list[Expr]]]:
        """Sums by sequence, gate of the phase and vector."""
        plan, of, vectors = self.of.plan, self.of, self.vectors
        width = len(self.phase.gates) * vectors

        def right(k: Dim, v: int) -> Expr:
            return of.builder.load(of.weights[name], self.weights[name] + (k * width + v) * plan.lanes, plan.lanes)

        tile = plan.accumulators(count, width)
        rows = multiply(of.builder, tile, plan.lanes, cut(of.depth(name), {}), left, right, plan.dtype)
        return [[row[i : i + vectors] for i in range(0, width, vectors)] for row in rows]

    def _renew(self, b: Dim, unit: Dim, sums: Mapping[int, Expr]) -> None:
        """The new states of one vector of hidden units of one sequence."""
        plan, builder, of = self.of.plan, self.of.builder, self.of
        extents = plan.extents
        count: int | None = None
        if isinstance(unit, int) and unit + plan.lanes > extents.hidden:
            count = extents.hidden - unit
        place = of.place(b, self.time) * extents.directions + self.direction

        def value(number: int) -> Expr:
            if number < PROJECTED:
                return sums[number]
            if number < STATES:
                gate = number - PROJECTED
                if number not in sums:
                    return of.read("data", (place * extents.gates + gate) * extents.hidden + unit, count)
                if "added" not in of.inputs:
                    return sums[number]
                row = self.direction * extents.gates + gate
                return sums[number] + of.read("added", row * extents.hidden + unit, count)
            if number < PEEPHOLES:
                state = number - STATES
                return builder.load(of.states[state], of.state(state, self.direction, b, self.step) + unit, plan.lanes)
            if number < BIAS:
                row = self.direction * 3 + (number - PEEPHOLES)
                return of.read("peepholes", row * extents.hidden + unit, count)
            return of.read("bias", self.direction * extents.hidden + unit, count)

        numbers = {load.input for result in self.phase.results.values() for load in loads(result)}
        given = {number: partial(_constant, value(number)) for number in sorted(numbers)}
        renderer = Renderer(builder, [], {}, given)
        with builder.lanes(plan.lanes) as name:
            scope, lane = Scope(), Lane(name, plan.lanes)
            news = {state: renderer.render(result, lane, scope) for state, result in self.phase.results.items()}
        active = of.active(b, self.time)
        for state, new in news.items():
            if active is not None and state in INITIAL:
                # Past its end a sequence keeps its state, and its output is zero.
                old = builder.load(of.states[state], of.state(state, self.direction, b, self.step) + unit, plan.lanes)
                kept = bind(builder.choose(active, new, old))
            else:
                kept = new
            after = of.state(state, self.direction, b, self.step + 1) + unit
            builder.store(of.states[state], kept, after, plan.lanes)
        if HIDDEN in news and "sequence" in of.outputs:
            new = news[HIDDEN]
            if active is not None:
                new = builder.choose(active, new, of.zero)
            builder.store(of.outputs["sequence"], new, place * extents.hidden + unit, plan.lanes, 1, count)


def _constant(value: Expr, _: Sequence[Index]) -> Expr:
    return value
