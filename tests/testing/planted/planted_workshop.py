"""A model in which most passes have something to do: several independent branches, an output each."""

from __future__ import annotations

from typing import Any

import numpy as np

from graphc.frontend import export_model
from graphc.ir import Builder, Graph, TensorType, Value, dtypes
from graphc.ops.inference import infer_node
from graphc.package import TensorSpec
from graphc.testing.inputs import Range, seeded_inputs

INPUTS = {
    "image": (dtypes.FLOAT32, (1, 16, 6, 6)),
    "rows": (dtypes.FLOAT32, (4, 8)),
    "cube": (dtypes.FLOAT32, (2, 3, 4)),
    "left": (dtypes.FLOAT32, (5, 7)),
    "right": (dtypes.FLOAT32, (5, 7)),
    "bytes": (dtypes.UINT8, (6,)),
    "whole": (dtypes.INT32, (3, 4)),
}


def workshop() -> tuple[bytes, dict[str, Any]]:
    """The model's bytes and inputs."""
    graph = Graph("workshop", [(name, TensorType(kind, shape)) for name, (kind, shape) in INPUTS.items()], opset=23)
    values = dict(zip(INPUTS, graph.inputs, strict=True))
    b = Builder(graph, infer=infer_node)
    rng = np.random.default_rng(5)

    def weights(*shape: int) -> Value:
        return b.constant(rng.standard_normal(shape).astype(np.float32) / 3, name="w")

    outputs = [
        *_convolutions(b, values["image"], weights),
        *_products(b, values["rows"], weights),
        *_movement(b, values["cube"], values["left"], values["right"]),
        *_arithmetic(b, values["left"], values["right"], weights),
        *_integers(b, values["bytes"], values["whole"]),
        *(b.op(op_type, b.op("MatMul", values["rows"], weights(8, 3))) for op_type in ("Sinh", "Cosh")),
    ]
    for number, node in enumerate(graph.nodes):
        node.name = f"{node.op_type.lower()}_{number}"
    graph.outputs = outputs
    specs = [TensorSpec(name, kind.name, shape) for name, (kind, shape) in INPUTS.items()]
    ranges = {"bytes": Range(100, 255), "whole": Range(-50, 50)}
    content: bytes = export_model(graph).SerializeToString()
    return content, seeded_inputs(specs, [spec.shape for spec in specs], seed=3, ranges=ranges)  # type: ignore[misc]


def _convolutions(b: Builder, image: Value, weights: Any) -> list[Value]:
    first = b.op("Conv", image, weights(16, 16, 3, 3), weights(16), pads=[1, 1, 1, 1])
    variance = b.constant(np.ones(16, np.float32))
    normal = b.op("BatchNormalization", first, weights(16), weights(16), weights(16), variance)
    padded = b.op("Pad", b.op("Relu", normal), b.constant([0, 0, 1, 1, 0, 0, 1, 1]), b.constant(np.float32(1.5)))
    second = b.op("Conv", padded, weights(24, 16, 3, 3))
    scaled = b.op("Mul", second, weights(24, 1, 1))
    pooled = b.op("MaxPool", b.op("Sigmoid", scaled), kernel_shape=[2, 2], strides=[2, 2])
    return [pooled, b.op("GlobalAveragePool", normal)]


def _products(b: Builder, rows: Value, weights: Any) -> list[Value]:
    branches = [b.op("Add", b.op("MatMul", rows, weights(8, 5)), weights(5)) for _ in range(2)]
    scaled = b.op("Mul", rows, weights(8))
    product = b.op("MatMul", scaled, weights(8, 6))
    return [b.op("Softmax", branches[0], axis=0), b.op("Tanh", branches[1]), product, b.op("Abs", scaled)]


def _movement(b: Builder, cube: Value, left: Value, right: Value) -> list[Value]:
    turned = b.op("Transpose", b.op("Transpose", cube, perm=[1, 2, 0]), perm=[0, 2, 1])
    summed = b.op("CumSum", turned, b.constant(np.int64(1)))
    both = b.op("Concat", left, right, axis=0)
    cut = b.op("Slice", both, b.constant([1]), b.constant([9]), b.constant([0]))
    again = b.op("Slice", cut, b.constant([2]), b.constant([6]), b.constant([0]))
    mean = b.op("ReduceMean", turned, b.constant([1]), keepdims=1)
    return [summed, again, b.op("Sub", turned, mean), b.op("Expand", mean, b.constant([2, 3, 5, 4]))]


def _arithmetic(b: Builder, left: Value, right: Value, weights: Any) -> list[Value]:
    difference = b.op("Add", left, b.op("Neg", right))
    affine = b.op("Mul", b.op("Add", b.op("Mul", left, weights(7)), weights(7)), weights(7))
    larger = b.op("Max", left, right)
    power = b.op("Div", b.op("Exp", left), b.op("Softplus", right))
    hot = [b.op("LogSoftmax", left, axis=axis) for axis in (0, 1)]
    turned = b.op("Reciprocal", b.op("Add", left, b.constant(np.float32(9))))
    return [difference, affine, larger, power, b.op("Mul", *hot), turned]


def _integers(b: Builder, small: Value, whole: Value) -> list[Value]:
    two = b.constant(np.uint8(2))
    halved = b.op("Add", b.op("Div", b.op("Mul", small, two), two), two)
    floats = b.op("Cast", whole, to=dtypes.FLOAT32.onnx)
    return [halved, b.op("ReduceMean", floats, b.constant([1]), keepdims=0), b.op("Mul", whole, whole)]
