"""`graphc compile`: what it writes, what it says, what it refuses."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from onnx import TensorProto, helper

import graphc as package_of_graphc
from graphc.package import MODEL, Package
from tests.cli.conftest import Call, save


def test_the_package_is_called_after_the_model(
    graphc: Call, mlp: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    result = graphc("compile", mlp, "--dim", "batch=2")
    assert result.status == 0
    assert result.out.startswith("mlp.onnx → mlp.graphc: ")
    assert "batch=2" in result.out
    assert "(met)" in result.out
    assert [path.name for path in tmp_path.iterdir()] == ["mlp.graphc"]
    model = package_of_graphc.load("mlp.graphc")
    assert model({"x": np.ones((2, 8), np.float32)})["y"].shape == (2, 4)


def test_json_gives_the_same_facts(graphc: Call, mlp: Path, tmp_path: Path) -> None:
    path = tmp_path / "m.graphc"
    facts = graphc("compile", mlp, "--dim", "batch=1,4", "-o", path, "--json").json
    assert facts["package"] == str(path)
    assert facts["bytes"] == path.stat().st_size
    assert [variant["bindings"] for variant in facts["variants"]] == [{"batch": 1}, {"batch": 4}]
    for variant in facts["variants"]:
        assert variant["host_steps"] == []
        assert variant["arena_bytes"] >= variant["lower_bound_bytes"] > 0


def test_the_same_compile_gives_the_same_bytes(graphc: Call, mlp: Path, tmp_path: Path) -> None:
    written = []
    for name, options in (("a", ["--no-cache"]), ("b", ["--jobs", "1"])):
        path = tmp_path / f"{name}.graphc"
        assert graphc("compile", mlp, "--dim", "batch=3", "-o", path, *options).status == 0
        written.append(path.read_bytes())
    assert written[0] == written[1]


def test_options_reach_the_compiler(graphc: Call, mlp: Path, tmp_path: Path) -> None:
    path = tmp_path / "m.graphc"
    options = ("--passes", "fold,dce", "--no-winograd", "-O1", "--target", "cpu:x86-64-v3", "--embed-model")
    assert graphc("compile", mlp, "--dim", "batch=1", "-o", path, *options).status == 0
    package = Package(path)
    assert dict(package.manifest.options) == {
        "level": "O1",
        "passes": "fold,dce",
        "winograd": "false",
    }
    assert list(package.manifest.code) == ["x86-64-v3"]
    assert MODEL in package.members
    # Without fusion, each of the four nodes is a step.
    assert len(package.manifest.variants[0].steps) == 4


def test_open_dimensions_are_compiled_when_they_come(graphc: Call, mlp: Path, tmp_path: Path) -> None:
    path = tmp_path / "m.graphc"
    result = graphc("compile", mlp, "-o", path, "--no-open-variants")
    assert result.status == 0
    assert "No dimension is bound" in result.out
    assert "y" in graphc("run", path, "--dim", "batch=5", "--json").json["outputs"]
    assert "No variant is compiled yet" in graphc("inspect", path).out
    assert "Dimensions are open" in graphc("inspect", mlp, "--no-open-variants").out


def test_open_dimensions_have_a_variant_for_any(graphc: Call, mlp: Path, tmp_path: Path) -> None:
    path = tmp_path / "m.graphc"
    assert "any batch" in graphc("compile", mlp, "-o", path).out
    assert "y" in graphc("run", path, "--dim", "batch=5", "--json").json["outputs"]
    assert "any batch" in graphc("inspect", path).out
    assert "any batch" in graphc("inspect", mlp).out
    # What is shown at a shape is what runs there.
    shown = graphc("inspect", path, "--dim", "batch=5", "--json").json
    assert [variant["bindings"] for variant in shown["variants"]] == [{"batch": 5}]
    assert "batch=5 on cpu:" in graphc("profile", path, "--dim", "batch=5", "--runs", "1").out


def test_a_range_beside_the_shapes_that_come_often(graphc: Call, mlp: Path, tmp_path: Path) -> None:
    path = tmp_path / "m.graphc"
    result = graphc("compile", mlp, "-o", path, "--dim", "batch=1..64,8")
    assert "batch in 1..64" in result.out
    assert "batch=8" in result.out
    manifest = Package(path).manifest
    assert [variant.bindings for variant in manifest.variants] == [{"batch": 8}]
    assert [(r.minimum, r.maximum) for variant in manifest.open for r in variant.ranges.values()] == [(1, 64)]
    refused = graphc("run", path, "--dim", "batch=65")
    assert refused.status == 1
    assert "batch in 1..64" in refused.err


def test_host_steps_are_shown_with_reasons(graphc: Call, on_host: Path, tmp_path: Path) -> None:
    result = graphc("compile", on_host, "-o", tmp_path / "m.graphc")
    assert result.status == 0
    assert "1 node run on the host" in result.out
    (line,) = (line for line in result.out.splitlines() if "where_not_zero" in line)
    assert "NonZero" in line


def test_require_compiled_names_the_nodes_and_writes_nothing(graphc: Call, on_host: Path, tmp_path: Path) -> None:
    result = graphc("compile", on_host, "-o", tmp_path / "m.graphc", "--require-compiled")
    assert result.status == 1
    assert "where_not_zero" in result.err
    assert "--require-compiled" in result.err
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--target", "cpu:x86-64-v33"], "did you mean cpu:x86-64-v3?"),
        (["--target", "cuda:sm_90", "--backend", "tvm"], "does not compile for cuda:sm_90"),
        (["--dim", "bach=1"], "did you mean 'batch'"),
        (["--dim", "x=2x9"], "cannot be bound to 9"),
        (["--passes", "fold,fuze"], "did you mean 'fuse'"),
        (["--passes", "fuse{max_nodes=many}"], "takes an integer"),
        (["--plugin", "/nowhere/p.py"], "no plugin file"),
        (["--dim", "batch=1", "-o", "/nowhere/m.graphc"], "cannot write '/nowhere/m.graphc'"),
    ],
)
def test_wrong_options_are_typed_errors(
    graphc: Call, mlp: Path, tmp_path: Path, options: list[str], message: str
) -> None:
    output = [] if "-o" in options else ["-o", str(tmp_path / "m.graphc")]
    binding = [] if "--dim" in options else ["--dim", "batch=1"]
    result = graphc("compile", mlp, *options, *binding, *output)
    assert (result.status, result.out) == (1, "")
    assert message in result.err
    assert "Traceback" not in result.err
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("content", [b"", b"not a model", b"\x08\x0a\x3a", b"PK\x03\x04"])
def test_files_that_are_no_model(graphc: Call, tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "broken.onnx"
    path.write_bytes(content)
    for command in ("compile", "check"):
        result = graphc(command, path)
        assert result.status == 1
        assert "broken.onnx" in result.out + result.err
        assert "Traceback" not in result.err
    assert [entry.name for entry in tmp_path.iterdir()] == ["broken.onnx"]


PLUGIN = """
from dataclasses import dataclass
from typing import ClassVar
from graphc.passes import register_pass

