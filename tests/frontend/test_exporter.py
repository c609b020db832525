from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from hypothesis import given
from hypothesis import strategies as st
from onnx import helper, numpy_helper

from graphc.errors import OptionError, UnsupportedError
from graphc.frontend import CANONICAL_OPSET, export_model, import_model, save_model
from graphc.ir import GRAPHC_DOMAIN, Builder, Graph, Node, Tensor, TensorType, blocked, dtypes, symbol
from graphc.ops import infer_graph, infer_node
from tests.frontend.models import Array, assert_same, chain, info, model, run_ort

UNARY = ("Relu", "Neg", "Abs", "Sigmoid", "Tanh", "Identity")
BINARY = ("Add", "Sub", "Mul", "Max")


@st.composite
def programs(draw: st.DrawFn) -> onnx.ModelProto:
    """A random graph: shared values, weights, branches that read outer values, outputs that are inputs or weights."""
    opset = draw(st.sampled_from((7, 9, 11, 13, 17, 21)))
    values = ["x", "w"]
    nodes = []
    for index in range(draw(st.integers(1, 6))):
        name = f"v{index}"
        kind = draw(st.sampled_from(("unary", "binary", "softmax", "clip", "if")))
        first, second = (draw(st.sampled_from(values)) for _ in range(2))
        if kind == "unary":
            nodes.append(helper.make_node(draw(st.sampled_from(UNARY)), [first], [name]))
        elif kind == "binary":
            nodes.append(helper.make_node(draw(st.sampled_from(BINARY)), [first, second], [name], name=f"n{index}"))
        elif kind == "softmax":
            nodes.append(helper.make_node("Softmax", [first], [name], axis=draw(st.integers(0, 2))))
        elif kind == "clip" and opset < 11:
            nodes.append(helper.make_node("Clip", [first], [name], min=-0.5, max=0.5))
        else:
            branches = {
                f"{which}_branch": helper.make_graph(
                    [helper.make_node("Mul", [first, second], [f"{which}{index}"])],
                    which,
                    [],
                    [info(f"{which}{index}", shape=[2, 3, 4])],
                )
                for which in ("then", "else")
            }
            nodes.append(helper.make_node("If", ["c"], [name], **branches))
        values.append(name)
    outputs = draw(st.lists(st.sampled_from(values), min_size=1, max_size=3, unique=True))
    return model(
        nodes,
        [info("x", shape=[draw(st.sampled_from((2, "batch"))), 3, 4]), info("c", shape=[], elem=9)],
        [info(name, shape=[2 if name == "w" else None, 3, 4]) for name in outputs],
        opset=opset,
        initializers={"w": np.linspace(-1, 1, 24, dtype=np.float32).reshape(2, 3, 4)},
    )


FEEDS: dict[str, Array] = {"x": np.linspace(-2, 2, 24, dtype=np.float32).reshape(2, 3, 4), "c": np.array(False)}


@given(programs())
def test_what_is_imported_and_exported_means_the_same(proto: onnx.ModelProto) -> None:
    expected = run_ort(proto, FEEDS)
    graph = import_model(proto)
    first = export_model(graph)
    assert [value.name for value in first.graph.output] == [value.name for value in proto.graph.output]
    assert_same(expected, run_ort(first, FEEDS))
    again = export_model(import_model(first))
    assert again.SerializeToString(deterministic=True) == first.SerializeToString(deterministic=True)
    onnx.checker.check_model(first)


def built(*, opset: int = CANONICAL_OPSET) -> tuple[Graph, Builder]:
    graph = Graph("g", [("x", TensorType(dtypes.FLOAT32, (2, 3)))], opset=opset)
    return graph, Builder(graph, infer=lambda node: [kind for kind in infer_node(node) if kind is not None])


