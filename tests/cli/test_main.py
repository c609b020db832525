"""The program itself: help, usage errors, exit statuses, what is printed where."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

import graphc as package_of_graphc
from graphc.cli import BROKEN_PIPE, COMMANDS, FAILED, INTERNAL, INTERRUPTED, devices, main
from graphc.errors import ModelError, PassError
from tests.cli.conftest import Call


def run_module(*arguments: str, **options: object) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "graphc", *arguments]
    return subprocess.run(command, capture_output=True, text=True, timeout=60, check=False, **options)  # type: ignore[call-overload,no-any-return]


def test_help_lists_every_command_and_loads_no_library() -> None:
    code = (
        "import sys; from graphc.cli import main\n"
        "try: main(['--help'])\nexcept SystemExit: pass\n"
        "heavy = {'numpy', 'onnx', 'tvm', 'hypothesis'} & set(sys.modules)\nassert not heavy, heavy"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=True)
    for name in COMMANDS:
        assert re.search(rf"^    {name}\s", done.stdout, re.MULTILINE)


@pytest.mark.parametrize("name", COMMANDS)
def test_every_command_has_help_with_examples(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as stop:
        main([name, "--help"])
    assert stop.value.code == 0
    text = capsys.readouterr().out
    assert f"  graphc {name}" in text.split("examples:")[1]


def test_version(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as stop:
        main(["--version"])
    assert stop.value.code == 0
    assert capsys.readouterr().out == f"graphc {package_of_graphc.__version__}\n"


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "required: COMMAND"),
        (["insepct", "model.onnx"], "there is no command 'insepct'; did you mean 'inspect'?"),
        (["compile"], "required: MODEL"),
        (["compile", "m.onnx", "--nonsense"], "--nonsense"),
        (["compile", "m.onnx", "-O7"], "argument -O"),
        (["run", "m.graphc", "--threads", "0"], "'0' is not a positive integer"),
        (["run", "m.graphc", "--seed", "-1"], "argument --seed"),
        (["rules"], "list|test"),
    ],
)
def test_wrong_usage_exits_with_2(arguments: list[str], message: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as stop:
        main(arguments)
    assert stop.value.code == 2
    captured = capsys.readouterr()
    assert message in captured.err
    assert not captured.out


def raising(error: BaseException) -> object:
    def run(_: object) -> int:
        raise error

    return run


def test_a_typed_error_is_one_clean_message(graphc: Call, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(devices, "run", raising(ModelError("it is broken", nodes=["conv1"], hint="mend it")))
    result = graphc("devices")
    assert (result.status, result.out) == (FAILED, "")
    assert result.err == "graphc devices: error: it is broken [node 'conv1']\n  hint: mend it\n"


@pytest.mark.parametrize("arguments", [["--debug", "devices"], ["devices", "--debug"]])
def test_debug_shows_the_traceback(graphc: Call, monkeypatch: pytest.MonkeyPatch, arguments: list[str]) -> None:
    error = PassError("pass fold: it is broken")
    error.reproducer = "graph @small"
    monkeypatch.setattr(devices, "run", raising(error))
    result = graphc(*arguments)
    assert result.status == FAILED
    assert "Traceback" in result.err
    assert "graph @small" in result.err


def test_a_defect_of_graphc_says_so(graphc: Call, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(devices, "run", raising(ZeroDivisionError("oops")))
    result = graphc("devices")
    assert result.status == INTERNAL
    assert result.err.startswith("graphc devices: internal error: ZeroDivisionError: oops\n")
    assert "Traceback" not in result.err


def test_ctrl_c(graphc: Call, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(devices, "run", raising(KeyboardInterrupt()))
    result = graphc("devices")
    assert result.status == INTERRUPTED
    assert result.err == "graphc devices: interrupted\n"


def test_ctrl_c_in_a_compile_leaves_nothing(
    graphc: Call, mlp: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from graphc.backends.tvm.backend import TvmBackend

    monkeypatch.setattr(TvmBackend, "link", lambda *_, **__: raising(KeyboardInterrupt())(None))  # type: ignore[operator]
    assert graphc("compile", mlp, "--dim", "batch=1", "-o", tmp_path / "m.graphc").status == INTERRUPTED
    assert not list(tmp_path.iterdir())


def test_a_reader_that_goes_away_is_no_error() -> None:
    reading, writing = os.pipe()
    os.close(reading)
    with os.fdopen(writing, "wb") as closed:
        done = subprocess.run(
            [sys.executable, "-m", "graphc", "devices"], stdout=closed, stderr=subprocess.PIPE, timeout=60, check=False
        )
    assert (done.returncode, done.stderr) == (BROKEN_PIPE, b"")


def test_as_a_module() -> None:
    done = run_module("compile", "/nowhere/model.onnx", env={**os.environ, "PYTHONWARNINGS": "error"})
    assert done.returncode == FAILED
    assert done.stdout == ""
    assert "/nowhere/model.onnx" in done.stderr
    assert "Traceback" not in done.stderr
