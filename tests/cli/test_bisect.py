"""`graphc bisect` and `graphc reduce`: from a wrong rule of a plugin to a model of one node, and back again."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import onnx
import pytest

from tests.cli.conftest import Call

WRONG = """
from dataclasses import dataclass
from typing import ClassVar

from graphc.passes.base import register_pass
from graphc.passes.rule_pass import RulePass
from graphc.passes.rules import P, Var, rule_set

RULES = rule_set("wrong_relu")

@register_pass
@dataclass(frozen=True)
class WrongRelu(RulePass):
    '''Takes a Relu for an absolute value.'''
    name: ClassVar[str] = "wrong_relu"

@RULES.rule(P.Relu(Var("x")))
def relu_as_abs(m, b):
    '''Relu(x) = |x|.'''
    return b.op("Abs", m["x"])
"""


@pytest.fixture
def plugin(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    # What a plugin registers in this process is gone after the test; looks happen in processes of their own.
    from graphc.compiler import plugins
    from graphc.passes.base import PASSES
    from graphc.passes.rules.rule import RULE_SETS

    monkeypatch.setattr(plugins, "_loaded", set(plugins._loaded))
    for table in (PASSES, RULE_SETS):
        # Whatever is there when the test ends goes, since nothing was there before.
        monkeypatch.setitem(table, "wrong_relu", None)  # type: ignore[arg-type]
        del table["wrong_relu"]  # type: ignore[arg-type]
    path = tmp_path / "wrong.py"
    path.write_text(WRONG)
    return path


def test_bisect_names_the_rule_and_keeps_the_smallest_model(
    graphc: Call, mlp: Path, plugin: Path, tmp_path: Path
) -> None:
    folder = tmp_path / "found"
    options = ("--dim", "batch=2", "--plugin", plugin, "--passes", "fold,wrong_relu,fuse", "-o", folder)
    result = graphc("bisect", mlp, *options)
    assert result.status == 1, result.err
    assert "to blame: the pass wrong_relu, number 2 of the pipeline" in result.out
    assert "rewrite 1 of 1: relu_as_abs at " in result.out
    assert "smallest model found: 1 node of" in result.out
    small = onnx.load(folder / "model.onnx")
    assert [node.op_type for node in small.graph.node] == ["Relu"]
    with np.load(folder / "inputs.npz") as inputs:
        assert all(array.size == 1 for array in inputs.values())
    again = graphc("bisect", folder)
    assert again.status == 1
    assert again.out.startswith("it is still there: a wrong answer, the pass wrong_relu")
    # The rule mended, in the copy that the folder has.
    copy = next(folder.glob("plugin_*"))
    copy.write_text(copy.read_text().replace('b.op("Abs", m["x"])', 'b.op("Max", m["x"], b.constant(np.float32(0)))'))
    copy.write_text("import numpy as np\n" + copy.read_text())
    mended = graphc("bisect", folder)
    assert (mended.status, mended.out.split(":")[0]) == (0, "it is gone")


def test_bisect_of_what_is_right(graphc: Call, mlp: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    result = graphc("bisect", mlp, "--dim", "batch=2", "--json")
    assert result.status == 0
    assert result.json["ok"] is True
    assert list(tmp_path.glob("*-bisect")) == []


@pytest.mark.slow
def test_a_precision_is_right_by_its_own_tolerance_and_else_to_blame(
    graphc: Call, mlp: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    told = ("bisect", mlp, "--dim", "batch=2", "--precision", "bf16")
    assert graphc(*told, "--json").json["ok"] is True
    assert "to blame: the pass precision" in graphc(*told, "--scale", "1e-6").out
    assert "--precision fp16" in graphc("bisect", mlp, "--dim", "batch=2", "--precision", "fp16,io").err


def test_bisect_refuses(graphc: Call, mlp: Path, tmp_path: Path) -> None:
    assert "reference, onnxruntime" in graphc("bisect", mlp, "--dim", "batch=2", "--against", "mars").err
    assert "no folder that bisect wrote" in graphc("bisect", tmp_path).err
    assert "there is no model" in graphc("bisect", tmp_path / "none.onnx").err


CHECK = """
import sys
import numpy as np
import onnx

model = onnx.load(sys.argv[1])
with np.load(sys.argv[2]) as inputs:
    assert {value.name for value in model.graph.input} == set(inputs)
sys.exit(3 if any(node.op_type == "Relu" for node in model.graph.node) else 0)
"""


def test_reduce_keeps_what_a_command_fails_on(graphc: Call, mlp: Path, tmp_path: Path) -> None:
    check = tmp_path / "check.py"
    check.write_text(CHECK)
    small = tmp_path / "small.onnx"
    command = f"{sys.executable} {check} {{model}} {{inputs}}"
    result = graphc("reduce", mlp, "--dim", "batch=2", "--check", command, "-o", small, "--attempts", "12")
    assert result.status == 0, result.err
    assert result.out.startswith("1 node of")
    assert "status 3" in result.out
    assert [node.op_type for node in onnx.load(small).graph.node] == ["Relu"]
    assert small.with_suffix(".npz").is_file()


def test_reduce_wants_a_check_that_fails(graphc: Call, mlp: Path, tmp_path: Path) -> None:
    result = graphc("reduce", mlp, "--dim", "batch=2", "--check", "true", "-o", tmp_path / "small.onnx")
    assert result.status == 1
    assert "does not have the property" in result.err
    assert not (tmp_path / "small.onnx").exists()
