"""Graphs under edits: use lists, orders and names stay right whatever is done to them."""

from __future__ import annotations

import itertools
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from graphc.errors import VerifyError
from graphc.ir import (
    Builder,
    Graph,
    Node,
    TensorType,
    Value,
    captured_values,
    clone_node,
    difference,
    dtypes,
    parse_graph,
)
from graphc.ir.verify import find_problems, verify
from tests.ir.strategies import FEW, graphs

KIND = TensorType(dtypes.FLOAT32, (4,))


class GraphEdits(RuleBasedStateMachine):
    """Random edits of one graph; a list of nodes kept beside it says what the order should be."""

    def __init__(self) -> None:
        super().__init__()
        self.graph = Graph("edited", [("x", KIND), ("y", KIND)])
        self.order: list[Node] = []

    def values(self, before: int | None = None) -> list[Value]:
        nodes = self.order if before is None else self.order[:before]
        return [*self.graph.inputs, *(value for node in nodes for value in node.outputs)]

    def make(self, data: st.DataObject, position: int) -> Node:
        reads = data.draw(st.lists(st.sampled_from([*self.values(position), None]), max_size=3), label="reads")
        names = [self.graph.fresh_name("v") for _ in range(data.draw(st.integers(1, 2), label="outputs"))]
        node = Node("Op", reads, names)
        for value in node.outputs:
            value.type = KIND
        if data.draw(st.booleans(), label="has a subgraph"):
            body = Graph("body", [(self.graph.fresh_name("b"), KIND)])
            outer = data.draw(st.sampled_from(self.values(position)), label="captured")
            inner = Builder(body).op("Inner", outer, body.inputs[0], outputs=[self.graph.fresh_name("i")], types=[KIND])
            body.outputs = [inner, outer]
            node.attributes["body"] = body
        return node

    @rule(data=st.data())
    def append(self, data: st.DataObject) -> None:
        self.order.append(self.graph.append(self.make(data, len(self.order))))

    @rule(data=st.data())
    def prepend(self, data: st.DataObject) -> None:
        self.order.insert(0, self.graph.prepend(self.make(data, 0)))

    @precondition(lambda self: self.order)
    @rule(data=st.data(), after=st.booleans())
    def insert(self, data: st.DataObject, after: bool) -> None:
        position = data.draw(st.integers(0, len(self.order) - 1), label="anchor")
        node = self.make(data, position + after)
        place = self.graph.insert_after if after else self.graph.insert_before
        place(node, self.order[position])
        self.order.insert(position + after, node)

    @precondition(lambda self: self.order)
    @rule(data=st.data())
    def rewire(self, data: st.DataObject) -> None:
        position = data.draw(st.integers(0, len(self.order) - 1), label="node")
        node = self.order[position]
        choices = [*self.values(position), None]
        if node.inputs and data.draw(st.booleans(), label="one input"):
            index = data.draw(st.integers(0, len(node.inputs) - 1), label="input")
            node.set_input(index, data.draw(st.sampled_from(choices), label="value"))
        else:
            node.inputs = data.draw(st.lists(st.sampled_from(choices), max_size=3), label="values")

    @precondition(lambda self: self.order)
    @rule(data=st.data())
    def replace_by_earlier(self, data: st.DataObject) -> None:
        position = data.draw(st.integers(0, len(self.order) - 1), label="node")
        old = data.draw(st.sampled_from(self.order[position].outputs), label="old")
        new = data.draw(st.sampled_from(self.values(position)), label="new")
        count, before = len(old.uses), len(new.uses)
        assert old.replace_all_uses(new) == count
        assert not old.is_used
        assert len(new.uses) == before + count

    @precondition(lambda self: self.order)
    @rule(data=st.data())
    def remove(self, data: st.DataObject) -> None:
        position = data.draw(st.integers(0, len(self.order) - 1), label="node")
        node = self.order[position]
        if any(value.is_used for value in node.outputs):
            with pytest.raises(VerifyError, match="is still read by"):
                self.graph.remove(node)
        else:
            self.graph.remove(node)
            del self.order[position]
            assert node.graph is None and not node.inputs

    @rule(data=st.data())
    def set_outputs(self, data: st.DataObject) -> None:
        self.graph.outputs = data.draw(st.lists(st.sampled_from(self.values()), max_size=3), label="outputs")

    @precondition(lambda self: self.graph.outputs)
    @rule(data=st.data())
    def set_one_output(self, data: st.DataObject) -> None:
        index = data.draw(st.integers(0, len(self.graph.outputs) - 1), label="output")
        value = data.draw(st.sampled_from(self.values()), label="value")
        self.graph.set_output(index, value)
        assert self.graph.outputs[index] is value and value.is_graph_output

    @rule(data=st.data())
    def shuffle_and_sort(self, data: st.DataObject) -> None:
        shuffled = data.draw(st.permutations(self.order), label="order")
        self.graph.reorder(shuffled)
        assert list(self.graph.nodes) == shuffled
        self.graph.topological_sort()
        self.order = list(self.graph.nodes)

    @rule()
    def sort(self) -> None:
        self.graph.topological_sort()
        assert list(self.graph.nodes) == self.order, "a sorted graph stays as it is"

    @rule()
    def clone(self) -> None:
        copy = self.graph.clone()
        assert difference(self.graph, copy) is None
        verify(copy)

    @invariant()
    def is_right(self) -> None:
        assert list(self.graph.nodes) == self.order
        assert len(self.graph) == len(self.order)
        verify(self.graph)


