"""Host steps: a node survives the way into a package and back, and runs there."""

from __future__ import annotations

import subprocess
import sys
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from graphc.errors import ExecutionError, GraphcError, PackageError
from graphc.ir import Builder, Graph, Node, OptionalType, SequenceType, Tensor, TensorType, Value, dtypes, symbol
from graphc.ops import host
from graphc.ops.codec import decode, decode_type, encode_type
from graphc.ops.evaluate import evaluate_graph
from tests.ops.differential import VERSION, case


def _same(left: Any, right: Any) -> bool:
    return type(left) is type(right) and left == right


def test_attributes_come_back_exactly() -> None:
    attributes: dict[str, Any] = {
        "i": -(2**62),
        "f": 0.1,
        "inf": float("-inf"),
        "s": "é",
        "b": b"\x00\xff",
        "t": Tensor.of(np.arange(6, dtype=np.float16).reshape(2, 3)),
        "four": Tensor.of(np.array([1, -8, 7]), dtypes.INT4),
        "text": Tensor.of(np.array(["a", "ü"], dtype=object)),
        "is": (1, 2),
        "fs": (1.0, 2.5),
        "ss": ("x", "y"),
        "none": (),
        "type": SequenceType(TensorType(dtypes.INT8, (2, symbol("n")))),
    }
    node = Node("Anything", (), ["y"], attributes, domain="com.example", version=3, name="n", origins=("a", "b"))
    found = decode(host.serialize(node))
    assert found.attributes.keys() == attributes.keys()
    for name, value in attributes.items():
        assert _same(found.attributes[name], value), name
    assert (found.op_type, found.domain, found.version, found.name, found.origins) == (
        *("Anything", "com.example", 3, "n"),
        ("a", "b"),
    )


@pytest.mark.parametrize(
    "kind",
    [
        TensorType(dtypes.FLOAT32, None),
        TensorType(dtypes.BOOL, ()),
        OptionalType(SequenceType(TensorType(dtypes.STRING, (symbol("a"), 3)))),
    ],
)
def test_types_come_back(kind: Any) -> None:
    assert decode_type(encode_type(kind)) == kind


def _if_node() -> tuple[Node, Value, Value]:
    """`If` whose branches read an outer value, an outer constant and a constant of their own."""
    graph = Graph("g", [("c", TensorType(dtypes.BOOL, ())), ("x", TensorType(dtypes.FLOAT32, (3,)))], opset=VERSION)
    outer = Builder(graph)
    condition, x = graph.inputs
    shared = outer.constant(np.float32([1, 2, 3]))
    then_branch, else_branch = Graph("then", opset=VERSION), Graph("else", opset=VERSION)
    then_branch.outputs = [Builder(then_branch).op("Add", x, shared, outputs=["then_y"])]
    inner = Builder(else_branch)
    else_branch.outputs = [inner.op("Mul", x, inner.constant(np.float32(10), name="ten"), outputs=["else_y"])]
    made = outer.op("If", condition, then_branch=then_branch, else_branch=else_branch)
    graph.outputs = [made]
    assert made.producer is not None
    return made.producer, condition, x


def test_captured_values_are_operands_and_captured_constants_are_not() -> None:
    node, condition, x = _if_node()
    assert host.operands(node) == (condition, x)
    payload, data = host.serialize(node), np.float32([1, 1, 1])
    np.testing.assert_array_equal(host.evaluate(payload, [np.array(True), data])[0], [2, 3, 4])
    np.testing.assert_array_equal(host.evaluate(payload, [np.array(False), data])[0], [10, 10, 10])


def test_small_constants_travel_and_large_ones_do_not() -> None:
    small, large = np.zeros(3, np.float32), np.zeros((64, 64), np.float32)
    node = case("Add", [small, large], constants=[0, 1]).node
    assert host.operands(node) == (None, node.inputs[1])
    assert len(host.serialize(node)) < large.nbytes
    np.testing.assert_array_equal(
        host.evaluate(host.serialize(case("Add", [small, small + 1], constants=[1]).node), [small, None])[0], small + 1
    )


