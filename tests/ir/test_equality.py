"""Equality of graphs sees every difference and says where it is."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
from hypothesis import given

from graphc.ir import Graph, Node, Tensor, TensorType, Value, difference, dtypes, equal, parse_graph
from tests.ir.strategies import FEW, graphs

TEXT = """
graph @g(%x: float32[4], %c: bool[]) opset 22 {
  bounds n: 1..4
  metadata "producer": "me"
  %w = constant float32[4]<1, 2, 3, 4>
  %y: float32[4] = Mul(%x, %w) {axis=1, scale=0.5, many=[1, 2]} as "mul"
  %z: float32[4] = If(%c)
    then_branch = graph @a() {
      %t: float32[4] = Relu(%y)
      return %t
    }
  return %y, %z
}
"""


def nodes(graph: Graph) -> list[Node]:
    return list(graph.nodes)


def set_type(value: Value, dtype: dtypes.DType) -> None:
    value.type = TensorType(dtype, (4,))


CHANGES: list[tuple[Callable[[Graph], object], str, bool]] = [
    (lambda g: setattr(g, "name", "h"), "name 'g' against 'h'", False),
    (lambda g: g.bounds.clear(), "bounds {'n': (1, 4)} against {}", False),
    (lambda g: g.metadata.clear(), "metadata", False),
    (lambda g: setattr(g, "opset", 21), "opset 22 against 21", True),
    (lambda g: g.add_input("more", None), "2 inputs against 3", True),
    (lambda g: setattr(g.inputs[0], "name", "x2"), "input 0 is called 'x' against 'x2'", False),
    (lambda g: set_type(g.inputs[0], dtypes.INT8), "input %x is of type float32[4] against int8[4]", True),
    (lambda g: setattr(nodes(g)[1], "op_type", "Add"), "op_type 'Mul' against 'Add'", True),
    (lambda g: setattr(nodes(g)[1], "version", 7), "version 22 against 7", True),
    (lambda g: setattr(nodes(g)[1], "domain", "mine"), "domain '' against 'mine'", True),
    (lambda g: setattr(nodes(g)[1], "name", "other"), "name 'mul' against 'other'", False),
    (lambda g: setattr(nodes(g)[1], "origins", ()), "origins ('mul',) against ()", False),
    (lambda g: setattr(nodes(g)[1].output, "name", ""), "output 0 is called 'y' against ''", True),
    (lambda g: setattr(nodes(g)[1].output, "type", None), "is of type float32[4] against None", True),
    (lambda g: nodes(g)[1].set_input(1, None), "inputs: 1 is %w against _", True),
    (lambda g: nodes(g)[1].set_input(1, g.inputs[0]), "inputs: 1 is %w against %x", True),
    (lambda g: setattr(nodes(g)[1], "inputs", g.inputs[:1]), "inputs: 2 against 1", True),
    (lambda g: nodes(g)[1].attributes.pop("axis"), "attribute axis is in one only", True),
    (lambda g: nodes(g)[1].attributes.update(axis=2), "attribute axis: 1 against 2", True),
    (lambda g: nodes(g)[1].attributes.update(axis=1.0), "attribute axis: 1 against 1.0", True),
    (lambda g: nodes(g)[1].attributes.update(scale=-0.5), "attribute scale: 0.5 against -0.5", True),
    (lambda g: nodes(g)[1].attributes.update(many=(1, 3)), "attribute many[1]: 2 against 3", True),
    (lambda g: nodes(g)[1].attributes.update(many=(1,)), "attribute many: 2 items against 1", True),
    (lambda g: nodes(g)[0].attributes.update(value=Tensor.of(np.ones(4, np.float32))), "attribute value", True),
    (lambda g: nodes(nodes(g)[2].graph_attribute("then_branch"))[0].set_input(0, g.inputs[0]), "node %t = Relu", True),
    (lambda g: g.append(Node("Relu", g.inputs[:1], ["r"])), "3 nodes against 4; %r = Relu(%x) is in one only", True),
    (lambda g: setattr(g, "outputs", g.outputs[::-1]), "outputs: 0 is %y against %z", True),
    (lambda g: setattr(g, "outputs", g.outputs[:1]), "outputs: 2 against 1", True),
]


@pytest.mark.parametrize(("change", "message", "means"), CHANGES)
def test_every_difference_is_seen(change: Callable[[Graph], object], message: str, means: bool) -> None:
    graph, other = parse_graph(TEXT), parse_graph(TEXT)
    assert equal(graph, other)
    change(other)
    assert message in (difference(graph, other) or "")
    assert not equal(other, graph)
    assert equal(graph, other, names=False) is not means


def test_not_a_number_equals_itself_and_zeros_have_signs() -> None:
    def with_scale(value: str) -> Graph:
        return parse_graph(f"graph @g() {{ %x = F() {{scale={value}}} return %x }}")

    assert equal(with_scale("nan"), with_scale("nan"))
    assert not equal(with_scale("0.0"), with_scale("-0.0"))


@FEW
@given(graphs(), graphs())
def test_difference_is_symmetric_and_reflexive(left: Graph, right: Graph) -> None:
    assert difference(left, left) is None
    assert equal(left, right) == equal(right, left)
    assert equal(left, right) <= equal(left, right, names=False)


def test_graphs_out_of_order_can_be_equal() -> None:
    text = "graph @g(%x) { %a = Add(%x, %b) %b = Relu(%a) return %b }"
    assert equal(parse_graph(text), parse_graph(text))
    assert not equal(parse_graph(text), parse_graph(text.replace("%x, %b", "%x, %a")))
