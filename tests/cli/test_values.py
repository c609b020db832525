"""`--value` and `--specializations`: inputs that decide, in every command that they concern."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from onnx import TensorProto, helper

from graphc.cli.values import parse_values
from graphc.errors import OptionError
from graphc.package import Package
from tests.cli.conftest import Call, save


@pytest.fixture(scope="session")
def summing(models: Path) -> Path:
    """The sum over axes that are an input."""
    nodes = [
        helper.make_node("ReduceSum", ["x", "axes"], ["s"], "sum"),
        helper.make_node("Relu", ["s"], ["y"], "relu"),
    ]
    return save(
        models / "summing.onnx",
        nodes,
        [
            helper.make_tensor_value_info("x", TensorProto.FLOAT, ["batch", 4, 5]),
            helper.make_tensor_value_info("axes", TensorProto.INT64, [1]),
        ],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["a", "b", "c"])],
        {},
    )


@pytest.mark.parametrize(
    ("text", "values"),
    [
        ("k=3", {"k": [3]}),
        ("k=3,5", {"k": [3, 5]}),
        ("axes=[1,-1]", {"axes": [[1, -1]]}),
        ("axes=[1],[0, 2],[]", {"axes": [[1], [0, 2], []]}),
        ("scales=[1.0, 2.5e-1]", {"scales": [[1.0, 0.25]]}),
        ("training=true", {"training": [True]}),
        ("a=b=3", {"a=b": [3]}),
    ],
)
def test_what_a_value_may_look_like(text: str, values: object) -> None:
    assert parse_values([text]) == values


@pytest.mark.parametrize("text", ["k", "=3", "k=", "k=three", "k=[1", "k=1..3"])
def test_what_it_may_not(text: str) -> None:
    with pytest.raises(OptionError, match="expected NAME=VALUE"):
        parse_values([text])
    with pytest.raises(OptionError, match="given twice"):
        parse_values(["k=1", "k=2"])


def test_check_names_what_decides_and_stops_when_it_is_given(graphc: Call, summing: Path) -> None:
    open_dims = graphc("check", summing)
    assert open_dims.status == 0
    assert "the values of inputs decide shapes or code: axes (ReduceSum)\n      node: sum\n" in open_dims.out
    left_open = graphc("check", summing, "--dim", "batch=2", "--require-compiled")
    assert left_open.status == 0 and "--value axes=…" in left_open.out
    given = graphc("check", summing, "--dim", "batch=2", "--value", "axes=[1]", "--require-compiled")
    assert given.status == 0 and "decide" not in given.out
    none = graphc("check", summing, "--dim", "batch=2", "--require-compiled", "--specializations", "0")
    assert none.status == 1 and "ReduceSum" in none.out


def test_a_package_for_given_values(graphc: Call, summing: Path, tmp_path: Path) -> None:
    path = tmp_path / "m.graphc"
    made = graphc("compile", summing, "--dim", "batch=2", "--value", "axes=[1],[2]", "-o", path, "--json").json
    assert [variant["values"] for variant in made["variants"]] == [{"axes": [1]}, {"axes": [2]}]
    assert not any(variant["host_steps"] for variant in made["variants"])
    shown = graphc("inspect", path, "--value", "axes=[2]").out
    assert "batch=2, axes=[2]" in shown and "batch=2, axes=[1]" not in shown
    for axis, extents in ((1, [2, 1, 5]), (2, [2, 4, 1])):
        ran = graphc("run", path, "--value", f"axes=[{axis}]", "--json").json
        assert ran["outputs"]["y"]["shape"] == extents
    refused = graphc("run", path, "--value", "axes=[0]")
    assert refused.status == 1 and "no variant for batch=2, axes=[0]" in refused.err
    assert "--value 'axes=[0]'" in refused.err


def test_a_package_that_leaves_them_open(graphc: Call, summing: Path, tmp_path: Path) -> None:
    path = tmp_path / "m.graphc"
    made = graphc("compile", summing, "--dim", "batch=2", "-o", path)
    assert "batch=2, any axes" in made.out and "The value of axes decides shapes or code" in made.out
    assert "the value of axes; up to 16 more" in graphc("inspect", path).out
    profiled = graphc("profile", path, "--value", "axes=[2]", "--runs", "2", "--json").json
    assert [step["label"] for step in profiled["steps"]] == ["generic: ReduceSum+Relu"]
    few = tmp_path / "few.graphc"
    assert graphc("compile", summing, "--dim", "batch=2", "-o", few, "--specializations", "0").status == 0
    assert Package(few).manifest.specializations == 0
    assert few.stat().st_size < path.stat().st_size


def test_verify_and_bench_feed_the_values(graphc: Call, summing: Path) -> None:
    verified = graphc("verify", summing, "--dim", "batch=2", "--value", "axes=[0],[2]", "--layers")
    assert verified.status == 0
    assert "batch=2, axes=[0]" in verified.out and "float32[1, 4, 5]" in verified.out
    assert "batch=2, axes=[2]" in verified.out and "float32[2, 4, 1]" in verified.out
    assert graphc("verify", summing, "--dim", "batch=2", "--layers").status == 0
    timed = graphc("bench", summing, "--dim", "batch=2", "--value", "axes=[2]", "--rounds", "1")
    assert timed.status == 0 and "agrees with onnxruntime" in timed.out
    several = graphc("bench", summing, "--dim", "batch=2", "--value", "axes=[1],[2]")
    assert several.status == 1 and "a benchmark is of one value" in several.err


def test_inspect_says_what_decides(graphc: Call, summing: Path) -> None:
    shown = graphc("inspect", summing, "--dim", "batch=2")
    assert "axes, about ReduceSum: sum" in shown.out
    facts = graphc("inspect", summing, "--dim", "batch=2", "--json").json
    assert facts["decides"] == {"axes": ["sum"]}
    strict = graphc("inspect", summing, "--dim", "batch=2", "--require-compiled")
    assert "Give them with --value" in strict.out


def test_errors_of_the_command_line(graphc: Call, summing: Path, tmp_path: Path) -> None:
    wrong = graphc("compile", summing, "--value", "axis=[1]", "-o", tmp_path / "m.graphc")
    assert wrong.status == 1 and "did you mean 'axes'?" in wrong.err
    path = tmp_path / "m.graphc"
    assert graphc("compile", summing, "--dim", "batch=2", "--value", "axes=[1]", "-o", path).status == 0
    assert "--specializations has no effect" in graphc("run", path, "--specializations", "3").err
    assert "no such input" in graphc("run", path, "--value", "axis=[1]").err
    np.save(tmp_path / "axes.npy", np.array([1]))
    assert graphc("run", path, "--input", f"axes={tmp_path / 'axes.npy'}").status == 0
