"""Peers give the same answers as each other, and a difference is seen for what it is."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
from onnx import helper

from graphc.errors import OptionError, ToolchainError
from graphc.testing.engines import PEERS, onnxruntime_engine, peer, scaled_error


@pytest.fixture
def model(tmp_path: Path) -> Path:
    graph = helper.make_graph(
        [helper.make_node("Add", ["x", "x"], ["double"]), helper.make_node("Tanh", ["double"], ["y"])],
        "g",
        [helper.make_tensor_value_info("x", onnx.TensorProto.FLOAT, ["n", 4])],
        [helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, ["n", 4]) for name in ("y", "double")],
    )
    path = tmp_path / "model.onnx"
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8), path)
    return path


@pytest.mark.parametrize("name", sorted(PEERS))
@pytest.mark.parametrize("threads", [1, 2])
def test_each_peer_computes_the_model(name: str, threads: int, model: Path) -> None:
    pytest.importorskip(name, reason="a peer of the bench extra")
    x = np.linspace(-1, 1, 12, dtype=np.float32).reshape(3, 4)
    engine = peer(name, model, {"x": x}, threads=threads, dims={"n": 3})
    outputs = engine.run()
    assert list(outputs) == ["y", "double"]
    assert scaled_error({"y": np.tanh(2 * x), "double": 2 * x}, outputs) < 1e-5
    assert engine.version and engine.load_seconds > 0


def test_a_model_may_be_bytes(model: Path) -> None:
    engine = onnxruntime_engine(model.read_bytes(), {"x": np.zeros((1, 4), np.float32)}, threads=1)
    assert not engine.run()["double"].any()
    assert engine.version == onnxruntime.__version__


def test_unknown_engine_names_those_there_are(model: Path) -> None:
    with pytest.raises(OptionError, match="onnxruntime"):
        peer("ncnn", model, {}, threads=1, dims={})


def test_a_missing_engine_says_what_to_install(model: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "openvino", None)
    with pytest.raises(ToolchainError, match="pip install openvino"):
        peer("openvino", model, {}, threads=1, dims={})


def test_error_is_over_the_scale_of_the_output() -> None:
    want = np.array([100.0, 0.0])
    assert scaled_error({"y": want}, {"y": want + np.array([0.0, 0.5])}) == pytest.approx(0.005)
    assert scaled_error({"y": np.zeros(2)}, {"y": np.array([0.0, 0.25])}) == 0.25


@pytest.mark.parametrize(
    ("want", "got"),
    [
        (np.array([1.0]), np.array([np.nan])),
        (np.array([np.nan]), np.array([1.0])),
        (np.array([np.inf, 1.0]), np.array([-np.inf, 1.0])),
        (np.array([1, 2]), np.array([1, 3])),
        (np.array([True]), np.array([False])),
        (np.zeros((2, 1)), np.zeros((1, 2))),
        (np.array(["a"]), np.array(["b"])),
    ],
)
def test_differences_of_kind_are_infinite(want: np.ndarray, got: np.ndarray) -> None:
    assert scaled_error({"y": want}, {"y": got}) == float("inf")
    assert scaled_error({"y": want}, {"y": want}) == 0.0


def test_a_missing_output_is_an_infinite_error() -> None:
    assert scaled_error({"y": np.zeros(1)}, {}) == float("inf")
