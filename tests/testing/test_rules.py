"""Testing rules finds wrong ones, and those that never fire."""

from __future__ import annotations

import numpy as np
import pytest

from graphc.ir import Builder, TensorType, Value, dtypes
from graphc.passes.rules import Const, Match, P, Refusal, Rest, RuleSet, Var, attr, refuse, shape_of
from graphc.testing import DifferenceError, check_rule, run_rule_tests

x, y = Var("x", kinds=("float",)), Var("y")
RULES = RuleSet("planted")


@RULES.rule(P.Sub(x, y))
def swaps_operands(m: Match, b: Builder) -> Value:
    """x - y = y + (-x): wrong."""
    return b.op("Add", m["y"], b.op("Neg", m["x"]))


@RULES.rule(P.Transpose(P.Transpose(x, perm=attr("inner")), perm=attr("outer")))
def composes_the_wrong_way(m: Match, b: Builder) -> Value | Refusal:
    """Transpose[q](Transpose[p](x)) = Transpose[q∘p](x): wrong, but for permutations that commute."""
    inner, outer = m.attribute("inner"), m.attribute("outer")
    if m.output_shape != tuple(m.shape("x")[outer[axis]] for axis in inner):
        return refuse("even the shape would be wrong")
    return b.op("Transpose", m["x"], perm=[outer[axis] for axis in inner])


@RULES.rule(P.Add(P.Conv(x, Const("w")), Const("c")))
def forgets_the_old_bias(m: Match, b: Builder) -> Value | Refusal:
    """Conv(x, w) + c = Conv(x, w, c): right only for c along channels, and it takes any c of that size."""
    channels = m.tensor("w").shape[0]
    if m.tensor("c").size != channels or m.root.output.type != m.output:
        return refuse("the constant has another size")
    node = m.nodes[1][1]
    return b.op("Conv", m["x"], m["w"], b.constant(m.array("c").reshape(-1)), **dict(node.attributes))  # type: ignore[arg-type]


@RULES.rule(P.Split(x, Rest("sizes"), axis=attr("axis", default=0)))
def mixes_outputs_up(m: Match, b: Builder) -> tuple[Value, ...] | Refusal:
    """Split(x) = its parts, turned round: wrong where there are several, each of which is read."""
    kinds = [value.type for value in m.root.outputs]
    if len(kinds) < 2 or len(set(kinds)) > 1:
        return refuse("the parts are of different shapes, or one")
    axis, parts = m.attribute("axis") % len(m.shape("x")), []
    extent = shape_of(m.root.output)[axis]
    for place in range(len(kinds)):
        bounds = (b.constant([bound]) for bound in (place * extent, (place + 1) * extent, axis))
        parts.append(b.op("Slice", m["x"], *bounds))
    return tuple(reversed(parts))


@RULES.rule(P.Relu(P.Exp(x)))
def never_applies(m: Match, b: Builder) -> Value | Refusal:
    """Refuses always."""
    return refuse("it is never in the mood")


@RULES.rule(P.NoSuchOperator(x, y))
def has_no_instances(m: Match, b: Builder) -> Value:
    """No one knows how to draw one."""
    return m["x"]


@RULES.rule(P.Relu(P.Relu(x)))
def changes_the_type(m: Match, b: Builder) -> Value:
    """Answers another dtype."""
    return b.op("Cast", m["x"], to=dtypes.INT32.onnx)


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("swaps_operands", "differs at"),
        ("composes_the_wrong_way", "differs at"),
        ("forgets_the_old_bias", "differs at"),
        ("mixes_outputs_up", "differs at"),
        ("never_applies", "was never applied in 60 instances.*60 × it is never in the mood.*give it `examples=`"),
        ("has_no_instances", "was never applied in 0 instances"),
        ("changes_the_type", "would change .* to int32"),
    ],
)
def test_a_planted_fault_is_found(name: str, message: str) -> None:
    with pytest.raises(DifferenceError, match=f"(?s)rule '{name}'.*{message}"):
        check_rule(RULES.rules[name], examples=60 if name == "never_applies" else 400)


def test_a_wrong_instance_is_shown_before_and_after() -> None:
    (report,) = run_rule_tests([RULES.rules["swaps_operands"]])
    assert not report.ok
    before, after = report.failure.partition("before:")[2].split("after:")
    assert before.count("Sub(") == after.count("Neg(") == 1


def test_the_same_seed_tries_the_same_instances() -> None:
    rule = RULES.rules["never_applies"]
    first, second = run_rule_tests([rule, rule], examples=20)
    assert first == second


def test_examples_give_types_arrays_functions_and_attributes() -> None:
    rules = RuleSet("examples")
    seen: list[tuple[object, ...]] = []

    @rules.rule(
        P.Softmax(P.Add(P.Mul(x, Const("c")), y), axis=attr("axis")),
        examples=lambda choose: {
            "x": TensorType(dtypes.FLOAT64, (2, 5)),
            "c": np.array([3.0]),
            "y": lambda b: b.op("Neg", b.graph.add_input("z", TensorType(dtypes.FLOAT64, (5,)))),
            "axis": choose.pick((0, 1)),
        },
    )
    def looks(m: Match, b: Builder) -> Value:
        """Only looks."""
        producer = m["y"].producer
        seen.append((str(m.type("x")), float(m.array("c")[0]), producer and producer.op_type, m.attribute("axis")))
        return b.op("Identity", m.root.output)

    rules.rules["looks"].replacement.__doc__ = None
    with pytest.raises(DifferenceError):
        check_rule(rules.rules["looks"], examples=30)
    assert set(seen) <= {("float64[2x5]", 3.0, "Neg", axis) for axis in (0, 1)} and seen
