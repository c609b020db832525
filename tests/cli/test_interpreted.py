"""`graphc verify --interpret`: kernels of GPUs judged where there is none."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.cli.conftest import Call
from tests.cli.test_tools import WRONG

pytest.importorskip("triton")

INTERPRET = ("--interpret", "--target", "cuda:sm_90", "--dim", "batch=2")


def test_a_model_for_a_gpu_is_right_without_one(graphc: Call, mlp: Path) -> None:
    result = graphc("verify", mlp, *INTERPRET, "--against", "onnxruntime,reference")
    assert result.status == 0, result.err
    assert result.out.count("ok  sm_90, batch=2, interpreted") == 2


def test_a_wrong_pass_shows_in_what_is_interpreted(graphc: Call, mlp: Path, tmp_path: Path) -> None:
    plugin = tmp_path / "wrong.py"
    # A process has one pass of a name, and other tests have theirs.
    plugin.write_text(WRONG.replace("drop_relu", "leave_relu_out"))
    found = graphc("verify", mlp, *INTERPRET, "--plugin", plugin, "--passes", "fold,leave_relu_out,dce,fuse", "--json")
    assert found.status == 1
    assert found.json["ok"] is False
    assert found.json["variants"][0]["outputs"][0]["name"] == "y"


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--interpret",), "runs kernels of one GPU, not of cpu"),
        (("--interpret", "--target", "cpu"), "runs kernels of one GPU, not of cpu"),
        (("--interpret", "--target", "cuda:sm_80,cuda:sm_90"), "of one GPU"),
        ((*INTERPRET, "--layers"), "--interpret names the step by itself"),
        ((*INTERPRET[:3],), "nothing says what shape input 'x'"),
    ],
)
def test_what_cannot_be_interpreted_says_why(graphc: Call, mlp: Path, arguments: tuple[str, ...], message: str) -> None:
    result = graphc("verify", mlp, *arguments)
    assert result.status == 1
    assert message in result.err


def test_a_package_holds_nothing_to_interpret(graphc: Call, package: Path) -> None:
    result = graphc("verify", package, "--interpret", "--target", "cuda:sm_90")
    assert result.status == 1
    assert "verify the ONNX model that it was compiled from" in result.err
