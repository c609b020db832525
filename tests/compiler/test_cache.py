"""The same bytes every time; what the cache keeps; shapes compiled when they come; interruptions."""

from __future__ import annotations

import hashlib
import os
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import helper

import graphc
from graphc.compiler import CompileOptions, compile_package, default_cache
from graphc.compiler.cache import keep_newest, variant_path
from graphc.errors import InputError, ShapeNotCompiledError
from graphc.package import Package
from tests.compiler.agreement import assert_close
from tests.compiler.test_driver import normal, perceptron, picture
from tests.frontend.models import info, model, run_ort


def digest(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


def in_another_process(code: str, *arguments: Any, **environment: str) -> str:
    """Standard output of a fresh interpreter with other hashes."""
    done = subprocess.run(
        [sys.executable, "-c", code, *map(str, arguments)],
        env={**os.environ, "PYTHONHASHSEED": "77", **environment},
        capture_output=True,
        text=True,
        timeout=100,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-2000:]
    return done.stdout.strip()


COMPILE = """
import sys
from graphc.compiler import CompileOptions, compile_package
compile_package(sys.argv[1], sys.argv[2], options=CompileOptions(cache=None, jobs=1), target="cpu:x86-64-v3,cpu")
"""


def test_the_same_compile_gives_the_same_bytes(tmp_path: Path, cache: Path) -> None:
    source = tmp_path / "model.onnx"
    onnx.save(perceptron(), source)
    paths = [tmp_path / name for name in ("uncached.graphc", "cold.graphc", "warm.graphc", "process.graphc")]
    for path, folder in zip(paths, (None, tmp_path / "cache", tmp_path / "cache"), strict=False):
        compile_package(source, path, options=CompileOptions(cache=folder), target="cpu:x86-64-v3,cpu")
    in_another_process(COMPILE, source, paths[-1])
    assert len({digest(path) for path in paths}) == 1


def test_options_that_matter_change_the_bytes(tmp_path: Path, cache: Path) -> None:
    choices: dict[str, dict[str, Any]] = {
        "default": {},
        "level": {"level": "O1"},
        "passes": {"passes": "fold,dce"},
        "embedded": {"embed_model": True},
    }
    digests = set()
    for name, options in choices.items():
        compile_package(perceptron(), tmp_path / name, options=CompileOptions(cache=cache, **options))
        digests.add(digest(tmp_path / name))
    assert len(digests) == len(choices)


def compiled_kernels(model: Any, folder: Path, output: Path) -> tuple[int, int]:
    """How many kernels one compile needed, and how many of them it had to compile."""
    seen: list[tuple[int, int]] = []

    def progress(what: str, done: int, total: int) -> None:
        if what == "compiling kernels":
            seen.append((done, total))

    compile_package(model, output, options=CompileOptions(cache=folder, progress=progress))
    return seen[-1][1], seen[-1][1] - seen[0][0]


def test_the_cache_spares_kernels_that_are_known(tmp_path: Path) -> None:
    folder, output = tmp_path / "cache", tmp_path / "model.graphc"
    total, compiled = compiled_kernels(picture(), folder, output)
    assert 0 < compiled == total
    assert compiled_kernels(picture(), folder, output) == (total, 0)
    assert compiled_kernels(picture(15), folder, output)[1] > 0


def test_a_damaged_cache_entry_is_made_again(tmp_path: Path) -> None:
    folder, output = tmp_path / "cache", tmp_path / "model.graphc"
    total, _ = compiled_kernels(picture(), folder, output)
    first = digest(output)
    entries = sorted(folder.rglob("objects/**/*.o"))
    assert len(entries) == total
    data = entries[0].read_bytes()
    entries[0].write_bytes(data[:-1] + bytes([data[-1] ^ 1]))
    entries[1].write_bytes(b"")
    assert compiled_kernels(picture(), folder, output) == (total, 2)
    assert digest(output) == first


def test_a_cache_that_cannot_be_written_is_no_reason_to_fail(tmp_path: Path) -> None:
    blocked = tmp_path / "file"
    blocked.write_text("a file where the folder should be")
    output = tmp_path / "model.graphc"
    compile_package(perceptron(), output, options=CompileOptions(cache=blocked))
    assert graphc.load(output)({"x": normal(4, 19)})["y"].shape == (4, 10)


class Interruption(BaseException):
    """Like KeyboardInterrupt, which pytest takes for itself."""


@pytest.mark.parametrize(
    "stage", ["reading the model", "running the passes", "compiling kernels", "linking", "packing weights"]
)
@pytest.mark.parametrize("existing", [False, True])
def test_an_interruption_leaves_nothing_half_written(stage: str, existing: bool, tmp_path: Path) -> None:
    folder, output = tmp_path / "out", tmp_path / "out" / "model.graphc"
    folder.mkdir()
    if existing:
        output.write_bytes(b"what was there before")
    seen = []

    def progress(what: str, done: int, total: int) -> None:
        seen.append(what)
        if what == stage and (done or total == 0 or stage != "compiling kernels"):
            raise Interruption

    options = CompileOptions(cache=tmp_path / "cache", progress=progress)
    with pytest.raises(Interruption):
        compile_package(picture(), output, options=options)
    assert seen[-1] == stage
    assert [path.name for path in folder.iterdir()] == (["model.graphc"] if existing else [])
    if existing:
        assert output.read_bytes() == b"what was there before"
    assert not list((tmp_path / "cache").rglob("*.part"))
    compile_package(picture(), output, options=CompileOptions(cache=tmp_path / "cache"))
    assert graphc.load(output, verify=True).isa


# --- Shapes compiled when they come -----------------------------------------------------------------------------------


def test_open_dimensions_compile_when_they_come(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GRAPHC_CACHE", str(tmp_path))
    proto = perceptron("batch")
    module = graphc.compile(proto, open_variants=False)
    assert not module.variants and not module.manifest.open
    for rows in (3, 5, 3):
        x = normal(rows, 19)
        assert_close("y", run_ort(proto, {"x": x})[0], module({"x": x})["y"])
    assert {variant.bindings["batch"] for variant in module.variants} == {3, 5}
    assert len(list((tmp_path / "variants").glob("*.graphc"))) == 2


CALL = """
import sys
import numpy as np
import graphc.compiler
from graphc.backends.tvm import objects
if sys.argv[2] == "only the cache":
    def refuse(*arguments):
        raise AssertionError("the cache has this shape")
    objects.compile_function = refuse
    graphc.compiler.driver.lower_model = refuse
print(graphc.load(sys.argv[1])({"x": np.full((3, 19), 0.5, np.float32)})["y"].sum())
"""


def test_another_process_finds_the_shape_in_the_cache(tmp_path: Path) -> None:
    package = tmp_path / "model.graphc"
    cache = {"GRAPHC_CACHE": str(tmp_path / "cache")}
    compile_package(perceptron("batch"), package, options=CompileOptions(cache=None))
    first = in_another_process(CALL, package, "anything", **cache)
    assert float(first) == pytest.approx(3, abs=1e-5)
    assert in_another_process(CALL, package, "only the cache", **cache) == first


def test_a_package_may_have_variants_and_the_model(tmp_path: Path, cache: Path) -> None:
    path, proto = tmp_path / "model.graphc", perceptron("batch")
    compile_package(proto, path, dims={"batch": [1, 2]}, options=CompileOptions(cache=cache, embed_model=True))
    assert "model.onnx" in Package(path).members
    module = graphc.load(path)
    for rows in (1, 2, 4):
        x = normal(rows, 19)
        assert_close("y", run_ort(proto, {"x": x})[0], module({"x": x})["y"])
    assert len(module.variants) == 3


def test_a_package_without_the_model_says_what_to_do(tmp_path: Path, cache: Path) -> None:
    path = tmp_path / "model.graphc"
    compile_package(perceptron("batch"), path, dims={"batch": 2}, options=CompileOptions(cache=cache))
    with pytest.raises(ShapeNotCompiledError, match="--dim batch=3") as raised:
        graphc.load(path)({"x": normal(3, 19)})
    assert "batch=2" in str(raised.value)


@pytest.mark.parametrize(
    "feeds", [{"x": normal(3, 20)}, {"x": normal(3)}, {"x": np.zeros((3, 19), np.float64)}, {}, {"z": normal(3, 19)}]
)
def test_inputs_that_fit_no_shape_compile_nothing(feeds: Mapping[str, Any], tmp_path: Path) -> None:
    module = graphc.compile(perceptron("batch"), cache=tmp_path, open_variants=False)
    with pytest.raises(InputError):
        module(feeds)
    assert not (tmp_path / "objects").exists()


def test_a_shape_that_breaks_the_model_is_a_typed_error() -> None:
    nodes = [helper.make_node("Reshape", ["x", "s"], ["r"], name="fold"), helper.make_node("Relu", ["r"], ["y"])]
    proto = model(nodes, [info("x", shape=["n"])], ["y"], initializers={"s": np.array([-1, 4], np.int64)})
    module = graphc.compile(proto, open_variants=False)
    assert module({"x": normal(8)})["y"].shape == (2, 4)
    with pytest.raises(graphc.errors.GraphcError, match="fold"):
        module({"x": normal(9)})
    # Where any number may come, the compile found out which ones cannot.
    with pytest.raises(graphc.errors.ShapeNotCompiledError, match="no variant for n=9; the package has: any n that 4"):
        graphc.compile(proto)({"x": normal(9)})


def test_levels_and_passes_hold_for_shapes_that_come_later() -> None:
    module = graphc.compile(perceptron("batch"), passes="fold,dce")
    module({"x": normal(2, 19)})
    assert len(module.variants[0].steps) == 4


def test_the_cache_folder_follows_the_environment(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("GRAPHC_CACHE", str(tmp_path / "mine"))
    assert default_cache() == tmp_path / "mine"
    monkeypatch.delenv("GRAPHC_CACHE")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert default_cache() == tmp_path / "graphc"


def test_of_packages_for_values_the_newest_are_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GRAPHC_CACHE", str(tmp_path))
    other = variant_path("key", "other")
    other.write_bytes(b"")
    paths = [variant_path(f"key{age}", "group") for age in range(6)]
    for age, path in enumerate(paths):
        path.write_bytes(b"")
        os.utime(path, (age, age))
    keep_newest(paths[-1], 4)
    assert [path.exists() for path in (other, *paths)] == [True, False, False, True, True, True, True]
