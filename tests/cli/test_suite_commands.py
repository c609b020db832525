"""The commands that hold graphc against models of others: conformance, fuzz, operators."""

from __future__ import annotations

from pathlib import Path

import onnx
import pytest
from onnx import TensorProto, helper

from tests.cli.conftest import Call


def test_conformance_prints_a_table_and_totals(graphc: Call) -> None:
    found = graphc(
        "conformance", "node/test_relu", "node/test_nonzero_example", "--against", "onnxruntime", "--reasons"
    )
    assert found.status == 0, found.out
    lines = found.out.splitlines()
    assert lines[0].split() == ["operator", "cases", "compiled", "host", "steps", "excluded", "failed", "onnxruntime"]
    assert [line.split()[0] for line in lines[1:3]] == ["NonZero", "Relu"]
    assert "3 cases: " in found.out and "numbers alone: 2 of 2 passed without a host step, 100.0 %" in found.out
    assert "onnxruntime: 3 passed, 0 failed" in found.out


def test_conformance_as_json_says_what_failed(graphc: Call, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("graphc.testing.conformance.runner.EXCLUDED", {"node/test_relu": "no reason"})
    found = graphc("conformance", "node/test_relu", "--backend", "reference", "--kind", "node", "--json")
    assert found.status == 1
    assert found.json["totals"]["failed"] == 1 and found.json["totals"]["host"] == 1
    assert [(r["name"], r["standing"]) for r in found.json["results"]] == [
        ("node/test_relu", "failed"),
        ("node/test_relu_expanded_ver18", "host"),
    ]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["no_such_case"], "no case of the suite"),
        (["--kind", "odd"], "no kind 'odd'"),
        (["node/test_relu", "--against", "abacus"], "no engine 'abacus'"),
    ],
)
def test_conformance_refuses(graphc: Call, arguments: list[str], message: str) -> None:
    found = graphc("conformance", *arguments)
    assert found.status == 1 and message in found.err


def test_fuzz_import_tries_models_and_tells(graphc: Call, mlp: Path, tmp_path: Path) -> None:
    found = graphc("fuzz", "import", mlp, "--count", "20", "--jobs", "1", "--keep", tmp_path / "kept")
    assert found.status == 0, found.out
    assert "20 models, no finding" in found.out and "import: ModelError" in found.out
    again = graphc("fuzz", "import", mlp, "--count", "20", "--jobs", "1", "--json")
    assert again.json["tried"] == 20 and again.json["findings"] == []


def test_fuzz_tells_what_was_reached_and_replays(graphc: Call) -> None:
    found = graphc("fuzz", "--only", "transpose_of_transpose,gelu", "--count", "3", "--jobs", "1", "--json")
    assert found.status == 0, found.err
    facts = found.json
    assert facts["tried"] == 3 and not facts["failures"]
    assert set(facts["coverage"]["rules"]) >= {"transpose_of_transpose", "gelu"}
    text = graphc(
        "fuzz", "--only", "transpose_of_transpose", "--count", "2", "--jobs", "1", "--backends", "reference"
    ).out
    assert "rules applied: 1 of 1" in text and "no finding" in text
    kept = sorted((Path(__file__).parent.parent / "testing" / "corpus").glob("*.onnx"))[:2]
    assert "2 models, no finding" in graphc("fuzz", "replay", *kept, "--backends", "reference").out


def test_fuzz_refuses_what_says_nothing(graphc: Call, tmp_path: Path) -> None:
    for call, message in {
        ("fuzz", "--only", "Reloo"): "no rule and no operator is called Reloo",
        ("fuzz", "--backends", "cuda"): "unknown backend cuda",
        ("fuzz", "models", "model.onnx"): "random models start from no model",
        ("fuzz", "import", "--only", "Relu"): "--only says nothing",
        ("fuzz", "replay"): "nothing to replay",
        ("fuzz", "replay", tmp_path / "gone.onnx"): "there is no model",
    }.items():
        found = graphc(*call)
        assert found.status != 0 and message in found.err


def test_fuzz_import_refuses(graphc: Call, tmp_path: Path) -> None:
    bad = tmp_path / "bad.onnx"
    bad.write_bytes(b"\xff\xff")
    assert "no valid model to begin with" in graphc("fuzz", "import", bad, "--count", "1").err
    assert "positive number" in graphc("fuzz", "import", "--minutes", "-1").err


def test_operators_are_told_by_dtype(graphc: Call) -> None:
    found = graphc("operators", "Relu", "StringSplit")
    lines = [line.split() for line in found.out.splitlines()]
    assert lines[0][:3] == ["operator", "f32", "f64"]
    assert lines[1][:3] == ["Relu", "●", "●"] and lines[2] == ["StringSplit", "○", "○"]
    assert graphc("operators", "Relu", "--json").json[0]["places"]["float32"] == "compiled"
    assert "| Relu | 1, 6, 13, 14 | ● |" in graphc("operators", "Relu", "--markdown").out
    assert "did you mean 'Relu'" in graphc("operators", "Relo").err


def test_check_says_where_each_operator_runs(graphc: Call, tmp_path: Path) -> None:
    kinds = {"x": TensorProto.FLOAT, "s": TensorProto.STRING}
    infos = [helper.make_tensor_value_info(name, kind, [3]) for name, kind in kinds.items()]
    nodes = [
        helper.make_node("Relu", ["x"], ["y"], name="relu"),
        helper.make_node("StringNormalizer", ["s"], ["t"], name="words", case_change_action="LOWER"),
    ]
    made = helper.make_graph(nodes, "g", infos, [onnx.ValueInfoProto(name=name) for name in "yt"])
    path = tmp_path / "mixed.onnx"
    onnx.save(helper.make_model(made, opset_imports=[helper.make_opsetid("", 17)], ir_version=9), str(path))
    found = graphc("check", path)
    assert "Relu (opset 17)              1 ×  float32  compiled" in found.out
    assert "StringNormalizer (opset 17)  1 ×  string   in NumPy" in found.out
    [problem] = [p for p in graphc("check", path, "--json").json["problems"] if p["severity"] == "host"]
    assert problem["nodes"] == ["words"] and problem["opset"] == 17 and problem["dtypes"] == ["string"]
    assert "graphc operators" in problem["hint"]