def region(graph: Graph, b: Builder, kind: str, operators: tuple[str, ...], x: Any) -> Any:
    """A fused region that applies unary operators one after another."""
    body = Graph("body", [("x", x.type)], opset=graph.opset)
    inner = Builder(body, infer=lambda node: [found for found in infer_node(node) if found is not None])
    value = body.inputs[0]
    for operator in operators:
        value = inner.op(operator, value)
    body.outputs = [value]
    return b.op("Region", x, domain=GRAPHC_DOMAIN, body=body, kind=kind)


def test_regions_and_relayouts_become_functions() -> None:
    graph, b = built()
    first = region(graph, b, "pointwise", ("Neg", "Relu"), graph.inputs[0])
    node = Node("Relayout", [first], ["moved"], domain=GRAPHC_DOMAIN, version=1)
    node.output.type = first.tensor_type.with_layout(blocked(1, 2))
    b.insert(node)
    second = region(graph, b, "pointwise", ("Abs",), node.output)
    graph.outputs = [b.op("Add", first, second)]
    proto = export_model(graph)
    assert [(f.domain, f.name) for f in proto.functions] == [
        ("graphc", "pointwise_0"),
        ("graphc", "Relayout"),
        ("graphc", "pointwise_2"),
    ]
    x = np.array([[1, -2, 3], [-4, 5, -6]], np.float32)
    expected = [np.maximum(-x, 0) * 2]
    assert_same(expected, run_ort(proto, {"x": x}))
    unfolded = import_model(proto)
    assert {n.domain for n in unfolded.nodes} == {""}
    assert_same(expected, run_ort(export_model(unfolded), {"x": x}))


def test_regions_inside_regions_and_regions_that_return_their_input() -> None:
    graph, b = built()
    inner = region(graph, b, "inner", (), graph.inputs[0])
    body = Graph("body", [("x", inner.type)], opset=graph.opset)
    nested = region(body, Builder(body), "deep", ("Neg",), body.inputs[0])
    body.outputs = [nested, nested]
    outer = b.op("Region", inner, outputs=2, domain=GRAPHC_DOMAIN, body=body, kind="outer")
    assert outer.producer is not None
    graph.outputs = [*outer.producer.outputs, outer]
    x = np.ones((2, 3), np.float32)
    assert_same([-x, -x, -x], run_ort(export_model(graph), {"x": x}))


def test_constants_in_region_bodies() -> None:
    graph, b = built()
    body = Graph("body", [("x", graph.inputs[0].type)], opset=graph.opset)
    inner = Builder(body)
    body.outputs = [inner.op("Add", body.inputs[0], inner.constant(np.float32(2)))]
    graph.outputs = [b.op("Region", graph.inputs[0], domain=GRAPHC_DOMAIN, body=body, kind="shift")]
    x = np.ones((2, 3), np.float32)
    assert_same([x + 2], run_ort(export_model(graph), {"x": x}))


def test_unknown_compiler_operators_are_refused() -> None:
    graph, b = built()
    graph.outputs = [b.op("Mystery", graph.inputs[0], graph.inputs[0], domain=GRAPHC_DOMAIN, types=[], name="here")]
    with pytest.raises(UnsupportedError, match="no ONNX form") as caught:
        export_model(graph)
    assert caught.value.nodes == ("here",)


def test_symbols_are_written_as_names() -> None:
    n = symbol("n")
    graph = Graph("g", [("x", TensorType(dtypes.FLOAT32, (n, n * 2 + 1)))], opset=CANONICAL_OPSET)
    b = Builder(graph)
    graph.outputs = [b.op("Relu", graph.inputs[0])]
    infer_graph(graph)
    proto = export_model(graph)
    assert [d.dim_param for d in proto.graph.output[0].type.tensor_type.shape.dim] == ["n", "2*n + 1"]
    assert str(import_model(proto).outputs[0].type) == str(graph.outputs[0].type)


