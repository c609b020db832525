"""docs/commands.md tells of every command, and of options that exist."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from graphc.cli import COMMANDS, main

PAGE = (Path(__file__).resolve().parents[2] / "docs/commands.md").read_text()
ACTIONS = {"rules": ["test"]}


def test_every_command_has_a_section() -> None:
    assert re.findall(r"^## `graphc (\w+)`$", PAGE, re.MULTILINE) == list(COMMANDS)


@pytest.mark.parametrize("name", COMMANDS)
def test_the_options_named_exist(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    section = PAGE.split(f"## `graphc {name}`")[1].split("\n## ")[0]
    arguments = [name, *ACTIONS.get(name, ()), "--help"]
    with pytest.raises(SystemExit):
        main(arguments)
    known = set(re.findall(r"--[a-z][a-z-]*", capsys.readouterr().out))
    assert set(re.findall(r"--[a-z][a-z-]*", section)) <= known
