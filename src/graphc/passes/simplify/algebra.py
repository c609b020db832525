"""Arithmetic that does nothing, or that constants can do beforehand."""

from __future__ import annotations

import numpy as np

from graphc.ir import Builder, TensorType, Value, dtypes
from graphc.ops.base import Array
from graphc.passes.rules import Absent, Const, Match, Optional, P, Refusal, Var, attr, refuse
from graphc.passes.rules.predicate import Filled
from graphc.passes.simplify.base import SIMPLIFY

x, y = Var("x"), Var("y")
real = Var("x", kinds=("float",))
c, d = Const("c"), Const("d")
condition = Const("condition")
TRUE, FALSE = Filled(1, "true"), Filled(0, "false")

SIMPLIFY.formula("neutral_element", x + 0.0 | x - 0.0 | x * 1.0 | x / 1.0 | x**1.0, x)
SIMPLIFY.formula("neutral_bool", P.And(x, Const("", TRUE)) | P.Or(x, Const("", FALSE)), x)
SIMPLIFY.formula("identity", P.Identity(x), x)
SIMPLIFY.formula("variadic_of_one", P.one_of("Sum", "Max", "Min", "Mean")(x), x)
SIMPLIFY.formula("sum_of_two", P.Sum(x, y), x + y)
SIMPLIFY.formula("involution", P.Neg(-x) | P.Not(P.Not(x)) | P.Reciprocal(P.Reciprocal(x)), x)
SIMPLIFY.formula("add_of_negative", x + -y, x - y)
SIMPLIFY.formula("subtract_negative", x - -y, x + y)
SIMPLIFY.formula("multiply_by_reciprocal", real * P.Reciprocal(y).only_here(), real / y)
SIMPLIFY.formula("division_of_one", 1.0 / real, P.Reciprocal(real))
SIMPLIFY.formula("square", real**2.0, real * real)
SIMPLIFY.formula("square_root", real**0.5, P.Sqrt(real))
SIMPLIFY.formula("max_with_zero", P.Max(real, 0.0), P.Relu(real))
SIMPLIFY.formula("where_same", P.Where(Var("c"), x, x), x)
SIMPLIFY.formula("where_not", P.Where(P.Not(Var("c")), x, y), P.Where(Var("c"), y, x))


@SIMPLIFY.rule(
    P.Dropout(x) | P.Dropout(x, Var("ratio")) | P.Dropout(x, Optional(Var("ratio")), Const("training", FALSE)),
    examples=lambda choose: {"ratio": np.float32(0.5), "training": np.False_},
)
def dropout(m: Match, b: Builder) -> Value:
    """Dropout(x) = x, outside of training."""
    return m["x"]


@SIMPLIFY.rule(
    P.one_of("Relu", "Abs", "Sign", "Floor", "Ceil", "Round")(
        P.one_of("Relu", "Abs", "Sign", "Floor", "Ceil", "Round")(x).named("inner")
    )
)
def idempotent(m: Match, b: Builder) -> Value | Refusal:
    """f(f(x)) = f(x)."""
    inner = m.node("inner")
    if inner.op_type != m.root.op_type:
        return refuse(f"{m.root.op_type} of {inner.op_type} is not idempotent")
    return inner.output


@SIMPLIFY.rule((real * c).only_here() * d)
def product_of_constants(m: Match, b: Builder) -> Value | Refusal:
    """(x * c) * d = x * (c * d)."""
    return _combine(m, b, "Mul", np.multiply)


@SIMPLIFY.rule((real + c).only_here() + d)
def sum_of_constants(m: Match, b: Builder) -> Value | Refusal:
    """(x + c) + d = x + (c + d)."""
    return _combine(m, b, "Add", np.add)


@SIMPLIFY.rule((real * c).only_here() / d)
def quotient_of_constants(m: Match, b: Builder) -> Value | Refusal:
    """(x * c) / d = x * (c / d)."""
    if not np.all(m.array("d")):
        return refuse("a divisor is zero")
    return _combine(m, b, "Mul", np.divide)


@SIMPLIFY.rule(((real * c).only_here() + d).only_here() * Const("e"))
def affine_of_affine(m: Match, b: Builder) -> Value | Refusal:
    """(x * c + d) * e = x * (c * e) + d * e, so that what follows can join."""
    c, d, e = m.array("c"), m.array("d"), m.array("e")
    if any(np.broadcast_shapes(a.shape, e.shape) != a.shape for a in (c, d)):
        return refuse(f"the constant of shape {e.shape} would make the others larger")
    with np.errstate(all="ignore"):
        scale, shift = c * e, d * e
    if not (np.all(np.isfinite(scale)) and np.all(np.isfinite(shift))):
        return refuse("the combined constant would overflow")
    return b.op("Add", b.op("Mul", m["x"], b.constant(scale)), b.constant(shift))


