"""The documents point at what exists."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_links_within_the_project_lead_somewhere(page: Path) -> None:
    prose = re.sub(r"^```.*?^```|`[^`\n]*`", "", page.read_text(), flags=re.MULTILINE | re.DOTALL)
    links = re.findall(r"\]\(([^)#]+)[^)]*\)", prose)
    missing = [link for link in links if "://" not in link and not (page.parent / link).exists()]
    assert not missing


def test_architecture_lists_the_folders_in_the_order_that_is_enforced() -> None:
    contract = (ROOT / "pyproject.toml").read_text().split("layers = [")[1].split("]")[0]
    enforced = [name for name in re.findall(r'"\(?(\w+)\)?"', contract)][::-1]
    listed = re.findall(r"^\| `(\w+)` \|", (ROOT / "docs/architecture.md").read_text(), re.MULTILINE)
    assert listed == [name for name in enforced if name in listed]
    present = {path.name for path in (ROOT / "src/graphc").iterdir() if (path / "__init__.py").exists()}
    assert present <= set(listed)


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_tutorial_runs_as_written(tmp_path: Path) -> None:
    """Its blocks in their order, in one folder; the Python ones as one program, at the end."""
    blocks = re.findall(
        r"^```(sh|python)\n(.*?)^```", (ROOT / "docs/tutorial.md").read_text(), re.MULTILINE | re.DOTALL
    )
    commands = "\n".join(text for language, text in blocks if language == "sh")
    program = "\n".join(text for language, text in blocks if language == "python")
    path = os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]])
    environment = {**os.environ, "PATH": path, "PYTHONPATH": os.pathsep.join([str(ROOT), str(ROOT / "src")])}
    for command in (["bash", "-euo", "pipefail", "-c", commands], [sys.executable, "-c", program]):
        done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stdout + done.stderr
