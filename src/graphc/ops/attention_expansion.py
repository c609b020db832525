"""Attention of ai.onnx spelled out in products and a softmax, for where no kernel computes it whole."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np

from graphc.ir import Builder, Node, Value, dtypes
from graphc.ops.contrib import Values, given, needed, number, numbers
from graphc.ops.contrib_attention import join_heads, split_heads
from graphc.ops.decomposition import decomposed, rank_of, scalar_like


@dataclass(frozen=True)
class _Scores:
    """What the mask of an attention depends on.

    Args:
        b: Builder.
        node: The attention.
        scores: (batch, heads, queries, keys).
        past: Keys of the cache, (batch, heads, positions, size).
        valid: Number of valid keys, (batch).
    """

    b: Builder
    node: Node
    scores: Value
    past: Value | None
    valid: Value | None

    def extent(self, value: Value, axis: int) -> Value:
        """Extent of an axis, rank 0."""
        return self.b.op("Squeeze", self.b.op("Shape", value, start=axis, end=axis + 1), numbers(self.b, 0))

    def span(self, axis: int) -> Value:
        """0, 1, ... along an axis of the scores."""
        return self.b.op("Range", number(self.b, 0), self.extent(self.scores, axis), number(self.b, 1))

    def additive(self, allowed: Value) -> Value:
        """0 where a key is allowed, minus infinity elsewhere."""
        zero, never = (scalar_like(self.b, limit, self.scores) for limit in (0.0, -math.inf))
        return self.b.op("Where", allowed, zero, never)

    def window(self) -> Value | None:
        """Which keys the causal frontier, the window and the number of valid keys allow; None for all."""
        b, node = self.b, self.node
        left, right = node.int_attribute("left_window_size", -1), node.int_attribute("right_window_size", -1)
        causal = bool(node.int_attribute("is_causal", 0))
        if not causal and left < 0 and right < 0 and self.valid is None:
            return None
        keys = self.span(3)
        valid = None if self.valid is None else b.op("Unsqueeze", self.valid, numbers(b, 1, 2, 3))
        rows = b.op("Unsqueeze", self.span(2), numbers(b, 1))
        if valid is not None:
            rows = b.op("Add", rows, b.op("Sub", valid, self.extent(self.scores, 2)))
        elif self.past is not None:
            rows = b.op("Add", rows, self.extent(self.past, 2))
        ahead = b.op("Sub", keys, rows)
        conditions = []
        if causal:
            conditions.append(b.op("LessOrEqual", ahead, number(b, 0)))
        if left >= 0:
            conditions.append(b.op("GreaterOrEqual", ahead, number(b, -left)))
        if right >= 0:
            conditions.append(b.op("LessOrEqual", ahead, number(b, right)))
        if valid is not None:
            conditions.append(b.op("Less", keys, valid))
        allowed = conditions[0]
        for condition in conditions[1:]:
            allowed = b.op("And", allowed, condition)
        return allowed

    def mask(self, given_mask: Value) -> Value:
        """The mask as what is added; keys past its end are never allowed."""
        b = self.b
        if given_mask.tensor_type.dims[-1] != self.scores.tensor_type.dims[-1]:
            missing = b.op("Sub", self.extent(self.scores, 3), self.extent(given_mask, rank_of(given_mask) - 1))
            before = numbers(b, *[0] * (2 * rank_of(given_mask) - 1))
            pads = b.op("Concat", before, b.op("Unsqueeze", missing, numbers(b, 0)), axis=0)
            is_bool = given_mask.tensor_type.dtype == dtypes.BOOL
            fill = b.constant(np.array(False)) if is_bool else scalar_like(b, -math.inf, given_mask)
            given_mask = b.op("Pad", given_mask, pads, fill)
        if given_mask.tensor_type.dtype == dtypes.BOOL:
            return self.additive(given_mask)
        return b.op("Cast", given_mask, to=self.scores.tensor_type.dtype.onnx)


def grouped(b: Builder, x: Value, heads: int, wanted: int) -> Value:
    """(batch, heads, rows, columns) with heads gathered into `wanted` groups of rows, or spread out again."""
    return x if heads == wanted else b.op("Reshape", x, numbers(b, 0, wanted, -1, 0))


def _scaled_product(b: Builder, q: Value, k: Value, heads: int, kv_heads: int, scale: float) -> Value:
    """The scores before caps and masks.

    Narrow floats are scaled on both sides before they are multiplied, as the operator says it: then no score that the
    scale makes small is too large for float16 before, and rounding happens where the definition has it.
    """
    narrow = q.tensor_type.dtype.bits < 32
    if narrow:
        root = scalar_like(b, math.sqrt(scale), q)
        q, k = b.op("Mul", q, root), b.op("Mul", k, root)
    product = b.op("MatMul", grouped(b, q, heads, kv_heads), b.op("Transpose", k, perm=[0, 1, 3, 2]))
    scores = grouped(b, product, kv_heads, heads)
    return scores if narrow else b.op("Mul", scores, scalar_like(b, scale, q))


def _expand(b: Builder, node: Node, x: Values) -> Values | None:
    q, k, v = (needed(x, i) for i in range(3))
    if not isinstance(q.tensor_type.dims[-1], int):
        return None
    packed = rank_of(q) == 3
    if packed:
        heads, kv_heads = node.int_attribute("q_num_heads", 1), node.int_attribute("kv_num_heads", 1)
        q, k, v = split_heads(b, q, heads), split_heads(b, k, kv_heads), split_heads(b, v, kv_heads)
    else:
        counts = (q.tensor_type.dims[1], k.tensor_type.dims[1])
        if not all(isinstance(count, int) for count in counts):
            return None
        heads, kv_heads = (count for count in counts if isinstance(count, int))
    past = given(x, 4)
    if past is not None:
        k, v = b.op("Concat", past, k, axis=2), b.op("Concat", needed(x, 5), v, axis=2)
    size = q.tensor_type.dims[3]
    assert isinstance(size, int), "the size of a head is known"
    scale = node.float_attribute("scale", 0.0) or 1 / math.sqrt(size)
    scores = _scaled_product(b, q, k, heads, kv_heads, scale)
    shown = [scores]
    cap = node.float_attribute("softcap", 0.0)
    if cap:
        limit = scalar_like(b, cap, q)
        scores = b.op("Mul", b.op("Tanh", b.op("Div", scores, limit)), limit)
    shown.append(scores)
    context = _Scores(b, node, scores, past, given(x, 6))
    allowed, mask = context.window(), given(x, 3)
    parts = [] if allowed is None else [context.additive(allowed)]
    parts += [] if mask is None else [context.mask(mask)]
    bias: Value | None = None
    for part in parts:
        bias = part if bias is None else b.op("Add", bias, part)
    if bias is not None:
        scores = b.op("Add", scores, bias)
    shown.append(scores)
    precision = node.int_attribute("softmax_precision", 0)
    wide = b.op("Cast", scores, to=precision) if precision else scores
    weights = b.op("Softmax", wide, axis=-1)
    bounded = node.int_attribute("left_window_size", -1) >= 0
    if bias is not None and (mask is not None or given(x, 6) is not None or bounded):
        # A row without any key to attend to gives zeros; the causal frontier alone leaves each row its first key.
        top = b.op("ReduceMax", bias, numbers(b, -1), keepdims=1)
        empty = b.op("Equal", top, scalar_like(b, -math.inf, bias))
        weights = b.op("Where", empty, scalar_like(b, 0.0, weights), weights)
    if precision:
        weights = b.op("Cast", weights, to=q.tensor_type.dtype.onnx)
    shown.append(weights)
    result = grouped(b, b.op("MatMul", grouped(b, weights, heads, kv_heads), v), kv_heads, heads)
    mode = node.int_attribute("qk_matmul_output_mode", 0)
    return [join_heads(b, result) if packed else result, k, v, shown[mode]]


def _places_queries(node: Node) -> bool:
    """Whether it matters which keys stand before and behind a query."""
    windows = (node.int_attribute(f"{side}_window_size", -1) for side in ("left", "right"))
    return bool(node.int_attribute("is_causal", 0)) or any(window >= 0 for window in windows)


def joined(b: Builder, node: Node, x: Values) -> Values | None:
    """Attention with a cache as a cache that is joined first, and an Attention over all keys that there are then.

    None for one without a cache and without keys or values that are given away, or that gives its scores away too, or
    whose queries' places follow from extents that are not bound, or are not those of its new keys.
    """
    q, k, v = (needed(x, i) for i in range(3))
    past = given(x, 4)
    wanted = [value.is_used for value in node.outputs[1:]]
    if not (past is not None or any(wanted)) or (len(wanted) > 2 and wanted[2]) or given(x, 6) is not None:
        return None
    packed = rank_of(q) == 3
    batch, queries = q.tensor_type.dims[0], q.tensor_type.dims[1 if packed else 2]
    new = k.tensor_type.dims[1 if packed else 2]
    valid: Value | None = None
    if past is not None and _places_queries(node):
        old = past.tensor_type.dims[2]
        if not (isinstance(batch, int) and isinstance(new, int) and isinstance(old, int)) or queries != new:
            return None
        # Queries that are the last of the valid keys stand where those behind a cache do.
        valid = b.constant(np.full(batch, old + new, np.int64))
    if packed:
        heads, kv_heads = node.int_attribute("q_num_heads", 1), node.int_attribute("kv_num_heads", 1)
        q, k, v = split_heads(b, q, heads), split_heads(b, k, kv_heads), split_heads(b, v, kv_heads)
    if past is not None:
        k, v = b.op("Concat", past, k, axis=2), b.op("Concat", needed(x, 5), v, axis=2)
    names = ("is_causal", "left_window_size", "right_window_size", "scale", "softcap", "softmax_precision")
    attributes: dict[str, Any] = {name: node.attributes[name] for name in names if name in node.attributes}
    operands: list[Value | None] = [q, k, v, given(x, 3), None, None, valid]
    while operands[-1] is None:
        operands.pop()
    result = b.op("Attention", *operands, **attributes)
    return [join_heads(b, result) if packed else result, k, v]


decomposed("Attention", _expand, define=False)
