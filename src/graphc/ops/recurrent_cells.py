"""What one step of a recurrent layer computes for one hidden unit, as scalar expressions: what backends compile.

A step is one phase or two. A phase multiplies a vector of the state with the recurrence weights of some gates, and
from these sums, unit by unit, follow new values of state vectors. A phase that needs another's results for all units
(a GRU that resets before it multiplies) comes after it.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

from graphc.ir import Node
from graphc.ir.dtypes import DType
from graphc.ops.expr import Scalar, call, const, load
from graphc.ops.recurrent import CELLS
from graphc.ops.recurrent_functions import Chosen, chosen_functions, clipped

HIDDEN, CELL, UPDATE, PRODUCT = range(4)
"""State vectors: the hidden state, an LSTM's cell; of a GRU in two phases its update gate, and what is multiplied."""

SUMS, PROJECTED, STATES, PEEPHOLES, BIAS = 0, 4, 8, 12, 15
"""First input number of the loads: sums by gate, projected inputs by gate, states, peepholes i o f, and the bias."""


@dataclass(frozen=True)
class Phase:
    """One product of a step and what follows from it.

    Args:
        left: The state vector that is multiplied.
        gates: Numbers of the gates whose weights it is multiplied with.
        results: New state vectors, over loads without indices whose input numbers are those of this module.
    """

    left: int
    gates: tuple[int, ...]
    results: Mapping[int, Scalar]


def phases_of(node: Node, dtype: DType) -> list[tuple[Phase, ...]]:
    """The phases of each direction of a Recurrence, which computes in `dtype`; one object where they are the same."""
    name = node.str_attribute("cell", "")
    cell = CELLS[name]
    directions = 2 if node.str_attribute("direction", "forward") == "bidirectional" else 1
    first, *others = chosen_functions(node, cell.activations, directions)
    phases = [_PHASES[name](_Unit(node, dtype), first)]
    return phases + [phases[0] if chosen == first else _PHASES[name](_Unit(node, dtype), chosen) for chosen in others]


class _Unit:
    """The values that one hidden unit's step reads."""

    def __init__(self, node: Node, dtype: DType) -> None:
        self.node = node
        self.dtype = dtype
        limit = node.attributes.get("clip")
        self._limit = float(limit) if isinstance(limit, int | float) else None

    def read(self, number: int) -> Scalar:
        return load(number, self.dtype, ())

    def gate(self, number: int) -> Scalar:
        """Projected input plus recurrence."""
        return call("add", self.read(PROJECTED + number), self.read(SUMS + number))

    def limited(self, x: Scalar) -> Scalar:
        """What an activation sees of `x`."""
        if self._limit is None:
            return x
        return clipped(x, const(-self._limit, self.dtype), const(self._limit, self.dtype))

    def complement(self, x: Scalar) -> Scalar:
        return call("sub", const(1.0, self.dtype), x)


def _rnn(unit: _Unit, functions: tuple[Chosen, ...]) -> tuple[Phase, ...]:
    return (Phase(HIDDEN, (0,), {HIDDEN: functions[0].express(unit.limited(unit.gate(0)))}),)


def _gru(unit: _Unit, functions: tuple[Chosen, ...]) -> tuple[Phase, ...]:
    gate, squash = (function.express for function in functions)
    hidden = unit.read(STATES + HIDDEN)

    def blended(update: Scalar, candidate: Scalar) -> Mapping[int, Scalar]:
        kept = call("mul", update, hidden)
        return {HIDDEN: call("add", call("mul", unit.complement(update), candidate), kept)}

    update, reset = gate(unit.limited(unit.gate(0))), gate(unit.limited(unit.gate(1)))
    if not unit.node.int_attribute("linear_before_reset", 0):
        first = Phase(HIDDEN, (0, 1), {UPDATE: update, PRODUCT: call("mul", reset, hidden)})
        candidate = squash(unit.limited(unit.gate(2)))
        return first, Phase(PRODUCT, (2,), blended(unit.read(STATES + UPDATE), candidate))
    recurrence = unit.read(SUMS + 2)
    if unit.node.input(2) is not None:
        recurrence = call("add", recurrence, unit.read(BIAS))
    candidate = squash(unit.limited(call("add", unit.read(PROJECTED + 2), call("mul", reset, recurrence))))
    return (Phase(HIDDEN, (0, 1, 2), blended(update, candidate)),)


def _lstm(unit: _Unit, functions: tuple[Chosen, ...]) -> tuple[Phase, ...]:
    gate, squash, result = (function.express for function in functions)
    cell = unit.read(STATES + CELL)

    def seen(number: int, peephole: int, state: Scalar) -> Scalar:
        value = unit.gate(number)
        if unit.node.input(6) is not None:
            value = call("add", value, call("mul", unit.read(PEEPHOLES + peephole), state))
        return gate(unit.limited(value))

    coupled = bool(unit.node.int_attribute("input_forget", 0))
    enter = seen(0, 0, cell)
    forget = unit.complement(enter) if coupled else seen(2, 2, cell)
    written = call("mul", enter, squash(unit.limited(unit.gate(3))))
    new = call("add", call("mul", forget, cell), written)
    hidden = call("mul", seen(1, 1, new), result(new))
    return (Phase(HIDDEN, (0, 1, 3) if coupled else (0, 1, 2, 3), {HIDDEN: hidden, CELL: new}),)


_PHASES: Mapping[str, Callable[[_Unit, tuple[Chosen, ...]], tuple[Phase, ...]]] = {
    "RNN": _rnn,
    "GRU": _gru,
    "LSTM": _lstm,
}
