"""Layer and RMS normalization from their pieces: the core first, then its scale, then its shift."""

from __future__ import annotations

import numpy as np

from graphc.ir import Builder, TensorType, Value, dtypes
from graphc.passes.raising.base import RAISE
from graphc.passes.rules import Absent, Chooser, Const, Filled, Match, P, Refusal, Scalar, Var, attr, fixed, refuse
from graphc.passes.rules.conditions import copy_op, element, keeps_shape, normalized_axes

x = Var("x", kinds=("float",))
axes = Const("axes")
kept = fixed(1, default=1)
mean = P.ReduceMean(x, axes, keepdims=kept)
deviation = x - mean
variance = P.ReduceMean(deviation * deviation | deviation**2.0, axes, keepdims=kept)
epsilon = Const("epsilon", Scalar())


def _examples(choose: Chooser) -> dict[str, object]:
    rank = choose.integer(2, 4)
    shape = tuple(choose.integer(2, 4) for _ in range(rank))
    return {"x": TensorType(dtypes.FLOAT32, shape), "axes": choose.pick(([-1], [rank - 1], [rank - 2, rank - 1]))}


@RAISE.rule(deviation / P.Sqrt(variance + epsilon).only_here(), when=keeps_shape("x"), examples=_examples)
def layer_norm(m: Match, b: Builder) -> Value | Refusal:
    """(x - mean) / √(variance + ε) = LayerNormalization(x, 1)."""
    return _normalization(m, b, "LayerNormalization")


square = P.ReduceMean(x * x | x**2.0, axes, keepdims=kept)


@RAISE.rule(x / P.Sqrt(square + epsilon).only_here(), when=keeps_shape("x"), examples=_examples)
def rms_norm(m: Match, b: Builder) -> Value | Refusal:
    """x / √(mean of x² + ε) = RMSNormalization(x, 1)."""
    return _normalization(m, b, "RMSNormalization")


def _normalization(m: Match, b: Builder, op_type: str) -> Value | Refusal:
    shape, dtype = m.shape("x"), m.type("x").dtype
    reduced = normalized_axes(m.integers("axes"), len(shape))
    if not reduced or reduced != tuple(range(reduced[0], len(shape))):
        return refuse(f"axes {list(reduced)} of {len(shape)} are not the last ones")
    sizes = [extent for extent in shape[reduced[0] :] if isinstance(extent, int)]
    if len(sizes) != len(reduced):
        return refuse("a normalized axis has an open extent")
    ones = b.constant(np.ones(sizes, dtype.numpy), name="scale")
    return b.op(op_type, m["x"], ones, axis=reduced[0] - len(shape), epsilon=element(m.array("epsilon")))


scale = Var("scale")
NORMS = P.one_of("LayerNormalization", "RMSNormalization")
normalized = NORMS(x, Const("ones", Filled(1)), axis=attr("axis", default=-1)).named("norm").only_here()


def _scale_examples(choose: Chooser) -> dict[str, object]:
    shape = choose.pick(((4,), (3, 4)))
    return {
        "x": TensorType(dtypes.FLOAT32, (2, 3, 4)),
        "ones": np.ones(shape, np.float32),
        "axis": -len(shape),
        "scale": TensorType(dtypes.FLOAT32, choose.pick((shape, (1, *shape)))),
        "shift": TensorType(dtypes.FLOAT32, shape),
    }


@RAISE.rule(normalized * scale, when=keeps_shape("x"), examples=_scale_examples)
def norm_scale(m: Match, b: Builder) -> Value | Refusal:
    """LayerNormalization(x, 1) * scale = LayerNormalization(x, scale); RMSNormalization alike."""
    weight = _parameter(m, b, "scale")
    return weight if isinstance(weight, Refusal) else copy_op(b, m.node("norm"), m["x"], weight)


unshifted = P.LayerNormalization(x, Var("weight"), axis=attr("axis", default=-1)).named("norm").only_here()


@RAISE.rule(
    unshifted + Var("shift")
    | P.LayerNormalization(x, Var("weight"), Absent(), axis=attr("axis", default=-1)).named("norm").only_here()
    + Var("shift"),
    when=keeps_shape("x"),
    examples=_scale_examples,
)
def layer_norm_shift(m: Match, b: Builder) -> Value | Refusal:
    """LayerNormalization(x, scale) + shift = LayerNormalization(x, scale, shift)."""
    shift = _parameter(m, b, "shift")
    return shift if isinstance(shift, Refusal) else copy_op(b, m.node("norm"), m["x"], m["weight"], shift)


def _parameter(m: Match, b: Builder, name: str) -> Value | Refusal:
    """The value called `name` in the shape of the normalized axes, or a refusal where it is of another."""
    rank = len(m.shape("x"))
    wanted = m.shape("x")[m.attribute("axis") % rank :]
    shape = m.shape(name)
    if m.type(name).dtype != m.type("x").dtype:
        return refuse(f"%{m[name].name} is {m.type(name).dtype}")
    if shape == wanted:
        return m[name]
    tensor = m[name].constant
    surplus = len(shape) - len(wanted)
    if tensor is None or surplus < 0 or shape != (1,) * surplus + wanted:
        return refuse(f"%{m[name].name} is of shape {list(shape)}, not {list(wanted)}")
    return b.constant(tensor.array().reshape(shape[surplus:]), name=name)
