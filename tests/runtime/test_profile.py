from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from graphc.errors import OptionError
from graphc.runtime import load

X = np.zeros((4, 64), np.float32)


def test_rows_table_json_and_trace(affine: Path, tmp_path: Path) -> None:
    profile = load(affine, threads=2).profile([X], runs=5)
    assert [step.label for step in profile.steps] == ["scale", "add", "add one"]
    assert profile.steps[2].origins == ("Add_1", "Id_0")
    assert (profile.runs, profile.threads) == (5, 2)
    assert sum(step.nanoseconds for step in profile.steps) <= profile.nanoseconds
    table = str(profile)
    assert "5), 3 steps, 2 threads" in table
    assert "Add_1, Id_0" in table
    assert json.loads(json.dumps(profile.to_json()))["steps"][0]["flops"] == 256
    profile.write_trace(tmp_path / "trace.json")
    events = json.loads((tmp_path / "trace.json").read_text())["traceEvents"]
    assert [event["name"] for event in events] == ["scale", "add", "add one"]
    assert all(event["ph"] == "X" and event["ts"] >= 0 and event["dur"] >= 0 for event in events)
    assert events[0]["ts"] + events[0]["dur"] <= events[1]["ts"]


def test_a_profiled_model_answers_as_before(affine: Path) -> None:
    model = load(affine)
    before = model([X])["y"]
    model.profile([X], runs=1)
    np.testing.assert_array_equal(model([X])["y"], before)


def test_no_runs_is_an_option_error(affine: Path) -> None:
    with pytest.raises(OptionError, match="at least 1"):
        load(affine).profile([X], runs=0)
