"""What patterns match, in what order, and what the driver does with the answers."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest

from graphc.errors import OptionError, PassError
from graphc.ir import Builder, Graph, Node, TensorType, Value, dtypes
from graphc.ops.inference import infer_node
from graphc.passes import PassContext, refuse
from graphc.passes.rules import (
    Absent,
    Const,
    Match,
    Optional,
    P,
    Pattern,
    Refusal,
    Rest,
    Rule,
    RuleSet,
    Var,
    attr,
    explain,
    fixed,
    maybe,
    rewrite,
)
from graphc.testing.oracle import assert_verified

x, y = Var("x"), Var("y")
MATRIX = TensorType(dtypes.FLOAT32, (2, 3))


class Making:
    """A graph under construction: `g.x`, `g.y` are inputs, `g("Add", a, b)` a node's first output."""

    def __init__(self) -> None:
        self.graph = Graph("g", [("x", MATRIX), ("y", MATRIX)], opset=23)
        self.x, self.y = self.graph.inputs
        self.builder = Builder(self.graph, infer=infer_node)

    def __call__(self, op_type: str, *inputs: Value | None, **attributes: object) -> Value:
        return self.builder.op(op_type, *inputs, **attributes)  # type: ignore[arg-type]

    def constant(self, value: object) -> Value:
        return self.builder.constant(np.asarray(value, np.float32))

    def returning(self, *values: Value) -> Graph:
        self.graph.outputs = values
        return self.graph


@pytest.fixture
def g() -> Making:
    return Making()


def node_of(value: Value) -> Node:
    assert value.producer is not None
    return value.producer


def matches(pattern: Pattern, value: Value) -> list[Match]:
    return list(Rule("r", pattern, lambda m, b: m["x"]).matches(node_of(value)))


def test_a_repeated_variable_is_one_value(g: Making) -> None:
    same, different = g("Add", g.x, g.x), g("Add", g.x, g.y)
    assert len(matches(P.Add(x, x), same)) == 1
    assert matches(P.Add(x, x), different) == []


def test_a_repeated_constant_may_be_two_equal_nodes(g: Making) -> None:
    c = Const("c")
    equal = g("Add", g("Mul", g.x, g.constant([1, 2, 3])), g.constant([1, 2, 3]))
    other = g("Add", g("Mul", g.x, g.constant([1, 2, 3])), g.constant([1, 2, 4]))
    assert matches(P.Add(P.Mul(x, c), c), equal)
    assert not matches(P.Add(P.Mul(x, c), c), other)


def test_a_pattern_object_used_twice_is_one_node(g: Making) -> None:
    inner = P.Relu(x)
    shared = g("Relu", g.x)
    assert matches(P.Sub(inner, P.Tanh(inner)), g("Sub", shared, g("Tanh", shared)))
    assert not matches(P.Sub(inner, P.Tanh(inner)), g("Sub", g("Relu", g.x), g("Tanh", g("Relu", g.x))))


def test_commutative_operators_match_in_both_orders_and_others_do_not(g: Making) -> None:
    relu = g("Relu", g.x)
    for op_type, count in (("Add", 1), ("Mul", 1), ("Max", 1), ("Sub", 0), ("Div", 0)):
        pattern = P.one_of(op_type)(P.Relu(x), y)
        assert len(matches(pattern, g(op_type, relu, g.y))) == 1
        assert len(matches(pattern, g(op_type, g.y, relu))) == count, op_type


def test_commutativity_backtracks_through_inner_choices(g: Making) -> None:
    # The first order binds x to the wrong operand; only the second agrees with the rest of the pattern.
    product = g("Mul", g.y, g.x)
    assert matches(P.Add(P.Mul(x, y), P.Relu(x)), g("Add", product, g("Relu", g.x)))


def test_alternatives_are_tried_in_order(g: Making) -> None:
    found = matches(P.Neg(P.Relu(x).named("inner") | x), g("Neg", g("Relu", g.x)))
    assert [m.find_node("inner") is not None for m in found] == [True, False]


