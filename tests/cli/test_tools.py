"""`verify`, `profile`, `bench`, `passes`, `rules`, `devices`."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from graphc.passes import PASSES, pipeline_table
from graphc.target import CPUS
from graphc.testing import engines
from tests.cli.conftest import Call


def test_verify_agrees_with_every_engine(graphc: Call, mlp: Path) -> None:
    result = graphc("verify", mlp, "--dim", "batch=1,4", "--against", "onnxruntime,reference", "--layers")
    assert result.status == 0, result.out
    assert result.out.count("ok  batch=") == 4
    assert "all 2 agree with their own meaning" in result.out
    data = graphc("verify", mlp, "--dim", "batch=1", "--layers", "--json").json
    assert data["ok"] is True
    assert data["layers"][0]["first_difference"] is None
    # The last step makes the model's output, which has a counterpart in the source model.
    assert [d["name"] for d in data["layers"][0]["steps"][-1]["model"]] == ["y"]


def test_verify_takes_the_extents_of_inputs_where_they_are_open(graphc: Call, mlp: Path, tmp_path: Path) -> None:
    unbound = graphc("verify", mlp)
    assert unbound.status == 1
    assert "--dim batch=N, or give inputs with --input" in unbound.err
    np.save(tmp_path / "x.npy", np.linspace(-1, 1, 3 * 8, dtype=np.float32).reshape(3, 8))
    found = graphc("verify", mlp, "--input", f"x={tmp_path / 'x.npy'}", "--against", "reference", "--layers", "--json")
    assert found.status == 0, found.out
    assert found.json["layers"][0]["variant"] == "batch=3"
    assert found.json["layers"][0]["first_difference"] is None


def test_verify_a_package_needs_its_model(graphc: Call, package: Path, mlp: Path, tmp_path: Path) -> None:
    alone = graphc("verify", package)
    assert alone.status == 1
    assert "--model model.onnx" in alone.err
    assert graphc("verify", package, "--model", mlp).status == 0
    embedded = tmp_path / "m.graphc"
    graphc("compile", mlp, "--dim", "batch=2", "--embed-model", "-o", embedded)
    assert graphc("verify", embedded, "--against", "onnxruntime,reference").status == 0
    layers = graphc("verify", embedded, "--layers")
    assert layers.status == 1
    assert "verify the ONNX model instead" in layers.err


WRONG = """
from dataclasses import dataclass
from typing import ClassVar
from graphc.passes import register_pass

@register_pass
@dataclass(frozen=True)
class Wrong:
    '''Takes the Relu away, which is wrong.'''
    name: ClassVar[str] = "drop_relu"

    def run(self, graph, context):
        for node in list(graph.nodes):
            if node.is_op("Relu"):
                node.output.replace_all_uses(node.inputs[0])
                graph.remove(node)
                return 1
        return 0
