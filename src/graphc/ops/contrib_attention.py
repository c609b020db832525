"""Attention of domain com.microsoft, as Attention of ai.onnx over operands of four axes."""

from __future__ import annotations

from graphc.ir import Builder, Node, Value, dtypes
from graphc.ops.base import Trait
from graphc.ops.contrib import DOMAIN, Values, added, given, needed, number, numbers, wants
from graphc.ops.decomposition import decomposed, rank_of, scalar_like

CONTRACTION = frozenset({Trait.CONTRACTION})


def split_heads(b: Builder, x: Value, heads: int) -> Value:
    """(batch, positions, heads * size) as (batch, heads, positions, size)."""
    return b.op("Transpose", b.op("Reshape", x, numbers(b, 0, 0, heads, -1)), perm=[0, 2, 1, 3])


def join_heads(b: Builder, x: Value) -> Value:
    """(batch, heads, positions, size) as (batch, positions, heads * size)."""
    return b.op("Reshape", b.op("Transpose", x, perm=[0, 2, 1, 3]), numbers(b, 0, 0, -1))


def _additive_mask(
    b: Builder, node: Node, mask: Value | None, like: Value, length: Value | None = None
) -> Value | None:
    """A padding mask of integers as what is added to scores (batch, heads, queries, keys).

    Args:
        b: Builder.
        node: Its `mask_filter_value` stands for positions that are masked.
        mask: (batch, keys) or (batch, queries, keys) of ones and zeros, or (batch) lengths.
        like: A value of the scores' dtype.
        length: Number of keys, rank 0; needed for lengths.
    """
    if mask is None:
        return None
    if rank_of(mask) == 1:
        if length is None:
            raise ValueError("a mask of lengths needs the number of keys")
        places = b.op("Cast", b.op("Range", number(b, 0), length, number(b, 1)), to=mask.tensor_type.dtype.onnx)
        kept = b.op("Less", places, b.op("Unsqueeze", mask, numbers(b, 1)))
    else:
        kept = b.op("Cast", mask, to=dtypes.BOOL.onnx)
    axes = (1, 2) if rank_of(kept) == 2 else (1,)
    kept = b.op("Unsqueeze", kept, numbers(b, *axes))
    hidden = scalar_like(b, node.float_attribute("mask_filter_value", -10000.0), like)
    return b.op("Where", kept, scalar_like(b, 0, like), hidden)


def attend(
    b: Builder,
    node: Node,
    q: Value,
    k: Value,
    v: Value,
    bias: Value | None,
    past: tuple[Value | None, Value | None] = (None, None),
    *,
    causal: bool,
    softcap: float | None = None,
) -> tuple[Value, Value, Value]:
    """(result, present key, present value) over operands of four axes."""
    made = b.op(
        "Attention",
        *(q, k, v, bias, *past),
        outputs=3,
        is_causal=int(causal),
        softcap=softcap,
        scale=node.float_attribute("scale", 0.0) or None,
    ).producer
    assert made is not None
    result, key, value = made.outputs
    return result, key, value


def _is_causal(node: Node) -> bool:
    return bool(node.int_attribute("unidirectional", 0))


def _biases(b: Builder, bias: Value | None, sizes: Values) -> list[Value | None]:
    """The parts of one bias vector that belong to query, key and value, cut by the extents of their last axes."""
    if bias is None:
        return [None, None, None]
    extents = [b.op("Shape", x, start=-1) for x in sizes if x is not None]
    made = b.op("Split", bias, b.op("Concat", *extents, axis=0), axis=0, outputs=3).producer
    assert made is not None
    return list(made.outputs)


def _three(b: Builder, x: Values) -> tuple[Value, Value, Value]:
    """Query, key and value, which may come packed: (batch, positions, heads, 3 or 2, size)."""
    q, k, v = needed(x, 0), given(x, 1), given(x, 2)
    if k is not None and v is not None:
        if rank_of(q) != 3:
            raise ValueError(f"a query of rank {rank_of(q)} is not (batch, positions, heads * size)")
        return q, k, v
    packed = q if k is None else k
    if rank_of(packed) != 5:
        raise ValueError(f"packed operands have 5 axes, not {rank_of(packed)}")
    if given(x, 3) is not None and k is not None:
        raise ValueError("packed key and value with a bias are not defined")
    parts = [
        b.op("Reshape", b.op("Gather", packed, number(b, i), axis=3), numbers(b, 0, 0, -1))
        for i in range(3 - (k is not None))
    ]
    return (q, parts[0], parts[1]) if k is not None else (parts[0], parts[1], parts[2])