@register_pass
@dataclass(frozen=True)
class {cls}:
    '''Does {name}.'''
    name: ClassVar[str] = "{name}"
    times: int = 1

    def run(self, graph, context):
        {body}
"""


def test_a_plugin_brings_a_pass(graphc: Call, mlp: Path, tmp_path: Path) -> None:
    plugin = tmp_path / "own.py"
    plugin.write_text(PLUGIN.format(cls="Nothing", name="does_nothing", body="return 0"))
    options = ("--plugin", plugin, "--passes", "does_nothing{times=3},fuse")
    assert graphc("compile", mlp, "--dim", "batch=1", "-o", tmp_path / "m.graphc", *options).status == 0
    assert "Does does_nothing." in graphc("passes", "--plugin", plugin).out


@pytest.mark.parametrize(
    ("text", "message"), [("x = 1\n1 / 0\n", "line 2: ZeroDivisionError"), ("def f(:\n", "SyntaxError")]
)
def test_a_plugin_that_fails_is_named(graphc: Call, mlp: Path, tmp_path: Path, text: str, message: str) -> None:
    plugin = tmp_path / f"bad{len(text)}.py"
    plugin.write_text(text)
    result = graphc("compile", mlp, "--plugin", plugin)
    assert result.status == 1
    assert plugin.name in result.err
    assert message in result.err


def test_a_pass_that_fails_is_named(graphc: Call, mlp: Path, tmp_path: Path) -> None:
    plugin = tmp_path / "failing.py"
    plugin.write_text(PLUGIN.format(cls="Failing", name="fails_always", body="raise KeyError('lost')"))
    options = ("--plugin", plugin, "--passes", "fold,fails_always", "--verify-passes", "--dim", "batch=1")
    result = graphc("compile", mlp, *options)
    assert result.status == 1
    assert "pass fails_always (after fold): KeyError" in result.err
    debugged = graphc("compile", mlp, *options, "--debug")
    assert "The graph that the pass was given" in debugged.err


@pytest.mark.parametrize(("precision", "dtype"), [("bf16", "float32"), ("fp16,io", "float16")])
def test_a_precision_is_kept_and_verified(graphc: Call, mlp: Path, tmp_path: Path, precision: str, dtype: str) -> None:
    path = tmp_path / "m.graphc"
    options = ("--dim", "batch=2", "--precision", precision, "--embed-model")
    assert graphc("compile", mlp, "-o", path, *options).status == 0
    manifest = Package(path).manifest
    assert manifest.options["precision"] == precision
    assert {spec.dtype for spec in (*manifest.inputs, *manifest.outputs)} == {dtype}
    for model in ((), ("--model", mlp)):
        assert graphc("verify", path, *model, "--against", "onnxruntime,reference").status == 0


def test_borders_that_were_half_width_already_are_verified_as_they_are(graphc: Call, tmp_path: Path) -> None:
    nodes, inputs, outputs = [], [], []
    for name, kind in (("x", TensorProto.FLOAT), ("z", TensorProto.FLOAT16)):
        nodes.append(helper.make_node("Relu", [name], [f"{name}_relu"]))
        inputs.append(helper.make_tensor_value_info(name, kind, [4]))
        outputs.append(helper.make_tensor_value_info(f"{name}_relu", kind, [4]))
    model = save(tmp_path / "mixed.onnx", nodes, inputs, outputs, {})
    for precision in ("fp16,io", "bf16,io"):
        result = graphc("verify", model, "--precision", precision, "--against", "onnxruntime,reference")
        assert result.status == 0, result.err or result.out


def test_precisions_that_do_not_exist_are_refused(graphc: Call, mlp: Path) -> None:
    assert "has no tf32" in graphc("check", mlp, "--dim", "batch=1", "--precision", "tf32").err
    assert "fp16,io and bf16,io" in graphc("check", mlp, "--dim", "batch=1", "--precision", "fp8").err
