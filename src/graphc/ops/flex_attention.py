"""FlexAttention of ai.onnx.preview: attention whose scores and weights two subgraphs may change."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

from graphc.ir import Dim, Graph, Node, TensorType, Type, dtypes
from graphc.ir.dtypes import DType
from graphc.ir.symbolic import mod
from graphc.ops.attention import softmax
from graphc.ops.base import Array, Datum, InferenceContext, Operator, Trait, register
from graphc.ops.control import captured_data, output_types
from graphc.ops.evaluate import evaluate_graph


def precision_of(node: Node, dtype: DType) -> DType:
    """In which the scores and weights are held: at least float32, unless the node says otherwise."""
    declared = node.int_attribute("softmax_precision", 0)
    if declared:
        return dtypes.from_onnx(declared)
    return dtypes.FLOAT32 if dtype.bits < 32 else dtype


def _infer(ctx: InferenceContext) -> Sequence[Type]:
    q, k, v = (ctx.shape(i) for i in range(3))
    if not len(q) == len(k) == len(v) == 4:
        ctx.fail(f"Q, K and V must have 4 axes, not shapes {list(q)}, {list(k)}, {list(v)}")
    if isinstance(q[1], int) and isinstance(k[1], int) and mod(q[1], k[1]) != 0:
        ctx.fail(f"{q[1]} heads of the query are no multiple of {k[1]} of the key")
    kind = ctx.tensor(0)
    scores: tuple[Dim, ...] = (q[0], q[1], q[2], k[2])
    for name in ("score_mod", "prob_mod"):
        body = ctx.node.attributes.get(name)
        if isinstance(body, Graph):
            if len(body.inputs) != 1 or len(body.outputs) != 1:
                ctx.fail(f"{name} must have one input and one output")
            body.inputs[0].type = TensorType(precision_of(ctx.node, kind.dtype), scores)
            ctx.infer_subgraph(body)
            output_types(ctx, body)
    return [kind.with_shape((q[0], q[1], q[2], v[3]))]


def _evaluate(node: Node, data: Sequence[Datum]) -> Sequence[Datum]:
    q, k, v = data[:3]
    captured = captured_data(node, data)

    def changed(name: str, values: Array) -> Array:
        body = node.attributes.get(name)
        if not isinstance(body, Graph):
            return values
        return np.asarray(evaluate_graph(body, [values], captured=captured)[0])

    precision = precision_of(node, dtypes.from_numpy(q.dtype)).numpy
    repeats = q.shape[1] // k.shape[1]
    key, value = (np.repeat(x.astype(precision), repeats, axis=1) for x in (k, v))
    scale = node.float_attribute("scale", 0.0) or 1 / math.sqrt(q.shape[-1])
    scores = q.astype(precision) @ key.swapaxes(-1, -2) * precision.type(scale)
    weights = changed("prob_mod", softmax(changed("score_mod", scores)))
    return [(weights @ value).astype(v.dtype)]


register(
    Operator(
        "FlexAttention",
        _infer,
        _evaluate,
        domain="ai.onnx.preview",
        traits=frozenset({Trait.CONTRACTION, Trait.CONTROL}),
    )
)
