"""Users' own passes and rules, from a file and from installed packages."""

from __future__ import annotations

import sys
import textwrap
from collections.abc import Iterator
from importlib.metadata import EntryPoint, EntryPoints
from pathlib import Path

import pytest

from graphc.errors import OptionError
from graphc.ir import Builder, Graph, TensorType, dtypes
from graphc.ops.inference import infer_node
from graphc.passes import PASSES, run_passes
from graphc.passes.plugins import load_entry_points, load_plugin
from graphc.passes.rules import RULE_SETS, rule_set
from graphc.testing import check_rule

PLUGIN = '''
from dataclasses import dataclass
from typing import ClassVar

from graphc.passes import RulePass, register_pass
from graphc.passes.rules import P, Var, rule_set

MINE = rule_set("my-pass")
x, y = Var("x", kinds=("float",)), Var("y")

@register_pass
@dataclass(frozen=True)
class MyPass(RulePass):
    """Mine. Before: anything. After: less."""
    name: ClassVar[str] = "my-pass"

@MINE.rule(P.Log(P.Exp(x)))
def log_of_exp(m, b):
    """log(exp(x)) = x."""
    return m["x"]

@rule_set("simplify").rule(P.Exp(P.Log(x)))
def exp_of_log(m, b):
    """exp(log(x)) = x where x > 0."""
    return m["x"]
'''


@pytest.fixture
def plugin(tmp_path: Path) -> Iterator[Path]:
    path = tmp_path / "mine.py"
    path.write_text(PLUGIN)
    yield path
    PASSES.pop("my-pass", None)
    RULE_SETS.pop("my-pass", None)
    rule_set("simplify").rules.pop("exp_of_log", None)
    for name in [name for name in sys.modules if name.startswith("graphc_plugin_mine")]:
        del sys.modules[name]


def test_a_plugin_s_passes_and_rules_run(plugin: Path) -> None:
    module = load_plugin(plugin)
    assert load_plugin(str(plugin)) is module, "a second time registers nothing twice"
    graph = Graph("g", [("x", TensorType(dtypes.FLOAT32, (2,)))], opset=23)
    b = Builder(graph, infer=infer_node)
    value = graph.inputs[0]
    for op_type in ("Abs", "Exp", "Log", "Exp", "Abs"):
        value = b.op(op_type, value)
    graph.outputs = [value]
    report = run_passes(graph, "my-pass")
    assert report.runs[0].rewrites == {"log_of_exp": 1}
    assert [node.op_type for node in graph.nodes] == ["Abs", "Exp", "Abs"]
    assert check_rule(module.log_of_exp).fired > 0
    assert "exp_of_log" in rule_set("simplify").rules


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("import no_such_module_anywhere", "ModuleNotFoundError: No module named 'no_such_module_anywhere'"),
        ("def broken(:\n", "SyntaxError"),
        (
            "from graphc.passes import register_pass\n@register_pass\nclass P:\n    name = 'p'\n",
            "must be a frozen dataclass",
        ),
    ],
)
def test_a_plugin_that_fails_is_an_error_that_names_it(tmp_path: Path, text: str, message: str) -> None:
    path = tmp_path / "bad.py"
    path.write_text(textwrap.dedent(text))
    with pytest.raises(OptionError) as caught:
        load_plugin(path)
    assert str(path) in caught.value.message and message in caught.value.message
    assert not any(name.startswith("graphc_plugin_bad") for name in sys.modules)


def test_a_missing_file_and_a_file_that_is_no_python_are_named(tmp_path: Path) -> None:
    with pytest.raises(OptionError, match="is not a file"):
        load_plugin(tmp_path / "absent.py")
    (tmp_path / "data.bin").write_bytes(b"\0")
    with pytest.raises(OptionError, match="is not a Python file"):
        load_plugin(tmp_path / "data.bin")


def test_installed_plugins_are_imported(plugin: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(plugin.parent)
    entries = EntryPoints([EntryPoint("mine", "mine", "graphc.plugins")])
    monkeypatch.setattr("importlib.metadata.entry_points", lambda group: entries.select(group=group))
    assert load_entry_points() == ["mine"]
    assert "my-pass" in PASSES
    sys.modules.pop("mine")
    broken = EntryPoints([EntryPoint("gone", "no_such_module_anywhere", "graphc.plugins")])
    monkeypatch.setattr("importlib.metadata.entry_points", lambda group: broken.select(group=group))
    with pytest.raises(OptionError, match=r"plugin 'gone' \(no_such_module_anywhere\) failed: ModuleNotFoundError"):
        load_entry_points()
