"""`graphc inspect` and `graphc check`: what they say is what a compile then does."""

from __future__ import annotations

from pathlib import Path

import pytest
from onnx import TensorProto, helper

from tests.cli.conftest import Call, save


def test_model_and_package_tell_the_same(graphc: Call, mlp: Path, package: Path) -> None:
    of_model = graphc("inspect", mlp, "--dim", "batch=1,4", "--json").json
    of_package = graphc("inspect", package, "--json").json
    assert [port["name"] for port in of_model["inputs"]] == [port["name"] for port in of_package["inputs"]] == ["x"]
    for one, other in zip(of_model["variants"], of_package["variants"], strict=True):
        assert one["bindings"] == other["bindings"]
        assert one["target"] == other["target"]
        assert one["steps"] == other["steps"]
        assert one["memory"]["arena_bytes"] == other["memory"]["arena_bytes"]
        for mine, theirs in zip(one["kernels"], other["kernels"], strict=True):
            for fact in ("symbol", "template", "flops", "bytes", "uses", "origins"):
                assert mine[fact] == theirs[fact], fact


def test_a_page_about_a_model(graphc: Call, mlp: Path) -> None:
    page = graphc("inspect", mlp, "--dim", "batch=4", "--all").out
    for part in (
        "mlp.onnx",
        "x: float32[batch, 8]",
        "y: float32[batch, 4]",
        "batch=4 on cpu:",
        "in the model",
        "fuse",
        "first, bias",
        "which is the lower bound",
        "live in steps",
        "0 └",
    ):
        assert part in page, part
    assert "4 nodes → 2 steps" in page


def test_the_history_has_every_change_in_order_with_the_users_nodes(graphc: Call, mlp: Path) -> None:
    told = graphc("inspect", mlp, "--dim", "batch=1", "--json").json["variants"][0]["passes"]
    expected = [application["action"] for run in told for application in run["applications"]]
    assert "fuse" in expected
    page = graphc("inspect", mlp, "--dim", "batch=1", "--history").out
    lines = page.partition("pass and rule")[2].partition("\n\n")[0].splitlines()[1:]
    assert [line.split()[1].rpartition(".")[2] for line in lines] == expected
    assert [line.split()[0] for line in lines] == [str(number + 1) for number in range(len(lines))]
    assert any("first" in line or "relu" in line for line in lines)


def test_a_page_about_a_package(graphc: Call, package: Path) -> None:
    page = graphc("inspect", package, "--kernels", "--memory").out
    for part in (
        "mlp.graphc",
        "batch in 0..",
        "rows of batch are independent",
        "x: float32[batch, 8]",
        "batch=1 on cpu:",
        "batch=4 on cpu:",
        "first",
    ):
        assert part in page, part
    assert "batch=1" not in graphc("inspect", package, "--dim", "batch=4").out


def test_a_package_is_inspected_without_the_compiler(package: Path) -> None:
    import subprocess
    import sys

    code = (
        "import sys; from graphc.cli import main\n"
        f"assert main(['inspect', {str(package)!r}, '--all']) == 0\n"
        "heavy = {'onnx', 'tvm', 'networkx', 'hypothesis'} & set(sys.modules)\nassert not heavy, heavy"
    )
    subprocess.run([sys.executable, "-c", code], capture_output=True, timeout=60, check=True)


def test_the_arena_is_drawn(graphc: Call, mlp: Path, package: Path, tmp_path: Path) -> None:
    pytest.importorskip("matplotlib")
    facts = graphc("inspect", package, "--json", "--draw-memory", tmp_path / "arena.svg").json
    drawn = (tmp_path / "arena.svg").read_text()
    for buffer in facts["variants"][0]["memory"]["buffers"]:
        assert f'id="buffer {buffer["name"]}"' in drawn
    assert "which is the lower bound" in drawn and "live bytes" in drawn
    graphc("inspect", package, "--draw-memory", tmp_path / "again.svg")
    assert (tmp_path / "again.svg").read_text() == drawn
    assert graphc("inspect", mlp, "--dim", "batch=2", "--draw-memory", tmp_path / "arena.png").status == 0
    assert (tmp_path / "arena.png").read_bytes().startswith(b"\x89PNG")
    assert "ends in .svg or .png" in graphc("inspect", package, "--draw-memory", tmp_path / "arena.pdf").err
    assert list(tmp_path.glob("arena.pdf")) == []


