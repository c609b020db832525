"""What the report says, and what it must not average."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from bench import __main__ as command
from bench.alone import resident_peak
from bench.callers import rate
from bench.plot import write_plot
from bench.report import as_markdown, as_text, costs, over_the_better, rows, smaller

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


def alone(load: float, memory: int) -> dict[str, float]:
    return {"load_seconds": load, "first_answer_seconds": load, "seconds": 0.001, "memory_bytes": memory}


def test_costs_are_told_where_they_were_measured() -> None:
    both = {**measured("a", (2.0, 3.0)), "package_bytes": 1_500_000, "arena_bytes": 250_000}
    both["alone"] = {"graphc": alone(0.1, 10**7), "onnxruntime": alone(0.2, 10**8), "openvino": {"failure": "no"}}
    table = costs([both, measured("b", (1.0, 1.0))], PEERS)
    assert [row[0] for row in table] == ["model", "a"]
    assert table[1][1:] == ["100 ms", "200 ms", "failed", "10 MB", "100 MB", "failed", "0.2 MB", "1.5 MB"]
    assert smaller([both], "onnxruntime") == (1, 1)
    assert smaller([both], "openvino") == (0, 0)
    assert costs([measured("b", (1.0, 1.0))], PEERS) == []
    assert as_markdown([both], PEERS).count("\n| --- | ") == 2


def test_a_peer_that_cannot_run_a_model_is_told_and_not_averaged() -> None:
    one = measured("a", (2.0, 3.0))
    del one["speedup"]["openvino"], one["errors"]["openvino"]
    table = rows([one, measured("b", (2.0, 3.0))], PEERS)
    assert table[1][3] == "cannot run it" and table[-1][2:4] == ["2.00x", "3.00x"]
    assert over_the_better(one, PEERS) == 2.0


def test_the_better_peer_is_the_one_that_is_hardest_to_beat() -> None:
    assert over_the_better(measured("a", (2.0, 1.5)), PEERS) == 1.5
    assert over_the_better(measured("a", (2.0, 1.5), agrees=False), PEERS) == 2.0
    small = {**measured("s", (8.0, 8.0)), "group": "small"}
    table = rows([measured("a", (2.0, 1.0)), measured("b", (2.0, 4.0)), small], PEERS)
    assert ["geometric mean, all but small (2)", "", "2.00x", "2.00x", "", ""] in table
    assert table[-1] == ["the same, over the better peer of each", "", "1.41x", "", "", ""]


def test_the_same_results_draw_the_same_picture(tmp_path: Path) -> None:
    results = [measured("a", (2.0, 3.0)), measured("b", (0.5, 1.0), agrees=False), {"model": "c", "failure": "no"}]
    for name in ("one.svg", "two.svg"):
        write_plot(results, PEERS, tmp_path / "new" / name)
    one, two = ((tmp_path / "new" / name).read_bytes() for name in ("one.svg", "two.svg"))
    assert one == two and b"<svg" in one


def test_memory_of_this_process() -> None:
    before = resident_peak()
    block = bytearray(64 << 20)
    block[:: 1 << 12] = b"x" * len(block[:: 1 << 12])
    assert resident_peak() >= max(before, 64 << 20)


def test_answers_of_all_callers_count() -> None:
    called: list[int] = []
    found = rate(lambda: called.append(1), 3, 0.02)
    assert 0 < found <= len(called) / 0.02


def test_one_engine_alone() -> None:
    result = command.measure("mlp_4x64x64", {"against": ["onnxruntime"], "rounds": 1, "threads": 1, "alone": True}, 100)
    assert result["group"] == "small" and set(result["alone"]) == {"graphc", "onnxruntime"}
    for engine in result["alone"].values():
        assert 0 < engine["load_seconds"] <= engine["first_answer_seconds"]
        assert engine["seconds"] > 0 and engine["memory_bytes"] > 0