def test_a_number_stands_for_a_filled_constant(g: Making) -> None:
    for value, expected in (([2.0, 2.0, 2.0], 1), (2.0, 1), ([[2.0]], 1), ([2.0, 2.0, 2.5], 0), (2.001, 0)):
        assert len(matches(P.Mul(x, 2.0), g("Mul", g.x, g.constant(value)))) == expected, value
    assert not matches(P.Mul(x, 2.0), g("Mul", g.x, g.y))


def test_maybe_leaves_an_operator_out(g: Making) -> None:
    pattern = P.Exp(maybe(P.Neg, P.Relu(x)))
    assert matches(pattern, g("Exp", g("Relu", g.x)))
    assert matches(pattern, g("Exp", g("Neg", g("Relu", g.x))))
    assert not matches(pattern, g("Exp", g("Abs", g("Relu", g.x))))


def test_optional_and_absent_inputs(g: Making) -> None:
    low, high = g.constant(0.0), g.constant(6.0)
    pattern = P.Clip(x, Optional(Const("low")), Optional(Const("high")))
    both, only_high, neither = g("Clip", g.x, low, high), g("Clip", g.x, None, high), g("Clip", g.x)
    bound = [
        (m.get("low") is low, m.get("high") is high) for v in (both, only_high, neither) for m in matches(pattern, v)
    ]
    assert bound == [(True, True), (False, True), (False, False)]
    strict = P.Clip(x, Absent(), Const("high"))
    assert [len(matches(strict, v)) for v in (both, only_high, neither)] == [0, 1, 0]
    assert not matches(P.Clip(x, Const("low")), both), "an input beyond the pattern must be absent"


def test_rest_takes_every_input_from_there_on(g: Making) -> None:
    (found,) = matches(P.Concat(x, Rest("others"), axis=attr("axis")), g("Concat", g.x, g.y, g.x, axis=1))
    assert found.rest("others") == (g.y, g.x) and found.attribute("axis") == 1
    (empty,) = matches(P.Concat(x, Rest("others")), g("Concat", g.x, axis=0))
    assert empty.rest("others") == ()


def test_attributes_bind_default_and_constrain(g: Making) -> None:
    given, absent = g("Softmax", g.x, axis=0), g("Softmax", g.x)
    (found,) = matches(P.Softmax(x, axis=attr("a", default=-1)), absent)
    assert found.attribute("a") == -1
    assert matches(P.Softmax(x, axis=0), given) and not matches(P.Softmax(x, axis=0), absent)
    assert matches(P.Softmax(x, axis=fixed(-1, default=-1)), absent)
    assert not matches(P.Softmax(x, axis=attr(where=lambda axis: axis == 1)), given)
    chain = g("Softmax", given, axis=1)
    assert not matches(P.Softmax(P.Softmax(x, axis=attr("a")), axis=attr("a")), chain), "one name is one value"


def test_variables_constrain_rank_kind_and_constness(g: Making) -> None:
    relu, product = g("Relu", g.x), g("Mul", g.x, g.constant(2.0))
    assert matches(P.Relu(Var("x", rank=2, kinds=("float",))), relu)
    assert not matches(P.Relu(Var("x", rank=3)), relu)
    assert not matches(P.Relu(Var("x", kinds=("int",))), relu)
    assert len(matches(P.Mul(x, Var("c", constant=True)), product)) == 1
    assert not matches(P.Relu(Var("x", constant=True)), relu)


def test_other_outputs_are_matched_by_index(g: Making) -> None:
    node = node_of(g("Split", g.x, outputs=2, axis=1, num_outputs=2))
    first, second = (g("Relu", value) for value in node.outputs)
    assert matches(P.Relu(P.Split(x)), first) and not matches(P.Relu(P.Split(x)), second)
    assert matches(P.Relu(P.Split(x).out(1)), second)


def test_only_here_refuses_a_reader_outside_the_match(g: Making) -> None:
    pattern = P.Neg(P.Relu(x).only_here())
    relu = g("Relu", g.x)
    root = g("Neg", relu)
    g.returning(root)
    assert matches(pattern, root)
    other = g("Abs", relu)
    assert not matches(pattern, root)
    g.returning(root, other)
    assert "also read by" in (explain(Rule("r", pattern, lambda m, b: m["x"]), node_of(root)).reason or "")
    g.graph.remove(node_of(g("Exp", relu)))
    g.returning(root, relu)
    g.graph.remove(node_of(other))
    assert "is an output of graph" in (explain(Rule("r", pattern, lambda m, b: m["x"]), node_of(root)).reason or "")