def test_string_constants_travel() -> None:
    words = np.array(["a", "b"], dtype=object)
    subject = case("StringConcat", [words, words], constants=[1])
    assert host.operands(subject.node)[1] is None
    assert subject.host()[0].tolist() == ["aa", "bb"]


def test_an_operator_without_numpy_meaning_runs_through_the_reference() -> None:
    subject = case("RegexFullMatch", [np.array(["abc", "x"], dtype=object)], pattern="a.*")
    assert subject.host()[0].tolist() == [True, False]


def test_an_own_meaning_needs_no_onnx() -> None:
    payload = host.serialize(case("MatMul", [np.eye(2, dtype=np.float32)] * 2).node)
    program = (
        "import sys; sys.modules['onnx'] = None; import numpy as np; from graphc.ops import host;"
        f"print(host.evaluate({payload!r}, [np.eye(2), np.eye(2)])[0].tolist())"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=60, check=False)
    assert done.stdout.strip() == "[[1.0, 0.0], [0.0, 1.0]]", done.stderr


def test_what_cannot_run_names_the_node() -> None:
    subject = case("RegexFullMatch", [np.array(["abc"], dtype=object)], pattern="(")
    subject.node.origins = ("culprit",)
    with pytest.raises(ExecutionError) as caught:
        subject.host()
    assert caught.value.nodes == ("culprit",)
    with pytest.raises(ExecutionError):
        case("MatMul", [np.zeros((2, 3)), np.zeros((4, 5))]).host()


@given(st.data())
@settings(max_examples=200)
def test_a_damaged_payload_is_a_typed_error(data: st.DataObject) -> None:
    payload = bytearray(host.serialize(_if_node()[0]))
    if data.draw(st.booleans()):
        del payload[data.draw(st.integers(0, len(payload) - 1)) :]
    else:
        payload[data.draw(st.integers(0, len(payload) - 1))] ^= 1 << data.draw(st.integers(0, 7))
    try:
        node = decode(bytes(payload))
    except PackageError:
        return
    # A flipped bit in a name or a number may leave a payload that is still whole.
    assert isinstance(node, Node)
    try:
        host.evaluate(bytes(payload), [np.array(True), np.float32([1, 1, 1])])
    except GraphcError:
        return


def test_a_region_computes_what_its_body_computes() -> None:
    body = Graph("body", [("a", None), ("b", None)], opset=VERSION)
    inner = Builder(body)
    body.outputs = [inner.op("Relu", inner.op("Add", *body.inputs)), body.inputs[0]]
    x, y = np.float32([[-3, 1]]), np.float32([[1], [2]])
    subject = case("Region", [x, y], 2, domain="graphc", body=body, kind="pointwise")
    assert subject.infer() == [TensorType(dtypes.FLOAT32, shape) for shape in ((2, 2), (1, 2))]
    for outputs in (subject.evaluate(), subject.host()):
        np.testing.assert_array_equal(outputs[0], np.maximum(x + y, 0))
        np.testing.assert_array_equal(outputs[1], x)


def test_a_relayout_keeps_the_values_and_the_declared_layout() -> None:
    from graphc.ir import blocked

    x = np.arange(24, dtype=np.float32).reshape(1, 6, 2, 2)
    subject = case("Relayout", [x], domain="graphc")
    kind = subject.node.inputs[0]
    assert kind is not None
    subject.node.output.type = kind.tensor_type.with_layout(blocked(1, 4))
    assert subject.node.graph is not None
    (found,) = subject.infer()
    assert isinstance(found, TensorType) and found.layout == blocked(1, 4)
    expressed = subject.express()
    assert expressed is not None
    for outputs in (subject.evaluate(), subject.host(), expressed):
        np.testing.assert_array_equal(outputs[0], x)
    graph = subject.node.graph
    graph.outputs = [subject.node.output]
    np.testing.assert_array_equal(evaluate_graph(graph, [x], storage=True)[0], x)
