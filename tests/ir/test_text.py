"""The text form: prints and parses back to an equal graph, is stable, and says what it means."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from graphc.errors import ParseError
from graphc.ir import (
    Builder,
    Graph,
    Node,
    Tensor,
    TensorType,
    blocked,
    collect_constants,
    difference,
    dtypes,
    equal,
    parse_graph,
    print_graph,
    print_node,
    symbol,
)
from graphc.ir.literals import float_text, parse_float
from graphc.ir.verify import verify
from tests.ir.strategies import FEW, FLOATS, graphs, tensors

UNTYPED = ("types", "legal types", "constants", "layout edges", "layout boundary")


@FEW
@given(graphs())
def test_a_graph_prints_and_parses_back(graph: Graph) -> None:
    text = print_graph(graph)
    again = parse_graph(text, constants=collect_constants(graph))
    assert difference(graph, again) is None
    assert print_graph(again) == text
    verify(again, skip=UNTYPED)


@FEW
@given(graphs())
def test_an_embedded_graph_needs_nothing_else(graph: Graph) -> None:
    text = print_graph(graph, constants="embed", inline_limit=4)
    assert difference(graph, parse_graph(text)) is None


@FEW
@given(graphs())
def test_elided_text_differs_only_in_the_elements(graph: Graph) -> None:
    text = print_graph(graph, constants="elide", inline_limit=3)
    if any(tensor.size > 3 for tensor in collect_constants(graph).values()):
        assert "<...>" in text
        with pytest.raises(ParseError, match="the elements are left out of this text"):
            parse_graph(text)
    else:
        assert difference(graph, parse_graph(text)) is None


@given(tensors())
@settings(max_examples=200)
def test_elements_are_exact_to_the_bit(tensor: Tensor) -> None:
    graph = Graph()
    Builder(graph).constant(tensor)
    again = parse_graph(print_graph(graph, inline_limit=10_000))
    (node,) = again.nodes
    held = node.attributes["value"]
    assert isinstance(held, Tensor)
    assert (held.dtype, held.shape) == (tensor.dtype, tensor.shape)
    assert held.digest() == tensor.digest()


@given(FLOATS)
def test_floats_are_exact(value: float) -> None:
    np.testing.assert_equal(parse_float(float_text(value)), value)


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (1.0, "1.0"),
        (0.1, "0.1"),
        (float(np.float32(0.1)), "0.1f"),
        (float(np.float32(1e-5)), "1e-05f"),
        (0.5, "0.5"),
        (-0.0, "-0.0"),
        (1e38, "1e+38"),
        (float("-inf"), "-inf"),
        (float("nan"), "nan"),
    ],
)
def test_floats_are_short(value: float, text: str) -> None:
    assert float_text(value) == text


def example() -> Graph:
    f32 = dtypes.FLOAT32
    graph = Graph("net", [("x", TensorType(f32, (symbol("batch"), 3, 8, 8)))], opset=22)
    graph.bounds["batch"] = (1, 32)
    graph.metadata["producer"] = "me"
    b = Builder(graph)
    weight = b.constant(np.arange(32 * 27, dtype=np.float32).reshape(32, 3, 3, 3), name="onnx::Conv_1")
    bias = b.constant(np.zeros(32, np.float32), name="bias")
    axes = b.constant([2, 3], dtypes.INT64, name="axes")
    image = TensorType(
        f32, (symbol("batch"), 32, 8, 8), blocked(1, 16, halo=((0, 0), (0, 0), (1, 1), (1, 1)), fill=0.0)
    )
    y = b.op("Conv", graph.inputs[0], weight, bias, outputs=["y"], types=[image], name="conv1", pads=[1, 1, 1, 1])
    assert y.producer is not None
    y.producer.origins = ("conv1",)
    b.origins = ("exp", "div")
    body = Graph("softmax", [("h", y.type)], opset=22)
    inner = Builder(body).op("Softmax", body.inputs[0], outputs=["s"], types=[image], axis=-1)
    body.outputs = [inner]
    z = b.op("Region", y, outputs=["z"], domain="graphc", types=[image], kind="softmax", body=body)
    r = b.op("ReduceMean", z, None, axes, outputs=["r", ""], version=18, epsilon=float(np.float32(1e-5)))
    graph.outputs = [r, z]
    return graph


EXAMPLE = """\
graph @net(%x: float32[batch, 3, 8, 8]) opset 22 {
  bounds batch: 1..32
  metadata "producer": "me"
  %onnx::Conv_1 = constant float32[32x3x3x3]<sha256:DIGEST>
  %bias = constant float32[32]<splat 0.0>
  %axes = constant int64[2]<2, 3>
  %y: float32[batch, 32, 8, 8]{block=1x16 halo=0:0,0:0,1:1,1:1 fill=0} = Conv(%x, %onnx::Conv_1, %bias) \
{pads=[1, 1, 1, 1]} as "conv1"
  %z: float32[batch, 32, 8, 8]{block=1x16 halo=0:0,0:0,1:1,1:1 fill=0} = graphc::Region(%y) {kind="softmax"} \
from "exp", "div"
    body = graph @softmax(%h: float32[batch, 32, 8, 8]{block=1x16 halo=0:0,0:0,1:1,1:1 fill=0}) {
      %s: float32[batch, 32, 8, 8]{block=1x16 halo=0:0,0:0,1:1,1:1 fill=0} = Softmax(%h) {axis=-1}
      return %s
    }
  %r, _ = ReduceMean@18(%z, _, %axes) {epsilon=1e-05f} from "exp", "div"
  return %r, %z
}
"""


def test_what_it_looks_like() -> None:
    graph = example()
    (key,) = (key for key, tensor in collect_constants(graph).items() if tensor.size > 32)
    assert print_graph(graph) == str(graph) == EXAMPLE.replace("DIGEST", key)


def test_long_parameter_lists_take_a_line_each() -> None:
    graph = Graph("g", [(f"a_rather_long_name_{i}", TensorType(dtypes.FLOAT32, (1, 2))) for i in range(5)])
    graph.outputs = graph.inputs[:1]
    text = print_graph(graph)
    assert text.splitlines()[:3] == [
        "graph @g(",
        "    %a_rather_long_name_0: float32[1x2],",
        "    %a_rather_long_name_1: float32[1x2],",
    ]
    assert difference(graph, parse_graph(text)) is None


def test_one_node_leaves_out_what_is_large() -> None:
    nodes = list(example().nodes)
    assert print_node(nodes[0]) == "%onnx::Conv_1 = constant float32[32x3x3x3]<...>"
    assert print_node(nodes[5]) == '%r, _ = ReduceMean@18(%z, _, %axes) {epsilon=1e-05f} from "exp", "div"'


def test_values_of_an_illegal_kind_still_print() -> None:
    graph = Graph()
    graph.append(Node("Odd", attributes={"flag": True, "none": None}))  # type: ignore[dict-item]
    assert "() = Odd() {flag=!True, none=!None}" in print_graph(graph)


def test_a_person_may_write_it_loosely() -> None:
    graph = parse_graph(
        """
        // comments of two kinds
        graph @g ( %x : float32[ n , 4 ], %c: bool[] ) opset 22
        {
          %y : float32[n,4] = If ( %c ) as "if_1"   # the name
            then_branch = graph @"then"() { %t = Relu(%x) return %t }
            else_branch = graph @"else"() { %e = Add(%x, %k)  %k = constant float32[]<1> return %e, }
          return %y
        }
        """.replace("%e, }", "%e }")
    )
    assert [node.op_type for inner in graph.all_graphs() for node in inner.nodes] == ["If", "Relu", "Add", "Constant"]
    (branch,) = graph.nodes
    assert branch.origins == (branch.name,) == ("if_1",)
    inner = branch.graph_attribute("then_branch")
    assert inner.outputs[0].producer is not None
    assert inner.outputs[0].producer.inputs == (graph.inputs[0],)
    assert inner.opset == 22


def test_a_cycle_can_be_written_down() -> None:
    graph = parse_graph("graph @g(%x) { %a = Add(%x, %b) %b = Relu(%a) return %b }")
    first, second = graph.nodes
    assert first.inputs[1] is second.output
    assert second.output.consumers == (first,)


MISTAKES = [
    ("", 1, 1, "expected 'graph', found the end of the text"),
    ("graph g", 1, 7, "expected '@', found 'g'"),
    ("graph @g(%x: float33[1]) { return }", 1, 14, "unknown dtype 'float33'"),
    ("graph @g(%x: float32) { return }", 1, 21, "expected '[' and a shape, found ')'"),
    ("graph @g(%x: float32[1xn]) { return }", 1, 22, "cannot read dimension '1xn'"),
    ("graph @g(%x: float32[n, -1]) { return }", 1, 25, "-1 is no extent"),
    ("graph @g(%x: float32[n, m +]) { return }", 1, 25, "expected an integer, a symbol or '('"),
    ("graph @g(%x: float32[2]{halo=1:1,1:1}) { return }", 1, 24, "does not fit the shape"),
    (
        "graph @g(%x: float32[2]{color=red}) { return }",
        1,
        24,
        "a layout has order, block, halo and fill, not color",
    ),
    ("graph @g(%x: float32[2]{block=0}) { return }", 1, 24, "invalid literal"),
    ("graph @g(%x: float32[2]{block=0x0}) { return }", 1, 24, "layout blocks axis 0 by 0"),
    ("graph @g(%x, %x) { return }", 1, 14, "%x is defined twice; first on line 1"),
    ("graph @g(%x) {\n  %y = Relu(%z)\n  return %y\n}", 2, 13, "%z is not defined"),
    ("graph @g(%conv) {\n  return %conv1\n}", 2, 10, "%conv1 is not defined; did you mean %conv?"),
    ("graph @g(%x) {\n  %x = Relu(%x)\n  return %x\n}", 2, 3, "%x is defined twice; first on line 1"),
    ("graph @g(%x) {\n  %y = Relu(%x}\n", 2, 15, "expected ',' or ')', found '}'"),
    ("graph @g(%x) {\n  %y Relu(%x)\n", 2, 6, "expected '=', found 'Relu'"),
    ("graph @g(%x) {\n  %y = (%x)\n", 2, 8, "expected an operator, found '(%x)'"),
    ("graph @g() {\n  %y = F() {a=1, a=2}\n", 2, 18, "attribute a is given twice"),
    ("graph @g() {\n  %y = F() {a=}\n", 2, 15, "expected a number, a string, a tensor, 'type(' or '['"),
    ("graph @g() {\n  %y = F() {a=1e999}\n", 2, 15, "1e999 is out of range"),
    ("graph @g() {\n  %y = F() {a=1e60f}\n", 2, 15, "1e60f is out of range"),
    ('graph @g() {\n  %y = F() {a="\\q"}\n', 2, 15, "is no string in JSON's notation"),
    ('graph @g() {\n  %y = F() {a=b"\\xz1"}\n', 2, 15, 'expected b"..." of ASCII and \\xNN, found'),
    ("graph @g() {\n  %y = F() {a=int8[2]<1, 200>}\n", 2, 22, "200 is out of the range of int8"),
    ("graph @g() {\n  %y = F() {a=int8[2]<1, 2.5>}\n", 2, 22, "2.5 is no element of int8"),
    ("graph @g() {\n  %y = F() {a=float16[1]<1e9>}\n", 2, 25, "1e9 is out of the range of float16"),
    ("graph @g() {\n  %y = F() {a=bool[1]<1>}\n", 2, 22, "1 is neither true nor false"),
    ("graph @g() {\n  %y = F() {a=int8[3]<1, 2>}\n", 2, 22, "the shape has 3 elements, 2 are given"),
    ("graph @g() {\n  %y = F() {a=int8[n]<1>}\n", 2, 15, "a tensor has a static, row-major type"),
    ("graph @g() {\n  %y = F() {a=int8[1]}\n", 2, 22, "expected '<' and elements"),
    ("graph @g() {\n  %y = F() {a=complex64[1]<1>}\n", 2, 27, "elements of complex64 are written as bits"),
    ("graph @g() {\n  %y = F() {a=int8[2]<bits 0>}\n", 2, 22, "non-hexadecimal number"),
    ("graph @g() {\n  %y = F() {a=int8[2]<bits 00>}\n", 2, 22, "2 elements of int8 take 2 bytes, not 1"),
    ("graph @g() {\n  %y = F() {a=int8[1x1000000000000]<splat 1>}\n", 2, 36, "is too large"),
    ("graph @g() {\n  %y = constant int8[1]<sha256:0123456789abcdef>\n  return }", 2, 25, "no tensor is given"),
    ("graph @g() {\n  %y: int8[1] = constant int8[1]<1>\n", 2, 3, "a constant has one name"),
    ("graph @g() {\n  bounds n 1..2\n", 2, 12, "expected ':', found '1..2'"),
    ("graph @g() {\n  metadata a: 1\n", 2, 12, "expected a quoted string, found 'a'"),
    ("graph @g() {\n  weird\n", 2, 3, "expected a node, 'bounds', 'metadata' or 'return', found 'weird'"),
    ("graph @g() { return } graph", 1, 23, "expected the end of the text, found 'graph'"),
    ("graph @g() { return }\nconstants { x }", 2, 13, "expected 'sha256:' and 16 hexadecimal digits, found 'x'"),
    ("graph @g() { return", 1, 20, "expected '}', found the end of the text"),
]


@pytest.mark.parametrize(("text", "line", "column", "message"), MISTAKES)
def test_errors_show_the_place(text: str, line: int, column: int, message: str) -> None:
    with pytest.raises(ParseError) as caught:
        parse_graph(text)
    error = caught.value
    assert message in str(error)
    assert (error.line, error.column) == (line, column)
    shown = str(error).splitlines()
    source, caret = shown[-2], shown[-1]
    assert source == f"  {text.splitlines()[line - 1] if text else ''}"
    assert caret == " " * (column + 1) + "^"


def test_a_long_line_is_shown_around_the_place() -> None:
    text = "graph @g() {\n  %y = F(" + ", ".join(["_"] * 300) + ", oops, " + ", ".join(["_"] * 300) + ")\n return }"
    with pytest.raises(ParseError) as caught:
        parse_graph(text)
    _, source, caret = str(caught.value).splitlines()
    assert len(source) < 200
    assert source[caret.index("^") :].startswith("oops")
    assert caught.value.column == text.splitlines()[1].index("oops") + 1


@pytest.mark.parametrize(
    "text",
    [
        "graph @g() {\n" + "%y = F()\n b = graph @g() {\n" * 2000,
        "graph @g(%x: " + "seq(" * 5000,
        "graph @g(%x: float32[" + "(" * 900 + "]) { return }",
    ],
)
def test_deep_nesting_is_refused(text: str) -> None:
    with pytest.raises(ParseError, match="nested"):
        parse_graph(text)


def test_a_given_constant_must_have_the_type_that_the_text_says() -> None:
    graph = example()
    constants = collect_constants(graph)
    (key,) = (key for key, tensor in constants.items() if tensor.size > 32)
    constants[key] = Tensor.of(np.zeros(3, np.float32))
    with pytest.raises(ParseError, match=rf"the tensor given for sha256:{key} is Tensor\(float32\[3\]\)"):
        parse_graph(print_graph(graph), constants=constants)


@FEW
@given(graphs(max_nodes=3), st.data())
def test_damaged_text_is_a_graph_or_a_typed_error(graph: Graph, data: st.DataObject) -> None:
    text = print_graph(graph)
    position = data.draw(st.integers(0, len(text)))
    length = data.draw(st.integers(0, 4))
    inserted = data.draw(st.text(alphabet='%_(){}[]<>,:="@x1. \n#/-b', max_size=3))
    damaged = text[:position] + inserted + text[position + length :]
    try:
        parse_graph(damaged, constants=collect_constants(graph))
    except ParseError as error:
        assert 1 <= error.line <= damaged.count("\n") + 1
        assert error.column >= 1


@FEW
@given(graphs())
def test_a_clone_is_equal_and_apart(graph: Graph) -> None:
    copy = graph.clone()
    assert difference(graph, copy) is None
    assert equal(graph, copy, names=False)
    verify(copy, skip=UNTYPED)
    mine = {value for inner in graph.all_graphs() for node in inner.nodes for value in node.outputs}
    assert not any(value in mine for inner in copy.all_graphs() for node in inner.nodes for value in node.inputs)