def _multi_head(b: Builder, node: Node, x: Values) -> Values:
    heads = node.int_attribute("num_heads", 1)
    q, k, v = _three(b, x)
    if rank_of(k) == 3:
        parts = _biases(b, given(x, 3), (q, k, v))
        q, k, v = (split_heads(b, added(b, part, bias), heads) for part, bias in zip((q, k, v), parts, strict=True))
    else:
        # Key and value that an encoder made come split into heads.
        q = split_heads(b, q, heads)
    keys = b.op("Shape", k, start=2, end=3)
    past = (given(x, 6), given(x, 7))
    if past[0] is not None:
        keys = b.op("Add", keys, b.op("Shape", past[0], start=2, end=3))
    mask = _additive_mask(b, node, given(x, 4), q, b.op("Squeeze", keys, numbers(b, 0)))
    bias = given(x, 5)
    if mask is not None and bias is not None:
        bias = b.op("Add", bias, mask)
    result, key, value = attend(b, node, q, k, v, mask if bias is None else bias, past, causal=_is_causal(node))
    return [join_heads(b, result), key, value]


def _attention(b: Builder, node: Node, x: Values) -> Values:
    """Query, key and value by one product with their weights side by side, then attention."""
    projected = added(b, b.op("MatMul", needed(x, 0), needed(x, 1)), given(x, 2))
    return _self_attention(b, node, projected, given(x, 3), given(x, 4), given(x, 5))


def _quantized_attention(b: Builder, node: Node, x: Values) -> Values:
    """Attention whose product is of integers."""
    product = b.op("MatMulInteger", needed(x, 0), needed(x, 1), given(x, 6), given(x, 7))
    scale = b.op("Mul", needed(x, 3), needed(x, 4))
    projected = b.op("Mul", b.op("Cast", product, to=scale.tensor_type.dtype.onnx), scale)
    return _self_attention(b, node, added(b, projected, needed(x, 2)), given(x, 5), given(x, 8), None)


def _self_attention(
    b: Builder, node: Node, projected: Value, mask: Value | None, past: Value | None, bias: Value | None
) -> Values:
    heads, sizes = node.int_attribute("num_heads", 1), node.ints_attribute("qkv_hidden_sizes")
    if node.int_attribute("do_rotary", 0) or node.int_attribute("past_present_share_buffer", 0):
        raise ValueError("do_rotary and past_present_share_buffer are not defined")
    cut = None if sizes is None else numbers(b, *sizes)
    made = b.op("Split", projected, cut, axis=-1, outputs=3, num_outputs=None if sizes else 3).producer
    assert made is not None
    q, k, v = (split_heads(b, part, heads) for part in made.outputs)
    keys = b.op("Shape", k, start=2, end=3)
    pasts: tuple[Value | None, Value | None] = (None, None)
    if past is not None:
        pasts = (b.op("Gather", past, number(b, 0)), b.op("Gather", past, number(b, 1)))
        keys = b.op("Add", keys, b.op("Shape", past, start=3, end=4))
    added_mask = _additive_mask(b, node, mask, q, b.op("Squeeze", keys, numbers(b, 0)))
    if added_mask is not None:
        bias = added_mask if bias is None else b.op("Add", bias, added_mask)
    result, key, value = attend(b, node, q, k, v, bias, pasts, causal=_is_causal(node))
    present = None
    if wants(node, 1):
        present = b.op("Concat", *(b.op("Unsqueeze", part, numbers(b, 0)) for part in (key, value)), axis=0)
    return [join_heads(b, result), present]


def _rotary(b: Builder, node: Node, x: Values) -> Values:
    """RotaryEmbedding of ai.onnx, whose caches stand before its positions, and whose heads must be told."""
    data, positions, cos, sin = (needed(x, i) for i in range(4))
    if node.int_attribute("is_packed_batching", 0) or node.float_attribute("scale", 1.0) != 1.0:
        raise ValueError("is_packed_batching and scale are not defined")
    rotary, heads = node.int_attribute("rotary_embedding_dim", 0), node.int_attribute("num_heads", 0)
    packed = rank_of(data) == 3
    if packed and not heads:
        size, angles = data.tensor_type.dims[2], cos.tensor_type.dims[1]
        if not isinstance(size, int) or not isinstance(angles, int):
            raise ValueError("num_heads is not given, and the extents do not tell it")
        heads = size // (2 * angles)
    if rank_of(positions) == 1:
        # One number is where the first position stands.
        axis = 1 if packed else 2
        length = b.op("Squeeze", b.op("Shape", data, start=axis, end=axis + 1), numbers(b, 0))
        row = b.op("Add", b.op("Range", number(b, 0), length, number(b, 1)), positions)
        batch = b.op("Shape", data, start=0, end=1)
        shape = b.op("Concat", batch, numbers(b, 1), axis=0)
        positions = b.op("Expand", b.op("Unsqueeze", row, numbers(b, 0)), shape)
    return [
        b.op(
            "RotaryEmbedding",
            *(data, cos, sin, positions),
            interleaved=node.int_attribute("interleaved", 0),
            num_heads=heads if packed else None,
            rotary_embedding_dim=rotary or None,
        )
    ]


decomposed("MultiHeadAttention", _multi_head, domain=DOMAIN, traits=CONTRACTION)
decomposed("Attention", _attention, domain=DOMAIN, traits=CONTRACTION)
decomposed("QAttention", _quantized_attention, domain=DOMAIN, traits=CONTRACTION)
decomposed("RotaryEmbedding", _rotary, domain=DOMAIN)
