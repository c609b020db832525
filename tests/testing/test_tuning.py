"""Tuning a model: what is kept is faster and right; nothing else is kept. Times are made up here."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

import graphc
from graphc.compiler import CompileOptions
from graphc.errors import OptionError
from graphc.runtime.folders import tuning_path
from graphc.target import detect_host
from graphc.testing import tuning
from graphc.testing.tuning import tune

X = np.random.default_rng(0).standard_normal((32, 48)).astype(np.float32)


@pytest.fixture
def model() -> bytes:
    """Two products of different widths with an activation between."""
    rng = np.random.default_rng(1)
    weights = {"w0": rng.standard_normal((48, 160)), "w1": rng.standard_normal((160, 96))}
    nodes = [
        helper.make_node("MatMul", ["x", "w0"], ["h"], "first"),
        helper.make_node("Relu", ["h"], ["r"], "relu"),
        helper.make_node("MatMul", ["r", "w1"], ["y"], "second"),
    ]
    graph = helper.make_graph(
        nodes,
        "two",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["n", 48])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["n", 96])],
        [numpy_helper.from_array((value / 12).astype(np.float32), name) for name, value in weights.items()],
    )
    made = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    return bytes(made.SerializeToString())


@pytest.fixture
def scripted(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[float]]:
    """How fast the first step is in each comparison to come, over the model as it is; 1 once they are used up."""
    script: list[float] = []

    def compare(self: Any, base: Any, other: Any) -> tuple[np.ndarray, np.ndarray]:
        before = np.full((3, len(base.variants[0].steps) + 1), 1e-3)
        after = before.copy()
        after[:, 0] /= script.pop(0) if script else 1.0
        return before, after

    monkeypatch.setattr(tuning._Bench, "compare", compare)
    yield script


def test_what_is_faster_twice_is_kept(model: bytes, scripted: list[float], tmp_path: Path) -> None:
    scripted += [1.2, 1.5, *[1.1] * 100]
    result = tune(model, {"x": X}, dims={"n": 32}, options=CompileOptions(cache=tmp_path))
    assert len(result.measured) == 2 and result.rejected == 0
    ((key, row),) = result.database.items()
    assert key in result.measured and row.choice["template"] == "gemm" and "MatMul" in row.what
    assert row.gain == pytest.approx(1.1), "what the last measurement said"


def test_what_does_not_hold_is_not_kept(model: bytes, scripted: list[float], tmp_path: Path) -> None:
    scripted += [1.0] * 100
    result = tune(model, {"x": X}, dims={"n": 32}, options=CompileOptions(cache=tmp_path))
    assert len(result.database) == 0 and len(result.measured) == 2


def test_choices_with_other_answers_are_rejected(
    model: bytes, scripted: list[float], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    scripted += [9.0] * 100
    monkeypatch.setattr(tuning._Bench, "agrees", lambda self, base, other: False)
    result = tune(model, {"x": X}, dims={"n": 32}, options=CompileOptions(cache=tmp_path))
    assert len(result.database) == 0 and result.rejected > 0


def test_a_real_tuning_ends_in_a_model_with_the_same_answers(
    model: bytes, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("GRAPHC_CACHE", str(tmp_path))
    monkeypatch.setattr(tuning, "LEAST_GAIN", 0.0)
    told: list[tuple[str, int, int]] = []
    options = CompileOptions(cache=tmp_path)
    result = tune(model, {"x": X}, dims={"n": 32}, rounds=1, options=options, progress=lambda *now: told.append(now))
    assert len(result.database) == 2, "whatever came out, something was the fastest"
    assert result.before > 0 and result.after > 0
    assert told[-1][1] == told[-1][2]
    with graphc.compile(model, dims={"n": 32}) as plain:
        expected = plain({"x": X})["y"]
    result.database.write(tuning_path(detect_host().isa))
    with graphc.compile(model, dims={"n": 32}) as tuned, graphc.compile(model, dims={"n": 32}, tuning=False) as untuned:
        np.testing.assert_allclose(tuned({"x": X})["y"], expected, rtol=1e-4, atol=1e-5)
        np.testing.assert_array_equal(untuned({"x": X})["y"], expected)
        symbols = [[step.symbol for step in each.variants[0].steps] for each in (tuned, untuned)]  # type: ignore[union-attr]
        assert symbols[0] != symbols[1]


def test_open_dimensions_are_refused(model: bytes) -> None:
    with pytest.raises(OptionError, match="tuning is of one shape"):
        tune(model, {"x": X})
    with pytest.raises(OptionError, match="tuning is of one shape"):
        tune(model, {"x": X}, dims={"n": [1, 32]})
    with pytest.raises(OptionError, match="rounds"):
        tune(model, {"x": X}, dims={"n": 32}, rounds=0)


def test_onnx_models_load_from_files_too(model: bytes, scripted: list[float], tmp_path: Path) -> None:
    onnx.save(onnx.load_model_from_string(model), tmp_path / "m.onnx")
    result = tune(tmp_path / "m.onnx", {"x": X}, dims={"n": 32}, options=CompileOptions(cache=tmp_path))
    assert len(result.measured) == 2
