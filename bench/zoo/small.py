"""Small graphs, where the cost is the call and not the arithmetic."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
from onnx import helper, numpy_helper

OPSET = 20


def _model(
    nodes: list[onnx.NodeProto],
    inputs: dict[str, list[int]],
    outputs: dict[str, list[int]],
    weights: Mapping[str, npt.NDArray[Any]],
) -> onnx.ModelProto:
    graph = helper.make_graph(
        nodes,
        "small",
        [helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, shape) for name, shape in inputs.items()],
        [helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, shape) for name, shape in outputs.items()],
        [numpy_helper.from_array(value, name) for name, value in weights.items()],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", OPSET)], ir_version=10)
    onnx.checker.check_model(model, full_check=True)
    return model


def mlp(layers: int = 4, width: int = 64) -> onnx.ModelProto:
    """Linear layers with Relu, one row in."""
    rng = np.random.default_rng(0)
    nodes, weights, value = [], {}, "x"
    for layer in range(layers):
        weights[f"w{layer}"] = (rng.standard_normal((width, width)) / np.sqrt(width)).astype(np.float32)
        weights[f"b{layer}"] = rng.uniform(-0.5, 0.5, width).astype(np.float32)
        output = "y" if layer == layers - 1 else f"h{layer}"
        nodes.append(helper.make_node("Gemm", [value, f"w{layer}", f"b{layer}"], [f"g{layer}"], f"linear{layer}"))
        nodes.append(helper.make_node("Relu", [f"g{layer}"], [output], f"relu{layer}"))
        value = output
    return _model(nodes, {"x": [1, width]}, {"y": [1, width]}, weights)


def pointwise_chain(rows: int = 256, columns: int = 256) -> onnx.ModelProto:
    """Twelve pointwise operators in a row, with a broadcast scale and a skip: one pass over memory if fused."""
    rng = np.random.default_rng(1)
    weights = {
        "scale": rng.uniform(0.5, 1.5, columns).astype(np.float32),
        "shift": rng.uniform(-0.5, 0.5, columns).astype(np.float32),
        "half": np.asarray(0.5, np.float32),
    }
    steps = [
        ("Mul", "scale"), ("Add", "shift"), ("Tanh", None), ("Mul", "half"), ("Sigmoid", None), ("Add", "x"),
        ("Abs", None), ("Sqrt", None), ("Sub", "shift"), ("Erf", None), ("Neg", None), ("Exp", None),
    ]  # fmt: skip
    nodes, value = [], "x"
    for index, (operator, other) in enumerate(steps):
        output = "y" if index == len(steps) - 1 else f"v{index}"
        nodes.append(helper.make_node(operator, [value, other] if other else [value], [output], f"step{index}"))
        value = output
    return _model(nodes, {"x": [rows, columns]}, {"y": [rows, columns]}, weights)


def lstm_step(features: int = 128, hidden: int = 128) -> onnx.ModelProto:
    """One step of an LSTM with its state passed in and out, then a linear read-out: a streaming model's call."""
    rng = np.random.default_rng(2)

    def draw(*shape: int) -> npt.NDArray[np.float32]:
        values: npt.NDArray[np.float32] = rng.standard_normal(shape, dtype=np.float32)
        return values / np.float32(np.sqrt(shape[-1]))

    weights = {
        "w": draw(1, 4 * hidden, features),
        "r": draw(1, 4 * hidden, hidden),
        "b": draw(1, 8 * hidden),
        "read_out": draw(hidden, 1),
    }
    nodes = [
        helper.make_node("LSTM", ["x", "w", "r", "b", "", "h", "c"], ["", "hn", "cn"], "lstm", hidden_size=hidden),
        helper.make_node("MatMul", ["hn", "read_out"], ["logit"], "read"),
        helper.make_node("Sigmoid", ["logit"], ["probability"], "squash"),
    ]
    state = [1, 1, hidden]
    inputs = {"x": [1, 1, features], "h": state, "c": state}
    return _model(nodes, inputs, {"probability": [1, 1, 1], "hn": state, "cn": state}, weights)


def decode_step(width: int = 128, heads: int = 4, past: int = 63) -> onnx.ModelProto:
    """One layer of a decoder for one token, its keys and values of the past passed in and out: a generation's call."""
    rng = np.random.default_rng(3)
    size = width // heads

    def draw(*shape: int) -> npt.NDArray[np.float32]:
        values: npt.NDArray[np.float32] = rng.standard_normal(shape, dtype=np.float32)
        return values / np.float32(np.sqrt(shape[0]))

    weights = {
        "norm1_w": np.ones(width, np.float32),
        "norm1_b": np.zeros(width, np.float32),
        "norm2_w": np.ones(width, np.float32),
        "norm2_b": np.zeros(width, np.float32),
        **{f"w{name}": draw(width, width) for name in "qkvo"},
        "up": draw(width, 4 * width),
        "down": draw(4 * width, width),
    }
    shapes = {"split": [1, 1, heads, size], "merge": [1, 1, width]}
    constants = {name: np.asarray(shape, np.int64) for name, shape in shapes.items()}
    nodes = [helper.make_node("LayerNormalization", ["x", "norm1_w", "norm1_b"], ["n1"], "norm1")]
    for name in "qkv":
        nodes += [
            helper.make_node("MatMul", ["n1", f"w{name}"], [f"{name}0"], f"project_{name}"),
            helper.make_node("Reshape", [f"{name}0", "split"], [f"{name}1"], f"split_{name}"),
            helper.make_node("Transpose", [f"{name}1"], [f"{name}2"], f"heads_{name}", perm=[0, 2, 1, 3]),
        ]
    nodes += [
        helper.make_node("Concat", ["past_k", "k2"], ["k"], "keys", axis=2),
        helper.make_node("Concat", ["past_v", "v2"], ["v"], "values", axis=2),
        helper.make_node("Transpose", ["k"], ["kt"], "keys_t", perm=[0, 1, 3, 2]),
        helper.make_node("MatMul", ["q2", "kt"], ["scores0"], "scores"),
        helper.make_node("Mul", ["scores0", "scale"], ["scores1"], "scale_scores"),
        helper.make_node("Softmax", ["scores1"], ["weights"], "softmax", axis=-1),
        helper.make_node("MatMul", ["weights", "v"], ["mixed0"], "mix"),
        helper.make_node("Transpose", ["mixed0"], ["mixed1"], "merge_heads", perm=[0, 2, 1, 3]),
        helper.make_node("Reshape", ["mixed1", "merge"], ["mixed"], "merge"),
        helper.make_node("MatMul", ["mixed", "wo"], ["attended"], "project_o"),
        helper.make_node("Add", ["x", "attended"], ["r1"], "residual1"),
        helper.make_node("LayerNormalization", ["r1", "norm2_w", "norm2_b"], ["n2"], "norm2"),
        helper.make_node("MatMul", ["n2", "up"], ["u0"], "up_project"),
        helper.make_node("Gelu", ["u0"], ["u1"], "gelu"),
        helper.make_node("MatMul", ["u1", "down"], ["d"], "down_project"),
        helper.make_node("Add", ["r1", "d"], ["y"], "residual2"),
    ]
    weights["scale"] = np.asarray(size**-0.5, np.float32)
    cache, longer = [1, heads, past, size], [1, heads, past + 1, size]
    inputs = {"x": [1, 1, width], "past_k": cache, "past_v": cache}
    return _model(nodes, inputs, {"y": [1, 1, width], "k": longer, "v": longer}, {**weights, **constants})
