"""Recurrent layers in two parts: one product of all steps' inputs with the weights, and a recurrence over the steps."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from graphc.ir import GRAPHC_DOMAIN, Builder, Node, Value, dtypes
from graphc.ops.contrib import Values, given, needed, numbers
from graphc.ops.decomposition import decomposed
from graphc.ops.recurrent import CELLS, RECURRENCE

_ATTRIBUTES = (
    *("direction", "activations", "activation_alpha", "activation_beta"),
    *("clip", "input_forget", "linear_before_reset", "layout"),
)
"""Attributes of a layer that its recurrence has too."""


def _expand(b: Builder, node: Node, x: Values) -> Values | None:
    data, weights, recurrent = needed(x, 0), needed(x, 1), needed(x, 2)
    kind, cell = data.tensor_type, CELLS[node.op_type]
    extents = [d for d in (*kind.dims, *recurrent.tensor_type.dims) if isinstance(d, int)]
    if len(extents) < 6:
        return None
    first, second, size, directions, rows, hidden = extents
    turned = bool(node.int_attribute("layout", 0))
    if not first * second * hidden:
        return _nothing(b, node, x, extents)
    half = kind.dtype.itemsize < 4

    def wide(value: Value | None) -> Value | None:
        return value if value is None or not half else b.op("Cast", value, to=dtypes.FLOAT32.onnx)

    def narrow(value: Value) -> Value:
        return value if not half else b.op("Cast", value, to=kind.dtype.onnx)

    added, kept = _biases(b, node, wide(given(x, 3)), extents)
    projected = b.op(
        "Gemm",
        wide(b.op("Reshape", data, numbers(b, first * second, size))),
        wide(b.op("Reshape", weights, numbers(b, directions * rows, size))),
        added,
        transB=1,
    )
    states = [wide(given(x, 5 + i)) for i in range(cell.states)]
    peepholes = [wide(given(x, 7))] if node.op_type == "LSTM" else []
    attributes: dict[str, Any] = {name: node.attributes[name] for name in _ATTRIBUTES if name in node.attributes}
    made = b.op(
        RECURRENCE,
        b.op("Reshape", projected, numbers(b, first, second, directions * rows)),
        wide(recurrent),
        kept,
        given(x, 4),
        *states,
        *peepholes,
        outputs=1 + cell.states,
        domain=GRAPHC_DOMAIN,
        cell=node.op_type,
        **attributes,
    ).producer
    assert made is not None
    sequence, *finals = made.outputs
    if not turned:
        sequence = b.op("Transpose", sequence, perm=[0, 2, 1, 3])
    return [narrow(sequence), *(narrow(final) for final in finals)]


def _nothing(b: Builder, node: Node, x: Values, extents: Sequence[int]) -> Values:
    """The outputs of a layer without steps, sequences or hidden units: the states stay as they were."""
    first, second, _, directions, _, hidden = extents
    turned = bool(node.int_attribute("layout", 0))
    dtype = needed(x, 0).tensor_type.dtype.numpy
    sequence = (first, second, directions, hidden) if turned else (first, directions, second, hidden)
    state = (first, directions, hidden) if turned else (directions, second, hidden)
    initial = [given(x, 5 + i) for i in range(CELLS[node.op_type].states)]
    finals = [b.constant(np.zeros(state, dtype)) if value is None else b.op("Identity", value) for value in initial]
    return [b.constant(np.zeros(sequence, dtype)), *finals]


def _biases(b: Builder, node: Node, bias: Value | None, extents: Sequence[int]) -> tuple[Value | None, Value | None]:
    """What is added to the product of inputs and weights, and what the recurrence must add itself.

    A GRU that resets after it multiplies scales the candidate's recurrent bias too: that part stays apart.
    """
    if bias is None:
        return None, None
    *_, directions, rows, hidden = extents

    def part(start: int, stop: int) -> Value:
        return b.op("Slice", bias, numbers(b, start), numbers(b, stop), numbers(b, 1))

    own, recurrent, kept = part(0, rows), part(rows, 2 * rows), None
    if node.op_type == "GRU" and node.int_attribute("linear_before_reset", 0):
        kept = part(2 * rows - hidden, 2 * rows)
        zeros = b.constant(np.zeros((directions, hidden), bias.tensor_type.dtype.numpy))
        recurrent = b.op("Concat", part(rows, 2 * rows - hidden), zeros, axis=1)
    return b.op("Reshape", b.op("Add", own, recurrent), numbers(b, -1)), kept


for _name in CELLS:
    decomposed(_name, _expand, define=False)
