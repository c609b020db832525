"""Trained and exported models that ship inside wheels, through import and export."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx.backend.test
import pytest

from bench.zoo import load, names
from graphc.frontend import CANONICAL_OPSET, check, export_model, import_model, save_model
from tests.frontend.models import assert_same, run_ort

LIGHT = sorted((Path(onnx.backend.test.__file__).parent / "data" / "light").glob("*.onnx"))


@pytest.mark.parametrize("path", LIGHT, ids=lambda path: path.stem)
def test_light_models_have_every_type_and_keep_their_meaning(path: Path) -> None:
    graph = import_model(path)
    assert all(value.type is not None and value.tensor_type.is_static for node in graph.nodes for value in node.outputs)
    assert {node.version for node in graph.nodes} == {CANONICAL_OPSET}
    assert check(path).ok
    proto = export_model(graph)
    onnx.checker.check_model(proto)
    if path.stat().st_size < 50_000 and "vgg" not in path.name:
        feeds = {"data_0": np.linspace(0, 1, 3 * 224 * 224, dtype=np.float32).reshape(1, 3, 224, 224)}
        name = graph.inputs[0].name
        assert_same(run_ort(str(path), {name: feeds["data_0"]}), run_ort(proto, {name: feeds["data_0"]}), 1e-4)


def test_the_light_models_are_there() -> None:
    assert len(LIGHT) == 9


@pytest.mark.slow
@pytest.mark.timeout(600)
@pytest.mark.parametrize("name", [name for name in names() if not name.startswith("light_")])
def test_the_zoo_keeps_its_meaning(name: str, tmp_path: Path) -> None:
    entry = load(name)
    report = check(entry.path)
    assert report.ok, str(report)
    saved = tmp_path / "model.onnx"
    save_model(import_model(entry.path), saved)
    feeds = entry.inputs()
    assert_same(run_ort(str(entry.path), feeds), run_ort(str(saved), feeds), 1e-4, 1e-5)
    bound = import_model(entry.path, dims=entry.dims)
    shapes = {value.name: value.tensor_type.static_shape for value in bound.inputs if value.tensor_type.is_static}
    assert shapes == {key: array.shape for key, array in feeds.items() if key in shapes}
