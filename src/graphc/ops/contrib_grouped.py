"""GroupQueryAttention of domain com.microsoft: attention whose caches hold rows of different lengths.

Follows the operator's documentation and, where that is silent, ONNX Runtime's CPU kernel: row `b` has
`seqlens_k[b] + 1` positions after the step, its new ones stand at the end of them, and a query sees what is not after
it. Results for positions beyond a row's length are unspecified there, too.
"""

from __future__ import annotations

from graphc.ir import Builder, Node, Value, dtypes
from graphc.ops.base import Trait
from graphc.ops.contrib import DOMAIN, Values, given, needed, number, numbers, wants
from graphc.ops.contrib_attention import attend, join_heads, split_heads
from graphc.ops.decomposition import decomposed, rank_of, scalar_like

_UNDEFINED = ("sliding_window_cache", "kv_cache_bit_width", "qk_output")
"""Attributes whose other values than 0 have no definition here."""


def _operands(b: Builder, node: Node, x: Values) -> tuple[Value, Value, Value]:
    """Query, key and value split into heads, out of one packed tensor where only that came."""
    heads, groups = node.int_attribute("num_heads", 1), node.int_attribute("kv_num_heads", 1)
    q, k, v = needed(x, 0), given(x, 1), given(x, 2)
    if rank_of(q) != 3:
        raise ValueError(f"a query of rank {rank_of(q)} is not (batch, positions, heads * size)")
    if k is None or v is None:
        whole = q.tensor_type.dims[2]
        if not isinstance(whole, int) or whole % (heads + 2 * groups):
            raise ValueError(f"{whole} packed elements are no {heads} + 2 * {groups} heads")
        size = whole // (heads + 2 * groups)
        cut = numbers(b, heads * size, groups * size, groups * size)
        made = b.op("Split", q, cut, axis=-1, outputs=3).producer
        assert made is not None
        q, k, v = made.outputs
    return split_heads(b, q, heads), split_heads(b, k, groups), split_heads(b, v, groups)


def _extent(b: Builder, value: Value, axis: int) -> Value:
    """An extent as a scalar."""
    return b.op("Squeeze", b.op("Shape", value, start=axis, end=axis + 1), numbers(b, 0))


def _row(b: Builder, extent: Value) -> Value:
    """0, 1, ... as a vector."""
    return b.op("Range", number(b, 0), extent, number(b, 1))


def _rotated(b: Builder, node: Node, x: Value, places: Value, cos: Value, sin: Value) -> Value:
    angles, size = cos.tensor_type.dims[1], x.tensor_type.dims[3]
    if not isinstance(angles, int):
        raise ValueError("the number of angles in cos_cache is not known")
    rotary = None if size == 2 * angles else 2 * angles
    interleaved = node.int_attribute("rotary_interleaved", 0)
    return b.op("RotaryEmbedding", x, cos, sin, places, interleaved=interleaved, rotary_embedding_dim=rotary)


def _cache(b: Builder, past: Value | None, new: Value, before: Value, total: Value) -> Value:
    """The new positions behind those that each row had, in a cache as long as the longest row, or as it was."""
    if past is None:
        return new
    missing = b.op("Max", b.op("Sub", total, _extent(b, past, 2)), number(b, 0))
    pads = b.op(
        "Concat", numbers(b, 0, 0, 0, 0, 0, 0), b.op("Unsqueeze", missing, numbers(b, 0)), numbers(b, 0), axis=0
    )
    return b.op("TensorScatter", b.op("Pad", past, pads), new, before, axis=2)


def _seen(b: Builder, node: Node, keys: Value, before: Value, queries: Value) -> Value:
    """Which keys each query sees, (batch, 1, queries, keys)."""
    key = b.op("Unsqueeze", _row(b, keys), numbers(b, 0, 1))
    first = b.op("Unsqueeze", before, numbers(b, 1))
    if not node.int_attribute("causal", 1):
        last = b.op("Add", first, queries)
        seen = b.op("Less", key, b.op("Unsqueeze", last, numbers(b, 2)))
    else:
        place = b.op("Add", first, b.op("Unsqueeze", _row(b, queries), numbers(b, 0)))
        at = b.op("Unsqueeze", place, numbers(b, 2))
        seen = b.op("LessOrEqual", key, at)
        window = node.int_attribute("local_window_size", -1)
        if window >= 0:
            seen = b.op("And", seen, b.op("Greater", key, b.op("Sub", at, number(b, window))))
    return b.op("Unsqueeze", seen, numbers(b, 1))


