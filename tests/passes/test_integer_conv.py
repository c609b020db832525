"""Quantized convolutions of single channels are sums of floats that hold every bit, compiled and evaluated."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

import graphc
from graphc.frontend import export_model
from graphc.ir import Builder, Graph, TensorType, dtypes
from graphc.ops import evaluate_graph, infer_graph
from graphc.passes import PassContext
from graphc.passes.integer_conv import IntegerConv

CHANNELS = 20


def depthwise(kernel: int, channels: int = CHANNELS, inner: int = 1) -> Graph:
    """Bytes at their limits, a zero point of the weights, a scale for each channel."""
    rng = np.random.default_rng(kernel)
    graph = Graph("g", [("x", TensorType(dtypes.UINT8, (1, channels, 17, 19)))], opset=21)
    b = Builder(graph)
    weights = rng.choice(np.array([-128, 127, 0, 3], np.int8), (channels, inner, kernel, kernel))
    graph.outputs = [
        b.op(
            "QLinearConv",
            *(graph.inputs[0], b.constant(np.float32(0.02)), b.constant(np.uint8(200))),
            *(b.constant(weights), b.constant(rng.uniform(0.001, 0.02, channels).astype(np.float32))),
            *(b.constant(np.int8(-7)), b.constant(np.float32(0.3)), b.constant(np.uint8(90))),
            b.constant(rng.integers(-9000, 9000, channels).astype(np.int32)),
            group=channels // inner,
            pads=[kernel // 2] * 4,
        )
    ]
    infer_graph(graph)
    return graph


@pytest.mark.parametrize("kernel", [1, 3, 5])
def test_every_bit_is_what_integers_make(kernel: int, tmp_path: Path) -> None:
    graph = depthwise(kernel)
    x = np.random.default_rng(0).choice(np.array([0, 255, 200, 7], np.uint8), graph.inputs[0].tensor_type.static_shape)
    (want,) = evaluate_graph(graph, [x])
    assert len(np.unique(np.asarray(want))) > 20
    rewritten = graph.clone()
    assert IntegerConv().run(rewritten, PassContext()) == 1
    assert [node.op_type for node in rewritten.nodes if node.op_type.endswith("Conv")] == ["Conv"]
    np.testing.assert_array_equal(evaluate_graph(rewritten, [x])[0], want)
    with graphc.compile(
        export_model(graph), target="cpu", output=tmp_path / "m.graphc", require_compiled=True
    ) as model:
        np.testing.assert_array_equal(next(iter(model({"x": x}).values())), want)


@pytest.mark.parametrize(("kernel", "inner"), [(17, 1), (3, 2)])
def test_what_floats_do_not_hold_stays(kernel: int, inner: int) -> None:
    graph = depthwise(kernel, inner=inner)
    assert IntegerConv().run(graph, PassContext()) == 0
