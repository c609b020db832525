from __future__ import annotations

import time
import tracemalloc
from collections.abc import Callable

import numpy as np
import onnx
import pytest
from onnx import helper, numpy_helper

from graphc.errors import ModelError, TypeInferenceError
from graphc.frontend import CANONICAL_OPSET, export_model, import_model, read_model
from graphc.ir import Graph
from tests.frontend.models import assert_same, chain, info, model, run_ort

X = info("x", shape=[2, 4])
ONES = np.ones((2, 4), np.float32)


def node(op: str, inputs: str, outputs: str, name: str = "", **attributes: object) -> onnx.NodeProto:
    return helper.make_node(op, inputs.split(","), outputs.split(","), name=name, **attributes)


def names(graph: Graph) -> list[str]:
    return [value.name for inner in graph.all_graphs() for n in inner.nodes for value in n.outputs]


def test_a_graph_has_the_models_names_and_types() -> None:
    graph = import_model(chain())
    assert [(v.name, str(v.type)) for v in graph.inputs] == [("x", "float32[2x4]")]
    assert [(v.name, str(v.type)) for v in graph.outputs] == [("y", "float32[2x4]")]
    assert [(n.op_type, n.origins, n.version) for n in graph.nodes] == [
        ("Constant", ("w",), CANONICAL_OPSET),
        ("Relu", ("first",), CANONICAL_OPSET),
        ("Add", ("last",), CANONICAL_OPSET),
    ]


def test_nodes_without_a_name_are_called_after_their_output() -> None:
    proto = model([node("Relu", "x", "r"), node("Split", "r", ",b", axis=1)], [X], ["b"])
    assert [n.origins for n in import_model(proto).nodes] == [("r",), ("b",)]


def test_what_onnx_runtime_s_optimizer_writes_into_old_models() -> None:
    """It fuses a norm of opset 12 into one node, LayerNormalization, which ONNX has since opset 17."""
    made = node("LayerNormalization", "x,s", "y", epsilon=1e-3)
    proto = model([made], [X], ["y"], opset=12, initializers={"s": np.array([1, 2, 3, 4], np.float32)})
    x = np.arange(8, dtype=np.float32).reshape(2, 4) ** 2
    exported = export_model(import_model(proto))
    assert_same(run_ort(proto, {"x": x}), run_ort(exported, {"x": x}))


def test_facts_around_the_graph() -> None:
    proto = chain(opset=13)
    proto.producer_name, proto.producer_version = "maker", "1.2"
    proto.graph.input.append(info("w", shape=[4]))
    proto.metadata_props.add(key="author", value="someone")
    facts = read_model(proto)
    assert (facts.producer, facts.opsets, facts.constant_inputs) == ("maker 1.2", {"": 13}, ("w",))
    assert (facts.inputs, facts.outputs) == (("x",), ("y",))
    assert facts.graph.metadata == {"author": "someone"}


def test_unsorted_nodes_are_sorted() -> None:
    proto = chain()
    shuffled = [proto.graph.node[1], proto.graph.node[0]]
    del proto.graph.node[:]
    proto.graph.node.extend(shuffled)
    assert str(import_model(proto)) == str(import_model(chain()))


def test_a_node_waits_for_what_its_branches_read() -> None:
    branch = helper.make_graph([node("Neg", "late", "n")], "b", [], [info("n", shape=[2, 4])])
    proto = model(
        [node("If", "c", "y", then_branch=branch, else_branch=branch), node("Relu", "x", "late")],
        [X, info("c", shape=[], elem=9)],
        ["y"],
    )
    assert [n.op_type for n in import_model(proto).nodes] == ["Relu", "If"]


def test_names_inside_branches_become_unique() -> None:
    first = helper.make_graph([node("Neg", "x", "t"), node("Abs", "t", "r")], "b", [], [info("r", shape=[2, 4])])
    second = helper.make_graph([node("Exp", "x", "t"), node("Abs", "t", "s")], "b", [], [info("s", shape=[2, 4])])
    proto = model(
        [node("Relu", "x", "u"), node("If", "c", "y", then_branch=first, else_branch=second)],
        [X, info("c", shape=[], elem=9)],
        ["y", "u"],
    )
    graph = import_model(proto)
    found = names(graph)
    assert len(found) == len(set(found)) and found[:2] == ["u", "y"]
    feeds = {"x": ONES * 2, "c": np.array(True)}
    assert_same(run_ort(proto, feeds), run_ort(export_model(graph), feeds))


