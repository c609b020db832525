"""`graphc calibrate`, and batch sizes chosen by `graphc compile`."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

import graphc
from graphc.cli import main
from graphc.runtime import Scheduler
from tests.compiler.test_batching import POOLED


@pytest.fixture
def package(tmp_path: Path) -> Path:
    path = tmp_path / "m.graphc"
    graphc.compile(POOLED, dims={"batch": [1, 4], "length": 3}, output=path)
    return path


def test_it_measures_every_variant_and_the_scheduler_finds_it(
    package: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["calibrate", str(package), "--json", "--slo-ms", "50"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert [row["bindings"] for row in found["variants"]] == [{"batch": 1, "length": 3}, {"batch": 4, "length": 3}]
    assert found["rows_per_second"]["length=3"] > 0
    high = {row["bindings"]["batch"]: row["high"] for row in found["variants"]}
    with graphc.load(package) as model, Scheduler(model) as scheduler:
        ((_, table),) = scheduler.latencies().items()
    assert table == high


def test_it_shows_a_table(package: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["calibrate", str(package), "--slo-ms", "20"]) == 0
    text = capsys.readouterr().out
    assert "batch=4, length=3" in text
    assert "within 20 ms: " in text
    assert "m.graphc.costs.json" in text


def test_a_model_is_no_package(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "m.onnx"
    path.write_bytes(POOLED)
    assert main(["calibrate", str(path)]) == 1
    assert "is no package" in capsys.readouterr().err


def test_a_package_without_variants_has_nothing_to_measure(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    graphc.compile(POOLED, output=tmp_path / "m.graphc")
    assert main(["calibrate", str(tmp_path / "m.graphc")]) == 1
    assert "no shape is compiled" in capsys.readouterr().err


def test_compile_chooses_batch_sizes(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "m.onnx"
    path.write_bytes(POOLED)
    out = tmp_path / "m.graphc"
    assert main(["compile", str(path), "--dim", "batch=auto", "--dim", "length=3", "-o", str(out), "--json"]) == 0
    variants = json.loads(capsys.readouterr().out)["variants"]
    assert variants[0]["bindings"] == {"batch": 1, "length": 3}
    assert (tmp_path / "m.graphc.costs.json").exists()


def test_other_commands_do_not_choose(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "m.onnx"
    path.write_bytes(POOLED)
    assert main(["inspect", str(path), "--dim", "batch=auto"]) == 1
    assert "only graphc compile chooses" in capsys.readouterr().err
