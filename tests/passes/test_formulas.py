"""Rules that are formulas: what they say is what they do."""

from __future__ import annotations

import math

import numpy as np
import pytest

from graphc.errors import OptionError
from graphc.ir import Builder, Graph, TensorType, Value, dtypes
from graphc.ops import infer_node
from graphc.passes import PassContext
from graphc.passes.raising.base import product
from graphc.passes.rules import (
    Absent,
    Const,
    Fulfils,
    Optional,
    P,
    Pattern,
    Rest,
    RuleSet,
    Var,
    attr,
    number,
    rewrite,
)
from graphc.passes.rules.text import formula, text
from graphc.testing.oracle import assert_verified
from graphc.testing.rules import check_rule

x, y, z = Var("x"), Var("y"), Var("z")


@pytest.mark.parametrize(
    ("pattern", "written"),
    [
        (x * y + z, "x * y + z"),
        ((x + y) * z, "(x + y) * z"),
        (x - (y - z), "x - (y - z)"),
        (x - y - z, "x - y - z"),
        (x / (y * z), "x / (y * z)"),
        (x @ y + 1.0, "x @ y + 1"),
        (1.0 / x, "1 / x"),
        (2.0 - x, "2 - x"),
        (-x, "-x"),
        (-(x + y), "-(x + y)"),
        (x * -y, "x * (-y)"),
        (P.Exp(-x) ** 2.0, "Exp(-x) ^ 2"),
        ((x * y) ** 0.5, "(x * y) ^ 0.5"),
        (x * number(math.sqrt(2), "√2"), "x * √2"),
        (P.Clip(x, Absent(), Optional(Const("high"))), "Clip(x, _, [high])"),
        (P.Concat(x, Rest("others"), axis=attr("axis")), "Concat[axis](x, *others)"),
        (P.Softmax(x, axis=-1), "Softmax[axis=-1](x)"),
        (P.Relu(P.Tanh(x) | P.Erf(x)), "Relu(Tanh(x))"),
        (P.Split(x).out(1), "Split(x).1"),
        (product(x, 0.5, y + 1.0) - z, "(x * 0.5 * (y + 1)) - z"),
    ],
    ids=lambda case: case if isinstance(case, str) else "",
)
def test_patterns_are_written_as_on_paper(pattern: Pattern, written: str) -> None:
    assert text(pattern) == written


def test_a_formula_has_every_form_of_its_root() -> None:
    assert formula(x + 0.0 | x * 1.0, x) == "x + 0 = x * 1 = x"
    assert formula(P.one_of("Sum", "Max")(x), x) == "Sum(x) = Max(x) = x"


def graph_of(shape: tuple[int, ...] = (2, 3)) -> tuple[Graph, Builder]:
    graph = Graph("g", [("x", TensorType(dtypes.FLOAT32, shape))], opset=23)
    return graph, Builder(graph, infer=infer_node)


def test_the_right_side_is_built_from_what_the_left_side_bound() -> None:
    rules = RuleSet("test")
    half = P.Softmax(x, axis=attr("a", default=-1))
    rule = rules.formula("made_up", P.Log(half), P.LogSoftmax(x, axis=attr("a")) * 1.0)
    assert rule.summary == "Log(Softmax[axis=a](x)) = LogSoftmax[axis=a](x) * 1."
    graph, b = graph_of()
    graph.outputs = [b.op("Log", b.op("Softmax", graph.inputs[0], axis=0))]
    assert rewrite(graph, rules) == 1
    assert [node.op_type for node in graph.nodes] == ["LogSoftmax", "Constant", "Mul"]
    assert next(graph.nodes).attributes["axis"] == 0
    assert_verified(graph)
    check_rule(rule, examples=20)


def test_a_shared_part_of_the_right_side_is_built_once() -> None:
    rules = RuleSet("test")
    shared = P.Tanh(x)
    rules.formula("twice", P.Relu(x), shared * shared)
    graph, b = graph_of()
    graph.outputs = [b.op("Relu", graph.inputs[0])]
    rewrite(graph, rules)
    assert [node.op_type for node in graph.nodes] == ["Tanh", "Mul"]


@pytest.mark.parametrize(("constant", "applied"), [((), 1), ((3,), 1), ((2, 3), 1), ((4, 2, 3), 0), ((1, 1, 3), 0)])
def test_what_is_broadcast_is_refused_without_a_condition(constant: tuple[int, ...], applied: int) -> None:
    rules = RuleSet("test")
    rules.formula("zero", x + 0.0, x)
    graph, b = graph_of()
    zero = b.constant(np.zeros(constant, np.float32))
    graph.outputs = [b.op("Exp", b.op("Add", graph.inputs[0], zero))]
    context = PassContext()
    assert rewrite(graph, rules, context) == applied
    assert applied or "but x is float32[2x3]" in next(iter(context.refusals)).reason


@pytest.mark.parametrize(
    ("left", "right", "message"),
    [
        (P.Relu(x), y, "has 'y', which its left side does not bind"),
        (P.Relu(x) | P.Add(x, y), P.Neg(y), "has 'y', which its left side does not bind"),
        (P.Softmax(x), P.Softmax(x, axis=attr("a")), "attribute axis on a formula's right side has no value"),
        (P.Relu(x), x | P.Neg(x), "cannot have"),
        (P.Relu(x), P.one_of("Sin", "Cos")(x), "cannot have"),
    ],
)
def test_a_right_side_that_cannot_be_built_is_refused_at_once(left: Pattern, right: Pattern, message: str) -> None:
    with pytest.raises(OptionError, match=message):
        RuleSet("test").formula("wrong", left, right)


def test_a_constant_may_have_to_fulfil_a_function_of_its_elements() -> None:
    positive = Const("c", Fulfils(lambda a: (a > 0).all(), (1.0, 3.0), "positive"))
    rules = RuleSet("test")

    @rules.rule(P.Relu(P.Mul(Var("x", kinds=("float",)), positive).only_here()))
    def scale_after(m, b: Builder) -> Value:  # type: ignore[no-untyped-def]
        """Relu(x * c) = Relu(x) * c where c > 0."""
        return b.op("Mul", b.op("Relu", m["x"]), m["c"])

    assert check_rule(scale_after, examples=30).fired > 0
    graph, b = graph_of()
    graph.outputs = [b.op("Relu", b.op("Mul", graph.inputs[0], b.constant(np.float32(-1))))]
    assert rewrite(graph, rules) == 0
