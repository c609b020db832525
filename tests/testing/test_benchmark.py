"""A benchmark with ONNX Runtime in the compiler's place: what is measured, and that a wrong answer shows."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
import pytest

import graphc
from bench.zoo import load
from graphc.errors import OptionError
from graphc.testing.benchmark import Benchmark, benchmark


class Stand:
    """Looks like an executable; multiplies the right answers."""

    memory = 4096

    def __init__(self, model: Path, factor: float) -> None:
        self.session = onnxruntime.InferenceSession(model, providers=["CPUExecutionProvider"])
        self.factor = np.float32(factor)
        self.closed = False

    def __call__(self, inputs: Mapping[str, Any]) -> dict[str, Any]:
        names = [output.name for output in self.session.get_outputs()]
        values = self.session.run(None, dict(inputs))
        return {name: value * self.factor for name, value in zip(names, values, strict=True)}

    def __enter__(self) -> Stand:
        return self

    def __exit__(self, *_: object) -> None:
        self.closed = True


def run(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, factor: float) -> tuple[Benchmark, Stand]:
    monkeypatch.setenv("GRAPHC_ZOO", str(tmp_path))
    entry = load("mlp_4x64x64")
    stand = Stand(entry.path, factor)
    monkeypatch.setitem(vars(graphc), "compile", lambda model, *, output, **_: output.write_bytes(b"12345"))
    monkeypatch.setitem(vars(graphc), "load", lambda package, **_: stand)
    result = benchmark(entry.path, entry.inputs(), against=["onnxruntime"], threads=1, rounds=2)
    return result, stand


def test_everything_is_measured_and_closed(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    result, stand = run(monkeypatch, tmp_path, 1.0)
    assert result.agrees and stand.closed
    report = json.loads(json.dumps(result.to_json()))
    assert report["model"] == "mlp_4x64x64"
    assert report["speedup"].keys() == {"onnxruntime"}
    assert report["seconds"].keys() == report["load_seconds"].keys() == report["versions"].keys()
    assert (report["package_bytes"], report["arena_bytes"], report["rounds"]) == (5, 4096, 2)
    assert "agrees with onnxruntime" in result.table()


def test_a_difference_is_told(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    result, _ = run(monkeypatch, tmp_path, 1.001)
    assert not result.agrees
    assert result.errors["onnxruntime"] == pytest.approx(1e-3, rel=0.01)
    assert "DIFFERS from onnxruntime" in result.table()


def test_an_unknown_engine_is_refused_before_the_compile(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    def compile_nothing(*_: object, **__: object) -> None:
        raise AssertionError("compiled although the options are wrong")

    monkeypatch.setitem(vars(graphc), "compile", compile_nothing)
    with pytest.raises(OptionError, match="ncnn"):
        benchmark(tmp_path / "model.onnx", {}, against=["ncnn"])
