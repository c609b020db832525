"""Plugins: found as files and as entry points, imported once, and named where they fail."""

from __future__ import annotations

import sys
import textwrap
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from graphc.compiler import load_plugins, plugins
from graphc.errors import OptionError
from graphc.ir import Builder, Graph, TensorType, dtypes
from graphc.ops import infer_node
from graphc.passes import PASSES, run_passes
from graphc.passes.rules import rule_set
from graphc.passes.rules.rule import RULE_SETS
from graphc.testing import check_rule


@dataclass
class Entry:
    """An entry point that calls `action` when it is loaded."""

    name: str
    value: str
    action: Callable[[], Any]

    def load(self) -> Any:
        return self.action()


@pytest.fixture
def install(monkeypatch: pytest.MonkeyPatch) -> Callable[[Entry], None]:
    def install(entry: Entry) -> None:
        monkeypatch.setattr(plugins, "installed_plugins", lambda: (entry,))

    return install


def test_an_installed_plugin_is_loaded_once(install: Callable[[Entry], None]) -> None:
    loads: list[int] = []
    install(Entry("mine", "my_package.passes", lambda: loads.append(1)))
    load_plugins()
    load_plugins()
    assert loads == [1]


def test_an_installed_plugin_that_fails_is_named(install: Callable[[Entry], None]) -> None:
    install(Entry("mine", "my_package.broken", lambda: [][0]))
    with pytest.raises(OptionError, match=r"plugin 'mine' \(my_package\.broken\).*IndexError"):
        load_plugins()


def test_a_file_is_run_once_and_may_define_dataclasses(tmp_path: Path) -> None:
    file = tmp_path / "counted.py"
    file.write_text(
        "from dataclasses import dataclass\nfrom pathlib import Path\n\n@dataclass\nclass A:\n    x: 'int' = 1\n\n"
        f"with Path({str(tmp_path / 'log')!r}).open('a') as log:\n    log.write('run ')\n"
    )
    load_plugins([file])
    load_plugins([file, tmp_path / ".." / tmp_path.name / "counted.py"])
    assert (tmp_path / "log").read_text() == "run "
    assert next(m for name, m in sys.modules.items() if name.startswith("graphc_plugin_counted")).A().x == 1


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        ("missing.py", None, "there is no plugin file"),
        ("plugin.txt", "x = 1", "is no Python file"),
        ("raises.py", "\n\nraise ValueError('no')", "line 3: ValueError: no"),
        ("imports.py", "import no_such_module_anywhere", "ModuleNotFoundError"),
        (
            "typed.py",
            "from graphc.errors import OptionError\nraise OptionError('two passes', hint='one')",
            "two passes",
        ),
    ],
)
def test_files_that_fail(tmp_path: Path, name: str, text: str | None, message: str) -> None:
    file = tmp_path / name
    if text is not None:
        file.write_text(text)
    for _ in range(2):
        with pytest.raises(OptionError, match=message) as caught:
            load_plugins([file])
        assert name in str(caught.value)
    assert f"graphc_plugin_{file.stem}" not in sys.modules


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
    load_plugins([plugin])
    load_plugins([plugin])  # A second time would register everything twice, which is an error.
    graph = Graph("g", [("x", TensorType(dtypes.FLOAT32, (2,)))], opset=23)
    b = Builder(graph, infer=infer_node)
    value = graph.inputs[0]
    for op_type in ("Abs", "Exp", "Log", "Exp", "Abs"):
        value = b.op(op_type, value)
    graph.outputs = [value]
    report = run_passes(graph, "my-pass")
    assert report.runs[0].rewrites == {"log_of_exp": 1}
    assert [node.op_type for node in graph.nodes] == ["Abs", "Exp", "Abs"]
    assert check_rule(rule_set("my-pass").rules["log_of_exp"]).fired > 0
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
    before = set(sys.modules)
    with pytest.raises(OptionError) as caught:
        load_plugins([path])
    assert str(path) in caught.value.message and message in caught.value.message
    assert not any(name.startswith("graphc_plugin_bad") for name in set(sys.modules) - before)
