"""RNN, GRU and LSTM against ONNX Runtime: directions, sequence lengths, activations, clipping, layouts."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from graphc.errors import TypeInferenceError
from graphc.frontend import export_model
from graphc.ir import Builder, Graph, TensorType, dtypes
from graphc.ir.verify import verify
from graphc.ops import evaluate_graph, infer_graph
from graphc.passes import PassContext
from graphc.passes.expand import Expand
from tests.frontend.models import run_ort
from tests.ops.differential import VERSION, Case, case, check
from tests.ops.test_contraction import floats, seeds

GATES = {"RNN": 1, "GRU": 3, "LSTM": 4}
RNN = [floats(0, 3, 2, 4), floats(1, 1, 5, 4), floats(2, 1, 5, 5)]
LSTM = [floats(0, 3, 2, 4), floats(1, 1, 20, 4), floats(2, 1, 20, 5)]
ACTIVATIONS = {"RNN": 1, "GRU": 2, "LSTM": 3}


@st.composite
def layers(draw: st.DrawFn, op_type: str) -> tuple[list[Any], dict[str, Any]]:
    """Inputs and attributes of a recurrent layer."""
    steps, batch, size, hidden = (draw(st.integers(1, 4)) for _ in range(4))
    seed = draw(seeds)
    direction = draw(st.sampled_from(("forward", "reverse", "bidirectional")))
    count = 2 if direction == "bidirectional" else 1
    rows = GATES[op_type] * hidden
    optional = [draw(st.booleans()) for _ in range(5)]
    # ONNX Runtime forgets the initial state of an empty sequence; the operator's text says nothing of it.
    lengths = np.array([draw(st.integers(1, steps)) for _ in range(batch)], np.int32)
    states = [floats(seed + 5 + i, count, batch, hidden) for i in range(2)]
    inputs: list[Any] = [
        floats(seed, steps, batch, size),
        floats(seed + 1, count, rows, size),
        floats(seed + 2, count, rows, hidden),
        floats(seed + 3, count, 2 * rows) if optional[0] else None,
        lengths if optional[1] else None,
        states[0] if optional[2] else None,
    ]
    if op_type == "LSTM":
        inputs += [states[1] if optional[3] else None, floats(seed + 4, count, 3 * hidden) if optional[4] else None]
    attributes: dict[str, Any] = {"direction": direction, "hidden_size": hidden}
    if op_type == "GRU":
        attributes["linear_before_reset"] = draw(st.integers(0, 1))
    if draw(st.booleans()):
        attributes["clip"] = draw(st.sampled_from((0.5, 2.0)))
    if draw(st.booleans()):
        names = st.sampled_from(("Relu", "Tanh", "Sigmoid", "Softsign"))
        attributes["activations"] = [draw(names) for _ in range(ACTIVATIONS[op_type] * count)]
    return inputs, attributes


@pytest.mark.parametrize("op_type", list(GATES))
@given(st.data())
@settings(max_examples=40)
def test_layer(op_type: str, data: st.DataObject) -> None:
    inputs, attributes = data.draw(layers(op_type))
    outputs = 3 if op_type == "LSTM" else 2
    check(case(op_type, inputs, outputs, **attributes), rtol=1e-4, atol=1e-4, expression=False)


@pytest.mark.parametrize("op_type", list(GATES))
@given(st.data())
@settings(max_examples=15)
def test_batch_major_is_time_major_transposed(op_type: str, data: st.DataObject) -> None:
    inputs, attributes = data.draw(layers(op_type))
    outputs = 3 if op_type == "LSTM" else 2
    expected = case(op_type, inputs, outputs, **attributes).evaluate()
    swapped = [
        array.swapaxes(0, 1) if array is not None and i in (0, 5, 6) else array for i, array in enumerate(inputs)
    ]
    wanted = [expected[0].transpose(2, 0, 1, 3), *(state.swapaxes(0, 1) for state in expected[1:])]
    check(case(op_type, swapped, outputs, layout=1, **attributes), wanted, expression=False)


def expanded(subject: Case) -> Graph:
    """The node over graph inputs, expanded into its product and its recurrence."""
    graph = Graph("layer", opset=VERSION)
    values = [
        None if value is None else graph.add_input(value.name, TensorType(dtypes.from_numpy(array.dtype), array.shape))
        for value, array in zip(subject.node.inputs, subject.arrays, strict=True)
    ]
    names = [f"y{i}" for i in range(len(subject.node.outputs))]
    made = Builder(graph).op(subject.node.op_type, *values, outputs=names, **subject.node.attributes).producer
    assert made is not None
    graph.outputs = made.outputs
    infer_graph(graph)
    assert Expand().run(graph, PassContext()) >= 1
    verify(graph)
    return graph


@pytest.mark.parametrize("op_type", list(GATES))
@given(st.data())
@settings(max_examples=40)
def test_a_layer_is_a_product_and_a_recurrence(op_type: str, data: st.DataObject) -> None:
    inputs, attributes = data.draw(layers(op_type))
    dtype = data.draw(st.sampled_from((np.float32, np.float64, np.float16)))
    arrays = [None if x is None or x.dtype == np.int32 else x.astype(dtype) for x in inputs]
    arrays[4] = inputs[4]
    subject = case(op_type, arrays, 3 if op_type == "LSTM" else 2, **attributes)
    graph = expanded(subject)
    assert op_type not in {node.op_type for node in graph.nodes}
    found = evaluate_graph(graph, [array for array in arrays if array is not None])
    for result, wanted in zip(found, subject.evaluate(), strict=True):
        assert result.dtype == wanted.dtype
        np.testing.assert_allclose(result, wanted, rtol=1e-3 if dtype == np.float16 else 1e-4, atol=1e-4)


@pytest.mark.parametrize("op_type", list(GATES))
@given(st.data())
@settings(max_examples=15)
def test_an_expanded_layer_is_written_as_a_layer_again(op_type: str, data: st.DataObject) -> None:
    inputs, attributes = data.draw(layers(op_type))
    subject = case(op_type, inputs, 3 if op_type == "LSTM" else 2, **attributes)
    found = run_ort(export_model(expanded(subject)), subject.feeds())
    for result, wanted in zip(found, subject.evaluate(), strict=True):
        np.testing.assert_allclose(result, wanted, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("op_type", list(GATES))
@pytest.mark.parametrize("extents", [(0, 2, 3, 4), (2, 0, 3, 4), (2, 2, 3, 0), (2, 2, 0, 4)], ids=str)
@pytest.mark.parametrize("layout", [0, 1])
def test_layers_of_nothing(op_type: str, extents: tuple[int, int, int, int], layout: int) -> None:
    steps, batch, size, hidden = extents
    state = floats(1, *((batch, 1, hidden) if layout else (1, batch, hidden)))
    x = floats(0, *((batch, steps, size) if layout else (steps, batch, size)))
    w, r = floats(2, 1, GATES[op_type] * hidden, size), floats(3, 1, GATES[op_type] * hidden, hidden)
    outputs = 3 if op_type == "LSTM" else 2
    subject = case(op_type, [x, w, r, None, None, state], outputs, layout=layout)
    found = evaluate_graph(expanded(subject), [x, w, r, state])
    for result, wanted in zip(found, subject.evaluate(), strict=True):
        assert result.shape == wanted.shape
        np.testing.assert_allclose(result, wanted, rtol=1e-4, atol=1e-5)


def test_parametrized_activations_take_their_numbers_in_order() -> None:
    x, w, r = floats(0, 3, 2, 4), floats(1, 1, 15, 4), floats(2, 1, 15, 5)
    attributes: dict[str, Any] = {
        "hidden_size": 5,
        "activations": ["HardSigmoid", "ScaledTanh"],
        "activation_alpha": [0.3, 1.5],
        "activation_beta": [0.4, 0.7],
    }
    check(case("GRU", [x, w, r], 2, **attributes), rtol=1e-4, atol=1e-5, expression=False)


def test_an_input_gate_coupled_to_the_forget_gate() -> None:
    x, w, r = floats(0, 3, 2, 4), floats(1, 1, 20, 4), floats(2, 1, 20, 5)
    check(case("LSTM", [x, w, r], 3, hidden_size=5, input_forget=1), rtol=1e-4, atol=1e-5, expression=False)


@pytest.mark.parametrize(
    ("subject", "text"),
    [
        (case("LSTM", [floats(0, 3, 2, 4), floats(1, 1, 16, 4), floats(2, 1, 20, 5)], 3), "W has shape"),
        (case("GRU", [floats(0, 3, 2, 4), floats(1, 1, 15, 4), floats(2, 1, 15, 5)], direction="up"), "direction"),
        (case("RNN", [floats(0, 3, 2, 4), floats(1, 1, 5, 4), floats(2, 1, 5, 5)], activations=["Sinc"]), "'Sinc'"),
        (case("RNN", [floats(0, 3, 2), floats(1, 1, 5, 4), floats(2, 1, 5, 5)]), "3 axes"),
        (case("RNN", [*RNN, floats(3, 1, 5)]), "B has shape"),
        (case("RNN", [*RNN, None, np.array([1], np.int32)]), "sequence_lens has shape"),
        (case("RNN", [*RNN, None, floats(3, 2)]), "sequence_lens is of float32"),
        (case("RNN", [*RNN, None, None, floats(3, 1, 1, 5)]), "initial_h has shape"),
        (case("RNN", [*RNN, None, None, floats(3, 2, 5)]), "initial_h has shape"),
        (case("RNN", [RNN[0], RNN[1].astype(np.float64), RNN[2]]), "W is of float64"),
        (case("LSTM", [*LSTM, None, None, None, floats(3, 1, 3, 5)], 3), "initial_c has shape"),
        (case("LSTM", [*LSTM, None, None, None, None, floats(3, 1, 5)], 3), "P has shape"),
    ],
)
def test_what_does_not_fit_is_an_error(subject: Case, text: str) -> None:
    with pytest.raises(TypeInferenceError, match=text):
        subject.infer()
