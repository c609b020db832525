"""`graphc why`: the answers name the user's nodes, and are what the pipeline then does."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from onnx import TensorProto, helper

from tests.cli.conftest import Call, save


@pytest.fixture(scope="session")
def nearly(models: Path) -> Path:
    """A gelu, and two that are none: one adds 2 in place of 1, the other is of tanh."""
    weights = {"half": np.float32(0.5), "one": np.float32(1), "two": np.float32(2), "root": np.float32(np.sqrt(2))}
    nodes, outputs = [], []
    for name, inner, added in (("gelu", "Erf", "one"), ("two", "Erf", "two"), ("tanh", "Tanh", "one")):
        steps = [("Div", "x", "root"), (inner, f"{name}_0"), ("Add", f"{name}_1", added), ("Mul", "x", f"{name}_2")]
        steps.append(("Mul", f"{name}_3", "half"))
        for number, (op_type, *operands) in enumerate(steps):
            nodes.append(helper.make_node(op_type, operands, [f"{name}_{number}"], f"{name}/{op_type}_{number}"))
        outputs.append(helper.make_tensor_value_info(f"{name}_4", TensorProto.FLOAT, ["batch", 8]))
    inputs = [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["batch", 8])]
    return save(models / "nearly.onnx", nodes, inputs, outputs, weights)


def test_near_misses_come_first_with_what_stopped_them(graphc: Call, nearly: Path) -> None:
    page = graphc("why", nearly, "gelu", "--dim", "batch=4").out
    assert page.startswith("gelu: x * 0.5 * (Erf(x / √2) + 1) = Gelu(x).\n\nApplied at 1 node\n")
    assert "from gelu/" in page.split("Not matched")[0]
    nearest, _, rest = page.partition("is made by Tanh, not by Erf")
    assert rest and "constant %two is 2.0, not 1 throughout" in nearest + rest


def test_a_node_is_asked_about_by_the_models_name(graphc: Call, nearly: Path) -> None:
    answer = graphc("why", nearly, "gelu", "tanh/Tanh_1", "--dim", "batch=4").out
    assert "is made by" in answer and "tanh/" in answer and "Applied" not in answer
    gone = graphc("why", nearly, "gelu", "gelu/Erf_1", "--dim", "batch=4").out
    assert "What became of gelu/Erf_1, in order:" in gone and "raise.gelu" in gone


def test_json_has_every_answer(graphc: Call, nearly: Path) -> None:
    facts = graphc("why", nearly, "gelu", "--dim", "batch=4", "--json").json
    assert facts["asked"] == "gelu"
    assert [answer["verdict"] for answer in facts["answers"]][:2] == ["applied", "unmatched"]
    nearest = facts["answers"][1]
    assert nearest["others"] and nearest["where"]["x"] == "%x: float32[4x8]"


def test_fusion_tells_what_is_one_kernel_and_why_the_rest_is_not(graphc: Call, mlp: Path) -> None:
    page = graphc("why", mlp, "fuse", "--dim", "batch=4").out
    assert "one region of MatMul: MatMul, Add, Relu" in page
    assert "MatMul is the anchor of a region, which reads its operands from memory" in page and "from second" in page


def test_pipelines_are_those_of_the_target_however_it_is_written(graphc: Call, mlp: Path) -> None:
    for target in ("CPU", " cpu"):
        assert "one region of MatMul" in graphc("why", mlp, "fuse", "--dim", "batch=4", "--target", target).out


def test_a_pass_that_the_pipeline_lacks_is_put_in(graphc: Call, mlp: Path) -> None:
    page = graphc("why", mlp, "merge_matmuls", "--dim", "batch=4").out
    assert "The pipeline does not run merge_matmuls" in page
    assert "of %x it takes 2 alike, and there is 1: nothing else reads it in this way" in page
    assert "followed by the bias %b0" in page
    assert "is an output of the graph" in page


def test_what_runs_on_the_host_is_told_with_the_reason(graphc: Call, on_host: Path, mlp: Path) -> None:
    assert "from where_not_zero" in graphc("why", on_host, "host").out
    assert graphc("why", on_host, "host", "relu").out == "relu does not run on the host.\n"
    assert graphc("why", mlp, "host", "--dim", "batch=4").out == "No node runs on the host.\n"


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["gelo"], "unknown rule or pass 'gelo'; did you mean 'gelu'?"),
        (["gelu", "tanh/Tanh_2", "--dim", "batch=4"], "did you mean 'tanh/Tanh_1'?"),
        (["host", "tanh/Tanh_2", "--dim", "batch=4"], "did you mean 'tanh/Tanh_1'?"),
    ],
)
def test_what_cannot_be_asked_is_an_error(graphc: Call, nearly: Path, arguments: list[str], message: str) -> None:
    result = graphc("why", nearly, *arguments)
    assert result.status == 1 and message in result.err


@pytest.mark.parametrize("name", ["gelu", "host"])
def test_where_nothing_is_lowered_it_says_what_to_bind(graphc: Call, models: Path, name: str) -> None:
    inputs = [
        helper.make_tensor_value_info("x", TensorProto.FLOAT, [2, 6]),
        helper.make_tensor_value_info("shape", TensorProto.INT64, [2]),
    ]
    nodes = [helper.make_node("Reshape", ["x", "shape"], ["y"], "reshape")]
    outputs = [helper.make_tensor_value_info("y", TensorProto.FLOAT, [None, None])]
    open_ = save(models / "open.onnx", nodes, inputs, outputs, {})
    result = graphc("why", open_, name, "--require-compiled")
    assert result.status == 1 and "bind them with --dim or --value" in result.err


def test_where_there_is_no_candidate_it_says_so(graphc: Call, mlp: Path) -> None:
    page = graphc("why", mlp, "transpose_of_transpose", "--dim", "batch=4").out
    assert "no node that it could start at when it was asked: no Transpose." in page
    of_node = graphc("why", mlp, "transpose_of_transpose", "relu", "--dim", "batch=4").out
    assert "it starts at Transpose, not at Relu" in of_node
