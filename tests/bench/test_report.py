"""What the report says, and what it must not average."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from bench import __main__ as command
from bench.report import as_markdown, as_text, rows

PEERS = ["onnxruntime", "openvino"]


def measured(name: str, speedups: tuple[float, float], *, agrees: bool = True) -> dict[str, Any]:
    return {
        "model": name,
        "group": "vision",
        "seconds": {"graphc": {"median": 0.002, "p10": 0.002, "p90": 0.002}},
        "speedup": {
            peer: {"median": value, "p10": value, "p90": value} for peer, value in zip(PEERS, speedups, strict=True)
        },
        "errors": {"onnxruntime": 1e-6, "openvino": 2e-6 if agrees else 0.5},
        "agrees": agrees,
        "compile_seconds": 1.5,
    }


def test_geometric_mean_leaves_out_peers_that_differ_and_what_failed() -> None:
    results = [
        measured("a", (4.0, 1.0)),
        measured("b", (0.25, 1.0)),
        measured("wrong", (100.0, 100.0), agrees=False),
        {"model": "broken", "group": "vision", "failure": "no kernel\nhint: none"},
    ]
    table = rows(results, PEERS)
    assert table[-1] == ["geometric mean, vision (3)", "", "4.64x", "1.00x", "", ""], "openvino answers otherwise once"
    assert table[3][3].endswith("answers differ") and not table[3][2].endswith("answers differ")
    assert table[4][:2] == ["broken", "failed"]
    assert "no kernel" in table[4]
    assert len({len(row) for row in table}) == 1


def test_text_lines_up_and_markdown_is_a_table() -> None:
    results = [measured("a", (2.0, 3.0))]
    head, row = as_text(results, PEERS).splitlines()[:2]
    assert head.index("over openvino") == row.index("3.00x")
    lines = as_markdown(results, PEERS).splitlines()
    assert lines[1] == "| --- | --- | --- | --- | --- | --- |"
    assert all(line.count("|") == 7 for line in lines)


def test_a_model_that_ends_without_a_result_is_a_failure(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(command.sys, "executable", "/bin/false")
    assert command.measure("mlp_4x64x64", {}, timeout=10)["failure"].startswith("exit status 1")


def test_unknown_models_are_refused_before_any_work(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        command.main(["resnet51", "--output", str(tmp_path / "out.json")])
    assert "resnet51" in capsys.readouterr().err
    assert not list(tmp_path.iterdir())


def test_results_are_written_as_json(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(command, "measure", lambda name, settings, timeout: measured(name, (2.0, 1.0)))
    path = tmp_path / "new" / "out.json"
    assert command.main(["resnet50", "--against", ",".join(PEERS), "--output", str(path)]) == 0
    written = json.loads(path.read_text())
    assert written["results"][0]["model"] == "resnet50"
    assert written["machine"]["processors"] >= 1
