"""Which inputs decide shapes or code: by what operators miss, through arithmetic, and never where data is meant."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from onnx import TensorProto, helper

from graphc.frontend import import_model
from graphc.ops.parameter_inputs import parameter_inputs
from tests.frontend.models import info, model

I64, BOOL = TensorProto.INT64, TensorProto.BOOL


def found(nodes: list[Any], inputs: list[Any], outputs: list[str], **fields: Any) -> dict[str, list[str]]:
    """Each parameter with the operators that it decides about."""
    graph = import_model(model(nodes, inputs, outputs, opset=18, **fields))
    return {name: [node.op_type for node in nodes] for name, nodes in parameter_inputs(graph).items()}


X = info("x", shape=[4, 8, 16])


def one(op: str, *parameters: tuple[str, list[Any], int], **attributes: Any) -> dict[str, list[str]]:
    """Of a model with one node that reads `x` and these inputs."""
    outputs = ["y", "i"] if op == "TopK" else ["y"]
    node = helper.make_node(op, ["x", *(name for name, _, _ in parameters)], outputs, **attributes)
    return found([node], [X, *(info(name, shape=shape, elem=elem) for name, shape, elem in parameters)], ["y"])


@pytest.mark.parametrize(
    ("op", "parameters"),
    [
        ("ReduceSum", [("axes", [1], I64)]),
        ("ReduceMax", [("axes", ["n"], I64)]),
        ("Pad", [("pads", [6], I64)]),
        ("Slice", [("starts", [2], I64), ("ends", [2], I64), ("axes", [2], I64), ("steps", [2], I64)]),
        ("Tile", [("repeats", [3], I64)]),
        ("Expand", [("shape", [3], I64)]),
        ("Reshape", [("shape", [2], I64)]),
        ("CumSum", [("axis", [], I64)]),
        ("Unsqueeze", [("axes", [1], I64)]),
        ("TopK", [("k", [1], I64)]),
    ],
)
def test_inputs_that_shapes_or_expressions_need(op: str, parameters: list[tuple[str, list[Any], int]]) -> None:
    assert one(op, *parameters) == {name: [op] for name, _, _ in parameters}


def test_what_shapes_and_expressions_need_is_found_at_once() -> None:
    node = helper.make_node(
        "Resize", ["x", "roi", "", "sizes"], ["y"], mode="linear", coordinate_transformation_mode="tf_crop_and_resize"
    )
    inputs = [X, info("roi", shape=[6]), info("sizes", shape=[3], elem=I64)]
    assert found([node], inputs, ["y"]) == {"roi": ["Resize"], "sizes": ["Resize"]}


def test_through_arithmetic_that_folds() -> None:
    nodes = [
        helper.make_node("Shape", ["x"], ["s"]),
        helper.make_node("Gather", ["s", "zero"], ["n"]),
        helper.make_node("Mul", ["half", "two"], ["rest"]),
        helper.make_node("Concat", ["n", "rest", "minus"], ["shape"], axis=0),
        helper.make_node("Reshape", ["x", "shape"], ["y"]),
    ]
    constants = {name: np.array([value]) for name, value in {"zero": 0, "two": 2, "minus": -1}.items()}
    inputs = [info("x", shape=["batch", 8, 16]), info("half", shape=[1], elem=I64)]
    assert found(nodes, inputs, ["y"], initializers=constants) == {"half": ["Reshape"]}


@pytest.mark.parametrize(("axis", "expected"), [(0, {}), (1, {"rate": ["If"]})])
def test_a_condition_decides_where_branches_differ_in_shape(axis: int, expected: dict[str, list[str]]) -> None:
    """Branches of equal shapes both run compiled, whichever is taken."""
    branches = {
        f"{name}_branch": helper.make_graph(
            [helper.make_node("Concat", ["x"] * count, [name], axis=1)],
            name,
            [],
            [helper.make_empty_tensor_value_info(name)],
        )
        for name, count in (("then", 1), ("else", 1 + axis))
    }
    nodes = [
        helper.make_node("Equal", ["rate", "known"], ["is"]),
        helper.make_node("If", ["is"], ["y"], **branches),
    ]
    inputs = [info("x", shape=[4, 3]), info("rate", shape=[], elem=I64)]
    assert found(nodes, inputs, ["y"], initializers={"known": np.array(16000)}) == expected


def test_through_a_branch() -> None:
    """The rank of the size, which is known, picks a branch that computes with its elements."""
    then = helper.make_graph([helper.make_node("Add", ["size", "one"], ["t"])], "then", [], [info("t", None, [2], I64)])
    other = helper.make_graph([helper.make_node("Neg", ["size"], ["e"])], "else", [], [info("e", None, [2], I64)])
    nodes = [
        helper.make_node("Size", ["size"], ["n"]),
        helper.make_node("Equal", ["n", "two"], ["is"]),
        helper.make_node("If", ["is"], ["shape"], then_branch=then, else_branch=other),
        helper.make_node("Expand", ["x", "shape"], ["y"]),
    ]
    constants = {"one": np.array([1]), "two": np.array(2)}
    inputs = [info("x", shape=[1]), info("size", shape=[2], elem=I64)]
    assert found(nodes, inputs, ["y"], initializers=constants) == {"size": ["Expand"]}


def test_what_follows_from_shapes_is_no_parameter() -> None:
    nodes = [
        helper.make_node("Shape", ["z"], ["s"]),
        helper.make_node("Div", ["s", "two"], ["half"]),
        helper.make_node("Expand", ["x", "half"], ["y"]),
    ]
    inputs = [info("x", shape=[1, 1]), info("z", shape=["a", "b"])]
    assert found(nodes, inputs, ["y"], initializers={"two": np.array(2)}) == {}


@pytest.mark.parametrize(
    ("nodes", "inputs"),
    [
        # Computed from data: too many elements, or of a shape that no parameter has.
        ([helper.make_node("ReduceMax", ["d"], ["k"], keepdims=0)], [info("d", shape=[1000], elem=I64)]),
        ([helper.make_node("ReduceMax", ["d"], ["k"], keepdims=0)], [info("d", shape=[1, 8], elem=I64)]),
        (
            [helper.make_node("ReduceMax", ["d"], ["f"], keepdims=0), helper.make_node("Cast", ["f"], ["k"], to=I64)],
            [info("d", shape=[40])],
        ),
        ([helper.make_node("NonZero", ["d"], ["p"]), helper.make_node("Size", ["p"], ["k"])], [info("d", shape=[9])]),
        ([helper.make_node("RandomUniform", [], ["f"], shape=[1]), helper.make_node("Cast", ["f"], ["k"], to=I64)], []),
    ],
    ids=["long", "matrix", "floats", "data-dependent", "random"],
)
def test_data_is_no_parameter(nodes: list[Any], inputs: list[Any]) -> None:
    tail = [helper.make_node("Reshape", ["k", "one"], ["shape"]), helper.make_node("Expand", ["x", "shape"], ["y"])]
    assert found([*nodes, *tail], [X, *inputs], ["y"], initializers={"one": np.array([1])}) == {}


@pytest.mark.parametrize(
    "node",
    [
        helper.make_node("Gather", ["x", "i"], ["y"]),
        helper.make_node("Add", ["i", "i"], ["y"]),
        helper.make_node("OneHot", ["i", "depth", "onoff"], ["y"]),
        helper.make_node("Compress", ["x", "mask"], ["y"], axis=0),
    ],
    ids=lambda node: str(node.op_type),
)
def test_inputs_that_nothing_misses(node: Any) -> None:
    inputs = [X, info("i", shape=[4], elem=I64), info("mask", shape=[4], elem=BOOL)]
    constants = {"depth": np.array(5), "onoff": np.array([0, 1], np.float32)}
    assert found([node], inputs, ["y"], initializers=constants) == {}


def test_a_declared_shape_decides_nothing() -> None:
    node = helper.make_node("Reshape", ["x", "shape"], ["y"])
    graph = import_model(model([node], [X, info("shape", shape=[2], elem=I64)], [info("y", shape=[32, 16])], opset=18))
    assert list(parameter_inputs(graph)) == ["shape"]