def _combine(m: Match, b: Builder, op: str, function: np.ufunc) -> Value | Refusal:
    left, right = m.array("c"), m.array("d")
    if np.broadcast_shapes(left.shape, right.shape) not in (left.shape, right.shape):
        return refuse(f"constants of shapes {left.shape} and {right.shape} would combine to a larger one")
    with np.errstate(all="ignore"):
        combined = function(left, right)
    if not np.all(np.isfinite(combined.astype(np.float64))):
        return refuse("the combined constant would overflow")
    return b.op(op, m["x"], b.constant(combined.astype(left.dtype)))


@SIMPLIFY.rule(P.Relu(P.Clip(x, Const("low"), Optional(Const("high"))).named("clip")))
def relu_of_clip(m: Match, b: Builder) -> Value | Refusal:
    """Relu(Clip(x, low, high)) = Clip(x, low, high) where low >= 0, and Clip(x, 0, high) where high >= 0."""
    low, high = m.array("low"), m.get("high")
    if np.all(low >= 0):
        return m.node("clip").output
    if high is not None and np.all(m.array("high") < 0):
        return refuse("the upper bound is negative")
    return b.op("Clip", m["x"], b.constant(np.zeros_like(low)), high)


@SIMPLIFY.rule(P.Clip(P.Relu(x), Const("low"), Optional(Const("high"))) | P.Clip(P.Relu(x), Absent(), Const("high")))
def clip_of_relu(m: Match, b: Builder) -> Value | Refusal:
    """Clip(Relu(x), low, high) = Clip(x, max(low, 0), high) where the bounds do not cross."""
    zero = np.zeros((), m.type("x").dtype.numpy)
    low = m.array("low") if m.get("low") is not None else None
    high = m.array("high") if m.get("high") is not None else None
    if high is not None and high < (zero if low is None else np.maximum(low, zero)):
        return refuse("the bounds cross")
    return b.op("Clip", m["x"], b.constant(zero if low is None else np.maximum(low, zero)), m.get("high"))


@SIMPLIFY.rule(
    P.Clip(
        P.Clip(x, Optional(Const("low")), Optional(Const("high"))), Optional(Const("low2")), Optional(Const("high2"))
    )
)
def clip_of_clip(m: Match, b: Builder) -> Value | Refusal:
    """Clip(Clip(x, a, b), c, d) = Clip(x, max(a, c), min(max(b, c), d)) where a <= b and c <= d."""
    arrays = {name: m.array(name) for name in ("low", "high", "low2", "high2") if m.get(name) is not None}
    low, high, low2, high2 = (arrays.get(name) for name in ("low", "high", "low2", "high2"))
    if low is not None and high is not None and low > high:
        return refuse("the inner bounds cross")
    if low2 is not None and high2 is not None and low2 > high2:
        return refuse("the outer bounds cross")
    lower = _extreme(np.maximum, low, low2)
    upper = high if low2 is None or high is None else np.maximum(high, low2)
    upper = _extreme(np.minimum, upper, high2)
    if lower is not None and high2 is not None:
        lower = np.minimum(lower, high2)
    return b.op(
        "Clip",
        m["x"],
        None if lower is None else b.constant(lower),
        None if upper is None else b.constant(upper),
    )


def _extreme(function: np.ufunc, left: Array | None, right: Array | None) -> Array | None:
    if left is None or right is None:
        return right if left is None else left
    return np.asarray(function(left, right))


@SIMPLIFY.rule(
    P.Where(condition, x, y),
    examples=lambda choose: {"condition": np.full(choose.pick(((2, 3), (1, 3))), choose.pick((True, False)))},
)
def where_constant(m: Match, b: Builder) -> Value | Refusal:
    """Where(true, x, y) = x, Where(false, x, y) = y."""
    mask = m.array("condition")
    chosen = "x" if mask.all() else "y"
    if chosen == "y" and mask.any():
        return refuse("the condition is neither true nor false everywhere")
    if m.shape(chosen) != m.output_shape:
        return refuse(f"the result is {m.output}, but %{m[chosen].name} is {m.type(chosen)}")
    return m[chosen]


@SIMPLIFY.rule(
    P.one_of("ReduceSum", "ReduceMean", "ReduceMax", "ReduceMin", "ReduceProd")(
        x, Optional(Const("axes")), keepdims=attr("keepdims", default=1), noop_with_empty_axes=attr("noop", default=0)
    ),
    examples=lambda choose: {"x": TensorType(dtypes.FLOAT32, (2, 1, 3)), "axes": choose.pick(([1], [-2], [0, 1]))},
)
def reduction_of_nothing(m: Match, b: Builder) -> Value | Refusal:
    """Reduce(x) over axes of extent 1 = x, with its axes kept."""
    shape = m.shape("x")
    axes = m.integers("axes") if m.get("axes") is not None else []
    reduced = [axis % len(shape) for axis in axes] if axes else ([] if m.attribute("noop") else list(range(len(shape))))
    if any(shape[axis] != 1 for axis in reduced):
        return refuse("a reduced axis has more than one element")
    if not m.attribute("keepdims") and reduced:
        return refuse("the reduced axes are dropped")
    return m["x"]
