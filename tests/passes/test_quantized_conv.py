"""Quantized convolutions that are not written as integer ones, beyond the instances that the rule draws."""

from __future__ import annotations

import numpy as np
import pytest

from graphc.ir import Builder, Graph, TensorType
from graphc.ir.dtypes import INT32, UINT8
from graphc.ops.inference import infer_node
from graphc.passes import run_passes


@pytest.mark.parametrize(("biases", "changes"), [((2,), 1), (None, 0)])
def test_biases_of_an_open_number_are_left(biases: tuple[int, ...] | None, changes: int) -> None:
    kinds = [TensorType(UINT8, (1, 3, 5, 5)), TensorType(UINT8, (2, 3, 3, 3)), TensorType(INT32, biases)]
    graph = Graph("g", [(f"x{i}", kind) for i, kind in enumerate(kinds)], opset=23)
    b = Builder(graph, infer=infer_node)
    scale, zero = b.constant(np.float32(1)), b.constant(np.uint8(0))
    image, weights, bias = graph.inputs
    graph.outputs = [b.op("QLinearConv", image, scale, zero, weights, scale, zero, scale, zero, bias)]
    assert run_passes(graph, "quantized_conv").changes == changes
