"""Recurrent layers from model to result, beside ONNX Runtime: without a host step, whatever threads share."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from onnx import numpy_helper

from tests.compiler.agreement import assert_agrees
from tests.ops.differential import case
from tests.ops.test_contraction import floats

GATES = {"RNN": 1, "GRU": 3, "LSTM": 4}

LAYERS = {
    "a step of one sequence": ("LSTM", (1, 1, 24, 160), {}),
    "long steps of one sequence": ("LSTM", (5, 1, 8, 230), {}),
    "two directions": ("LSTM", (7, 2, 8, 65), {"direction": "bidirectional"}),
    "sequences in blocks": ("GRU", (6, 11, 8, 48), {"linear_before_reset": 1}),
    "a reset before the product": ("GRU", (4, 1, 8, 250), {"direction": "reverse"}),
    "one gate": ("RNN", (9, 3, 5, 33), {"activations": ["Relu"], "clip": 0.9}),
}


def arrays(op_type: str, extents: tuple[int, int, int, int], directions: int) -> list[Any]:
    steps, batch, size, hidden = extents
    rows, scale = GATES[op_type] * hidden, np.float32(1 / np.sqrt(hidden))
    lengths = np.arange(batch, dtype=np.int32) % steps + 1
    return [
        floats(0, steps, batch, size),
        floats(1, directions, rows, size) * scale,
        floats(2, directions, rows, hidden) * scale,
        floats(3, directions, 2 * rows),
        lengths,
        floats(4, directions, batch, hidden),
    ]


@pytest.mark.parametrize("name", LAYERS)
def test_layers_agree_with_onnxruntime(name: str) -> None:
    op_type, extents, attributes = LAYERS[name]
    directions = 2 if attributes.get("direction") == "bidirectional" else 1
    outputs = 3 if op_type == "LSTM" else 2
    subject = case(op_type, arrays(op_type, extents, directions), outputs, hidden_size=extents[3], **attributes)
    proto, feeds = subject.model(), subject.feeds()
    for weights in [proto.graph.input[number] for number in (1, 2, 3)]:
        proto.graph.initializer.append(numpy_helper.from_array(feeds.pop(weights.name), weights.name))
        proto.graph.input.remove(weights)
    module = assert_agrees(proto, feeds, require_compiled=True, threads=2)
    expected = module(feeds)
    for _ in range(20):
        for value, result in module(feeds).items():
            np.testing.assert_array_equal(result, expected[value])
    alone = assert_agrees(proto, feeds, require_compiled=True, threads=1)
    for value, result in alone(feeds).items():
        np.testing.assert_array_equal(result, expected[value])
