"""Products of dequantized bytes: which are written as integer ones, beyond the instances that each rule draws."""

from __future__ import annotations

import numpy as np
import pytest

from graphc.ir import Builder, Graph, TensorType
from graphc.ir.dtypes import FLOAT16, UINT8
from graphc.ops.evaluate import evaluate_graph
from graphc.ops.inference import infer_node
from graphc.passes import run_passes


def product(op_type: str, depth: int, **attributes: int) -> Graph:
    """A product of a row and a column of dequantized bytes."""
    shapes = (1, depth), (depth, 1)
    graph = Graph("g", [(f"x{i}", TensorType(UINT8, shape)) for i, shape in enumerate(shapes)], opset=23)
    b = Builder(graph, infer=infer_node)
    scale = b.constant(np.float32(1))
    graph.outputs = [b.op(op_type, *(b.op("DequantizeLinear", value, scale, **attributes) for value in graph.inputs))]
    return graph


@pytest.mark.parametrize("op_type", ["MatMul", "Gemm"])
@pytest.mark.parametrize(("depth", "taken"), [(33_025, True), (33_026, False)])
def test_sums_stay_within_int32(op_type: str, depth: int, taken: bool) -> None:
    graph = product(op_type, depth)
    assert run_passes(graph, "quantized_matmul").changes == taken
    (found,) = evaluate_graph(graph, [np.full((1, depth), 255, np.uint8), np.full((depth, 1), 255, np.uint8)])
    assert found.item() == pytest.approx(255 * 255 * depth, rel=1e-5)


def test_results_of_other_types_stay() -> None:
    graph = product("MatMul", 4, output_dtype=FLOAT16.onnx)
    assert run_passes(graph, "quantized_matmul").changes == 0