def test_a_reader_inside_the_match_is_no_outsider(g: Making) -> None:
    inner = P.Relu(x).only_here()
    relu = g("Relu", g.x)
    assert matches(P.Add(P.Tanh(inner), P.Exp(inner)), g("Add", g("Tanh", relu), g("Exp", relu)))


def test_explain_names_the_mismatch_that_came_furthest(g: Making) -> None:
    rule = Rule("r", P.Neg(P.Relu(P.Tanh(x))), lambda m, b: m["x"])
    almost = g("Neg", g("Relu", g("Abs", g.x)))
    found = explain(rule, node_of(almost))
    assert found.reason == "%abs is made by Abs, not by Tanh" and not found.complete
    assert [node.op_type for node in found.matched] == ["Neg", "Relu"]
    assert explain(rule, node_of(g("Exp", g.x))).reason == "it starts at Neg, not at Exp"
    assert explain(rule, node_of(g("Neg", g("Relu", g("Tanh", g.x))))).reason is None


def test_explain_tells_what_refused_and_what_the_names_stood_for(g: Making) -> None:
    almost = g("Neg", g("Mul", g.x, g.constant(2.0)))
    pattern = P.Neg(P.Mul(x, Const("c")))
    refusing = explain(Rule("r", pattern, lambda m, b: m["x"], (lambda m: refuse("it is Tuesday"),)), node_of(almost))
    assert refusing.reason == "it is Tuesday" and refusing.complete
    assert refusing.bound == {"x": "%x: float32[2x3]", "c": "2.0, float32[]"}
    assert [node.op_type for node in refusing.matched] == ["Neg", "Mul"]


def test_explain_asks_the_replacement_too_and_leaves_the_graph_as_it_was(g: Making) -> None:
    def build(m: Match, b: Builder) -> Value | Refusal:
        return refuse("too big") if b.op("Sin", m["x"]).type else m["x"]

    graph = g.returning(g("Neg", g.x))
    before = str(graph)
    root = next(graph.nodes)
    assert explain(Rule("r", P.Neg(x), build), root).reason == "too big"
    assert explain(Rule("r", P.Neg(x), lambda m, b: b.op("Sin", m["x"])), root).reason is None
    assert "would change" in (explain(Rule("r", P.Neg(x), lambda m, b: b.op("Shape", m["x"])), root).reason or "")
    assert str(graph) == before


def negations() -> RuleSet:
    rules = RuleSet("test")

    @rules.rule(P.Neg(P.Neg(x)))
    def twice(m: Match, b: Builder) -> Value:
        """-(-x) = x."""
        return m["x"]

    return rules


def test_rewriting_reaches_the_fixed_point_and_leaves_nothing_dead(g: Making) -> None:
    value = g("Relu", g.x)
    for _ in range(101):
        value = g("Neg", value)
    graph = g.returning(g("Tanh", value))
    assert rewrite(graph, negations()) == 50
    assert [node.op_type for node in graph.nodes] == ["Relu", "Neg", "Tanh"]
    assert_verified(graph)


def test_a_rewrite_upstream_wakes_deep_patterns_downstream(g: Making) -> None:
    rules = negations()

    @rules.rule(P.Exp(P.Tanh(P.Relu(P.Abs(x)))))
    def deep(m: Match, b: Builder) -> Value:
        """A pattern three values behind its root."""
        return b.op("Sin", m["x"])

    # Exp is looked at before the negations between Abs and Relu are gone.
    graph = g.returning(g("Exp", g("Tanh", g("Relu", g("Neg", g("Neg", g("Abs", g.x)))))))
    assert rewrite(graph, list(rules)[::-1]) == 2
    assert [node.op_type for node in graph.nodes] == ["Sin"]


