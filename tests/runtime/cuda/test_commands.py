"""Commands on packages that a GPU runs."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from graphc.cli import main
from tests.runtime.cuda.conftest import Fake, affine_of, x_of


def test_run_profile_and_calibrate(
    affine: Path, fake: Fake, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    np.save(tmp_path / "x.npy", x_of())
    assert main(["run", str(affine), "--input", f"x={tmp_path / 'x.npy'}", "-o", str(tmp_path / "y.npz")]) == 0
    np.testing.assert_array_equal(np.load(tmp_path / "y.npz")["y"], affine_of(x_of()))
    capsys.readouterr()
    assert main(["profile", str(affine), "--runs", "3"]) == 0
    shown = capsys.readouterr().out
    assert "3 steps, cuda:0, fixed shapes on cuda:sm_80\nFake GPU 0, kernels timed by its own clock" in shown
    # Two launches of 5 µs each; no share of what a CPU could do.
    assert "times 4" in shown and "10.0" in shown and "compute" not in shown and "memory" not in shown
    assert main(["profile", str(affine), "--runs", "3", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["device"] == "cuda:0"
    assert main(["calibrate", str(affine)]) == 0
    assert "fixed shapes" in capsys.readouterr().out
