"""Random tensors. A node with a seed gives the same numbers every time; which numbers, only the seed decides."""

from __future__ import annotations

import struct
from collections.abc import Sequence

import numpy as np

from graphc.ir import Node, TensorType, Type, dtypes
from graphc.ir.dtypes import DType
from graphc.ops.base import Array, Datum, InferenceContext, Operator, Trait, register

RANDOM = frozenset({Trait.RANDOM})


def generator(node: Node) -> np.random.Generator:
    """A generator from the node's seed; from the system's entropy where it has none."""
    if "seed" not in node.attributes:
        return np.random.default_rng()
    return np.random.default_rng(int.from_bytes(struct.pack("<d", node.float_attribute("seed", 0.0)), "little"))


def _dtype(node: Node, default: DType) -> DType:
    return dtypes.from_onnx(node.int_attribute("dtype", default.onnx))


def _draw(node: Node, shape: tuple[int, ...], dtype: DType) -> Array:
    random = generator(node)
    if node.op_type.startswith("RandomNormal"):
        drawn = random.normal(node.float_attribute("mean", 0.0), abs(node.float_attribute("scale", 1.0)), shape)
    else:
        drawn = random.uniform(node.float_attribute("low", 0.0), node.float_attribute("high", 1.0), shape)
    return np.asarray(drawn).astype(dtype.numpy)


def _infer_drawn(ctx: InferenceContext) -> Sequence[Type]:
    return [TensorType(_dtype(ctx.node, dtypes.FLOAT32), ctx.node.ints_attribute("shape", ()))]


def _evaluate_drawn(node: Node, inputs: Sequence[Datum]) -> Sequence[Datum]:
    return [_draw(node, node.ints_attribute("shape") or (), _dtype(node, dtypes.FLOAT32))]


def _infer_like(ctx: InferenceContext) -> Sequence[Type]:
    kind = ctx.tensor(0)
    return [TensorType(_dtype(ctx.node, kind.dtype), kind.shape)]


def _evaluate_like(node: Node, inputs: Sequence[Datum]) -> Sequence[Datum]:
    return [_draw(node, inputs[0].shape, _dtype(node, dtypes.from_numpy(inputs[0].dtype)))]


def _evaluate_bernoulli(node: Node, inputs: Sequence[Datum]) -> Sequence[Datum]:
    (probabilities,) = inputs
    drawn = generator(node).random(probabilities.shape) < probabilities.astype(np.float64)
    return [np.asarray(drawn).astype(_dtype(node, dtypes.from_numpy(probabilities.dtype)).numpy)]


def _infer_multinomial(ctx: InferenceContext) -> Sequence[Type]:
    shape = ctx.shape(0)
    if len(shape) != 2:
        ctx.fail(f"log-probabilities must be a matrix, not of shape {list(shape)}")
    return [TensorType(_dtype(ctx.node, dtypes.INT32), (shape[0], ctx.node.int_attribute("sample_size", 1)))]


def _evaluate_multinomial(node: Node, inputs: Sequence[Datum]) -> Sequence[Datum]:
    logits = inputs[0].astype(np.float64)
    random = generator(node)
    # Gumbel's trick: the largest of log-probabilities plus Gumbel noise is a draw from them.
    noise = random.gumbel(size=(logits.shape[0], node.int_attribute("sample_size", 1), logits.shape[1]))
    return [np.argmax(logits[:, None] + noise, axis=-1).astype(_dtype(node, dtypes.INT32).numpy)]


for operator in (
    *(Operator(name, _infer_drawn, _evaluate_drawn, traits=RANDOM) for name in ("RandomNormal", "RandomUniform")),
    *(Operator(name, _infer_like, _evaluate_like, traits=RANDOM) for name in ("RandomNormalLike", "RandomUniformLike")),
    Operator("Bernoulli", _infer_like, _evaluate_bernoulli, traits=RANDOM),
    Operator("Multinomial", _infer_multinomial, _evaluate_multinomial, traits=RANDOM),
):
    register(operator)
