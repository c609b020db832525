"""Differences that a half explains, and those that it does not."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from graphc.ir import GRAPHC_DOMAIN, Builder, Graph, Node, TensorType, dtypes
from graphc.ops.evaluate import evaluate_node
from graphc.ops.inference import infer_node
from graphc.testing.halves import rounds_alike

X = np.array([[0.05, 0.21, 0.1499999], [0.35, -0.2, 0.0]], np.float32)
"""Quantized by tenths, three of these lie by a half."""


def region(scale: Any, *, back: bool = False) -> Node:
    """A region that quantizes along axis 0, and dequantizes."""
    body = Graph("body", opset=25)
    x = body.add_input("x", TensorType(dtypes.FLOAT32, X.shape))
    b = Builder(body, infer=infer_node)
    factors, zeros = b.constant(scale), b.constant(np.zeros(np.shape(scale), np.int8))
    made = b.op("QuantizeLinear", b.op("Identity", x), factors, zeros, axis=0)
    body.outputs = [b.op("DequantizeLinear", made, factors, zeros, axis=0) if back else made]
    graph = Graph("g", opset=25)
    outer = graph.add_input("x", TensorType(dtypes.FLOAT32, X.shape))
    node = Builder(graph, infer=infer_node).op("Region", outer, domain=GRAPHC_DOMAIN, body=body).producer
    assert node is not None
    return node


@pytest.mark.parametrize("back", [False, True])
@pytest.mark.parametrize("scale", [np.float32(0.1), np.array([0.1, 0.1], np.float32)])
def test_the_other_side_of_a_half_is_no_defect(scale: Any, back: bool) -> None:
    node = region(scale, back=back)
    (answer,) = evaluate_node(node, [X])
    assert rounds_alike(node, [X], 0, answer, None)
    quantum = answer.dtype.type(np.float32(0.1) if back else 1)
    for place, explained in (((0, 0), True), ((0, 2), True), ((1, 0), True), ((0, 1), False), ((1, 2), False)):
        for step in (-1, 1):
            moved = answer.copy()
            moved[place] += step * quantum
            towards = np.sign(X[place] - 0.1 * np.round(answer[place] / quantum)) == step
            assert rounds_alike(node, [X], 0, moved, None) == (explained and bool(towards)), (place, step)


def test_a_quantizer_alone_and_what_does_not_quantize() -> None:
    graph = Graph("g", opset=25)
    x, scale = (graph.add_input(n, TensorType(dtypes.FLOAT32, s)) for n, s in (("x", X.shape), ("s", ())))
    b = Builder(graph, infer=infer_node)
    quantizer, other = b.op("QuantizeLinear", x, scale).producer, b.op("Relu", x).producer
    assert quantizer is not None and other is not None
    operands = [X, np.float32(0.1)]
    (answer,) = evaluate_node(quantizer, operands)
    moved = answer.copy()
    moved[0, 0] += 1
    assert rounds_alike(quantizer, operands, 0, moved, None)
    moved[1, 2] += 1
    assert not rounds_alike(quantizer, operands, 0, moved, None)
    assert not rounds_alike(other, [X], 0, X, None)
