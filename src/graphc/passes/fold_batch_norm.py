"""Scales and shifts folded into the weights before or after them, batch normalization first among them.

BatchNorm(y) = y * s + t    with s = scale / sqrt(variance + ε), t = bias - mean * s
Conv(x, w, b) * s + t = Conv(x, w * s, b * s + t)
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from graphc.ir import Builder, TensorType, Value, dtypes
from graphc.ops.base import Array
from graphc.passes.base import register_pass
from graphc.passes.rule_pass import RulePass
from graphc.passes.rules import Const, Match, Optional, P, Refusal, Var, attr, fixed, refuse, rule_set
from graphc.passes.rules.conditions import copy_op, is_float

RULES = rule_set("fold_batch_norm")

x, w, c = Var("x"), Const("w"), Const("c")
bias = Optional(Const("bias"))
EPSILON = 1e-5
"""ONNX's default of BatchNormalization's epsilon."""


@register_pass
@dataclass(frozen=True)
class FoldBatchNorm(RulePass):
    """Folds constant scales and shifts per channel into the weights of convolutions and matrix products.

    Before: constants are folded, dead nodes are gone (a weight's scale is folded only where nothing else reads the
    unscaled result). After: a BatchNormalization that remains has parameters that are not constant. Weights are
    computed in float64 and rounded once.
    """

    name: ClassVar[str] = "fold_batch_norm"


conv = P.Conv(x, w, bias).named("producer").only_here()
conv_transpose = P.ConvTranspose(x, w, bias).named("producer").only_here()
gemm = (
    P.Gemm(x, w, bias, alpha=fixed(1.0, default=1.0), beta=fixed(1.0, default=1.0), transA=fixed(0, default=0))
    .named("producer")
    .only_here()
)
matmul = P.MatMul(x, w).named("producer").only_here()


@RULES.rule(
    P.BatchNormalization(
        conv | conv_transpose | gemm,
        Const("scale"),
        Const("shift"),
        Const("mean"),
        Const("variance"),
        epsilon=attr("epsilon", default=EPSILON),
        training_mode=fixed(0, default=0),
    )
)
def batch_norm_into_weights(m: Match, b: Builder) -> Value | Refusal:
    """BatchNorm(Conv(x, w, b)) = Conv(x, w * s, b * s + t); ConvTranspose and Gemm alike."""
    scale, shift = _affine(m)
    return _scaled_producer(m, b, scale, shift)


@RULES.rule(
    P.BatchNormalization(
        Var("x", kinds=("float",)),
        Const("scale"),
        Const("shift"),
        Const("mean"),
        Const("variance"),
        epsilon=attr("epsilon", default=EPSILON),
        training_mode=fixed(0, default=0),
    )
)
def batch_norm_to_affine(m: Match, b: Builder) -> Value | Refusal:
    """BatchNorm(x) = x * s + t, where no weight before it takes them in."""
    rank = len(m.shape("x"))
    if rank < 2:
        return refuse(f"%{m['x'].name} has no channel axis")
    dtype = m.type("x").dtype.numpy
    per_channel = (-1,) + (1,) * (rank - 2)
    scale, shift = (v.reshape(per_channel).astype(dtype) for v in _affine(m))
    return b.op("Add", b.op("Mul", m["x"], b.constant(scale, name="scale")), b.constant(shift, name="shift"))


@RULES.rule((conv | conv_transpose | gemm | matmul) * c | (conv | conv_transpose | gemm | matmul) / c)
def scale_into_weights(m: Match, b: Builder) -> Value | Refusal:
    """Conv(x, w, b) * c = Conv(x, w * c, b * c) for c constant along all but channels; 1/c for a division."""
    scale = _per_channel(m, "c")
    if isinstance(scale, Refusal):
        return scale
    if m.root.op_type == "Div":
        if not np.all(scale):
            return refuse("a divisor is zero")
        scale = 1 / scale
    return _scaled_producer(m, b, scale, np.zeros(1))


@RULES.rule((conv | conv_transpose | gemm) + c | (conv | conv_transpose | gemm) - c)
def shift_into_bias(m: Match, b: Builder) -> Value | Refusal:
    """Conv(x, w, b) + c = Conv(x, w, b + c) for c constant along all but channels; -c for a subtraction."""
    shift = _per_channel(m, "c")
    if isinstance(shift, Refusal):
        return shift
    return _scaled_producer(m, b, np.ones(1), -shift if m.root.op_type == "Sub" else shift)


@RULES.rule(P.Conv((x * c).named("scaled").only_here(), w, Optional(Var("bias"))), when=is_float("x"))
def input_scale_into_conv(m: Match, b: Builder) -> Value | Refusal:
    """Conv(x * c, w) = Conv(x, w * c) for c constant along all but the channels of x."""
    weight, shape = m.array("w"), m.shape("x")
    scale = _channel_vector(m.array("c"), len(shape))
    if isinstance(scale, Refusal):
        return scale
    groups = m.root.int_attribute("group", 1)
    if m.node("scaled").output.type != m.type("x") or scale.size not in (1, weight.shape[1] * groups):
        return refuse("the scale broadcasts the input")
    per_input = np.broadcast_to(scale, (weight.shape[1] * groups,)).reshape(groups, 1, -1)
    grouped = weight.astype(np.float64).reshape(groups, weight.shape[0] // groups, weight.shape[1], -1)
    scaled = (grouped * per_input[..., None]).reshape(weight.shape).astype(weight.dtype)
    return copy_op(b, m.root, m["x"], b.constant(scaled, name="weight"), m.get("bias"))


@RULES.rule(
    P.Conv((x + c).named("shifted").only_here(), w, bias),
    when=is_float("x"),
    examples=lambda choose: {
        "x": TensorType(dtypes.FLOAT32, (2, 4, 5, 3)),
        "c": TensorType(dtypes.FLOAT32, choose.pick(((), (4, 1, 1), (1, 4, 1, 1), (1, 1, 1)))),
    },
)
def input_shift_into_conv(m: Match, b: Builder) -> Value | Refusal:
    """Conv(x + c, w, b) = Conv(x, w, b + Σ w * c), without padding, for c constant along all but the channels of x."""
    weight, shape = m.array("w"), m.shape("x")
    if any(m.root.ints_attribute("pads") or ()) or m.root.str_attribute("auto_pad", "NOTSET") not in (
        "NOTSET",
        "VALID",
    ):
        return refuse("the padding is zero, not the shift")
    shift = _channel_vector(m.array("c"), len(shape))
    if isinstance(shift, Refusal):
        return shift
    groups = m.root.int_attribute("group", 1)
    if m.node("shifted").output.type != m.type("x") or shift.size not in (1, weight.shape[1] * groups):
        return refuse("the shift broadcasts the input")
    per_input = _spread(shift, weight.shape[1] * groups).reshape(groups, 1, -1, 1)
    grouped = weight.astype(np.float64).reshape(groups, weight.shape[0] // groups, weight.shape[1], -1)
    added = (grouped * per_input).sum(axis=(2, 3)).reshape(-1)
    old = m.array("bias").astype(np.float64) if m.get("bias") is not None else 0
    return copy_op(b, m.root, m["x"], m["w"], b.constant((old + added).astype(weight.dtype), name="bias"))


@RULES.rule(P.MatMul(P.Mul(x, c).named("scaled").only_here(), w), when=is_float("x"))
def input_scale_into_matmul(m: Match, b: Builder) -> Value | Refusal:
    """(x * c) @ w = x @ (c * w) for c constant along all but the last axis of x."""
    weight, scale = m.array("w"), m.array("c")
    if weight.ndim < 2:
        return refuse("the weight is a vector")
    if any(extent != 1 for extent in scale.shape[:-1]) or m.node("scaled").output.type != m.type("x"):
        return refuse(f"the scale of shape {scale.shape} is not constant along all but the last axis")
    scaled = (weight.astype(np.float64) * scale.astype(np.float64).reshape(-1, 1)).astype(weight.dtype)
    return b.op("MatMul", m["x"], b.constant(scaled, name="weight"))


def _affine(m: Match) -> tuple[Array, Array]:
    """`(s, t)` of a BatchNormalization, in float64."""
    scale, shift, mean, variance = (m.array(n).astype(np.float64) for n in ("scale", "shift", "mean", "variance"))
    factor = scale / np.sqrt(variance + m.attribute("epsilon"))
    return factor, shift - mean * factor


def _per_channel(m: Match, name: str) -> Array | Refusal:
    """A constant as a vector over the producer's output channels (or of one element), in float64."""
    producer = m.node("producer")
    if producer.output.type != m.root.output.type:
        return refuse(f"the result {m.output} is not of the type of %{producer.output.name}")
    if not m.output.dtype.is_float:
        return refuse(f"the result is {m.output.dtype}")
    if producer.op_type in ("Gemm", "MatMul"):
        array = m.array(name)
        if any(extent != 1 for extent in array.shape[:-1]):
            return refuse(f"the constant of shape {array.shape} varies along other axes than the last")
        return array.astype(np.float64).reshape(-1)
    return _channel_vector(m.array(name), len(m.output_shape))


