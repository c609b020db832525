"""Damaged models: each must end in a graph or in a typed error, whatever the damage."""

from __future__ import annotations

import ast
import random
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnx.checker
import onnx.shape_inference
import pytest

from graphc.errors import GraphcError
from graphc.frontend import check, export_model, import_model
from graphc.testing.hostile import fuzz_import, isolation, mutate, suite_models
from tests.frontend.models import chain
from tests.frontend.test_importer import function_model, loop_model, nested

ROOT = Path(__file__).resolve().parents[2]
CORPUS = sorted((Path(__file__).parent / "corpus").glob("*.onnx"))
SEED = 20240607
COUNT = 4000
"""Mutants: about a minute of them on two cores. The same ones each time, so that what passes here passes there."""


def own_models() -> list[bytes]:
    return [proto.SerializeToString() for proto in (chain(), loop_model(), function_model(), nested(3))]


def test_damage_ends_in_a_graph_or_a_typed_error() -> None:
    """Import and export alone, in this process: many models in little time."""
    models = own_models() + suite_models()[::20]
    rng = random.Random(SEED)
    graphs = refused = 0
    for _ in range(1500):
        data = mutate(rng.choice(models), models, rng)
        try:
            export_model(import_model(data))
            graphs += 1
        except GraphcError as error:
            assert str(error)
            refused += 1
    assert refused > 300 and graphs > 100


@pytest.mark.slow
@pytest.mark.timeout(400)
def test_a_minute_of_models_through_the_whole_compile() -> None:
    campaign = fuzz_import(own_models() + suite_models(), seed=SEED, count=COUNT)
    assert not campaign.findings, campaign.to_json()["findings"]
    assert campaign.outcomes["ran"] and campaign.outcomes["import: ModelError"]


@pytest.mark.timeout(300)
def test_what_fuzzing_found_stays_fixed() -> None:
    assert CORPUS, "there have been findings"
    with isolation(workers=2) as pool:
        outcomes = dict(pool.run((path.name, path.read_bytes()) for path in CORPUS))
    assert not {name: outcome for name, outcome in outcomes.items() if outcome.status != "done"}


def uses(tree: ast.AST) -> set[str]:
    """Dotted names that start with `onnx`."""
    found = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Attribute):
            found.add(ast.unparse(node))
        elif isinstance(node, ast.Import):
            found.update(alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module:
            found.update(f"{node.module}.{alias.name}" for alias in node.names)
    return {name for name in found if name.startswith("onnx.")}


def test_no_native_code_of_onnx_sees_a_model() -> None:
    """Its checker, shape inference, parser, inliner and converter are C++ that was not made for hostile bytes."""
    native = ("checker", "shape_inference", "parser", "inliner", "version_converter", "compose", "utils", "hub")
    bad = {
        (path.name, name)
        for path in (ROOT / "src/graphc").rglob("*.py")
        for name in uses(ast.parse(path.read_text()))
        if name.split(".")[1] in native
    }
    assert not bad


def test_import_and_check_call_none_of_it(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*args: Any, **kwargs: Any) -> None:
        raise AssertionError("native code was given a model")

    for module in (onnx.checker, onnx.checker.C, onnx.shape_inference, onnx.shape_inference.C):
        for name in (
            "check_model",
            "check_graph",
            "check_node",
            "check_tensor",
            "infer_shapes",
            "infer_function_shapes",
        ):
            monkeypatch.setattr(module, name, refuse, raising=False)
    for model in own_models():
        assert check(model).ok
        export_model(import_model(model))


def test_the_same_seed_makes_the_same_models() -> None:
    models = own_models()
    first, second = ([mutate(models[0], models, random.Random(seed)) for seed in range(50)] for _ in range(2))
    assert first == second and len(set(first)) > 30


def test_external_data_stays_in_the_models_folder(tmp_path: Path) -> None:
    secret = tmp_path / "secret"
    secret.write_bytes(np.arange(4, dtype=np.float32).tobytes())
    folder = tmp_path / "model"
    folder.mkdir()
    model = onnx.ModelProto.FromString(own_models()[0])
    tensor = model.graph.initializer[0]
    tensor.ClearField("raw_data")
    tensor.data_location = onnx.TensorProto.EXTERNAL
    for location in ("../secret", str(secret), "sub/../../secret", "link"):
        del tensor.external_data[:]
        tensor.external_data.add(key="location", value=location)
        if location == "link":
            (folder / "link").symlink_to(secret)
        path = folder / "m.onnx"
        path.write_bytes(model.SerializeToString())
        with pytest.raises(GraphcError):
            import_model(path)
