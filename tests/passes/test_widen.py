"""Half-width convolutions in float32: where casts stand, and that the results stay those of the model."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest

from graphc.ir import Builder, DType, Graph, TensorType, Value, clone_node, dtypes
from graphc.ir.verify import verify
from graphc.ops.evaluate import evaluate_graph
from graphc.ops.inference import infer_node
from graphc.passes import run_passes

RNG = np.random.default_rng(0)
Make = Callable[[Builder, Value, Callable[..., Value]], list[Value]]


def network(dtype: DType, make: Make) -> Graph:
    """A graph over an image `x`; `make` gets a builder, `x`, and a function that makes constants of random elements."""
    graph = Graph("g", [("x", TensorType(dtype, (1, 4, 9, 9)))], opset=23)
    b = Builder(graph, infer=infer_node)
    graph.outputs = make(b, graph.inputs[0], lambda *shape: b.constant(RNG.random(shape).astype(dtype.numpy)))
    return graph


def residual(b: Builder, x: Value, weights: Callable[..., Value]) -> list[Value]:
    """Two convolutions with a batch norm, an activation, a sum around them and a pool."""
    first = b.op("Conv", x, weights(4, 4, 3, 3), pads=[1, 1, 1, 1])
    parameters = [weights(4) for _ in range(4)]
    first = b.op("Relu", b.op("BatchNormalization", first, *parameters))
    second = b.op("Conv", first, weights(4, 4, 1, 1), weights(4))
    return [b.op("MaxPool", b.op("Add", second, x), kernel_shape=[2, 2]), first]


def headed(b: Builder, x: Value, weights: Callable[..., Value]) -> list[Value]:
    """A convolution whose result leaves images for a product, which stays half-width."""
    image = b.op("Sigmoid", b.op("Conv", x, weights(4, 4, 3, 3)))
    flat = b.op("Flatten", b.op("GlobalAveragePool", image))
    return [b.op("MatMul", flat, weights(4, 3)), b.op("Cast", image, to=dtypes.INT32.onnx)]


def copied(graph: Graph) -> Graph:
    result = Graph("copy", [(value.name, value.type) for value in graph.inputs], opset=graph.opset)
    values = dict(zip(graph.inputs, result.inputs, strict=True))
    for node in graph.nodes:
        copy = result.append(clone_node(node, values))
        values.update(zip(node.outputs, copy.outputs, strict=True))
    result.outputs = [values[value] for value in graph.outputs]
    return result


@pytest.mark.parametrize("make", [residual, headed])
@pytest.mark.parametrize(("dtype", "rtol"), [(dtypes.FLOAT16, 4e-3), (dtypes.BFLOAT16, 3e-2)])
def test_results_are_those_of_the_model(dtype: DType, rtol: float, make: Make) -> None:
    graph = network(dtype, make)
    types = [(value.name, value.type) for value in graph.outputs]
    x = RNG.random((1, 4, 9, 9)).astype(dtype.numpy)
    before = evaluate_graph(copied(graph), [x])
    assert run_passes(graph, "widen").changes > 0
    verify(graph)
    assert [(value.name, value.type) for value in graph.outputs] == types
    assert all(node.output.tensor_type.dtype == dtypes.FLOAT32 for node in graph.nodes if node.op_type == "Conv")
    for found, want in zip(evaluate_graph(graph, [x]), before, strict=True):
        assert found.dtype == want.dtype
        scale = float(np.max(np.abs(want.astype(np.float64))))
        # A cast to integers truncates: numbers on both sides of one are 1 apart.
        atol = 1.0 if want.dtype == np.int32 else rtol * scale
        np.testing.assert_allclose(found.astype(np.float64), want.astype(np.float64), rtol=0, atol=atol)


def test_casts_stand_at_the_borders_alone() -> None:
    graph = network(dtypes.FLOAT16, residual)
    run_passes(graph, "widen")
    casts = [node for node in graph.nodes if node.op_type == "Cast"]
    assert sorted(str(node.output.tensor_type.dtype) for node in casts) == ["float16", "float16", "float32"]


def test_what_is_no_image_stays_as_it_is() -> None:
    graph = network(dtypes.FLOAT16, headed)
    run_passes(graph, "widen")
    kinds = {node.op_type: node.outputs[0].tensor_type.dtype for node in graph.nodes}
    assert kinds["MatMul"] == dtypes.FLOAT16 and kinds["Sigmoid"] == dtypes.FLOAT32


def test_float32_and_convolutions_of_no_kind_change_nothing() -> None:
    assert run_passes(network(dtypes.FLOAT32, residual), "widen").changes == 0
    plain = network(dtypes.FLOAT16, lambda b, x, weights: [b.op("Relu", b.op("Add", x, x))])
    assert run_passes(plain, "widen").changes == 0
