"""Rules of several roots: found from any of them, written in place of all, wherever the roots stand."""

from __future__ import annotations

from typing import Any

import hypothesis
import numpy as np
import pytest
from hypothesis import strategies as st

from graphc.errors import OptionError, PassError
from graphc.ir import Builder, Graph, Node, TensorType, Value, dtypes
from graphc.ops.inference import infer_node
from graphc.passes import PassContext, refuse
from graphc.passes.rules import (
    Const,
    Match,
    Optional,
    P,
    Pattern,
    Rest,
    Rule,
    RuleIndex,
    RuleSet,
    Var,
    every,
    explain,
    rewrite,
)
from graphc.testing import assert_equivalent, check_rule
from graphc.testing.choosing import DrawChooser
from graphc.testing.instances import RejectedError, grow_instance
from graphc.testing.oracle import assert_verified, calm_inputs

x, y, z = Var("x", kinds=("float",)), Var("y"), Var("z")
ROW = TensorType(dtypes.FLOAT32, (3,))


def sum_and_difference(m: Match, b: Builder) -> tuple[Value, ...]:
    """x + y, x - y = the halves of [Sum(x, y), Sum(x, -y)]."""
    if not m.output_shape:
        return refuse("they are scalars")  # type: ignore[return-value]
    both = b.op("Concat", b.op("Sum", m["x"], m["y"]), b.op("Sum", m["x"], b.op("Neg", m["y"])), axis=-1)
    return b.op("Split", both, outputs=2, num_outputs=2, axis=-1).producer.outputs  # type: ignore[union-attr]


def relus_and_negations(m: Match, b: Builder) -> tuple[Value, ...]:
    """Relu(x), Neg(Relu(x))."""
    relu = b.op("Max", m["x"], b.constant(np.zeros((), m.type("x").dtype.numpy)))
    return relu, b.op("Mul", relu, b.constant(np.full((), -1, m.type("x").dtype.numpy)))


def all_sums(m: Match, b: Builder) -> tuple[Value, ...]:
    """x + y, x + z, … in one sum."""
    if len({one.output_shape for one in m.each}) > 1 or not m.output_shape:
        return refuse("the sums are of several shapes, or scalars")  # type: ignore[return-value]
    many = [b.op("Expand", one["y"], b.constant(np.array(m.output_shape))) for one in m.each]
    total = b.op("Add", b.op("Concat", *many, axis=-1), _tiled(m, b))
    count = len(m.each)
    return b.op("Split", total, outputs=count, num_outputs=count, axis=-1).producer.outputs  # type: ignore[union-attr]


def _tiled(m: Match, b: Builder) -> Value:
    whole = b.op("Expand", m["x"], b.constant(np.array(m.output_shape)))
    return b.op("Concat", *[whole] * len(m.each), axis=-1)


inner = P.Relu(x)
RULES = [
    Rule("pair", x + y & x - y, sum_and_difference),
    Rule("nested", inner & -inner, relus_and_negations),
    Rule("every", every(x + Var("y", kinds=("float",)), share="x"), all_sums),
]
FORMULAS = RuleSet("siblings")
FORMULAS.formula("exponentials", P.Exp(x) & P.Exp(-x), P.Exp(x) & P.Reciprocal(P.Exp(x)))
FORMULAS.formula("three", P.Sin(x) & P.Cos(x) & P.Tan(x), P.Sin(x) & P.Cos(x) & P.Sin(x) / P.Cos(x))
RULES += FORMULAS


@pytest.mark.parametrize("rule", RULES, ids=lambda rule: rule.name)
def test_they_test_themselves(rule: Rule) -> None:
    report = check_rule(rule, examples=60)
    assert report.fired > 15


def test_a_wrong_one_is_found() -> None:
    wrong = RuleSet("wrong").formula("swapped", P.Sin(x) & P.Cos(x), P.Cos(x) & P.Sin(x))
    with pytest.raises(AssertionError, match="rule 'swapped' is wrong"):
        check_rule(wrong)