"""


def test_verify_finds_the_step_that_a_pass_made_wrong(graphc: Call, mlp: Path, tmp_path: Path) -> None:
    plugin = tmp_path / "wrong.py"
    plugin.write_text(WRONG)
    options = ("--plugin", plugin, "--passes", "drop_relu", "--dim", "batch=1", "--layers")
    result = graphc("verify", mlp, *options)
    assert result.status == 1
    assert "DIFFERS" in result.out
    # The sum is still right; the second product is the first value of the source model that is not.
    assert "made by step 2: it differs from the source model, though its kernel is right" in result.out
    assert "elements differ" in result.out
    assert "from 'second'" in result.out
    data = graphc("verify", mlp, *options, "--json").json
    assert data["ok"] is False
    assert data["layers"][0]["first_difference"] == 2


def test_verify_tolerances(graphc: Call, mlp: Path) -> None:
    assert graphc("verify", mlp, "--dim", "batch=1", "--rtol", "1e-3", "--atol", "1e-5").status == 0
    strict = graphc("verify", mlp, "--dim", "batch=4", "--scale", "-1")
    assert strict.status == 1
    assert "tolerance scale is -1" in strict.err


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--against", "onnxruntime,tensorrt"], "no engine 'tensorrt'"),
        (["--model", "other.onnx"], "--model is for packages"),
        (["--input", "z=0..1"], "no such input"),
    ],
)
def test_verify_refuses(graphc: Call, mlp: Path, options: list[str], message: str) -> None:
    result = graphc("verify", mlp, "--dim", "batch=1", *options)
    assert (result.status, result.out) == (1, "")
    assert message in result.err


def test_verify_and_profile_want_a_shape(graphc: Call, mlp: Path) -> None:
    for command in ("verify", "profile"):
        result = graphc(command, mlp)
        assert result.status == 1
        assert "--dim batch=N" in result.err


def test_profile_shows_every_step(graphc: Call, package: Path, tmp_path: Path) -> None:
    trace = tmp_path / "trace.json"
    result = graphc("profile", package, "--dim", "batch=4", "--runs", "3", "--trace", trace)
    assert result.status == 0
    assert "batch=4 on cpu:" in result.out
    assert "first, bias +1" in result.out
    assert "between steps" in result.out
    assert {event["name"] for event in json.loads(trace.read_text())["traceEvents"]}
    assert "1 others" in graphc("profile", package, "--top", "1").out
    data = graphc("profile", package, "--runs", "2", "--json").json
    assert data["runs"] == 2
    assert data["bindings"] == {"batch": 1}
    assert [step["origins"] for step in data["steps"]] == [["first", "bias", "relu"], ["second"]]


def test_profile_of_a_model_without_steps(graphc: Call, embedding: Path) -> None:
    assert "look_up" in graphc("profile", embedding, "--runs", "2").out


def test_bench_measures_and_compares(graphc: Call, mlp: Path, embedding: Path) -> None:
    result = graphc("bench", mlp, "--dim", "batch=2", "--rounds", "2", "--threads", "1", "--json")
    assert result.status == 0
    (data,) = result.json
    assert data["model"] == "mlp"
    assert data["agrees"] is True
    assert set(data["speedup"]) == {"onnxruntime"}
    text = graphc("bench", embedding, "--rounds", "1").out
    assert "agrees with onnxruntime" in text
    assert "x as fast" in text


def test_bench_of_wrong_answers_fails(graphc: Call, mlp: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def wrong(model: Path, inputs: engines.Arrays, **options: object) -> engines.Engine:
        return engines.Engine("wrong", "1", 0.0, lambda: {"y": np.zeros((1, 4), np.float32)})

    monkeypatch.setitem(engines.PEERS, "wrong", wrong)  # type: ignore[misc]
    result = graphc("bench", mlp, "--dim", "batch=1", "--rounds", "1", "--against", "wrong")
    assert result.status == 1
    assert "DIFFERS from wrong" in result.out


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--dim", "batch=1,4"], "of one shape"),
        (["--dim", "batch=1", "--against", "nobody"], "no engine 'nobody'"),
        (["--dim", "batch=1", "--target", "cpu:x86-64-v3"], "runs on this machine"),
        ([], "--dim batch=N"),
    ],
)
def test_bench_refuses(graphc: Call, mlp: Path, options: list[str], message: str) -> None:
    result = graphc("bench", mlp, *options)
    assert (result.status, result.out) == (1, "")
    assert message in result.err


def test_an_engine_that_fails_is_named(graphc: Call, mlp: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def failing(*_: object, **__: object) -> engines.Engine:
        raise RuntimeError("no kernel image")

    monkeypatch.setitem(engines.PEERS, "failing", failing)  # type: ignore[misc]
    result = graphc("bench", mlp, "--dim", "batch=1", "--against", "failing")
    assert result.status == 1
    assert "failing cannot run the model: no kernel image" in result.err
    result = graphc("bench", mlp, "--dim", "batch=1", "--against", "failing,onnxruntime", "--rounds", "1")
    assert result.status == 0
    assert "failing cannot run the model: no kernel image" in result.out and "agrees with onnxruntime" in result.out


def test_passes_lists_every_pass_and_level(graphc: Call) -> None:
    text = graphc("passes").out
    data = graphc("passes", "--json").json
    assert {entry["name"] for entry in data["passes"]} == set(PASSES)
    assert data["pipelines"] == {kind: pipeline_table(kind) for kind in ("cpu", "cuda")}
    for name in (*PASSES, "CPUs", "GPUs", *(f"-{level}" for level in pipeline_table("cpu"))):
        assert name in text
    assert all(entry["summary"] for entry in data["passes"])


def test_one_pass_in_full(graphc: Call) -> None:
    text = graphc("passes", "fuse").out
    assert "fuse{max_nodes=" in text
    assert "Before:" in text
    assert "what it says" in graphc("passes", "simplify").out
    unknown = graphc("passes", "fuze")
    assert unknown.status == 1
    assert "no pass 'fuze'" in unknown.err


def test_rules_are_listed_and_tested(graphc: Call) -> None:
    listed = graphc("rules", "list", "simplify", "--json").json
    assert {"identity", "transpose_of_transpose"} <= {entry["rule"] for entry in listed}
    assert all(entry["formula"] for entry in listed)
    result = graphc("rules", "test", "identity", "sum_of_two", "--examples", "5")
    assert result.status == 0
    assert "2 rules, none failed" in result.out
    assert "identity" in graphc("rules", "list").out


BAD_RULE = """
from graphc.passes.rules import P, Var, rule_set