def loop_model() -> onnx.ModelProto:
    body = helper.make_graph(
        [node("Add", "carried,x", "sum"), node("Identity", "going", "still"), node("Mul", "sum,factor", "scanned")],
        "body",
        [info("i", shape=[], elem=7), info("going", shape=[], elem=9), info("carried", shape=[2, 4])],
        [info("still", shape=[], elem=9), info("sum", shape=[2, 4]), info("scanned", shape=[2, 4])],
        [numpy_helper.from_array(np.float32(2), "factor")],
    )
    nodes = [node("Loop", "trips,,x", "last,all", body=body)]
    return model(nodes, [X], ["last", "all"], initializers={"trips": np.array(3)})


def test_loops_keep_their_meaning() -> None:
    graph = import_model(loop_model())
    assert str(graph.outputs[0].type) == "float32[2x4]"
    feeds = {"x": ONES}
    assert_same(run_ort(loop_model(), feeds), run_ort(export_model(graph), feeds))


def function_model() -> onnx.ModelProto:
    """`outer(x) = scaled(x, by=3) + scaled(x)`, where `scaled` calls `times` and has a default."""
    ops = [helper.make_opsetid("", 17), helper.make_opsetid("mine", 1)]
    constant = onnx.NodeProto(op_type="Constant", output=["c"])
    constant.attribute.add(name="value_float", ref_attr_name="by", type=onnx.AttributeProto.FLOAT)
    times = helper.make_function("mine", "times", ["a"], ["b"], [constant, node("Mul", "a,c", "b")], ops, ["by"])
    inner = helper.make_node("times", ["a"], ["t"], domain="mine")
    inner.attribute.add(name="by", ref_attr_name="by", type=onnx.AttributeProto.FLOAT)
    scaled = helper.make_function(
        "mine",
        "scaled",
        ["a", "unused"],
        ["b", "same"],
        [inner, node("Relu", "t", "b"), node("Identity", "a", "same")],
        ops,
    )
    scaled.attribute_proto.append(helper.make_attribute("by", 2.0))
    del scaled.node[2]
    scaled.output[1] = "a"
    nodes = [
        helper.make_node("scaled", ["x"], ["p"], domain="mine", name="call1", by=3.0),
        helper.make_node("scaled", ["x"], ["q", "copy"], domain="mine", name="call2"),
        node("Add", "p,q", "y", "sum"),
    ]
    return model(nodes, [X], ["y", "copy"], functions=[times, scaled], domains={"mine": 1})


def test_functions_are_unfolded() -> None:
    graph = import_model(function_model())
    assert {n.domain for n in graph.nodes} == {""}
    origins = [n.origins[0] for n in graph.nodes]
    assert origins[:3] == ["call1/t/c", "call1/t/b", "call1/b"] or "call1/b" in origins
    assert len(set(names(graph))) == len(names(graph))
    found = run_ort(export_model(graph), {"x": ONES})
    assert_same([ONES * 5, ONES], found)


def test_functions_that_call_themselves_are_refused() -> None:
    ops = [helper.make_opsetid("", 17), helper.make_opsetid("mine", 1)]
    calls = {"a": "b", "b": "a"}
    functions = [
        helper.make_function("mine", name, ["i"], ["o"], [helper.make_node(other, ["i"], ["o"], domain="mine")], ops)
        for name, other in calls.items()
    ]
    proto = model(
        [helper.make_node("a", ["x"], ["y"], domain="mine")], [X], ["y"], functions=functions, domains={"mine": 1}
    )
    with pytest.raises(ModelError, match="'a' calls itself: a → b → a"):
        import_model(proto)


def test_functions_that_explode_are_refused_before_they_do() -> None:
    ops = [helper.make_opsetid("", 17), helper.make_opsetid("mine", 1)]
    functions = [helper.make_function("mine", "f0", ["i"], ["o"], [node("Relu", "i", "o")], ops)]
    for level in range(1, 30):
        twice = [
            helper.make_node(f"f{level - 1}", ["i"], ["t"], domain="mine"),
            helper.make_node(f"f{level - 1}", ["t"], ["o"], domain="mine"),
        ]
        functions.append(helper.make_function("mine", f"f{level}", ["i"], ["o"], twice, ops))
    proto = model(
        [helper.make_node("f29", ["x"], ["y"], domain="mine")], [X], ["y"], functions=functions, domains={"mine": 1}
    )
    start = time.monotonic()
    with pytest.raises(ModelError, match="unfolds to more than"):
        import_model(proto)
    assert time.monotonic() - start < 2