def _channel_vector(array: Array, rank: int) -> Array | Refusal:
    """A constant that broadcasts to `rank` axes as a vector along axis 1, in float64."""
    shape = (1,) * (rank - array.ndim) + array.shape
    if len(shape) != rank or any(extent != 1 for axis, extent in enumerate(shape) if axis != 1):
        return refuse(f"the constant of shape {array.shape} varies along other axes than channels")
    return array.astype(np.float64).reshape(-1)


def _scaled_producer(m: Match, b: Builder, scale: Array, shift: Array) -> Value | Refusal:
    """The producer with its result times `scale` plus `shift`, vectors over output channels or of one element."""
    node, weight = m.node("producer"), m.array("w")
    if not m.type("w").dtype.is_float:
        return refuse(f"the weight is {m.type('w').dtype}")
    wide = weight.astype(np.float64)
    if node.op_type == "Conv":
        channels = weight.shape[0]
        wide = wide * _spread(scale, channels).reshape(-1, *(1,) * (weight.ndim - 1))
    elif node.op_type == "ConvTranspose":
        groups = node.int_attribute("group", 1)
        channels = weight.shape[1] * groups
        grouped = wide.reshape(groups, weight.shape[0] // groups, weight.shape[1], -1)
        wide = (grouped * _spread(scale, channels).reshape(groups, 1, -1, 1)).reshape(weight.shape)
    elif node.op_type == "Gemm" and node.int_attribute("transB", 0):
        channels = weight.shape[0]
        wide = wide * _spread(scale, channels)[:, None]
    else:
        if weight.ndim < 2:
            return refuse("the weight is a vector")
        channels = weight.shape[-1]
        wide = wide * _spread(scale, channels)
    scaled = b.constant(wide.astype(weight.dtype), name="weight")
    if node.op_type == "MatMul":
        return b.op("MatMul", m["x"], scaled)
    old = m.array("bias").astype(np.float64) if m.get("bias") is not None else np.zeros(1)
    if node.op_type == "Gemm" and old.ndim == 2 and old.shape[0] != 1:
        return refuse("Gemm's C varies along rows")
    added = (_spread(old.reshape(-1), channels) * scale + shift).astype(weight.dtype)
    new_bias = b.constant(_spread(added, channels), name="bias") if m.get("bias") is not None or np.any(added) else None
    return copy_op(b, node, m["x"], scaled, new_bias)


def _spread(vector: Array, channels: int) -> Array:
    return np.ascontiguousarray(np.broadcast_to(vector, (channels,)))