BAD = rule_set("bad_rules")
x, y = Var("x"), Var("y")

@BAD.rule(P.Sub(x, y))
def subtraction_commutes(m, b):
    '''x - y = y - x.'''
    return b.op("Sub", m["y"], m["x"])
"""


def test_a_wrong_rule_fails_with_its_smallest_instance(graphc: Call, tmp_path: Path) -> None:
    plugin = tmp_path / "bad_rules.py"
    plugin.write_text(BAD_RULE)
    result = graphc("rules", "test", "bad_rules", "--plugin", plugin, "--examples", "10")
    assert result.status == 1
    assert "FAILED" in result.out
    assert "before:" in result.out
    (data,) = graphc("rules", "test", "subtraction_commutes", "--examples", "10", "--json").json
    assert data["ok"] is False
    assert "Sub" in data["problem"]


def test_an_unknown_rule(graphc: Call) -> None:
    result = graphc("rules", "test", "identiti")
    assert result.status == 1
    assert "did you mean 'identity'?" in result.err


def test_devices_shows_every_target(graphc: Call) -> None:
    text = graphc("devices").out
    data = graphc("devices", "--json").json
    assert [entry["name"] for entry in data["targets"]] == [target.name for target in CPUS.values()]
    assert all(target.name in text for target in CPUS.values())
    assert data["threads"].startswith("2 ")
    assert "TVM" in data["compiler"]


def test_bench_of_the_zoo(graphc: Call) -> None:
    result = graphc("bench", "--zoo", "mlp_4x64x64", "--rounds", "1", "--threads", "1", "--json")
    assert result.status == 0, result.err
    (found,) = result.json["results"]
    assert found["model"] == "mlp_4x64x64" and found["threads"] == 1 and found["agrees"]
    assert set(found["alone"]) == {"graphc", "onnxruntime"}


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "no model was named"),
        (["model.onnx", "--batch", "2"], "--batch goes with --zoo"),
    ],
)
def test_bench_needs_models_or_the_zoo(graphc: Call, arguments: list[str], message: str) -> None:
    result = graphc("bench", *arguments)
    assert result.status == 1 and message in result.err


def test_bench_of_the_zoo_without_a_checkout(graphc: Call, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    import graphc as package

    monkeypatch.setattr(package, "__file__", str(tmp_path / "a" / "b" / "__init__.py"))
    result = graphc("bench", "--zoo")
    assert result.status == 1 and "clone graphc" in result.err


def test_tune_keeps_what_it_finds(graphc: Call, mlp: Path, tmp_path: Path) -> None:
    kept = tmp_path / "choices.json"
    result = graphc("tune", mlp, "--dim", "batch=4", "--rounds", "1", "--output", kept)
    assert result.status == 0, result.err
    assert "a call before" in result.out and f"kept in {kept}" in result.out
    data = graphc("tune", mlp, "--dim", "batch=4", "--rounds", "1", "--output", kept, "--json").json
    assert data[0]["model"] == mlp.stem and data[0]["before"] > 0
    assert len(json.loads(kept.read_text())["regions"]) == len(data[0]["regions"])
    elsewhere = graphc("tune", mlp, "--dim", "batch=4", "--target", "cuda:sm_103", "--output", kept)
    assert elsewhere.status == 0, elsewhere.err
    assert "cuda:sm_103 is not here, so nothing was measured" in elsewhere.out
    for arguments in (["--target", "cpu:x86-64-v3"], []):
        refused = graphc("tune", mlp, "--rounds", "1", "--output", kept, *arguments)
        assert (refused.status == 1 and "hint:" in refused.err) or "no effect" in refused.err