def test_a_lost_reader_wakes_what_waited_for_privacy(g: Making) -> None:
    rules = RuleSet("test")

    @rules.rule(P.Neg(P.Relu(x).only_here()))
    def merge(m: Match, b: Builder) -> Value:
        """Needs the Relu for itself."""
        return b.op("Sin", m["x"])

    @rules.rule(P.Abs(P.Relu(x)))
    def drop(m: Match, b: Builder) -> Value:
        """Gives the Relu up."""
        return b.op("Cos", m["x"])

    relu = g("Relu", g.x)
    graph = g.returning(g("Neg", relu), g("Abs", relu))
    assert rewrite(graph, rules) == 2
    assert sorted(node.op_type for node in graph.nodes) == ["Cos", "Sin"]


def test_graph_outputs_keep_their_names(g: Making) -> None:
    graph = g.returning(g("Neg", g("Neg", g("Relu", g.x))))
    name = graph.outputs[0].name
    rewrite(graph, negations())
    assert [value.name for value in graph.outputs] == [name]
    assert [node.op_type for node in graph.nodes] == ["Relu"]
    assert_verified(graph)


@pytest.mark.parametrize(
    ("build", "reason"),
    [
        (lambda g: [g("Neg", g("Neg", g.x))], "cannot be an input"),
        (lambda g: [g("Neg", g("Neg", r := g("Relu", g.x))), r], "are both graph outputs"),
        (lambda g: [g("Neg", g("Neg", g.constant([1.0])))], "cannot share the constant"),
    ],
    ids=["input", "two outputs", "constant"],
)
def test_a_graph_output_is_not_given_away(g: Making, build: Callable[[Making], list[Value]], reason: str) -> None:
    graph = g.returning(*build(g))
    names = [value.name for value in graph.outputs]
    context = PassContext()
    assert rewrite(graph, negations(), context) == 0
    assert any(reason in refusal.reason for refusal in context.refusals)
    assert [value.name for value in graph.outputs] == names
    assert_verified(graph)


def test_new_nodes_carry_the_origins_of_all_they_replace(g: Making) -> None:
    rules = RuleSet("test")

    @rules.rule(P.Add(P.Relu(x), P.Tanh(y)))
    def merge(m: Match, b: Builder) -> Value:
        """Three nodes become two."""
        return b.op("Max", b.op("Neg", m["x"]), m["y"])

    graph = g.returning(g("Add", g("Relu", g.x), g("Tanh", g.y)))
    for node in graph.nodes:
        node.origins = (f"onnx_{node.op_type}",)
    rewrite(graph, rules)
    assert [set(node.origins) for node in graph.nodes] == [{"onnx_Add", "onnx_Relu", "onnx_Tanh"}] * 2


def test_types_of_new_values_are_inferred_at_once(g: Making) -> None:
    rules = RuleSet("test")
    seen: list[object] = []

    @rules.rule(P.Neg(x))
    def reduce_twice(m: Match, b: Builder) -> Value | Refusal:
        """Looks at the type of what it just made."""
        made = b.op("Transpose", m["x"], perm=[1, 0])
        seen.append(made.type)
        return refuse("it was only looking")

    graph = g.returning(g("Neg", g.x))
    before = str(graph)
    assert rewrite(graph, rules) == 0
    assert seen == [TensorType(dtypes.FLOAT32, (3, 2))]
    assert str(graph) == before, "what a refusing replacement built is taken back"


def test_a_replacement_of_another_type_is_a_defect_of_the_rule(g: Making) -> None:
    rules = RuleSet("test")

    @rules.rule(P.Neg(x))
    def transposes(m: Match, b: Builder) -> Value:
        """Wrong."""
        return b.op("Transpose", m["x"], perm=[1, 0])

    graph = g.returning(g("Neg", g.x))
    with pytest.raises(PassError, match=r"rule 'transposes' would change %neg from float32\[2x3\] to float32\[3x2\]"):
        rewrite(graph, rules)


def test_a_replacement_that_does_not_type_is_a_defect_of_the_rule(g: Making) -> None:
    rules = RuleSet("test")

    @rules.rule(P.Neg(x))
    def multiplies(m: Match, b: Builder) -> Value:
        """Wrong."""
        return b.op("MatMul", m["x"], m["x"])

    graph = g.returning(g("Neg", g.x))
    count = len(graph)
    with pytest.raises(PassError, match="rule 'multiplies' built an invalid node"):
        rewrite(graph, rules)
    assert len(graph) == count


