"""A small model whose answers tell which version gave them, in as many versions as a test wants."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

import graphc

Package = Callable[[float], Path]
Repository = Callable[..., Path]


def scale_model(factor: float) -> onnx.ModelProto:
    """y = factor · x + 1 for x of batch × 3."""
    factors = numpy_helper.from_array(np.array([factor], np.float32), "factor")
    one = numpy_helper.from_array(np.array([1], np.float32), "one")
    x, y = (helper.make_tensor_value_info(name, TensorProto.FLOAT, ["batch", 3]) for name in "xy")
    nodes = [
        helper.make_node("Mul", ["x", "factor"], ["z"], "mul"),
        helper.make_node("Add", ["z", "one"], ["y"], "add"),
    ]
    graph = helper.make_graph(nodes, "scale", [x], [y], [factors, one])
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)


@pytest.fixture(scope="session")
def package(tmp_path_factory: pytest.TempPathFactory) -> Package:
    """The package of y = factor · x + 1, in batches of 1, 2, 4 and 8; compiled once for each factor."""
    folder = tmp_path_factory.mktemp("packages")

    def make(factor: float) -> Path:
        path = folder / f"{factor}.graphc"
        if not path.exists():
            onnx.save(scale_model(factor), folder / f"{factor}.onnx")
            graphc.compile(str(folder / f"{factor}.onnx"), output=path, dims={"batch": [1, 2, 4, 8]})
        return path

    return make


@pytest.fixture
def repository(tmp_path: Path, package: Package) -> Repository:
    """Writes a repository: `repository(scale={1: 2.0, 2: 3.0})` has a model `scale` of two versions."""

    def write(settings: str = "", **models: dict[int, float]) -> Path:
        root = tmp_path / "models"
        for name, versions in models.items():
            for number, factor in versions.items():
                folder = root / name / str(number)
                folder.mkdir(parents=True)
                (folder / "model.graphc").write_bytes(package(factor).read_bytes())
            if settings:
                (root / name / "model.toml").write_text(settings)
        return root

    return write
