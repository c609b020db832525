from __future__ import annotations

import json
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper

from graphc.errors import OptionError
from graphc.frontend import check
from graphc.ir import Node
from tests.frontend.models import chain, info, model

X = info("x", shape=["batch", 4])


@dataclass(frozen=True)
class Answer:
    ok: bool
    reason: str = ""


def test_every_unknown_operator_is_listed_at_once_with_a_way_out() -> None:
    nodes = [
        helper.make_node("FusedThing", ["x"], ["a"], domain="com.microsoft", name="fused1"),
        helper.make_node("FusedThing", ["a"], ["b"], domain="com.microsoft", name="fused2"),
        helper.make_node("Mine", ["b"], ["c"], domain="my.ops", name="own"),
        helper.make_node("Swish", ["c"], ["d"], name="new"),
        helper.make_node("Convv", ["d"], ["e"], name="typo"),
        helper.make_node("Xyzzyx", ["e"], ["y"], name="odd"),
    ]
    report = check(model(nodes, [X], ["y"], opset=17, domains={"com.microsoft": 1, "my.ops": 3}))
    assert not report.ok
    found = {problem.operator: problem for problem in report.errors}
    assert {name: problem.nodes for name, problem in found.items()} == {
        "com.microsoft::FusedThing": ("fused1", "fused2"),
        "my.ops::Mine": ("own",),
        "": ("new",),
        "Convv": ("typo",),
        "Xyzzyx": ("odd",),
    }
    assert found["my.ops::Mine"].opset == 3
    assert "optimizations" in found["com.microsoft::FusedThing"].hint
    assert "Swish exists since opset 24" in found[""].message and "opset 24 or newer" in found[""].hint
    assert "Conv" in found["Convv"].hint
    assert "--plugin" in found["Xyzzyx"].hint
    text = str(report)
    for name in ("fused1", "fused2", "own", "new", "typo", "odd"):
        assert name in text


def test_unknown_operators_inside_branches_are_found() -> None:
    branch = helper.make_graph(
        [helper.make_node("Deep", ["x"], ["r"], domain="my.ops", name="hidden")], "b", [], [info("r", shape=[1, 4])]
    )
    nodes = [helper.make_node("If", ["c"], ["y"], then_branch=branch, else_branch=branch, name="choice")]
    report = check(model(nodes, [X, info("c", shape=[], elem=9)], ["y"], domains={"my.ops": 1}))
    assert ("my.ops::Deep", ("hidden",)) in {(p.operator, p.nodes) for p in report.errors}


def test_errors_of_several_nodes_are_all_reported() -> None:
    nodes = [
        helper.make_node("Add", ["x", "w"], ["a"], name="bad1"),
        helper.make_node("Reshape", ["w", "s"], ["b"], name="bad2"),
        helper.make_node("Relu", ["x"], ["y"]),
    ]
    weights = {"w": np.ones(3, np.float32), "s": np.array([4, 4])}
    report = check(model(nodes, [X], ["y", "a", "b"], initializers=weights))
    assert [problem.nodes for problem in report.errors] == [("bad1",), ("bad2",)]


def test_host_steps_are_asked_of_the_backend() -> None:
    def supports(node: Node) -> Answer:
        return Answer(node.op_type != "Relu", "no kernel for Relu")

    report = check(chain(), supports=supports)
    assert report.ok and [(p.operator, p.message, p.nodes) for p in report.host_steps] == [
        ("Relu", "no kernel for Relu", ("first",))
    ]
    assert "1 host step" in str(report)
    assert check(chain(), supports=lambda node: Answer(True)).host_steps == ()


def test_ports_and_open_dimensions() -> None:
    proto = model([helper.make_node("Relu", ["x"], ["y"])], [info("x", shape=["batch size", 4])], ["y"])
    report = check(proto)
    assert report.dynamic_dims == {"batch_size": "batch size"}
    assert [(port.name, port.type) for port in report.outputs] == [("y", "float32[batch_size, 4]")]
    assert "'batch size' in the model" in str(report)
    bound = check(proto, dims={"batch size": 2})
    assert bound.dynamic_dims == {} and bound.problems == ()
    with pytest.raises(OptionError):
        check(proto, dims={"nope": 1})


def test_constant_inputs_are_noted() -> None:
    proto = chain()
    proto.graph.input.append(info("w", shape=[4]))
    assert any("constants here: w" in problem.message for problem in check(proto).problems)


def test_broken_files_are_reported_not_raised(tmp_path: Path) -> None:
    path = tmp_path / "broken.onnx"
    path.write_text("<html>")
    report = check(path)
    assert not report.ok and "HTML" in report.errors[0].message and str(path) == report.model
    assert not check(tmp_path / "absent.onnx").ok


def test_reports_are_data() -> None:
    report = check(chain())
    data = json.loads(report.to_json())
    assert data["ok"] is True and data["nodes"] == {"Relu": 1, "Add": 1} and data["constant_bytes"] == 16
    assert data["inputs"] == [{"name": "x", "type": "float32[2x4]", "dims": {}}]
    assert str(report).splitlines()[-1] == "ok"


def test_every_operator_is_listed_with_its_nodes_opset_and_dtypes() -> None:
    nodes = [
        helper.make_node("Relu", ["x"], ["a"], name="one"),
        helper.make_node("Relu", ["a"], ["b"], name="two"),
        helper.make_node("Cast", ["b"], ["y"], name="cast", to=TensorProto.INT32),
    ]
    infos = [helper.make_tensor_value_info("x", TensorProto.FLOAT, [2]), onnx.ValueInfoProto(name="y")]
    graph = helper.make_graph(nodes, "g", infos[:1], infos[1:])
    report = check(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9))
    assert [(u.operator, u.opset, u.dtypes, u.nodes, u.place) for u in report.operators] == [
        ("Relu", 17, ("float32",), ("one", "two"), ""),
        ("Cast", 17, ("float32",), ("cast",), ""),
    ]
    judged = [replace(use, host=host) for use, host in zip(report.operators, (1, 1), strict=True)]
    assert [use.place for use in judged] == ["compiled, 1 in NumPy", "in NumPy"]
    assert "  Relu (opset 17)  2 ×  float32" in str(report)