GraphEdits.TestCase.settings = settings(max_examples=30, stateful_step_count=25, deadline=None)
test_edits = GraphEdits.TestCase


@FEW
@given(graphs(), st.randoms(use_true_random=False))
def test_sorting_is_stable_and_independent_of_the_shuffle(graph: Graph, random: Any) -> None:
    nodes = list(graph.nodes)
    shuffled = nodes[:]
    random.shuffle(shuffled)
    graph.reorder(shuffled)
    graph.topological_sort()
    ordered = list(graph.nodes)
    assert set(ordered) == set(nodes)
    found = find_problems(graph, skip=("types", "legal types", "constants", "layout edges", "layout boundary"))
    assert found is None
    place = {node: position for position, node in enumerate(shuffled)}
    for earlier, later in itertools.pairwise(ordered):
        # Only a node that had to wait for the one just before may come after it in spite of an earlier place.
        if place[later] < place[earlier]:
            waits = {v.producer for v in later.inputs if v} | {
                v.producer for _, inner in later.subgraphs() for v in captured_values(inner)
            }
            assert earlier in waits


def test_a_cycle_is_named_without_what_hangs_on_it() -> None:
    graph = parse_graph(
        """
        graph @g(%x) {
          %d = After(%c) as "after"
          %a = A(%x, %c) as "a"
          %b = B(%a)
            body = graph @inner() { %i = I(%a) return %i }
          %c = C(%b) as "c"
          return %d
        }
        """
    )
    with pytest.raises(VerifyError, match=r"3 node\(s\) form a cycle: ") as caught:
        graph.topological_sort()
    assert set(caught.value.nodes) == {"a", "B", "c"}


def test_a_node_that_reads_itself_is_named() -> None:
    graph = parse_graph('graph @g() { %a = Loop(%a) as "me" return %a }')
    with pytest.raises(VerifyError, match=r"1 node\(s\) form a cycle: %a = Loop") as caught:
        graph.topological_sort()
    assert caught.value.nodes == ("me",)


def test_replacing_uses_costs_the_uses() -> None:
    graph = Graph("g", [("x", KIND), ("y", KIND)])
    x, y = graph.inputs
    for index in range(3):
        graph.append(Node("Add", [x, x], [f"v{index}"]))
    graph.outputs = [x]
    assert len(x.uses) == 7
    assert x.consumers == tuple(graph.nodes)
    assert x.replace_all_uses(x) == 0
    assert x.replace_all_uses(y) == 7
    assert not x.is_used and graph.outputs == (y,)


def test_removing_a_node_frees_what_its_subgraphs_captured() -> None:
    graph = parse_graph(
        """
        graph @g(%x) {
          %a = If(%x)
            then_branch = graph @t() {
              %b = If(%x)
                then_branch = graph @u() { %c = Neg(%x) return %x }
              return %b
            }
          return %x
        }
        """
    )
    (x,) = graph.inputs
    (node,) = graph.nodes
    assert len(x.uses) == 5
    graph.remove(node)
    assert [use.user for use in x.uses] == [graph]


