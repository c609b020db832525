"""Tiny models, compiled once for all tests of the commands."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from graphc.cli import main

Call = Callable[..., "Result"]


class Result:
    """What a command answered."""

    def __init__(self, status: int, out: str, err: str) -> None:
        self.status, self.out, self.err = status, out, err

    @property
    def json(self) -> Any:
        return json.loads(self.out)


@pytest.fixture(autouse=True)
def cache(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> None:
    """One kernel cache for the session, not the user's."""
    monkeypatch.setenv("GRAPHC_CACHE", str(tmp_path_factory.getbasetemp() / "kernels"))
    monkeypatch.setenv("GRAPHC_NUM_THREADS", "2")


@pytest.fixture
def graphc(capfd: pytest.CaptureFixture[str]) -> Call:
    """Runs a command in this process."""

    def call(*arguments: str | Path) -> Result:
        capfd.readouterr()
        status = main([str(argument) for argument in arguments])
        captured = capfd.readouterr()
        return Result(status, captured.out, captured.err)

    return call


def save(path: Path, nodes: list[Any], inputs: list[Any], outputs: list[Any], weights: dict[str, Any]) -> Path:
    """A model of opset 20 in a file."""
    graph = helper.make_graph(
        nodes, path.stem, inputs, outputs, [numpy_helper.from_array(value, name) for name, value in weights.items()]
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10)
    onnx.checker.check_model(model, full_check=True)
    onnx.save(model, path)
    return path


@pytest.fixture(scope="session")
def models(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("models")


@pytest.fixture(scope="session")
def mlp(models: Path) -> Path:
    """Two layers; the batch is called `batch`."""
    rng = np.random.default_rng(0)
    weights = {
        "w0": rng.standard_normal((8, 16), np.float32),
        "b0": rng.standard_normal(16, np.float32),
        "w1": rng.standard_normal((16, 4), np.float32),
    }
    nodes = [
        helper.make_node("MatMul", ["x", "w0"], ["m0"], "first"),
        helper.make_node("Add", ["m0", "b0"], ["a0"], "bias"),
        helper.make_node("Relu", ["a0"], ["r0"], "relu"),
        helper.make_node("MatMul", ["r0", "w1"], ["y"], "second"),
    ]
    return save(
        models / "mlp.onnx",
        nodes,
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["batch", 8])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["batch", 4])],
        weights,
    )


@pytest.fixture(scope="session")
def embedding(models: Path) -> Path:
    """Indices into a table of 1000 rows, as fixed shapes."""
    table = np.arange(4000, dtype=np.float32).reshape(1000, 4)
    nodes = [
        helper.make_node("Cast", ["ids"], ["cast"], "widen", to=TensorProto.INT64),
        helper.make_node("Gather", ["table", "cast"], ["rows"], "look_up"),
        helper.make_node("ReduceMean", ["rows"], ["y"], "mean", keepdims=0),
    ]
    return save(
        models / "embedding.onnx",
        nodes,
        [helper.make_tensor_value_info("ids", TensorProto.INT32, [3, 5])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, [])],
        {"table": table},
    )


@pytest.fixture(scope="session")
def on_host(models: Path) -> Path:
    """A node without a kernel between two that have one."""
    nodes = [
        helper.make_node("Relu", ["x"], ["r"], "relu"),
        helper.make_node("NonZero", ["r"], ["n"], "where_not_zero"),
        helper.make_node("Abs", ["x"], ["a"], "magnitude"),
    ]
    return save(
        models / "on_host.onnx",
        nodes,
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, [6])],
        [
            helper.make_tensor_value_info("n", TensorProto.INT64, [1, None]),
            helper.make_tensor_value_info("a", TensorProto.FLOAT, [6]),
        ],
        {},
    )


@pytest.fixture(scope="session")
def package(mlp: Path, models: Path) -> Path:
    """The two layers for batches of 1 and 4."""
    path = models / "mlp.graphc"
    assert main(["compile", str(mlp), "--dim", "batch=1,4", "-o", str(path), "--no-cache"]) == 0
    return path
