"""Reshapes: those that do nothing, chains of them, and targets that are known although they are computed."""

from __future__ import annotations

from graphc.ir import Builder, TensorType, Value, dtypes
from graphc.passes.rules import Match, P, Refusal, Rest, Var, refuse
from graphc.passes.rules.conditions import copy_op, reshape
from graphc.passes.simplify.base import SIMPLIFY

x = Var("x")
VIEWS = P.one_of("Reshape", "Flatten", "Squeeze", "Unsqueeze")


# Each where it leaves the shape as it is.
SIMPLIFY.formula("reshape_to_same", VIEWS(x, Rest("how")), x)
SIMPLIFY.formula("expand_to_same", P.Expand(x, Var("shape")), x)
SIMPLIFY.formula("tile_once", P.Tile(x, Var("repeats")), x)


@SIMPLIFY.rule(VIEWS(VIEWS(x, Rest("inner")), Rest("outer")))
def reshape_of_reshape(m: Match, b: Builder) -> Value | Refusal:
    """Reshape(Reshape(x, s), t) = Reshape(x, t); Flatten, Squeeze and Unsqueeze alike."""
    if m.output_shape == m.shape("x"):
        return m["x"]
    return reshape(b, m["x"], m.shape("x"), m.output_shape)


@SIMPLIFY.rule(
    P.Reshape(x, Var("shape", constant=False)),
    examples=lambda choose: {
        "x": TensorType(dtypes.FLOAT32, (4, 6)),
        # With a first extent that may be left open, or the folding of constants leaves nothing to do.
        "shape": lambda b: b.op(
            "Shape", b.graph.add_input("like", TensorType(dtypes.BOOL, choose.pick(((4, 2, 3), (4, 6, 1), (8, 3)))))
        ),
    },
)
def reshape_target_known(m: Match, b: Builder) -> Value | Refusal:
    """Reshape(x, computed) = Reshape(x, constant) where inference knows the result."""
    return reshape(b, m["x"], m.shape("x"), m.output_shape)


BROADCASTING = P.one_of(
    "Add", "Sub", "Mul", "Div", "Pow", "Equal", "Less", "Greater", "LessOrEqual", "GreaterOrEqual", "And", "Or"
)


@SIMPLIFY.rule(BROADCASTING(P.Expand(x, Var("shape")), Var("y")) | BROADCASTING(Var("y"), P.Expand(x, Var("shape"))))
def expand_into_broadcast(m: Match, b: Builder) -> Value | Refusal:
    """f(Expand(x), y) = f(x, y) where y already has the shape that f broadcasts to."""
    if m.shape("y") != m.output_shape:
        return refuse(f"%{m['y'].name} is {m.type('y')}, so that the result needs the expansion")
    first = m.root.inputs[0] is m["y"]
    return copy_op(b, m.root, *((m["y"], m["x"]) if first else (m["x"], m["y"])))