def test_inputs_leave_only_when_nothing_reads_them() -> None:
    graph = Graph("g", [("x", KIND), ("y", KIND), ("z", KIND)])
    x, y, z = graph.inputs
    node = graph.append(Node("Neg", [x], ["n"]))
    with pytest.raises(VerifyError, match="input x of graph g is still used by %n = Neg"):
        graph.remove_input(x)
    graph.remove_input(y)
    assert graph.inputs == (x, z) and z.index == 1
    graph.remove(node)
    graph.remove_input(x)
    assert graph.inputs == (z,) and z.index == 0


def test_fresh_names_are_new_in_every_nested_graph() -> None:
    graph = Graph("g", [("x", KIND)])
    body = Graph("body")
    Builder(body).op("Relu", graph.inputs[0], outputs=["relu"])
    holder = Node("If", [], ["relu_1"], {"then_branch": body})
    graph.append(holder)
    assert graph.fresh_name("relu") == "relu_2"
    assert body.fresh_name("relu") == "relu_3"
    assert body.fresh_name("x") == "x_1"
    assert graph.fresh_name("new") == "new"
    assert graph.fresh_name("new") == "new_1"


def test_many_fresh_names_are_quick() -> None:
    graph = Graph()
    names = [graph.fresh_name("add") for _ in range(50_000)]
    assert len(set(names)) == len(names)


def test_iteration_survives_removal_of_the_node_at_hand() -> None:
    graph = Graph("g", [("x", KIND)])
    for index in range(4):
        graph.append(Node("Neg", graph.inputs, [f"v{index}"]))
    for node in graph.nodes:
        graph.remove(node)
    assert len(graph) == 0 and list(graph) == []


def test_a_cloned_node_reads_what_it_is_given() -> None:
    graph = parse_graph(
        "graph @g(%x, %y) { %a = If(%x) body = graph @b() { %c = Neg(%x) %d = Add(%c, %y) return %d } return %a }"
    )
    x, y = graph.inputs
    (node,) = graph.nodes
    copy = clone_node(node, {x: y}, ["other"])
    assert copy.inputs == (y,)
    assert [value.name for value in copy.outputs] == ["other"]
    first, second = copy.graph_attribute("body").nodes
    assert first.inputs == (y,) and second.inputs == (first.output, y)
    assert captured_values(node.graph_attribute("body")) == (x, y)


def test_attributes_read_as_what_they_are() -> None:
    node = Node("F", attributes={"i": 3, "f": 0.5, "s": "text", "b": b"raw", "v": (1, 2), "g": Graph("inner")})
    assert (node.int_attribute("i", 0), node.int_attribute("absent", 7)) == (3, 7)
    assert (node.float_attribute("f", 0.0), node.float_attribute("i", 0.0)) == (0.5, 3.0)
    assert (node.str_attribute("s", ""), node.str_attribute("b", "")) == ("text", "raw")
    assert (node.ints_attribute("v"), node.ints_attribute("absent"), node.ints_attribute("absent", [1])) == (
        (1, 2),
        None,
        (1,),
    )
    assert [name for name, _ in node.subgraphs()] == ["g"]
    assert node.input(5) is None
    assert Node("Gelu", domain="com.microsoft").op == "com.microsoft::Gelu"


def test_builder_inserts_where_it_stands_and_types_what_it_makes() -> None:
    graph = Graph("g", [("x", KIND)], opset=22)
    last = Builder(graph).op("Neg", graph.inputs[0], outputs=["last"])
    assert last.producer is not None and last.type is None
    builder = Builder(graph, before=last.producer, origins=["a", "b"], infer=lambda node: [KIND] * len(node.outputs))
    first = builder.op("Split", graph.inputs[0], None, outputs=2, axis=0, parts=[1, 3], absent=None, name="n")
    assert first.producer is not None
    assert [node.op_type for node in graph] == ["Split", "Neg"]
    assert [value.type for value in first.producer.outputs] == [KIND, KIND]
    assert first.producer.attributes == {"axis": 0, "parts": (1, 3)}
    assert (first.producer.version, first.producer.origins, first.producer.name) == (22, ("a", "b"), "n")
    assert builder.op("Gelu", first, domain="com.microsoft").producer.version == 1  # type: ignore[union-attr]
    constant = builder.constant([[1.0, 2.0]], dtypes.FLOAT16)
    assert constant.type == TensorType(dtypes.FLOAT16, (1, 2))
    assert constant.constant is not None and constant.constant.array().tolist() == [[1.0, 2.0]]
    assert first.constant is None