def test_the_graph_as_text_reads_back(graphc: Call, on_host: Path) -> None:
    from graphc.ir import parse_graph

    graph = parse_graph(graphc("inspect", on_host, "--graph", "--pipeline", "fold").out)
    assert [node.op_type for node in graph.nodes] == ["Relu", "NonZero", "Abs"]


def test_graphs_between_passes_go_to_standard_error(graphc: Call, mlp: Path) -> None:
    result = graphc("inspect", mlp, "--dim", "batch=1", "--print-after", "fuse", "--print-before", "fuse", "--json")
    assert result.json["variants"]
    before, after = result.err.split("// after fuse")
    assert "// before fuse" in before
    assert "graphc::Region" not in before
    assert "graphc::Region" in after


def test_what_a_package_does_not_hold(graphc: Call, package: Path) -> None:
    for option in (["--passes"], ["--graph"], ["--print-after", "fuse"], ["--pipeline", "fold"]):
        assert graphc("inspect", package, *option).status == 1
    assert graphc("inspect", package, "--dim", "batch=2").status == 1


def test_host_steps_are_named(graphc: Call, on_host: Path, tmp_path: Path) -> None:
    path = tmp_path / "m.graphc"
    graphc("compile", on_host, "-o", path)
    for page in (graphc("inspect", on_host).out, graphc("inspect", path).out):
        assert "NonZero" in page
        assert "where_not_zero" in page
        assert "on the host" in page
    (step,) = graphc("inspect", path, "--json").json["variants"][0]["host_steps"]
    (why,) = graphc("inspect", on_host, "--json").json["variants"][0]["host_steps"]
    assert step == why and step["op"] == "NonZero" and step["nodes"] == ["where_not_zero"] and step["reason"]


def test_check_agrees_with_compile(graphc: Call, on_host: Path, mlp: Path) -> None:
    good = graphc("check", mlp, "--dim", "batch=1,8")
    assert (good.status, good.out.splitlines()[-1]) == (0, "ok")
    host = graphc("check", on_host)
    assert (host.status, host.out.splitlines()[-1]) == (0, "ok, 1 host step")
    assert "where_not_zero" in host.out
    assert graphc("check", on_host, "--require-compiled").status == 1
    assert "dimensions are open: batch" in graphc("check", mlp).out


@pytest.fixture
def unknown(tmp_path: Path) -> Path:
    """Two operators that graphc does not know, and one that it does."""
    nodes = [
        helper.make_node("Relu", ["x"], ["r"], "known"),
        helper.make_node("Frobnicate", ["r"], ["f"], "one", domain="my.domain"),
        helper.make_node("Frobnicate", ["f"], ["g"], "two", domain="my.domain"),
        helper.make_node("FusedThing", ["g"], ["y"], "three", domain="com.microsoft"),
    ]
    path = tmp_path / "unknown.onnx"
    ports = [helper.make_tensor_value_info(name, TensorProto.FLOAT, [2]) for name in "xy"]
    graph = helper.make_graph(nodes, "unknown", ports[:1], ports[1:])
    opsets = [
        helper.make_opsetid(domain, version) for domain, version in (("", 20), ("my.domain", 1), ("com.microsoft", 1))
    ]
    path.write_bytes(helper.make_model(graph, opset_imports=opsets, ir_version=10).SerializeToString())
    return path


def test_check_reports_everything_at_once(graphc: Call, unknown: Path) -> None:
    result = graphc("check", unknown)
    assert result.status == 1
    assert "one, two" in result.out
    assert "three" in result.out
    operators, _, problems = result.out.partition("does not compile")
    assert "Relu (opset 20)" in operators and "unknown" in operators
    assert "Relu" not in problems
    report = graphc("check", unknown, "--json").json
    assert report["ok"] is False
    assert [problem["nodes"] for problem in report["problems"] if problem["severity"] == "error"] == [
        ["one", "two"],
        ["three"],
    ]


def test_an_unknown_operator_is_a_typed_error_of_compile(graphc: Call, unknown: Path, tmp_path: Path) -> None:
    result = graphc("compile", unknown, "-o", tmp_path / "m.graphc")
    assert result.status == 1
    assert "Frobnicate" in result.err
    assert not (tmp_path / "m.graphc").exists()


def test_a_scalar_and_a_small_model(graphc: Call, embedding: Path, tmp_path: Path) -> None:
    path = save(
        tmp_path / "nothing.onnx",
        [helper.make_node("Identity", ["x"], ["y"])],
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, [])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, [])],
        {},
    )
    for model in (path, embedding):
        result = graphc("inspect", model, "--all")
        assert result.status == 0, result.err
    assert "0 steps" in graphc("inspect", path).out