def _with_sink(b: Builder, node: Node, x: Values, kv: tuple[Value, Value], bias: Value) -> tuple[Value, Value, Value]:
    """Key, value and bias with one more position of zeros, whose score is the sink's: it only takes its share."""
    sink = given(x, 11)
    heads = node.int_attribute("num_heads", 1)
    if node.float_attribute("softcap", 0.0):
        raise ValueError("softcap together with a smooth softmax is not defined")
    if sink is None:
        score = scalar_like(b, 0, bias)
    else:
        score = b.op("Reshape", b.op("Cast", sink, to=bias.tensor_type.dtype.onnx), numbers(b, 1, heads, 1, 1))
    column = b.op(
        "Concat",
        b.op("Shape", bias, start=0, end=1),
        numbers(b, heads),
        b.op("Shape", bias, start=2, end=3),
        numbers(b, 1),
        axis=0,
    )
    bias = b.op("Concat", b.op("Expand", bias, numbers(b, 1, heads, 1, 1)), b.op("Expand", score, column), axis=3)
    longer = numbers(b, 0, 0, 0, 0, 0, 0, 1, 0)
    return b.op("Pad", kv[0], longer), b.op("Pad", kv[1], longer), bias


def _group_query(b: Builder, node: Node, x: Values) -> Values:
    unknown = [name for name in _UNDEFINED if node.int_attribute(name, 0)]
    if unknown or given(x, 12) is not None or given(x, 13) is not None or given(x, 16) is not None or wants(node, 3):
        raise ValueError(f"{unknown[0] if unknown else 'quantized caches and query_seqlens'} are not defined")
    q, k, v = _operands(b, node, x)
    if given(x, 14) is not None:
        epsilon = node.float_attribute("qk_norm_epsilon", 1e-6)
        of_q, of_k = (node.float_attribute(f"{name}_norm_epsilon", epsilon) for name in "qk")
        q = b.op("RMSNormalization", q, needed(x, 14), axis=-1, epsilon=of_q)
        k = b.op("RMSNormalization", k, needed(x, 15), axis=-1, epsilon=of_k)
    queries = _extent(b, q, 2)
    lengths = b.op("Cast", b.op("Reshape", needed(x, 5), numbers(b, -1)), to=dtypes.INT64.onnx)
    # A prompt that is padded on the right has fewer positions than came.
    before = b.op("Max", b.op("Sub", b.op("Add", lengths, number(b, 1)), queries), number(b, 0))
    if node.int_attribute("do_rotary", 0):
        places = given(x, 9)
        if places is None:
            steps = b.op("Unsqueeze", _row(b, queries), numbers(b, 0))
            places = b.op("Add", b.op("Unsqueeze", before, numbers(b, 1)), steps)
        q, k = (_rotated(b, node, part, places, needed(x, 7), needed(x, 8)) for part in (q, k))
    total = b.op(
        "Squeeze", b.op("Cast", b.op("Reshape", needed(x, 6), numbers(b, 1)), to=dtypes.INT64.onnx), numbers(b, 0)
    )
    key, value = (_cache(b, given(x, 3 + i), part, before, total) for i, part in enumerate((k, v)))
    seen = _seen(b, node, _extent(b, key, 2), before, queries)
    hidden = scalar_like(b, float(q.tensor_type.dtype.numpy.type(-1e4) if q.tensor_type.dtype.bits == 16 else -1e30), q)
    bias = b.op("Where", seen, scalar_like(b, 0, q), hidden)
    extra = given(x, 10)
    if extra is not None:
        bias = b.op("Add", bias, extra)
    read = key, value
    if given(x, 11) is not None or node.int_attribute("smooth_softmax", 0) == 1:
        *pair, bias = _with_sink(b, node, x, read, bias)
        read = pair[0], pair[1]
    softcap = node.float_attribute("softcap", 0.0)
    result = attend(b, node, q, *read, bias, causal=False, softcap=softcap or None)[0]
    return [join_heads(b, result), key, value]


decomposed("GroupQueryAttention", _group_query, domain=DOMAIN, traits={Trait.CONTRACTION})