def nested(depth: int) -> onnx.ModelProto:
    graph = helper.make_graph([node("Neg", "x", "n0")], "g", [], [info("n0", shape=[2, 4])])
    for level in range(1, depth):
        branch = node("If", "c", f"n{level}", then_branch=graph, else_branch=graph)
        graph = helper.make_graph([branch], "g", [], [info(f"n{level}", shape=[2, 4])])
    return model([node("If", "c", "y", then_branch=graph, else_branch=graph)], [X, info("c", shape=[], elem=9)], ["y"])


def test_nesting_is_limited() -> None:
    assert import_model(nested(4)).outputs
    proto = chain()
    inner = proto.graph
    for _ in range(60):
        inner.node.add(op_type="If", input=["c"], output=["n"]).attribute.add(name="then_branch", type=5)
        inner = inner.node[-1].attribute[0].g
    with pytest.raises(ModelError, match="nested deeper"):
        import_model(proto)


def edited(change: Callable[[onnx.ModelProto], object]) -> onnx.ModelProto:
    proto = chain()
    change(proto)
    return proto


def set_input(index: int, name: str) -> Callable[[onnx.ModelProto], object]:
    def change(proto: onnx.ModelProto) -> None:
        proto.graph.node[index].input[0] = name

    return change


BROKEN: list[tuple[str, onnx.ModelProto, str, tuple[str, ...]]] = [
    ("dangling", edited(set_input(1, "rr")), "'rr' is not produced", ("last",)),
    ("cycle", edited(set_input(0, "y")), "cycle of 2 nodes: ", ("first", "last")),
    ("self", edited(set_input(0, "r")), "cycle of 1 node: first → first", ("first",)),
    (
        "twice",
        edited(lambda p: p.graph.node.add(op_type="Neg", input=["x"], output=["r"], name="third")),
        "twice",
        ("third",),
    ),
    ("shadow", edited(lambda p: p.graph.node.add(op_type="Neg", input=["x"], output=["w"], name="n")), "twice", ("n",)),
    ("no output", edited(lambda p: p.graph.output.add(name="z")), "output 'z' of graph 'g' is never", ()),
    ("no outputs", edited(lambda p: p.graph.ClearField("output")), "has no outputs", ()),
    ("output twice", edited(lambda p: p.graph.output.add(name="y")), "'y' is listed twice", ("y",)),
    ("input twice", edited(lambda p: p.graph.input.append(X)), "listed twice", ()),
    ("untyped input", edited(lambda p: p.graph.input[0].ClearField("type")), "'x' declares no type", ("x",)),
    ("rank", edited(lambda p: p.graph.input[0].CopyFrom(info("x", shape=[1] * 65))), "'x' has rank 65", ("x",)),
    ("no opset", edited(lambda p: p.ClearField("opset_import")), "imports no operator set", ()),
    ("old opset", edited(lambda p: setattr(p.opset_import[0], "version", 0)), "opset 0", ()),
    ("new opset", edited(lambda p: setattr(p.opset_import[0], "version", 999)), "opset 999", ()),
    ("new format", edited(lambda p: setattr(p, "ir_version", 999)), "IR version 999", ()),
    ("two opsets", edited(lambda p: p.opset_import.add(version=9)), "in versions 17 and 9", ()),
    ("domain", edited(lambda p: setattr(p.graph.node[0], "domain", "other")), "does not import", ("first",)),
    ("arity", edited(lambda p: p.graph.node[0].input.append("w")), "at most 1 inputs and has 2", ("first",)),
    ("few", edited(lambda p: p.graph.node[1].ClearField("input")), "at least 2 inputs", ("last",)),
    (
        "attribute",
        edited(lambda p: p.graph.node[0].attribute.add(name="alpha", f=1, type=1)),
        "no attribute 'alpha'",
        ("first",),
    ),
    ("weight twice", edited(lambda p: p.graph.initializer.append(p.graph.initializer[0])), "defined twice", ("w",)),
    (
        "dtypes",
        edited(lambda p: p.graph.initializer[0].CopyFrom(numpy_helper.from_array(np.arange(4), "w"))),
        "Add",
        ("last",),
    ),
    (
        "shapes",
        edited(lambda p: p.graph.initializer[0].CopyFrom(numpy_helper.from_array(np.ones(3, np.float32), "w"))),
        "Add",
        ("last",),
    ),
    (
        "declared",
        edited(lambda p: p.graph.output[0].CopyFrom(info("y", shape=[2, 4], elem=7))),
        "is float32.2x4., but the model declares int64",
        ("last",),
    ),
]


