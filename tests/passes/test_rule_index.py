"""The index of rules leaves no match out, and leaves most of the rest alone."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import hypothesis
import numpy as np
import pytest
from hypothesis import strategies as st

from bench.rules import built_in, exported, users
from graphc.ir import Builder, DType, Graph, Node, Tensor, TensorType, dtypes
from graphc.ops import infer_node
from graphc.passes import PassContext
from graphc.passes.rules import Chooser, Const, Match, P, Rule, RuleIndex, Trace, Var, rewrite
from graphc.testing.choosing import DrawChooser
from graphc.testing.instances import RejectedError, grow_instance

RULES = built_in()


def nodes_of(graph: Graph) -> Iterator[Node]:
    return (node for inner in graph.all_graphs() for node in inner.nodes)


@hypothesis.settings(max_examples=150, deadline=None)
@hypothesis.given(st.data())
def test_every_rule_that_matches_is_in_the_index(data: st.DataObject) -> None:
    try:
        graph = grow_instance(data.draw(st.sampled_from(RULES), label="rule"), DrawChooser(data.draw))
    except RejectedError:
        hypothesis.reject()
    index = RuleIndex(RULES)
    for node in reversed(list(nodes_of(graph))):
        matching = [rule for rule in RULES if next(rule.matches(node), None) is not None]
        assert not [rule.name for rule in matching if rule not in index.at(node)], f"{node}\n{graph}"


def test_an_operand_of_two_is_known_before_both() -> None:
    """softmax is exp(x) over its sum: a node and the one before it read the same value."""
    graph = Graph("g", [("x", TensorType(dtypes.FLOAT32, (2, 3)))], opset=23)
    b = Builder(graph, infer=infer_node)
    exp = b.op("Exp", graph.inputs[0])
    axes = b.constant(np.array([1], np.int64))
    node = b.op("Div", exp, b.op("ReduceSum", exp, axes, keepdims=1)).producer
    assert node is not None
    assert "softmax" in [rule.name for rule in RuleIndex(RULES).at(node)]


def test_what_is_kept_up_to_date_is_what_is_found_anew(monkeypatch: pytest.MonkeyPatch) -> None:
    rules = [*RULES, *users(20)]
    graph = exported(300)
    kept: list[RuleIndex] = []
    original = RuleIndex.__init__

    def keeping(self: RuleIndex, *arguments: object) -> None:
        original(self, *arguments)  # type: ignore[arg-type]
        kept.append(self)

    monkeypatch.setattr(RuleIndex, "__init__", keeping)
    assert rewrite(graph, rules) > 50
    fresh = RuleIndex(rules)
    for node in nodes_of(graph):
        assert kept[0].at(node) == fresh.at(node), node
        assert kept[0].is_inside(node) == fresh.is_inside(node), node


def test_rules_are_tried_less_than_once_a_node(monkeypatch: pytest.MonkeyPatch) -> None:
    """Of 150 rules, 66 of which start at a Mul."""
    tried = 0
    matches = Rule.matches

    def counting(self: Rule, node: Node, trace: Trace | None = None) -> Iterator[Match]:
        nonlocal tried
        tried += 1
        return matches(self, node, trace)

    monkeypatch.setattr(Rule, "matches", counting)
    graph, context = exported(2000), PassContext()
    count = len(graph)
    rules = [*RULES, *users(150 - len(RULES))]
    assert len(rules) >= 150
    rewrite(graph, rules, context)
    assert context.applied > count / 5
    assert tried < count


class Even:
    """A predicate that, unlike a frozen dataclass, has no hash."""

    __hash__ = None  # type: ignore[assignment]

    def holds(self, tensor: Tensor) -> bool:
        return bool(np.all(tensor.array() % 2 == 0))

    def sample(self, dtype: DType, shape: tuple[int, ...], choose: Chooser) -> np.ndarray[Any, Any] | None:
        return np.full(shape, 2, dtype.numpy)


@pytest.mark.parametrize(("value", "found"), [(4.0, 1), (3.0, 0), ([4.0, 2.0], 1), ([4.0, 3.0], 1)])
def test_elements_of_single_numbers_are_known_and_others_left_to_the_rule(value: Any, found: int) -> None:
    rule = Rule("even", P.Mul(Var("x"), Const("c", Even())), lambda m, b: m["x"])
    graph = Graph("g", [("x", TensorType(dtypes.FLOAT32, (2,)))], opset=23)
    b = Builder(graph, infer=infer_node)
    node = b.op("Mul", b.constant(np.array(value, np.float32)), graph.inputs[0]).producer
    assert node is not None
    assert len(RuleIndex([rule]).at(node)) == found


@pytest.mark.timeout(60)
def test_what_no_rule_looks_for_is_not_walked_through() -> None:
    """Each of these diamonds doubles the ways from the first node to the last."""
    graph = Graph("g", [("x", TensorType(dtypes.FLOAT32, (2, 3)))], opset=23)
    b = Builder(graph, infer=infer_node)
    value = b.op("Relu", graph.inputs[0])
    for _ in range(200):
        value = b.op("Mod", b.op("Erf", value), b.op("Atan", value), fmod=1)
    value = b.op("Relu", value)
    index = RuleIndex([Rule("twice", P.Relu(P.Relu(Var("x"))), lambda m, b: m["x"])])
    first, *_, last = graph.nodes
    assert index.at(last) == ()
    index.update([node for node in graph.nodes if node.op_type == "Erf"])
    index.update([first])
    assert index.at(last) == ()
