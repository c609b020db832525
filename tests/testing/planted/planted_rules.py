"""Wrong rules, as someone might write them: each is one kind of mistake. None is ever in a pipeline of graphc's own."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from graphc.ir import Builder, Graph, Node, TensorType, Value, dtypes
from graphc.passes.base import PassContext
from graphc.passes.rule_pass import RulePass
from graphc.passes.rules import Const, Match, P, Refusal, Var, attr, refuse
from graphc.passes.rules.rule import RuleSet

PLANTED = RuleSet("planted")
"""In no table of rule sets: a test puts it there, and takes it out again."""

x, y, c = Var("x"), Var("y"), Const("c")


@dataclass(frozen=True)
class Planted(RulePass):
    """Applies wrong rules."""

    name: ClassVar[str] = "planted"


@PLANTED.rule(P.Sub(x, y))
def swapped_operands(m: Match, b: Builder) -> Value:
    """x - y = y + x, which was meant to be y - x, negated."""
    return b.op("Add", m["y"], m["x"])


@PLANTED.rule(P.Div(P.Exp(x).named("top"), P.Softplus(y).named("bottom")))
def commuted(m: Match, b: Builder) -> Value | Refusal:
    """e / s = s / e."""
    if m.type("x").shape != m.type("y").shape:
        return refuse("shapes differ")
    return b.op("Div", m.node("bottom").output, m.node("top").output)


@PLANTED.rule(P.Reciprocal(x))
def wrong_constant(m: Match, b: Builder) -> Value:
    """1 / x = 1.01 / x."""
    return b.op("Div", b.constant(np.array(1.01, m.type("x").dtype.numpy)), m["x"])


@PLANTED.rule(P.CumSum(x, Const("axis")))
def wrong_axis(m: Match, b: Builder) -> Value:
    """CumSum(x, a) = CumSum(x, a - 1)."""
    return b.op("CumSum", m["x"], b.constant(np.asarray(int(m.array("axis")) - 1).astype(np.int64)))


@PLANTED.rule(P.Softmax(x, axis=attr("axis")))
def lost_attribute(m: Match, b: Builder) -> Value:
    """Softmax[axis](x) = Softmax(x)."""
    return b.op("Softmax", m["x"])


@PLANTED.rule(P.Expand(x, Const("shape")))
def dropped_broadcast(m: Match, b: Builder) -> Value:
    """Expand(x, shape) = x."""
    return m["x"]


@PLANTED.rule(
    P.Pad(x, Const("pads"), Const("value")),
    examples=lambda choose: {
        "x": TensorType(dtypes.FLOAT32, (3,)),
        "pads": np.array([choose.integer(0, 2), 1]),
        "value": np.float32(0.5),
    },
)
def wrong_padding(m: Match, b: Builder) -> Value:
    """Pad(x, pads, value) = Pad(x, pads)."""
    return b.op("Pad", m["x"], b.constant(m.array("pads")))


@PLANTED.rule(P.ReduceMean(x, Const("axes"), keepdims=attr("keepdims", default=1)))
def wrong_keepdims(m: Match, b: Builder) -> Value | Refusal:
    """ReduceMean[1](x) = ReduceMean[0](x)."""
    if not m.attribute("keepdims"):
        return refuse("it keeps no axes")
    return b.op("ReduceMean", m["x"], b.constant(m.array("axes")), keepdims=0)


cast = P.Cast(Var("x", kinds=("int",)), to=attr("to"))


@PLANTED.rule(P.ReduceMean(cast, Const("axes"), keepdims=attr("keep", default=1)))
def wrong_accumulator(m: Match, b: Builder) -> Value:
    """Mean(Cast(x)) = Cast(Mean(x)), for integers."""
    mean = b.op("ReduceMean", m["x"], b.constant(m.array("axes")), keepdims=m.attribute("keep"))
    return b.op("Cast", mean, to=m.attribute("to"))


@PLANTED.rule(P.Concat(x, y, axis=attr("axis")))
def wrong_order(m: Match, b: Builder) -> Value | Refusal:
    """Concat(x, y) = Concat(y, x)."""
    if m.shape("x") != m.shape("y"):
        return refuse("shapes differ")
    return b.op("Concat", m["y"], m["x"], axis=m.attribute("axis"))


@PLANTED.rule(P.Max(x, y))
def lost_nan(m: Match, b: Builder) -> Value:
    """max(x, y) = x > y ? x : y, which takes y where x is NaN."""
    return b.op("Where", b.op("Greater", m["x"], m["y"]), m["x"], m["y"])


@PLANTED.rule(
    P.Div(P.Mul(x, c), c),
    examples=lambda choose: {"x": TensorType(dtypes.UINT8, (9,)), "c": np.uint8(choose.integer(100, 250))},
)
def overflow(m: Match, b: Builder) -> Value | Refusal:
    """x * c / c = x, which is not so for x * c beyond the dtype."""
    if m.type("x").dtype != dtypes.UINT8 or m.root.output.type != m["x"].type:
        return refuse("it is of another dtype or shape")
    return m["x"]


@PLANTED.rule(P.Max(x, y) & P.Exp(x))
def mixed_up(m: Match, b: Builder) -> tuple[Value, ...] | Refusal:
    """Max(x, y), Exp(x) = Exp(x), x > y ? x : y."""
    if m.roots[0].type != m.roots[1].type:
        return refuse("shapes differ")
    return b.op("Exp", m["x"]), b.op("Where", b.op("Greater", m["x"], m["y"]), m["x"], m["y"])


@dataclass(frozen=True)
class MissedUse:
    """Folds a scale into one product's weights, and forgets who else reads what was scaled."""

    name: ClassVar[str] = "missed_use"

    def run(self, graph: Graph, context: PassContext) -> int:
        """Every product of a scaled matrix and a constant."""
        changes = 0
        for node in list(graph.nodes):
            scale = node.inputs[0].producer if node.is_op("MatMul") and node.inputs[0] is not None else None
            if scale is None or not scale.is_op("Mul") or not context.permit(self.name, node):
                continue
            data, factor = scale.inputs
            weight = node.inputs[1]
            assert data is not None and factor is not None and weight is not None
            if factor.constant is None or weight.constant is None:
                continue
            scaled = weight.constant.array() * factor.constant.array().reshape(-1, 1)
            node.set_input(1, Builder(graph, before=node).constant(scaled))
            scale.output.replace_all_uses(data)
            changes += 1
        return changes


@dataclass(frozen=True)
class StaleType:
    """Computes in another dtype and leaves the type as it was."""

    name: ClassVar[str] = "stale_type"

    def run(self, graph: Graph, context: PassContext) -> int:
        """Every cast."""
        casts = [node for node in graph.nodes if node.is_op("Cast") and context.permit(self.name, node)]
        for node in casts:
            node.attributes["to"] = dtypes.FLOAT64.onnx
        return len(casts)


@dataclass(frozen=True)
class LostOutput:
    """Takes outputs that no node reads for dead."""

    name: ClassVar[str] = "lost_output"

    def run(self, graph: Graph, context: PassContext) -> int:
        """The outputs made by a Tanh or a Softmax."""
        dead = [value for value in graph.outputs if _is_lost(value.producer) and len(graph.outputs) > 1]
        dead = [value for value in dead if value.producer and context.permit(self.name, value.producer)]
        graph.outputs = [value for value in graph.outputs if value not in dead]
        return len(dead)


def _is_lost(node: Node | None) -> bool:
    return node is not None and node.op_type == "Tanh"


PASSES = (Planted, MissedUse, StaleType, LostOutput)
