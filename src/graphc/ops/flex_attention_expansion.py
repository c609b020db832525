"""FlexAttention spelled out: two products around a softmax, with its subgraphs in their places."""

from __future__ import annotations

import math

from graphc.ir import Builder, Graph, Node, Value, clone_node, dtypes
from graphc.ops.attention_expansion import grouped
from graphc.ops.contrib import Values, needed
from graphc.ops.decomposition import decomposed, scalar_like
from graphc.ops.flex_attention import precision_of


def inlined(b: Builder, body: Graph, inputs: list[Value]) -> list[Value]:
    """Adds copies of a body's nodes, reading `inputs` in place of its own; answers its outputs."""
    values = dict(zip(body.inputs, inputs, strict=True))
    for node in body.nodes:
        copy = clone_node(node, values, [b.graph.fresh_name(v.name) if v.name else "" for v in node.outputs])
        copy.origins = b.origins
        b.insert(copy)
        for value, kind in zip(copy.outputs, b.infer(copy) if b.infer else (), strict=False):
            value.type = kind
        values.update(zip(node.outputs, copy.outputs, strict=True))
    return [values.get(value, value) for value in body.outputs]


def _modified(b: Builder, node: Node, name: str, x: Value) -> Value:
    body = node.attributes.get(name)
    return inlined(b, body, [x])[0] if isinstance(body, Graph) else x


def _expand(b: Builder, node: Node, x: Values) -> Values | None:
    q, k, v = (needed(x, i) for i in range(3))
    heads, kv_heads, size = q.tensor_type.dims[1], k.tensor_type.dims[1], q.tensor_type.dims[3]
    if not (isinstance(heads, int) and isinstance(kv_heads, int) and isinstance(size, int)):
        return None
    scale = node.float_attribute("scale", 0.0) or 1 / math.sqrt(size)
    precision = precision_of(node, q.tensor_type.dtype)
    plain = not any(isinstance(node.attributes.get(name), Graph) for name in ("score_mod", "prob_mod"))
    if plain and precision == q.tensor_type.dtype == v.tensor_type.dtype == dtypes.FLOAT32:
        return [b.op("Attention", q, k, v, scale=scale)]
    made = v.tensor_type.dtype
    q, k, v = (
        value if value.tensor_type.dtype == precision else b.op("Cast", value, to=precision.onnx) for value in (q, k, v)
    )
    product = b.op("MatMul", grouped(b, q, heads, kv_heads), b.op("Transpose", k, perm=[0, 1, 3, 2]))
    scores = b.op("Mul", grouped(b, product, kv_heads, heads), scalar_like(b, scale, q))
    weights = b.op("Softmax", _modified(b, node, "score_mod", scores), axis=-1)
    weights = _modified(b, node, "prob_mod", weights)
    result = grouped(b, b.op("MatMul", grouped(b, weights, heads, kv_heads), v), kv_heads, heads)
    return [result if made == precision else b.op("Cast", result, to=made.onnx)]


decomposed("FlexAttention", _expand, domain="ai.onnx.preview", define=False)
