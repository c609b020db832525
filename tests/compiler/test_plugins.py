"""Plugins: found as files and as entry points, imported once, and named where they fail."""

from __future__ import annotations

import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from graphc.compiler import load_plugins, plugins
from graphc.errors import OptionError


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
        monkeypatch.setattr(plugins, "entry_points", lambda group: [entry] if group == "graphc.plugins" else [])

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
    assert sys.modules["graphc_plugin_counted"].A().x == 1


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