@pytest.mark.parametrize(("proto", "words", "blamed"), [b[1:] for b in BROKEN], ids=[b[0] for b in BROKEN])
def test_broken_models_are_named(proto: onnx.ModelProto, words: str, blamed: tuple[str, ...]) -> None:
    start = time.monotonic()
    for source in (proto, proto.SerializeToString()):
        with pytest.raises(ModelError, match=words) as caught:
            import_model(source)
        assert set(caught.value.nodes) == set(blamed)
    assert time.monotonic() - start < 2


def test_attributes_have_the_type_that_the_operator_wants() -> None:
    softmax = node("Softmax", "x", "y", "s", axis=1.0)
    with pytest.raises(ModelError, match="'axis' to be of type INT, not FLOAT") as caught:
        import_model(model([softmax], [X], ["y"]))
    assert caught.value.nodes == ("s",)
    with pytest.raises(ModelError, match=r"lacks its attribute 'to'"):
        import_model(model([node("Cast", "x", "y")], [X], ["y"]))
    with pytest.raises(ModelError, match=r"did you mean 'axis'"):
        import_model(model([node("Softmax", "x", "y", axes=1)], [X], ["y"]))


@pytest.mark.parametrize("shape", [[2, 5], [8]])
def test_declared_output_shapes_may_be_wrong(shape: list[int]) -> None:
    facts = read_model(edited(lambda p: p.graph.output[0].CopyFrom(info("y", shape=shape))))
    assert str(facts.graph.outputs[0].type) == "float32[2x4]"
    assert facts.misdeclared_outputs == ("y",) and read_model(chain()).misdeclared_outputs == ()


def test_close_names_are_suggested() -> None:
    proto = model([node("Relu", "x", "hidden_1"), node("Relu", "hiden_1", "y")], [X], ["y"])
    with pytest.raises(ModelError, match="did you mean 'hidden_1'"):
        import_model(proto)


def test_names_that_are_no_text_are_refused() -> None:
    data = chain().SerializeToString().replace(b"first", b"\xff\xfe\xfd\xfc\xfb")
    with pytest.raises(ModelError):
        import_model(data)


def test_unknown_operators_are_no_error_yet() -> None:
    proto = model([helper.make_node("Mystery", ["x"], ["y"], domain="mine")], [X], ["y"], domains={"mine": 1})
    graph = import_model(proto)
    assert graph.outputs[0].type is None


def test_errors_of_single_nodes_can_be_collected() -> None:
    nodes = [node("Add", "x,w", "a", "bad1"), node("Reshape", "x,s", "b", "bad2"), node("Relu", "x", "y")]
    weights = {"w": np.ones(3, np.float32), "s": np.array([3, 3])}
    errors: list[Exception] = []
    graph = read_model(model(nodes, [X], ["y", "a", "b"], initializers=weights), on_error=errors.append).graph
    assert [error.nodes for error in errors if isinstance(error, TypeInferenceError)] == [("bad1",), ("bad2",)]
    assert [None if v.type is None else str(v.type) for v in graph.outputs] == ["float32[2x4]", None, None]


def test_weights_are_not_copied() -> None:
    weights = {f"w{i}": np.full((1 << 20,), i, np.float32) for i in range(4)}
    data = model([node("Relu", "x", "y")], [X], ["y"], initializers=weights).SerializeToString()
    import_model(chain())  # what the first call allocates stays out of the account
    tracemalloc.start()
    graph = import_model(data)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 1 << 20, "16 MB of weights must stay where they are"
    for index, constant in enumerate(graph.nodes):
        if constant.op_type == "Constant":
            tensor = constant.output.constant
            assert tensor is not None and (tensor.array() == index).all()