def test_attributes_take_the_type_of_the_definition() -> None:
    graph, b = built()
    leaky = b.op("LeakyRelu", graph.inputs[0], alpha=1)  # an int where ONNX has a float
    axes = b.op("Constant", value_ints=(), types=[TensorType(dtypes.INT64, (0,))])
    graph.outputs = [b.op("ReduceSum", leaky, axes, noop_with_empty_axes=1)]
    proto = export_model(graph)
    kinds = {a.name: a.type for n in proto.graph.node for a in n.attribute}
    kind = onnx.AttributeProto.AttributeType.Value
    assert kinds == {"alpha": kind("FLOAT"), "value_ints": kind("INTS"), "noop_with_empty_axes": kind("INT")}
    x = np.ones((2, 3), np.float32)
    assert_same([x], run_ort(proto, {"x": x}))


def test_origins_and_metadata_are_written() -> None:
    graph, b = built()
    b.origins = ("conv", "relu")
    graph.outputs = [b.op("Relu", graph.inputs[0])]
    graph.metadata["author"] = "someone"
    proto = export_model(graph)
    assert proto.graph.node[0].name == "conv+relu"
    assert {entry.key: entry.value for entry in proto.graph.node[0].metadata_props} == {
        "graphc.origins": '["conv", "relu"]'
    }
    assert next(import_model(proto).nodes).origins == ("conv", "relu")
    assert {entry.key: entry.value for entry in proto.metadata_props} == {"author": "someone"}


@pytest.mark.parametrize("inline_bytes", [0, 1 << 30])
def test_saved_models_run_from_their_files(inline_bytes: int, tmp_path: Path) -> None:
    weights = {"big": np.arange(1024, dtype=np.float32), "shape": np.array([32, 32])}
    nodes = [helper.make_node("Add", ["x", "big"], ["s"]), helper.make_node("Reshape", ["s", "shape"], ["y"])]
    proto = model(nodes, [info("x", shape=[1024])], ["y"], initializers=weights)
    path = tmp_path / "saved.onnx"
    save_model(import_model(proto), path, inline_bytes=inline_bytes)
    names = sorted(os.listdir(tmp_path))
    assert names == (["saved.onnx", "saved.onnx.data"] if inline_bytes == 0 else ["saved.onnx"])
    feeds = {"x": np.ones(1024, np.float32)}
    expected = run_ort(proto, feeds)
    assert_same(expected, run_ort(str(path), feeds))
    assert_same(expected, run_ort(export_model(import_model(path)), feeds))
    save_model(import_model(path), path, inline_bytes=1 << 30)  # over the file that it is read from
    assert_same(expected, run_ort(str(path), feeds))


def test_nothing_half_written_is_left(tmp_path: Path) -> None:
    graph, b = built()
    graph.outputs = [b.op("Mystery", graph.inputs[0], graph.inputs[0], domain=GRAPHC_DOMAIN, types=[])]
    with pytest.raises(UnsupportedError):
        save_model(graph, tmp_path / "m.onnx", inline_bytes=-1)
    assert os.listdir(tmp_path) == []
    with pytest.raises(OptionError, match="cannot write"):
        save_model(import_model(chain()), tmp_path / "absent" / "m.onnx")


def test_models_that_no_message_holds_are_refused() -> None:
    graph, b = built()
    huge = Tensor(dtypes.FLOAT32, (1 << 30,), lambda: pytest.fail("must not be read"))
    graph.outputs = [b.op("Add", graph.inputs[0], b.constant(huge), types=[TensorType(dtypes.FLOAT32, (2, 3))])]
    with pytest.raises(OptionError, match=r"4\.0 GB"):
        export_model(graph)


def test_string_and_narrow_constants_come_back() -> None:
    text = np.array(["a", "ü", ""], object)
    narrow = helper.make_tensor("n", onnx.TensorProto.INT4, [3], np.array([-8, 7, 3]))
    nodes = [helper.make_node("Constant", [], ["t"], value=numpy_helper.from_array(text))]
    proto = model(nodes, [], ["t", "n"], opset=21, ir_version=10)
    proto.graph.initializer.append(narrow)
    graph = import_model(export_model(import_model(proto)))
    found = [value.constant.array().tolist() for value in graph.outputs if value.constant is not None]
    assert found == [["a", "ü", ""], [-8, 7, 3]]
