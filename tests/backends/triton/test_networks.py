"""Small networks of convolutions, through the pipeline of GPUs, every kernel interpreted."""

from __future__ import annotations

from collections import Counter
from typing import Any

import numpy as np
import pytest

from graphc.backends.triton.backend import TritonBackend
from graphc.compiler.options import CompileOptions
from graphc.compiler.program import Program, build_program
from graphc.ir import Builder, Graph, TensorType, Value, dtypes
from graphc.ops import evaluate_graph, infer_graph, infer_node
from graphc.target.cuda import GPUS
from graphc.testing.triton.programs import interpret_program

RNG = np.random.default_rng(0)


def weights(*shape: int) -> np.ndarray[Any, Any]:
    """Numbers that keep sums of products about as large as what is multiplied."""
    return (RNG.standard_normal(shape) / np.sqrt(np.prod(shape[1:]))).astype(np.float32)


def conv(b: Builder, x: Value, outputs: int, kernel: int, *, stride: int = 1, group: int = 1) -> Value:
    channels = x.tensor_type.static_shape[1]
    parameters = [b.constant(weights(outputs, channels // group, kernel, kernel)), b.constant(weights(outputs))]
    return b.op("Conv", x, *parameters, strides=[stride] * 2, pads=[kernel // 2] * 4, group=group)


def network(b: Builder, x: Value) -> Value:
    """A stem, an inverted residual with a gate, branches that are joined, an upsampling, a classifier."""
    first = b.op("Relu", conv(b, x, 16, 3, stride=2))
    wide = b.op("HardSwish", conv(b, first, 32, 1))
    deep = b.op("HardSwish", conv(b, wide, 32, 3, group=32))
    squeezed = b.op("Relu", conv(b, b.op("GlobalAveragePool", deep), 8, 1))
    gated = b.op("Mul", deep, b.op("Sigmoid", conv(b, squeezed, 32, 1)))
    sum_ = b.op("Add", conv(b, gated, 16, 1), first)
    pooled = b.op("MaxPool", sum_, kernel_shape=[3, 3], strides=[1, 1], pads=[1, 1, 1, 1])
    joined = b.op("Concat", b.op("Relu", conv(b, sum_, 16, 3)), conv(b, pooled, 24, 1), axis=1)
    small = conv(b, joined, 16, 3, stride=2)
    large = b.op("ConvTranspose", small, b.constant(weights(16, 8, 2, 2)), strides=[2, 2])
    tokens = b.op("Transpose", b.op("Add", large, conv(b, joined, 8, 1)), perm=(0, 2, 3, 1))
    flat = b.op("Reshape", b.op("ReduceMean", tokens, b.constant([1, 2])), b.constant([1, -1]))
    return b.op("MatMul", flat, b.constant(weights(8, 5)))


def model() -> Graph:
    graph = Graph("network", [("x", TensorType(dtypes.FLOAT32, (1, 3, 12, 12)))], opset=23)
    b = Builder(graph, infer=infer_node)
    graph.outputs = [network(b, graph.inputs[0])]
    infer_graph(graph)
    return graph


def lowered(graph: Graph, **options: Any) -> Program:
    return build_program(graph.clone(), {}, GPUS["sm_90"], TritonBackend(), CompileOptions(**options))


@pytest.mark.parametrize(("precision", "tolerance"), [("fp32", 1e-5), ("fp16", 1e-2)])
def test_a_network_computes_what_it_means(precision: str, tolerance: float) -> None:
    graph = model()
    program = lowered(graph, precision=precision)
    assert len(program.kernels) == len(program.buffers.steps), "nothing runs on the host"
    templates = Counter(kernel.template for kernel in program.kernels.values())
    assert templates["conv"] >= 3 and templates["depthwise"] == 1 and templates["matmul"] >= 3
    relayouts = [node for node in program.graph.nodes if node.is_op("Relayout", "graphc")]
    assert not relayouts, "channels are last from the stem to the classifier"
    x = RNG.standard_normal((1, 3, 12, 12)).astype(np.float32)
    (wanted,), (found,) = evaluate_graph(graph, [x]), interpret_program(program, [x])
    scale = np.abs(np.asarray(wanted)).max()
    np.testing.assert_allclose(np.asarray(found), np.asarray(wanted), rtol=0, atol=tolerance * scale)


def test_a_quantized_convolution_is_one_kernel_of_bytes() -> None:
    graph = Graph("quantized", [("x", TensorType(dtypes.UINT8, (1, 16, 5, 5)))], opset=23)
    b = Builder(graph)
    w = b.constant(RNG.integers(-99, 99, (16, 16, 3, 3)).astype(np.int8))
    scales = [b.constant(np.float32(s)) for s in (0.02, 0.5)]
    per_channel = b.constant(RNG.uniform(0.01, 0.02, 16).astype(np.float32))
    zeros = [b.constant(np.array(z, d)) for z, d in ((7, np.uint8), (3, np.uint8))]
    w_zero = b.constant(np.zeros(16, np.int8))
    bias = b.constant(np.arange(16, dtype=np.int32) * 50)
    operands = [graph.inputs[0], scales[0], zeros[0], w, per_channel, w_zero, scales[1], zeros[1], bias]
    graph.outputs = [b.op("QLinearConv", *operands, pads=[1, 1, 1, 1])]
    infer_graph(graph)
    program = lowered(graph)
    assert [kernel.template for kernel in program.kernels.values()].count("conv") == 1
    assert all(kernel.template in ("conv", "generic") for kernel in program.kernels.values())
    x = RNG.integers(0, 255, (1, 16, 5, 5)).astype(np.uint8)
    np.testing.assert_array_equal(interpret_program(program, [x])[0], evaluate_graph(graph, [x])[0])
