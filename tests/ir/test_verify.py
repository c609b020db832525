"""Every check of the verifier finds what it is for, and no check finds fault with a good graph."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest
from hypothesis import given

from graphc.errors import OptionError, TypeInferenceError, VerifyError
from graphc.ir import Graph, Node, Tensor, TensorType, Use, Value, dtypes, layout_checks, parse_graph, symbol
from graphc.ir import verify as verify_module
from graphc.ir.types import SequenceType
from graphc.ir.verify import (
    ANY_OPERATOR,
    CHECKS,
    Check,
    Problem,
    find_problems,
    inference_check,
    register_check,
    register_layout_rule,
    row_major_only,
    verify,
)
from tests.ir.strategies import FEW, graphs

TEXT = """
graph @net(%x: float32[n, 4], %c: bool[]) opset 22 {
  bounds n: 1..8
  %w = constant float32[4]<1, 2, 3, 4>
  %y: float32[n, 4] = Mul(%x, %w) {axis=1} as "mul"
  %z: float32[n, 4] = If(%c) as "branch"
    then_branch = graph @then() {
      %t: float32[n, 4] = Relu(%y)
      return %t
    }
    else_branch = graph @else() {
      %e: float32[n, 4] = Neg(%y)
      return %e
    }
  %r: float32[n, 4] = graphc::Region(%z) {kind="none"} from "exp", "log"
    body = graph @body(%r0: float32[n, 4]) {
      %r1: float32[n, 4] = Exp(%r0)
      return %r1
    }
  return %r
}
"""


def good() -> Graph:
    return parse_graph(TEXT)


def at(graph: Graph, index: int) -> Node:
    return list(graph.nodes)[index]


def then(graph: Graph) -> Graph:
    return at(graph, 2).graph_attribute("then_branch")


def body(graph: Graph) -> Graph:
    return at(graph, 3).graph_attribute("body")


def first(graph: Graph) -> Node:
    return at(graph, 0)


def unlink_backwards(graph: Graph) -> None:
    at(graph, 2)._previous = None


def foreign_value(graph: Graph) -> None:
    at(graph, 1).set_input(1, good().inputs[0])


def swap(graph: Graph) -> None:
    nodes = list(graph.nodes)
    graph.reorder([nodes[1], nodes[0], *nodes[2:]])


def leak(graph: Graph) -> None:
    at(graph, 3).set_input(0, first(then(graph)).output)


def replace_input(graph: Graph, kind: Any) -> None:
    graph.inputs[1].type = kind


def attribute(graph: Graph, value: Any) -> None:
    at(graph, 1).attributes["axis"] = value


def blocked_input(graph: Graph) -> None:
    text = TEXT.replace("%x: float32[n, 4]", "%x: float32[n, 4]{block=1x4}")
    graph.inputs[0].type = parse_graph(text).inputs[0].type


BREAKS: list[tuple[str, Callable[[Graph], object], str]] = [
    ("nodes", unlink_backwards, "not linked both ways"),
    ("nodes", lambda g: setattr(g, "_count", 7), "counts 7 nodes, its list has 4"),
    ("nodes", lambda g: setattr(at(g, 1), "graph", None), "says that it belongs to no graph"),
    ("nodes", lambda g: at(g, 2).attributes.update(else_branch=then(g)), "graph then is held in two places"),
    ("definitions", lambda g: setattr(at(g, 1).output, "index", 1), "has another producer or index"),
    ("definitions", lambda g: setattr(at(g, 1).output, "producer", at(g, 2)), "has another producer or index"),
    ("definitions", lambda g: setattr(g.inputs[1], "index", 0), "a producer or a wrong index"),
    ("definitions", lambda g: setattr(at(g, 1), "outputs", at(g, 0).outputs), "%w is defined in two places"),
    ("uses", lambda g: at(g, 0).output._uses.clear(), "input 1 reads %w, whose use list lacks it"),
    ("uses", lambda g: at(g, 3).output._uses.clear(), "graph net returns %r, whose use list lacks it"),
    ("uses", lambda g: g.inputs[0]._uses.update({Use(at(g, 2), 0): None}), "position 0, which does not read it there"),
    ("uses", lambda g: Node("Dead", [g.inputs[0]]), "which is not in this graph"),
    ("uses", lambda g: setattr(Graph("dead"), "outputs", g.inputs), "by graph dead, position 0, which is not in"),
    ("scope", foreign_value, "input 1 reads %x, which nothing in this graph defines"),
    ("scope", swap, "input 1 reads %w, which is defined only later"),
    ("scope", lambda g: setattr(then(g), "outputs", [at(g, 3).output]), "returns %r, which is defined only later"),
    ("scope", leak, "which is defined inside graph then and not visible here"),
    ("names", lambda g: setattr(at(g, 1).output, "name", "x"), "two values are called %x"),
    ("names", lambda g: setattr(first(then(g)).output, "name", "x"), "two values are called %x"),
    ("names", lambda g: setattr(first(body(g)).output, "name", "r0"), "two values are called %r0"),
    ("names", lambda g: setattr(at(g, 1).output, "name", ""), "a value without a name is an input or is read"),
    ("regions", lambda g: at(g, 3).attributes.update(body=1), "a region has no graph as its attribute 'body'"),
    ("regions", lambda g: first(body(g)).set_input(0, at(g, 1).output), "body reads %y of the graph around it"),
    ("regions", lambda g: at(g, 3).set_input(0, None), "a region has an absent input"),
    ("regions", lambda g: setattr(at(g, 3), "inputs", [g.inputs[0]] * 2), "a region has 2 inputs, its body 1"),
    ("regions", lambda g: setattr(body(g), "outputs", ()), "a region has 1 outputs, its body 0"),
    (
        "regions",
        lambda g: at(g, 3).set_input(0, g.inputs[1]),
        "input 0 of a region is bool[], in its body float32[n, 4]",
    ),
    ("types", lambda g: setattr(at(g, 1).output, "type", None), "%y has no type"),
    ("types", lambda g: replace_input(g, None), "%c has no type"),
    ("legal types", lambda g: replace_input(g, "float32"), "a str is no type"),
    ("legal types", lambda g: replace_input(g, TensorType(dtypes.BOOL, (-1,))), "extent -1 is negative"),
    ("legal types", lambda g: replace_input(g, TensorType(dtypes.BOOL, (np.int64(3),))), "a int64, not an int"),
    ("legal types", lambda g: replace_input(g, TensorType(dtypes.BOOL, (True,))), "a bool, not an int"),
    ("legal types", lambda g: replace_input(g, TensorType(dtypes.BOOL, (symbol("a b"),))), "'a b' is no identifier"),
    ("legal types", lambda g: replace_input(g, SequenceType(TensorType(dtypes.BOOL, (-2,)))), "extent -2 is negative"),
    ("attributes", lambda g: attribute(g, True), "attribute axis is a bool"),
    ("attributes", lambda g: attribute(g, np.int64(1)), "attribute axis is a int64"),
    ("attributes", lambda g: attribute(g, [1]), "attribute axis is a list"),
    ("attributes", lambda g: attribute(g, None), "attribute axis is a NoneType"),
    ("attributes", lambda g: attribute(g, (1, 2.0)), "attribute axis is a tuple of float, int"),
    ("attributes", lambda g: attribute(g, (np.float32(1),)), "attribute axis is a tuple of float32"),
    ("constants", lambda g: at(g, 0).attributes.update(value=Tensor.of([1.0])), "holds float64[1]"),
    ("bounds", lambda g: g.bounds.update(n=(3, 2)), "bounds symbol n by (3, 2)"),
    ("bounds", lambda g: g.bounds.update(n=(-1, 2)), "bounds symbol n by (-1, 2)"),
    ("bounds", lambda g: g.bounds.update({"a b": (1, 2)}), "which is no identifier"),
    ("layout edges", blocked_input, "input 0 of Mul must be row-major, not float32[n, 4]{block=1x4}"),
]


@pytest.fixture(autouse=True)
def tables_as_they_come() -> Iterator[None]:
    """Other folders add checks and rules where they are imported; these tests are of what stands here, and add more."""
    tables: list[dict[Any, Any]] = [verify_module._TABLE, layout_checks._RULES]
    kept = [dict(table) for table in tables]
    tables[0].pop("inference", None)
    tables[1]["", ANY_OPERATOR] = row_major_only
    yield
    for table, before in zip(tables, kept, strict=True):
        table.clear()
        table.update(before)


def test_a_good_graph_passes() -> None:
    verify(good())


@FEW
@given(graphs())
def test_structure_checks_accept_every_well_formed_graph(graph: Graph) -> None:
    verify(graph, skip=("types", "layout edges", "layout boundary"))


@pytest.mark.parametrize(("name", "damage", "message"), BREAKS)
def test_each_check_finds_its_own(name: str, damage: Callable[[Graph], object], message: str) -> None:
    graph = good()
    kept = damage(graph)
    found = find_problems(graph)
    assert found is not None
    check, problems = found
    assert check.name == name
    assert message in "\n".join(problem.message for problem in problems)
    with pytest.raises(VerifyError, match=f"graph net fails check '{name}'"):
        verify(graph)
    del kept


def test_every_check_has_a_case() -> None:
    assert {name for name, _, _ in BREAKS} | {"layout boundary"} == set(CHECKS)
    assert all(check.name == name and check.description for name, check in CHECKS.items())


def test_what_graphs_return_is_row_major_unless_a_region_takes_it() -> None:
    text = """
    graph @g(%x: float32[1x8]) {
      %a: float32[1x8]{block=1x4} = graphc::Relayout(%x)
      %b: float32[1x8]{block=1x4} = graphc::Region(%a)
        body = graph @body(%a0: float32[1x8]{block=1x4}) {
          %b0: float32[1x8]{block=1x4} = graphc::Relayout(%a0)
          return %b0
        }
      %c: float32[1x8] = graphc::Relayout(%b)
      return %c
    }
    """
    verify(parse_graph(text))
    with pytest.raises(VerifyError, match=r"graph g returns %b as float32\[1x8\]\{block=1x4\}, not row-major"):
        verify(parse_graph(text.replace("return %c", "return %b")))
    with pytest.raises(VerifyError, match=r"graph g takes %x as float32\[1x8\]\{block=1x4\}, not row-major"):
        verify(parse_graph(text.replace("@g(%x: float32[1x8]", "@g(%x: float32[1x8]{block=1x4}")))
    with pytest.raises(VerifyError, match=r"a relayout changes float32\[1x8\]\{block=1x4\} into float32\[8x1\]"):
        verify(parse_graph(text.replace("%c: float32[1x8]", "%c: float32[8x1]")))


def test_a_layout_rule_opens_an_operator() -> None:
    graph = good()
    blocked_input(graph)
    register_layout_rule("Mul", lambda node: None)
    with pytest.raises(VerifyError, match="layout boundary"):
        verify(graph)
    verify(graph, skip=("layout boundary",))
    register_layout_rule("Mul", lambda node: "not today")
    with pytest.raises(VerifyError, match="not today"):
        verify(graph)


def test_the_error_shows_the_node_among_its_neighbours() -> None:
    graph = good()
    at(graph, 1).attributes["axis"] = True
    with pytest.raises(VerifyError) as caught:
        verify(graph)
    assert str(caught.value) == (
        "graph net fails check 'attributes' (attribute values are of the kinds that ONNX has, tuples of one kind):\n"
        "attribute axis is a bool\n"
        "    %w = constant float32[4]<1.0, 2.0, 3.0, 4.0>\n"
        '  > %y: float32[n, 4] = Mul(%x, %w) {axis=!True} as "mul"\n'
        "    %t: float32[n, 4] = Relu(%y)\n"
        "    %e: float32[n, 4] = Neg(%y) [node 'mul']"
    )
    assert caught.value.nodes == ("mul",)


def test_many_problems_are_cut_short() -> None:
    graph = Graph("g")
    for index in range(9):
        graph.append(Node("F", [], [f"v{index}"]))
    with pytest.raises(VerifyError, match=r"\.\.\. and 4 more problems"):
        verify(graph)


def test_checks_can_be_left_out_and_added() -> None:
    graph = good()
    graph.inputs[1].type = None
    verify(graph, skip=("types",))
    with pytest.raises(OptionError, match="no check is called 'tpyes'; known: nodes, definitions"):
        verify(graph, skip=("tpyes",))

    def no_relu(checked: Graph) -> Any:
        for inner in checked.all_graphs():
            yield from (Problem("there is a Relu", node) for node in inner.nodes if node.op_type == "Relu")

    register_check(Check("no relu", "no Relu is left", no_relu))
    with pytest.raises(VerifyError, match="there is a Relu"):
        verify(good())


def test_inference_check_compares_what_operators_make() -> None:
    known: dict[str, Any] = {
        "Mul": TensorType(dtypes.FLOAT32, (symbol("m"), 4)),
        "Relu": TensorType(dtypes.FLOAT32, None),
        "Neg": None,
        "Constant": TensorType(dtypes.FLOAT32, (4,)),
        "Exp": TensorType(dtypes.FLOAT32, (3, 4)),
    }
    inferred: list[str] = []

    def infer(node: Node) -> list[Any]:
        inferred.append(node.op_type)
        if isinstance(known[node.op_type], Exception):
            raise known[node.op_type]
        return [known[node.op_type]]

    register_check(inference_check(lambda: infer))
    verify(good())
    assert inferred == ["Constant", "Mul", "Relu", "Neg", "Exp"]
    for op, kind, message in [
        ("Mul", TensorType(dtypes.FLOAT16, (symbol("n"), 4)), r"%y is float32\[n, 4\], but Mul makes float16\[n, 4\]"),
        ("Mul", TensorType(dtypes.FLOAT32, (symbol("n"), 5)), r"Mul makes float32\[n, 5\]"),
        ("Mul", TensorType(dtypes.FLOAT32, (4,)), r"Mul makes float32\[4\]"),
        ("Mul", SequenceType(TensorType(dtypes.FLOAT32, (4,))), r"Mul makes seq\(float32\[4\]\)"),
        ("Mul", TypeInferenceError("Mul: shapes do not fit"), "shapes do not fit"),
    ]:
        known["Mul"] = TensorType(dtypes.FLOAT32, (symbol("m"), 4))
        known[op] = kind
        with pytest.raises(VerifyError, match=message):
            verify(good())


def test_a_value_of_two_graphs_is_seen() -> None:
    graph = good()
    value = Value("stray", TensorType(dtypes.FLOAT32, (4,)))
    at(graph, 1).set_input(1, value)
    with pytest.raises(VerifyError, match="reads %stray, which nothing in this graph defines"):
        verify(graph)
