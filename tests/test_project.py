"""The project's own promises: light imports, what the wheel carries, and documents that match the code."""

from __future__ import annotations

import subprocess
import sys
import tomllib
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
PYPROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())
COMPILER_ONLY = {"onnx", "tvm", "networkx", "onnxruntime", "triton", "jinja2", "hypothesis", "openvino", "matplotlib"}


def modules_loaded_by(statement: str) -> set[str]:
    code = f"{statement}\nimport sys\nprint(*sorted({{name.split('.')[0] for name in sys.modules}}))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=True)
    return set(done.stdout.split())


@pytest.mark.parametrize("module", ["graphc", "graphc.package", "graphc.runtime", "graphc.memory", "graphc.cli"])
def test_import_loads_no_compiler_library(module: str) -> None:
    loaded = modules_loaded_by(f"import {module}")
    assert "graphc" in loaded
    assert not loaded & COMPILER_ONLY


def test_version_is_the_package_s() -> None:
    import graphc

    assert graphc.__version__ == PYPROJECT["project"]["version"]


def test_every_folder_of_the_way_has_a_place_in_the_layers() -> None:
    contract = next(c for c in PYPROJECT["tool"]["importlinter"]["contracts"] if c["id"] == "one-way")
    layers = {layer.strip("()") for layer in contract["layers"]}
    present = {path.parent.name for path in (ROOT / "src/graphc").glob("*/__init__.py")}
    present |= {path.stem for path in (ROOT / "src/graphc").glob("*.py")} - {"__init__", "__main__"}
    assert present <= layers, "add the folder to pyproject.toml's layers contract"


def test_readme_commands_exist() -> None:
    from graphc.cli import main

    readme = (ROOT / "README.md").read_text()
    named = {line.split("`")[1].split()[1] for line in readme.splitlines() if line.startswith("| `graphc ")}
    assert len(named) >= 8
    for command in sorted(named):
        with pytest.raises(SystemExit) as stop:
            main([command, "--help"])
        assert stop.value.code == 0, command


@pytest.mark.slow
def test_wheel_carries_what_the_code_reads(tmp_path: Path) -> None:
    subprocess.run(
        [sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps", "--wheel-dir", str(tmp_path), str(ROOT)],
        check=True,
        timeout=110,
    )
    (wheel,) = tmp_path.glob("graphc-*.whl")
    packed = {name for name in zipfile.ZipFile(wheel).namelist() if name.startswith("graphc/")}
    source = {
        f"graphc/{path.relative_to(ROOT / 'src/graphc').as_posix()}"
        for path in (ROOT / "src/graphc").rglob("*")
        if path.suffix in {".py", ".c", ".h", ".toml", ".j2", ".typed"} and "__pycache__" not in path.parts
    }
    assert source <= packed
    assert not any(name.endswith((".pyc", ".o", ".so")) for name in packed)
