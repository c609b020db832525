"""Values of a source model on demand: each made once, however many wait for it."""

from __future__ import annotations

from collections import Counter

import numpy as np

from graphc.ir import Builder, Graph, TensorType, dtypes
from graphc.ops.inference import infer_node
from graphc.testing.source_values import SourceValues


def test_what_several_wait_for_is_made_once_and_let_go() -> None:
    """A dynamic quantization that three products read, of which the last is asked for first."""
    graph = Graph("g", opset=25)
    x = graph.add_input("x", TensorType(dtypes.FLOAT32, (2, 3)))
    b = Builder(graph, infer=infer_node)
    shared = b.op("DynamicQuantizeLinear", b.op("Relu", x), outputs=3).producer
    assert shared is not None
    values, scale, zero = shared.outputs
    weights = b.constant(np.ones((3, 2), np.int8))
    product = b.op("Cast", b.op("MatMulInteger", values, weights, zero), to=dtypes.FLOAT32.onnx)
    result = b.op("Mul", product, scale, outputs=["y"])
    last = b.op("Add", result, b.op("Mul", scale, scale), outputs=["z"])
    graph.outputs = [result, last]
    data = np.arange(6, dtype=np.float32).reshape(2, 3)
    origin = SourceValues(graph, {"x": data}, Counter({"z": 1, "y": 1}))
    factor = np.float32(5 / 255)
    np.testing.assert_allclose(origin.take("z"), data.sum(1, keepdims=True) + factor**2 + np.zeros((2, 2)), atol=0.05)
    np.testing.assert_allclose(origin.take("y"), data.sum(1, keepdims=True) + np.zeros((2, 2)), atol=0.05)
    assert {value.name for value in origin._data} == {"x"}, "nothing is held that no one will read"
