"""Attention of ai.onnx, and what stands around it in transformers: rotary embeddings and caches that grow in place."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from graphc.ir import Dim, Node, Type, dtypes
from graphc.ir.symbolic import add, floordiv, mod, multiply
from graphc.ops.base import Array, Datum, ExpressionContext, InferenceContext, Operator, Trait, register
from graphc.ops.contraction import wide
from graphc.ops.expr import (
    Index,
    Scalar,
    TensorExpr,
    all_of,
    axes_of,
    call,
    cast,
    compare,
    const,
    index_value,
    load,
    select,
)
from graphc.ops.indexing import accumulator, indices_of, subtract, wide_load


@dataclass(frozen=True)
class Heads:
    """Extents of an attention: Q is (batch, heads, queries, size) or (batch, queries, heads * size), K and V alike.

    Args:
        batch: Batch extent.
        query_heads: Heads of the query and the output.
        kv_heads: Heads of key and value; each serves `query_heads / kv_heads` heads of the query.
        queries: Query positions.
        keys: Key positions that come in, the cache's not counted.
        size: Elements of a query's or key's head.
        value_size: Elements of a value's head.
        packed: Whether the tensors have three axes.
    """

    batch: Dim
    query_heads: Dim
    kv_heads: Dim
    queries: Dim
    keys: Dim
    size: Dim
    value_size: Dim
    packed: bool


def heads_of(node: Node, q: Sequence[Dim], k: Sequence[Dim], v: Sequence[Dim]) -> Heads:
    """Extents of an Attention node over operands of shapes `q`, `k`, `v` of equal rank, 3 or 4."""
    if len(q) == 4:
        return Heads(q[0], q[1], k[1], q[2], k[2], q[3], v[3], packed=False)
    query_heads, kv_heads = node.int_attribute("q_num_heads", 0), node.int_attribute("kv_num_heads", 0)
    sizes = (floordiv(q[2], query_heads), floordiv(v[2], kv_heads))
    return Heads(q[0], query_heads, kv_heads, q[1], k[1], *sizes, packed=True)


def _infer_attention(ctx: InferenceContext) -> Sequence[Type]:
    q, k, v = (ctx.shape(i) for i in range(3))
    node = ctx.node
    if not len(q) == len(k) == len(v) or len(q) not in (3, 4):
        ctx.fail(f"Q, K and V must have equal rank, 3 or 4, not shapes {list(q)}, {list(k)}, {list(v)}")
    if len(q) == 3 and (node.int_attribute("q_num_heads", 0) < 1 or node.int_attribute("kv_num_heads", 0) < 1):
        ctx.fail("operands of three axes need q_num_heads and kv_num_heads")
    heads = heads_of(node, q, k, v)
    ratio = (heads.query_heads, heads.kv_heads)
    if all(isinstance(h, int) for h in ratio) and mod(*ratio) != 0:
        ctx.fail(f"{ratio[0]} heads of the query are no multiple of {ratio[1]} of the key")
    _refuse_misfits(ctx, heads, k, v)
    if ctx.has(4) != ctx.has(5):
        ctx.fail("past_key and past_value are given together or not at all")
    past = ctx.shape(4)[2] if ctx.has(4) else 0
    total = add(past, heads.keys)
    kind, value_kind = ctx.tensor(0), ctx.tensor(2)
    if heads.packed:
        shape: tuple[Dim, ...] = (heads.batch, heads.queries, multiply(heads.query_heads, heads.value_size))
    else:
        shape = (heads.batch, heads.query_heads, heads.queries, heads.value_size)
    return [
        kind.with_shape(shape),
        kind.with_shape((heads.batch, heads.kv_heads, total, heads.size)),
        value_kind.with_shape((heads.batch, heads.kv_heads, total, heads.value_size)),
        kind.with_shape((heads.batch, heads.query_heads, heads.queries, total)),
    ]


def _refuse_misfits(ctx: InferenceContext, heads: Heads, k: Sequence[Dim], v: Sequence[Dim]) -> None:
    """Fails where extents that must be one are known and are not."""
    key_size = floordiv(k[2], heads.kv_heads) if heads.packed else k[3]
    value_keys = v[1] if heads.packed else v[2]
    for what, left, right in (
        ("batches of Q and K", heads.batch, k[0]),
        ("batches of Q and V", heads.batch, v[0]),
        ("elements of a head of Q and K", heads.size, key_size),
        ("positions of K and V", heads.keys, value_keys),
    ):
        if isinstance(left, int) and isinstance(right, int) and left != right:
            ctx.fail(f"the {what} differ: {left} and {right}")
    if heads.size == 0:
        ctx.fail("heads without elements")


def split_heads(x: Array, heads: int) -> Array:
    """(batch, positions, heads * size) as (batch, heads, positions, size); four axes stay as they are."""
    if x.ndim == 4:
        return x
    return x.reshape(*x.shape[:2], heads, -1).transpose(0, 2, 1, 3)


def join_heads(x: Array) -> Array:
    """(batch, heads, positions, size) as (batch, positions, heads * size)."""
    return np.ascontiguousarray(x.transpose(0, 2, 1, 3)).reshape(x.shape[0], x.shape[2], -1)


def softmax(scores: Array) -> Array:
    """Softmax over the last axis; a row that is minus infinity throughout gives zeros."""
    top = scores.max(axis=-1, keepdims=True, initial=-np.inf)
    exponentials = np.exp(scores - np.where(np.isneginf(top), 0, top))
    total = exponentials.sum(axis=-1, keepdims=True)
    weights: Array = exponentials / np.where(total == 0, 1, total)
    return weights


def _bias(node: Node, queries: int, keys: int, past: int, mask: Array | None, valid: Array | None) -> Array:
    """What is added to the scores: the mask, the causal frontier, the window and the padding of the cache."""
    bias: Array = np.zeros((queries, keys), np.float32)
    if mask is not None:
        widths = [(0, 0)] * (mask.ndim - 1) + [(0, keys - mask.shape[-1])]
        if mask.dtype == np.bool_:
            mask = np.where(np.pad(mask, widths), np.float32(0), np.float32(-np.inf))
        else:
            mask = np.pad(wide(mask), widths, constant_values=-np.inf)
        bias = bias + mask
    # Queries stand behind the valid keys that precede them, which may be another number for every batch.
    offset: Array = np.asarray(past) if valid is None else valid.reshape(-1, 1, 1, 1) - queries
    ahead = np.arange(keys) - (np.arange(queries)[:, None] + offset)
    left, right = node.int_attribute("left_window_size", -1), node.int_attribute("right_window_size", -1)
    allowed = np.ones_like(ahead, bool)
    if node.int_attribute("is_causal", 0):
        allowed = allowed & (ahead <= 0)
    if left >= 0:
        allowed = allowed & (ahead >= -left)
    if right >= 0:
        allowed = allowed & (ahead <= right)
    if valid is not None:
        allowed = allowed & (np.arange(keys) < valid.reshape(-1, 1, 1, 1))
    found: Array = np.where(allowed, bias, bias.dtype.type(-np.inf))
    return found


def _evaluate_attention(node: Node, inputs: Sequence[Datum]) -> Sequence[Datum]:
    q, k, v, mask, past_key, past_value, valid = [*inputs, *[None] * 4][:7]
    heads = heads_of(node, q.shape, k.shape, v.shape)
    assert isinstance(heads.query_heads, int) and isinstance(heads.kv_heads, int)
    query = wide(split_heads(q, heads.query_heads))
    key, value = split_heads(k, heads.kv_heads), split_heads(v, heads.kv_heads)
    past = 0
    if past_key is not None:
        past = past_key.shape[2]
        key, value = np.concatenate([past_key, key], axis=2), np.concatenate([past_value, value], axis=2)
    repeats = query.shape[1] // key.shape[1]
    scale = node.float_attribute("scale", 0.0) or 1 / math.sqrt(query.shape[-1])
    scores = query @ np.repeat(wide(key), repeats, axis=1).swapaxes(-1, -2) * query.dtype.type(scale)
    shown = {0: scores}
    cap = node.float_attribute("softcap", 0.0)
    if cap:
        scores = cap * np.tanh(scores / cap)
    shown[1] = scores
    bias = _bias(node, query.shape[2], key.shape[2], past, mask, valid)
    shown[2] = scores = scores + bias
    # A row whose every key is masked gives zeros, whatever its scores are.
    masked = np.isneginf(bias.max(axis=-1, keepdims=True, initial=-np.inf))
    shown[3] = weights = np.where(masked, 0, softmax(scores)).astype(query.dtype)
    result = weights @ np.repeat(wide(value), repeats, axis=1)
    result = join_heads(result) if heads.packed else result
    mode = node.int_attribute("qk_matmul_output_mode", 0)
    outputs = [result.astype(q.dtype, copy=False), key, value, shown[mode].astype(q.dtype, copy=False)]
    return [np.ascontiguousarray(array) for array in outputs]


def _infer_rotary(ctx: InferenceContext) -> Sequence[Type]:
    shape = ctx.shape(0)
    if len(shape) not in (3, 4):
        ctx.fail(f"input of shape {list(shape)} must have 3 or 4 axes")
    if len(shape) == 3 and ctx.node.int_attribute("num_heads", 0) < 1:
        ctx.fail("an input of three axes needs num_heads")
    caches, rank = [ctx.shape(1), ctx.shape(2)], 2 if ctx.has(3) else 3
    if any(len(cache) != rank for cache in caches) or (ctx.has(3) and len(ctx.shape(3)) != 2):
        given = ", ".join(map(str, map(list, caches)))
        ctx.fail(f"the caches must have {rank} axes{' and the positions 2' if ctx.has(3) else ''}, not shapes {given}")
    return [ctx.tensor(0).with_shape(shape)]


def rotate(x: Array, cos: Array, sin: Array, *, interleaved: bool) -> Array:
    """Pairs of the last axis of `x` turned by the angles of `cos` and `sin`; elements past the angles stay.

    Args:
        x: (batch, heads, positions, size).
        cos: Cosines, broadcastable to (batch, heads, positions, angles).
        sin: Sines alike.
        interleaved: Whether pairs are neighbours, not the same places of two halves.
    """
    angles = cos.shape[-1]
    turned, kept = x[..., : 2 * angles], x[..., 2 * angles :]
    first, second = (turned[..., 0::2], turned[..., 1::2]) if interleaved else np.split(turned, 2, axis=-1)
    real, imaginary = cos * first - sin * second, sin * first + cos * second
    if interleaved:
        turned = np.stack([real, imaginary], axis=-1).reshape(turned.shape)
    else:
        turned = np.concatenate([real, imaginary], axis=-1)
    return np.concatenate([turned, kept], axis=-1)


def _evaluate_rotary(node: Node, inputs: Sequence[Datum]) -> Sequence[Datum]:
    x, cos, sin, positions = (*inputs, None)[:4]
    values = wide(split_heads(x, node.int_attribute("num_heads", 0)))
    if positions is not None:
        cos, sin = cos[positions], sin[positions]
    rotary = node.int_attribute("rotary_embedding_dim", 0) or values.shape[-1]
    if cos.shape[-1] != rotary // 2:
        raise ValueError(f"the caches hold {cos.shape[-1]} angles, not {rotary // 2}")
    interleaved = bool(node.int_attribute("interleaved", 0))
    result = rotate(values, wide(cos)[:, None], wide(sin)[:, None], interleaved=interleaved)
    return [(join_heads(result) if x.ndim == 3 else result).astype(x.dtype, copy=False)]


def _express_rotary(ctx: ExpressionContext) -> Sequence[TensorExpr]:
    x, cos, node = ctx.tensor(0), ctx.tensor(1), ctx.node
    axes = axes_of(x.dims)
    index = indices_of(axes)
    packed = len(x.dims) == 3
    size = floordiv(x.dims[2], node.int_attribute("num_heads", 1)) if packed else x.dims[3]
    rotary: Dim = node.int_attribute("rotary_embedding_dim", 0) or size
    half = floordiv(rotary, 2)
    place = mod(index[2], size) if packed else index[3]
    batch, position = index[0], index[1] if packed else index[2]
    interleaved = bool(node.int_attribute("interleaved", 0))
    first = compare("eq", mod(place, 2), 0) if interleaved else compare("lt", place, half)

    def angle(number: int, at: Dim) -> Scalar:
        if len(ctx.inputs) > 3 and ctx.inputs[3] is not None:
            row: Index = cast(load(3, ctx.inputs[3].dtype, (batch, position)), dtypes.INT64)
            return cast(load(number, cos.dtype, (row, at), checked=True), accumulator(cos.dtype))
        return wide_load(number, cos, (0 if cos.dims[0] == 1 else batch, position, at))

    def element(offset: Dim) -> Scalar:
        return wide_load(0, x, (*index[:-1], add(index[-1], offset)))

    dtype = accumulator(x.dtype)
    distance = 1 if interleaved else half
    results = []
    for is_first in (True, False):
        at = floordiv(place, 2) if interleaved else (place if is_first else subtract(place, half))
        other = element(distance if is_first else multiply(-1, distance))
        own = call("mul", cast(angle(1, at), dtype), element(0))
        turned = call("mul", cast(angle(2, at), dtype), other)
        results.append(call("sub" if is_first else "add", own, turned))
    body = select(first, *results)
    if rotary != size:
        body = select(compare("lt", place, rotary), body, element(0))
    return [TensorExpr(axes, cast(body, x.dtype))]


def _infer_scatter(ctx: InferenceContext) -> Sequence[Type]:
    cache, update = ctx.shape(0), ctx.shape(1)
    if len(cache) != len(update) or len(cache) < 2:
        ctx.fail(f"cache of shape {list(cache)} and update of shape {list(update)} must have equal rank, 2 or more")
    return [ctx.tensor(0).with_shape(cache)]


def _scatter_axis(node: Node, rank: int) -> int:
    return node.int_attribute("axis", -2) % rank


def _evaluate_scatter(node: Node, inputs: Sequence[Datum]) -> Sequence[Datum]:
    cache, update, starts = (*inputs, None)[:3]
    axis = _scatter_axis(node, cache.ndim)
    extent, count = cache.shape[axis], update.shape[axis]
    result = np.moveaxis(cache.copy(), axis, 1)
    source = np.moveaxis(update, axis, 1)
    for batch in range(cache.shape[0]):
        places = (0 if starts is None else int(starts[batch])) + np.arange(count)
        if node.str_attribute("mode", "linear") == "circular":
            places %= extent
        result[batch, places] = source[batch]
    return [np.ascontiguousarray(np.moveaxis(result, 1, axis))]


def _express_scatter(ctx: ExpressionContext) -> Sequence[TensorExpr]:
    cache, update = ctx.tensor(0), ctx.tensor(1)
    axis = _scatter_axis(ctx.node, len(cache.dims))
    axes = axes_of(cache.dims)
    index = indices_of(axes)
    place = index_value(index[axis])
    if len(ctx.inputs) > 2 and ctx.inputs[2] is not None:
        place = call("sub", place, load(2, dtypes.INT64, (index[0],)))
    if ctx.node.str_attribute("mode", "linear") == "circular":
        place = call("mod", place, index_value(cache.dims[axis]))
    zero = const(0, dtypes.INT64)
    inside = all_of(call("ge", place, zero), call("lt", place, index_value(update.dims[axis])))
    at: tuple[Index, ...] = (*index[:axis], place, *index[axis + 1 :])
    return [TensorExpr(axes, select(inside, load(1, update.dtype, at), load(0, cache.dtype, index)))]


for operator in (
    Operator("Attention", _infer_attention, _evaluate_attention, traits=frozenset({Trait.CONTRACTION})),
    Operator("RotaryEmbedding", _infer_rotary, _evaluate_rotary, expression=_express_rotary),
    Operator("TensorScatter", _infer_scatter, _evaluate_scatter, expression=_express_scatter),
):
    register(operator)