def test_a_replacement_that_reads_what_it_replaces_is_a_defect_of_the_rule(g: Making) -> None:
    rules = RuleSet("test")

    @rules.rule(P.Neg(x))
    def wraps(m: Match, b: Builder) -> Value:
        """Wrong: it would read itself."""
        return b.op("Abs", m.root.output)

    graph = g.returning(g("Exp", g("Neg", g.x)))
    before = str(graph)
    with pytest.raises(PassError, match=r"rule 'wraps' built .*, which reads what it is to replace"):
        rewrite(graph, rules)
    assert str(graph) == before


def test_rules_that_run_in_a_circle_are_stopped(g: Making) -> None:
    rules = RuleSet("test")

    @rules.rule(P.Add(x, y))
    def swap(m: Match, b: Builder) -> Value:
        """Matches its own result."""
        return b.op("Add", m["y"], m["x"])

    with pytest.raises(PassError, match=r"rules run in a circle: .* the latest swap at") as caught:
        rewrite(g.returning(g("Add", g.x, g.y)), rules)
    assert "one matches again: swap;" in str(caught.value)


def test_an_output_that_is_used_must_be_replaced(g: Making) -> None:
    rules = RuleSet("test")

    @rules.rule(P.Split(x, axis=attr("axis"), num_outputs=attr("n")))
    def first_only(m: Match, b: Builder) -> Value:
        """Answers one value for a node of two."""
        return b.op("Split", m["x"], outputs=2, axis=m.attribute("axis"), num_outputs=2)

    node = node_of(g("Split", g.x, outputs=2, axis=1, num_outputs=2))
    context = PassContext()
    assert rewrite(g.returning(*node.outputs), rules, context) == 0
    assert [refusal.reason for refusal in context.refusals] == [f"output %{node.outputs[1].name} of Split is used too"]


def conditional(g: Making, branch: Callable[[Builder, Value], Value]) -> Value:
    """An If whose branches both compute `branch` of the outer x."""
    bodies = {}
    for name in ("then", "else"):
        bodies[name] = body = Graph(name, opset=23)
        body.outputs = [branch(Builder(body, infer=infer_node), g.x)]
        for node in body.nodes:
            node.output.name = f"{name}_{node.output.name}"
    condition = g.graph.add_input("condition", TensorType(dtypes.BOOL, ()))
    return g("If", condition, then_branch=bodies["then"], else_branch=bodies["else"])


def test_rules_reach_into_subgraphs(g: Making) -> None:
    graph = g.returning(conditional(g, lambda b, v: b.op("Relu", b.op("Neg", b.op("Neg", v)))))
    assert rewrite(graph, negations()) == 2
    assert [[node.op_type for node in inner.nodes] for inner in graph.all_graphs()] == [["If"], ["Relu"], ["Relu"]]
    assert_verified(graph)


def test_a_subgraph_does_not_return_an_outer_value(g: Making) -> None:
    graph = g.returning(conditional(g, lambda b, v: b.op("Neg", b.op("Neg", v))))
    assert rewrite(graph, negations()) == 0
    assert_verified(graph)


def test_rule_sets_refuse_two_rules_of_one_name_and_rootless_patterns() -> None:
    rules = negations()
    with pytest.raises(OptionError, match="has a rule 'twice' already"):
        rules.add(next(iter(rules)))
    with pytest.raises(OptionError, match="has a root that is no operator"):
        rules.rule(x)


def test_a_rewrite_looks_again_only_where_it_can_matter(g: Making, monkeypatch: pytest.MonkeyPatch) -> None:
    looked = 0
    matches_of = Rule.matches

    def counting(self: Rule, *arguments: object) -> object:
        nonlocal looked
        looked += 1
        return matches_of(self, *arguments)  # type: ignore[arg-type]

    monkeypatch.setattr(Rule, "matches", counting)
    value, one = g.x, g.constant(1.0)
    for _ in range(300):
        value = g("Tanh", g("Mul", g("Neg", g("Neg", value)), one))
    graph = g.returning(value)
    rules = negations()

    @rules.rule(P.Mul(P.Abs(x), 1.0))
    def unrelated(m: Match, b: Builder) -> Value:
        """Looks at every Mul, whose constant all of them share."""
        return m["x"]

    count = len(graph)
    assert rewrite(graph, rules) == 300
    assert looked < 3 * count