@hypothesis.settings(max_examples=80, deadline=None)
@hypothesis.given(st.data())
def test_it_matches_from_any_root_and_the_index_knows(data: st.DataObject) -> None:
    rule = data.draw(st.sampled_from(RULES))
    try:
        graph = grow_instance(rule, DrawChooser(data.draw))
    except RejectedError:
        hypothesis.reject()
    index = RuleIndex(RULES)
    found = {node: [set(match.roots) for match in rule.matches(node)] for node in graph.nodes}
    for node, matches in found.items():
        assert not matches or rule in index.at(node)
        for roots in matches:
            assert any(value in roots for value in node.outputs)
            assert all(roots in found[value.producer] for value in roots)  # type: ignore[index]
    assert any(found.values())


class Making:
    """`g("Add", a, b)` is a node's first output."""

    def __init__(self, *inputs: str) -> None:
        self.graph = Graph("g", [(name, ROW) for name in inputs], opset=23)
        self.builder = Builder(self.graph, infer=infer_node)

    def __call__(self, op_type: str, *inputs: Value, **attributes: Any) -> Value:
        return self.builder.op(op_type, *inputs, **attributes)

    def returning(self, *values: Value) -> Graph:
        self.graph.outputs = values
        return self.graph


def operators(graph: Graph) -> list[str]:
    return [node.op_type for node in graph.nodes]


def rewritten(graph: Graph, rule: Rule) -> tuple[Graph, PassContext]:
    after, context = graph.clone(), PassContext()
    rewrite(after, [rule], context)
    assert_verified(after)
    inputs = calm_inputs(graph, 0)
    assert inputs is not None
    assert_equivalent(graph, after, inputs)
    return after, context


def test_what_a_later_root_reads_is_brought_before_the_first() -> None:
    g = Making("x", "z")
    total = g("Add", g.graph.inputs[0], g.graph.inputs[1])
    read = g("Tanh", total)
    behind = g("Sigmoid", g("Sqrt", g.graph.inputs[1]))
    graph = g.returning(read, g("Add", g.graph.inputs[0], behind))
    after, _ = rewritten(graph, RULES[2])
    assert "Sub" not in operators(after) and operators(after).count("Add") == 1
    places = {op_type: place for place, op_type in enumerate(operators(after))}
    assert places["Sigmoid"] < places["Split"] < places["Tanh"]


def test_roots_of_which_one_needs_the_other_stay() -> None:
    g = Making("x", "z")
    first = g("Add", g.graph.inputs[0], g.graph.inputs[1])
    graph = g.returning(g("Add", g.graph.inputs[0], g("Tanh", first)))
    after, context = rewritten(graph, RULES[2])
    assert operators(after) == operators(graph)
    assert any("is computed from" in refusal.reason for refusal in context.refusals)


def test_a_value_may_take_the_place_of_its_sibling() -> None:
    rule = Rule("twice", P.Sin(x).named("one") & P.Sin(x).named("other"), lambda m, b: (m.roots[0], m.roots[0]))
    g = Making("x")
    values = [g(op, g("Sin", g.graph.inputs[0])) for op in ("Tanh", "Sigmoid", "Abs")]
    after, context = rewritten(g.returning(*values), rule)
    assert operators(after).count("Sin") == 1
    assert context.applied == 2


def test_outputs_of_one_node_can_be_roots() -> None:
    rule = Rule("halves", P.Split(x).out(0) & P.Split(x).out(1), lambda m, b: (m.roots[0], m.roots[1]))
    g = Making("x")
    halves = g("Split", g.graph.inputs[0], outputs=2, num_outputs=2, axis=0).producer
    assert isinstance(halves, Node)
    assert {match.roots for match in rule.matches(halves)} == {halves.outputs}


def test_it_happens_as_one_change_with_the_origins_of_all() -> None:
    g = Making("x", "y")
    a, b = g.graph.inputs
    values = [g("Tanh", g("Sub", a, b)), g("Sigmoid", g("Add", a, b))]
    graph = g.returning(*values)
    for node in graph.nodes:
        node.origins = (f"onnx_{node.op_type}",)
    after, context = rewritten(graph, RULES[0])
    assert context.applied == 1
    assert set(context.history[0].origins) == {"onnx_Add", "onnx_Sub"}
    split = next(node for node in after.nodes if node.is_op("Split"))
    assert set(split.origins) == {"onnx_Add", "onnx_Sub"}


