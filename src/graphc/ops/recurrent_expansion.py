"""Recurrent layers in two parts: one product of all steps' inputs with the weights, and a recurrence over the steps."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from graphc.ir import GRAPHC_DOMAIN, Builder, Graph, Node, Tensor, TensorType, Value, dtypes
from graphc.ops.contrib import Values, given, needed, numbers
from graphc.ops.decomposition import OPSET, decomposed
from graphc.ops.recurrent import CELLS, RECURRENCE

_ATTRIBUTES = (
    *("direction", "activations", "activation_alpha", "activation_beta"),
    *("clip", "input_forget", "linear_before_reset", "layout"),
)
"""Attributes of a layer that its recurrence has too."""


def _expand(b: Builder, node: Node, x: Values) -> Values | None:
    data, weights, recurrent = needed(x, 0), needed(x, 1), needed(x, 2)
    kind, cell = data.tensor_type, CELLS[node.op_type]
    if not all(isinstance(value.type, TensorType) and _is_known(value.type, node) for value in x if value is not None):
        return None
    (first, second, size), parameters = kind.dims, recurrent.tensor_type.dims
    fixed = [extent for extent in (size, *parameters) if isinstance(extent, int)]
    if len(fixed) < 4:
        return None
    size, directions, rows, hidden = fixed
    turned = bool(node.int_attribute("layout", 0))
    if isinstance(first, int) and isinstance(second, int) and not first * second * hidden:
        return _nothing(b, node, x, (first, second, *fixed))
    half = kind.dtype.itemsize < 4

    def wide(value: Value | None) -> Value | None:
        return value if value is None or not half else b.op("Cast", value, to=dtypes.FLOAT32.onnx)

    def narrow(value: Value) -> Value:
        return value if not half else b.op("Cast", value, to=kind.dtype.onnx)

    added, kept = _biases(b, node, wide(given(x, 3)), fixed)
    own: list[Value | None]
    if (second if turned else first) == 1 and size:
        # A single step has as few rows as its recurrence, and follows from both products at once.
        sequence, own = wide(data), [wide(weights), added]
    else:
        matrix = wide(_shaped(b, weights, directions * rows, size))
        own = []
        if isinstance(first, int) and isinstance(second, int):
            flat = b.op("Gemm", wide(_shaped(b, data, first * second, size)), matrix, added, transB=1)
            sequence = _shaped(b, flat, first, second, directions * rows)
        else:
            sequence = b.op("MatMul", needed([wide(data)], 0), b.op("Transpose", matrix, perm=[1, 0]))
            sequence = sequence if added is None else b.op("Add", sequence, added)
    states = [wide(given(x, 5 + i)) for i in range(cell.states)]
    peepholes = wide(given(x, 7)) if node.op_type == "LSTM" else None
    attributes: dict[str, Any] = {name: node.attributes[name] for name in _ATTRIBUTES if name in node.attributes}
    made = b.op(
        RECURRENCE,
        *(sequence, wide(recurrent), kept, given(x, 4)),
        *([*states, None][:2]),
        *(peepholes, *own),
        outputs=1 + cell.states,
        domain=GRAPHC_DOMAIN,
        cell=node.op_type,
        **attributes,
    ).producer
    assert made is not None
    result, *finals = made.outputs
    if not turned:
        result = b.op("Transpose", result, perm=[0, 2, 1, 3])
    return [narrow(result), *(narrow(final) for final in finals)]


def _is_known(kind: TensorType, node: Node) -> bool:
    """Whether every extent is a number or one that is left open and never 0."""
    bounds = {} if node.graph is None else node.graph.bounds
    return kind.shape is not None and all(bounds.get(name, (0, None))[0] > 0 for name in kind.symbols())


def _shaped(b: Builder, x: Value, *extents: int) -> Value:
    return b.op("Reshape", x, numbers(b, *extents), allowzero=int(0 in extents) or None)


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
    return _shaped(b, b.op("Add", own, recurrent), directions * rows), kept


def layer_of(node: Node) -> Graph:
    """What a Recurrence of bound extents computes as an ONNX layer: a graph over the inputs that the node has.

    A projected input is multiplied with the identity.
    """
    graph = Graph(node.op_type, opset=OPSET)
    x = [None if value is None else graph.add_input(f"x{i}", value.type) for i, value in enumerate(node.inputs)]
    b = Builder(graph, origins=node.origins)
    data, recurrent, bias, weights, added = needed(x, 0), needed(x, 1), given(x, 2), given(x, 7), given(x, 8)
    directions, rows, hidden = recurrent.tensor_type.static_shape
    if weights is None:
        both = directions * rows
        square = b.op("ConstantOfShape", numbers(b, both, both), value=Tensor.of(np.zeros(1, np.float32)))
        identity = b.op("EyeLike", square, dtype=recurrent.tensor_type.dtype.onnx)
        weights = _shaped(b, identity, directions, rows, both)

    def zeros(width: int) -> Value:
        return b.constant(np.zeros((directions, width), recurrent.tensor_type.dtype.numpy))

    own = zeros(rows) if added is None else _shaped(b, added, directions, rows)
    biases = b.op("Concat", own, zeros(rows - hidden), zeros(hidden) if bias is None else bias, axis=1)
    name = node.str_attribute("cell", "")
    states = CELLS[name].states
    attributes: dict[str, Any] = {key: value for key, value in node.attributes.items() if key != "cell"}
    rest = [given(x, 4 + i) for i in range(states)] + ([given(x, 6)] if name == "LSTM" else [])
    layer = b.op(
        name, data, weights, recurrent, biases, given(x, 3), *rest, outputs=1 + states, hidden_size=hidden, **attributes
    ).producer
    assert layer is not None
    result, *finals = layer.outputs
    if not node.int_attribute("layout", 0):
        result = b.op("Transpose", result, perm=[0, 2, 1, 3])
    graph.outputs = [result, *finals]
    return graph


for _name in CELLS:
    decomposed(_name, _expand, define=False)
