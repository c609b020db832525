"""The operators' bench: its cases are models that run, and one is timed from end to end."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path

import pytest

from bench.operators.__main__ import main
from bench.operators.cases import CASES
from bench.operators.report import as_text, speedup_of
from graphc.frontend import check


def test_every_case_is_told_from_the_others_and_repeats() -> None:
    names = Counter(case.name for case in CASES)
    assert max(names.values()) == 1
    assert len(CASES) > 150 and len({case.family for case in CASES}) > 12
    case = next(case for case in CASES if case.op_type == "NonMaxSuppression")
    assert case.model() == case.model()
    first, again = case.inputs(), case.inputs()
    assert all((first[name] == again[name]).all() for name in first)


def test_every_case_compiles() -> None:
    for case in CASES:
        report = check(case.model())
        assert not report.problems, f"{case.name}: {report}"


def test_one_operator_is_timed_beside_onnxruntime(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    output = tmp_path / "operators.json"
    assert main(["Scaler", "--rounds", "1", "--threads", "1", "--output", str(output)]) == 0
    [result] = json.loads(output.read_text())["results"]
    assert result["error"] < 1e-5 and result["host_steps"] == 0
    assert result["seconds"]["graphc"]["median"] > 0 and speedup_of(result) is not None
    assert "geometric mean, classical (1)" in capsys.readouterr().out


def test_what_is_not_there_is_said(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        main(["MaxPol"])
    assert "no such operator or family: MaxPol" in capsys.readouterr().err


def test_failures_and_wrong_answers_have_no_speedup() -> None:
    speedup = {"onnxruntime": {"median": 9.0, "p10": 8.0, "p90": 10.0}}
    seconds = {engine: {"median": 1e-3} for engine in ("graphc", "onnxruntime")}
    wrong = {"name": "a", "family": "f", "error": 0.5, "speedup": speedup, "seconds": seconds, "host_steps": 1}
    failed = {"name": "b", "family": "f", "failure": "no\nway"}
    assert speedup_of(wrong) is None and speedup_of(failed) is None
    text = as_text([wrong, failed])
    assert "1 on the host, DIFFERS by 5e-01" in text and "no\n" in text + "\n" and "way" not in text
