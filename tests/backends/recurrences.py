"""Recurrences for tests of backends."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from hypothesis import strategies as st

from graphc.ir import GRAPHC_DOMAIN, Graph
from graphc.ops.recurrent import CELLS
from tests.backends.bodies import Array, body


def scaled(*shape: int, seed: int = 0, dtype: type = np.float32) -> Array:
    values = np.random.default_rng([seed, *shape]).standard_normal(shape)
    return (values / np.sqrt(max(shape[-1], 1))).astype(dtype)


def operands(
    cell: str,
    steps: int,
    batch: int,
    hidden: int,
    *,
    directions: int = 1,
    layout: int = 0,
    inputs: int = 0,
    states: bool = True,
    lengths: list[int] | None = None,
    bias: bool = False,
    peepholes: bool = False,
    dtype: type = np.float32,
) -> list[Array | None]:
    """Everything that a Recurrence reads, None for what is absent; with `inputs`, the data is not projected."""
    rows = CELLS[cell].gates * hidden
    width = inputs or directions * rows
    state = (batch, directions, hidden) if layout else (directions, batch, hidden)
    sequence = (batch, steps, width) if layout else (steps, batch, width)
    return [
        scaled(*sequence, seed=1, dtype=dtype) * np.sqrt(width).astype(dtype),
        scaled(directions, rows, hidden, seed=2, dtype=dtype),
        scaled(directions, hidden, seed=3, dtype=dtype) if bias else None,
        None if lengths is None else np.array(lengths, np.int32),
        scaled(*state, seed=4, dtype=dtype) if states else None,
        scaled(*state, seed=5, dtype=dtype) if states and cell == "LSTM" else None,
        scaled(directions, 3 * hidden, seed=6, dtype=dtype) if peepholes else None,
        scaled(directions, rows, inputs, seed=7, dtype=dtype) if inputs else None,
        scaled(directions * rows, seed=8, dtype=dtype) if inputs and bias else None,
    ]


def region(cell: str, arrays: list[Array | None], outputs: tuple[int, ...] | None = None, **attributes: Any) -> Graph:
    """A body of one Recurrence; `outputs` are the numbers of those that are read."""
    present = [array for array in arrays if array is not None]
    read = tuple(range(1 + CELLS[cell].states)) if outputs is None else outputs

    def make(b: Any, *values: Any) -> Any:
        given = iter(values)
        inputs = [None if array is None else next(given) for array in arrays]
        made = b.op(
            "Recurrence", *inputs, outputs=1 + CELLS[cell].states, domain=GRAPHC_DOMAIN, cell=cell, **attributes
        ).producer
        return [made.outputs[number] for number in read]

    return body(present, make)


def draw(
    cell: str, data: st.DataObject, *, hidden: tuple[int, int], inputs: Sequence[int]
) -> tuple[list[Array | None], tuple[int, ...], dict[str, Any]]:
    """What some Recurrence reads, which of its outputs are read, and its attributes.

    Args:
        cell: Of the recurrence.
        data: Draws them.
        hidden: Fewest and most hidden units.
        inputs: Columns that the data may have; 0 for data that is projected.
    """

    def flag(name: str) -> bool:
        return data.draw(st.booleans(), name)

    steps, batch = data.draw(st.integers(1, 4), "steps"), data.draw(st.integers(1, 7), "batch")
    units, layout = data.draw(st.integers(*hidden), "hidden"), data.draw(st.integers(0, 1), "layout")
    direction = data.draw(st.sampled_from(("forward", "reverse", "bidirectional")), "direction")
    directions = 2 if direction == "bidirectional" else 1
    attributes: dict[str, Any] = {"direction": direction, "layout": layout}
    if cell == "GRU" and flag("linear_before_reset"):
        attributes["linear_before_reset"] = 1
    if cell == "LSTM" and flag("input_forget"):
        attributes["input_forget"] = 1
    if flag("clip"):
        attributes["clip"] = 0.5
    if flag("activations"):
        count = len(CELLS[cell].activations) * directions
        names = [data.draw(st.sampled_from(("Sigmoid", "Tanh", "Relu", "HardSigmoid"))) for _ in range(count)]
        attributes["activations"] = tuple(names)
    # What is no length means nothing or everything; it must not be read or written at.
    lengths = [data.draw(st.integers(-1, steps + 1)) for _ in range(batch)] if flag("lengths") else None
    arrays = operands(
        cell,
        steps,
        batch,
        units,
        directions=directions,
        layout=layout,
        inputs=data.draw(st.sampled_from(inputs), "inputs"),
        states=flag("states"),
        lengths=lengths,
        bias=flag("bias") and (cell == "GRU" and "linear_before_reset" in attributes),
        peepholes=cell == "LSTM" and flag("peepholes"),
    )
    everything = range(1 + CELLS[cell].states)
    read = tuple(i for i in everything if flag(f"output {i}")) or (0,)
    return arrays, read, attributes
