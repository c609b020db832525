"""The tutorials do what they say: each is run as written, in a folder of its own."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
PAGES = sorted((ROOT / "docs/tutorials").glob("*.md"))
BLOCK = re.compile(r"^```(sh|python)\n(?:# (\w+\.py)\n)?(.*?)^```", re.MULTILINE | re.DOTALL)


def run(command: list[str], folder: Path) -> None:
    environment = {
        **os.environ,
        "PATH": os.pathsep.join([str(folder / ".bin"), str(Path(sys.executable).parent), os.environ["PATH"]]),
        "PYTHONPATH": os.pathsep.join([str(folder), str(ROOT), str(ROOT / "src")]),
        "GRAPHC_NUM_THREADS": "2",
        "GRAPHC_CACHE": str(folder / "cache"),
    }
    done = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr


def test_every_tutorial_is_in_the_index() -> None:
    index = (ROOT / "docs/index.md").read_text()
    assert PAGES and all(f"(tutorials/{page.name})" in index for page in PAGES)


@pytest.mark.parametrize(
    ("page", "file", "lines"), [("new_backend", "c_backend.py", 150), ("custom_operator", "squared_relu.py", 30)]
)
def test_what_is_called_short_is(page: str, file: str, lines: int) -> None:
    blocks = BLOCK.findall((ROOT / f"docs/tutorials/{page}.md").read_text())
    (text,) = (text for _, name, text in blocks if name == file)
    assert sum(bool(line.strip()) for line in text.splitlines()) <= lines


@pytest.mark.slow
@pytest.mark.timeout(300)
@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_tutorial_runs_as_written(page: Path, tmp_path: Path) -> None:
    """Its files are written; then its commands run in their order, and its programs as one."""
    blocks = BLOCK.findall(page.read_text())
    for _, name, text in blocks:
        if name:
            (tmp_path / name).write_text(text)
    folder = tmp_path / ".bin"
    folder.mkdir()
    for name, module in (("graphc", "-m graphc"), ("python", "")):
        (folder / name).write_text(f'#!/bin/sh\nexec {sys.executable} {module} "$@"\n')
        (folder / name).chmod(0o755)
    commands = "".join(text for language, _, text in blocks if language == "sh")
    program = "".join(text for language, name, text in blocks if language == "python" and not name)
    run(["bash", "-euo", "pipefail", "-c", commands], tmp_path)
    run([sys.executable, "-c", program], tmp_path)