def test_why_says_what_the_siblings_lack() -> None:
    rule = Rule("every", every(P.Relu(P.Abs(x).only_here()), share="x"), lambda m, b: m.roots)
    g = Making("x")
    alone = g("Relu", g("Abs", g.graph.inputs[0]))
    other = g("Abs", g.graph.inputs[0])
    g.returning(alone, g("Relu", other), g("Tanh", other))
    assert alone.producer is not None
    found = explain(rule, alone.producer)
    assert found.reason is not None and "of %x it takes 2 alike, and there is 1: %abs_1 is also read by" in found.reason
    assert [node.op_type for node in found.matched] == ["Relu", "Abs"]
    refusing = Rule("none", every(P.Relu(x), share="x", when=lambda m: refuse("not today")), lambda m, b: m.roots)
    assert explain(refusing, alone.producer).reason == "not today"


def test_an_answer_of_another_length_is_a_defect_of_the_rule() -> None:
    rule = Rule("one", P.Sin(x) & P.Cos(x), lambda m, b: m.roots[0])
    g = Making("x")
    graph = g.returning(g("Sin", g.graph.inputs[0]), g("Cos", g.graph.inputs[0]))
    with pytest.raises(PassError, match="rule 'one' answers 1 values for 2 roots"):
        rewrite(graph, [rule])


def test_a_root_that_goes_takes_no_other_s_place() -> None:
    rule = Rule("swap", P.Sin(x) & P.Cos(x), lambda m, b: m.roots[::-1])
    g = Making("x")
    graph = g.returning(g("Tanh", g("Sin", g.graph.inputs[0])), g("Tanh", g("Cos", g.graph.inputs[0])))
    before = str(graph)
    with pytest.raises(PassError, match=r"'swap' puts %cos, which is to be replaced, in the place of %sin"):
        rewrite(graph, [rule])
    assert str(graph) == before


def test_siblings_in_another_graph_are_none() -> None:
    g = Making("x")
    body = Graph("then", opset=23)
    body.outputs = [Builder(body, infer=infer_node).op("Cos", g.graph.inputs[0])]
    body.outputs[0].name = "inner"
    other = Graph("else", opset=23)
    other.outputs = [Builder(other, infer=infer_node).op("Abs", g.graph.inputs[0])]
    condition = g.graph.add_input("c", TensorType(dtypes.BOOL, ()))
    graph = g.returning(
        g("Sin", g.graph.inputs[0]),
        g("If", condition, then_branch=body, else_branch=other),
        g("Tan", g.graph.inputs[0]),
    )
    assert rewrite(graph, [FORMULAS.rules["three"]]) == 0


@pytest.mark.parametrize(
    ("pattern", "message"),
    [
        (P.Sin(x) & y, "has a root that is no operator"),
        (P.Sin(x) & P.Cos(y), "nothing leads from one root of the pattern to root 2"),
        (P.Sin(x) & (P.Cos(x) | P.Cos(y)), "nothing leads from one root"),
        (P.Add(P.Sin(x) & P.Cos(x), y), "can only be a rule's whole pattern"),
        (P.Neg(x) | P.Abs(x) & P.Sin(x), "can only be a rule's whole pattern"),
        (every(every(P.Sin(x), share="x"), share="x"), "can only be a rule's whole pattern"),
        (every(P.Clip(x, Optional(Const("low"))), share=("x", "low")), "not every match has a value called x and low"),
        (every(P.Concat(Rest("all")), share="all"), "not every match has a value called all"),
    ],
)
def test_patterns_that_cannot_be_found_are_refused(pattern: Pattern, message: str) -> None:
    with pytest.raises(OptionError, match=message):
        RuleSet("refused").rule(pattern)(lambda m, b: m.roots)


def test_a_formula_has_as_much_on_either_side() -> None:
    with pytest.raises(OptionError, match="2 on its left side and 1 on its right"):
        RuleSet("uneven").formula("uneven", P.Sin(x) & P.Cos(x), P.Sin(x))
    assert FORMULAS.rules["exponentials"].summary == "Exp(x), Exp(-x) = Exp(x), Reciprocal(Exp(x))."
