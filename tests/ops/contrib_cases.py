"""Cases of operators of domain com.microsoft: weights of few bits, grouped queries, images, forerunners of ai.onnx."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np

from tests.ops.test_contraction import floats, integers

Row = tuple[str, list[Any], int | list[str], dict[str, Any]]
F, S, Z = floats, np.float32(0.05), np.uint8(100)
OF_VALUES = {"ExpandDims", "GroupQueryAttention", "Pad", "Range", "Unique"}
"""Operators whose results' extents are in their data."""


def u8(seed: int, *shape: int) -> Any:
    return integers(seed, *shape, dtype=np.uint8)


def i8(seed: int, *shape: int) -> Any:
    return integers(seed, *shape, dtype=np.int8)


def scale(seed: int, *shape: int) -> Any:
    return np.random.default_rng(seed).uniform(0.01, 0.1, shape).astype(np.float32)


def grouped(
    *,
    batch: int = 2,
    new: int = 1,
    past: int = 4,
    heads: int = 4,
    groups: int = 2,
    size: int = 8,
    lengths: list[int] | None = None,
    packed: bool = False,
    rotary: bool = False,
    positions: bool = False,
    bias: bool = False,
    sink: bool = False,
    **attributes: Any,
) -> Row:
    """A GroupQueryAttention of `new` positions behind `past` ones, in rows that are `lengths` long after it."""
    total = new + past
    q, k, v = F(0, batch, new, heads * size), F(1, batch, new, groups * size), F(2, batch, new, groups * size)
    operands = [np.concatenate([q, k, v], -1), None, None] if packed else [q, k, v]
    operands += [F(3 + i, batch, groups, past, size) if past else None for i in range(2)]
    operands += [np.array(lengths or [total] * batch, np.int32) - np.int32(1), np.array(total, np.int32)]
    operands += [F(5 + i, 16, size // 2) if rotary else None for i in range(2)]
    operands.append(np.arange(past, total)[None].repeat(batch, 0) if positions else None)
    operands += [F(7, 1, heads, new, total) if bias else None, F(8, heads) if sink else None]
    return (
        "GroupQueryAttention",
        operands,
        3,
        {"num_heads": heads, "kv_num_heads": groups, "do_rotary": int(rotary), **attributes},
    )


IDS, SEGMENTS = np.array([[1, 2, 0], [3, 3, 1]], np.int32), np.array([[0, 1, 1], [0, 0, 1]], np.int32)
TAKEN = np.array([[1, 4], [0, 2]])

CASES: dict[str, Row] = {
    "2-bit weights": (
        "MatMulNBits",
        [F(0, 3, 40), u8(1, 6, 3, 4), scale(2, 18), u8(3, 6)],
        1,
        {"K": 40, "N": 6, "bits": 2, "block_size": 16},
    ),
    "8-bit weights": (
        "MatMulNBits",
        [F(0, 3, 40), u8(1, 6, 3, 16), scale(2, 18), u8(3, 18), None, F(4, 6)],
        1,
        {"K": 40, "N": 6, "bits": 8, "block_size": 16},
    ),
    "8-bit weights around the middle": (
        "MatMulNBits",
        [F(0, 3, 40), u8(1, 6, 3, 16), scale(2, 18)],
        1,
        {"K": 40, "N": 6, "bits": 8, "block_size": 16},
    ),
    "4-bit floats": (
        "MatMulBnb4",
        [F(0, 3, 40), u8(1, 120), scale(2, 15)],
        1,
        {"K": 40, "N": 6, "block_size": 16, "quant_type": 0},
    ),
    "4-bit quantiles": (
        "MatMulBnb4",
        [F(0, 3, 40), u8(1, 120), scale(2, 15)],
        1,
        {"K": 40, "N": 6, "block_size": 16, "quant_type": 1},
    ),
    "rows of 4 bits": ("GatherBlockQuantized", [u8(0, 5, 16), TAKEN, scale(1, 5, 2)], 1, {"bits": 4, "block_size": 16}),
    "rows of 4 bits with zero points": (
        "GatherBlockQuantized",
        [u8(0, 5, 16), TAKEN, scale(1, 5, 2), u8(3, 5, 1)],
        1,
        {"bits": 4, "block_size": 16},
    ),
    "rows of 8 bits": (
        "GatherBlockQuantized",
        [u8(0, 5, 32), TAKEN, scale(1, 5, 2), u8(3, 5, 2)],
        1,
        {"bits": 8, "block_size": 16},
    ),
    "quantized where": (
        "QLinearWhere",
        [np.array([[True], [False]]), u8(0, 2, 3), S, Z, u8(1, 1, 3), S * 2, Z, S * 3, Z],
        1,
        {},
    ),
    "quantized convolution, channels last": (
        "QLinearConv",
        [
            u8(0, 1, 5, 5, 3),
            S,
            Z,
            i8(1, 4, 3, 3, 3),
            scale(2, 4),
            np.zeros(4, np.int8),
            S * 5,
            Z,
            np.arange(4, dtype=np.int32),
        ],
        1,
        {"channels_last": 1, "pads": [1, 1, 1, 1]},
    ),
    "quantized pool, channels last": (
        "QLinearAveragePool",
        [u8(0, 1, 6, 6, 3), S, Z, S, Z],
        1,
        {"kernel_shape": [2, 2], "strides": [2, 2], "channels_last": 1},
    ),
    "quantized mean, channels last": (
        "QLinearGlobalAveragePool",
        [u8(0, 2, 4, 4, 3), S, Z, S, Z],
        1,
        {"channels_last": 1},
    ),
    "pool, channels last": (
        "NhwcMaxPool",
        [u8(0, 1, 6, 6, 3)],
        1,
        {"kernel_shape": [2, 2], "strides": [2, 2], "pads": [0, 0, 1, 1]},
    ),
    "quantized embeddings": (
        "QEmbedLayerNormalization",
        [
            IDS,
            SEGMENTS,
            u8(0, 5, 4),
            u8(1, 6, 4),
            u8(2, 2, 4),
            u8(3, 4),
            u8(4, 4),
            np.array([[1, 1, 0], [1, 1, 1]], np.int32),
            *[S] * 5,
            *[Z] * 5,
        ],
        2,
        {"epsilon": 1e-5},
    ),
    "quantized attention": (
        "QAttention",
        [u8(0, 2, 4, 6), i8(1, 6, 18), F(2, 18), S / 10, S / 10, np.array([3, 2], np.int32), Z, np.int8(1)],
        1,
        {"num_heads": 2},
    ),
    "quantized attention with a past": (
        "QAttention",
        [
            u8(0, 2, 4, 6),
            i8(1, 6, 18),
            F(2, 18),
            S / 10,
            scale(5, 18) / 10,
            None,
            Z,
            np.zeros(18, np.int8),
            F(3, 2, 2, 2, 3, 3),
        ],
        2,
        {"num_heads": 2, "unidirectional": 1},
    ),
    "scaled silu": ("ScaledSiLU", [F(0, 2, 3)], 1, {"alpha": 0.7}),
    "gated norm": ("GatedRMSNorm", [F(0, 2, 3, 8), F(1, 4), F(2, 2, 3, 8)], 1, {}),
    "gated norm by a sigmoid": ("GatedRMSNorm", [F(0, 2, 3, 8), F(1, 8), F(2, 2, 3, 8)], 1, {"activation": "sigmoid"}),
    "gated sum": ("GatedAdd", [F(0, 2, 3, 8), F(1, 2, 3, 8), F(2, 2, 3, 1)], 1, {}),
    "a new axis": ("ExpandDims", [F(0, 2, 3), np.int32(-1)], 1, {}),
    "a range": ("Range", [np.int64(1), np.int64(9), np.int64(2)], 1, {}),
    "a range of lists of one": ("Range", [np.array([1], np.float32), np.array([4], np.float32)], 1, {}),
    "a triangle": ("Trilu", [F(0, 2, 3, 4), np.int64(1)], 1, {"upper": 0}),
    "gathered slices": ("GatherND", [F(0, 2, 3, 4), np.array([[0, 1], [1, 2]])], 1, {}),
    "a sampled grid": (
        "GridSample",
        [F(0, 1, 2, 4, 4), F(1, 1, 3, 3, 2)],
        1,
        {"mode": "bicubic", "padding_mode": "border"},
    ),
    "unique elements as they come": ("Unique", [np.array([2, 1, 1, 3, 4, 3], np.float32)], 3, {}),
    "distances": ("CDist", [F(0, 3, 4), F(1, 5, 4)], 1, {"metric": "euclidean"}),
    "squares of distances": ("CDist", [F(0, 3, 4), F(1, 5, 4)], 1, {}),
    "padding": ("Pad", [F(0, 2, 3), np.array([0, 1, 1, 0]), np.array([2.0], np.float32)], 1, {}),
    "experts": ("MoE", [F(0, 5, 4), F(1, 5, 3), F(2, 3, 6, 4), None, F(3, 3, 4, 6)], 1, {"k": 2}),
    "experts of few bits": (
        "QMoE",
        [F(0, 1, 4), F(1, 1, 3), u8(2, 3, 6, 2), scale(3, 3, 6), None, u8(4, 3, 4, 3), scale(5, 3, 4)],
        1,
        {"k": 1, "normalize_routing_weights": 1},
    ),
    "grouped queries": grouped(),
    "grouped queries of a prompt": grouped(new=5, past=0),
    "grouped queries, packed": grouped(packed=True),
    "grouped queries turned": grouped(rotary=True, size=16),
    "grouped queries of a prompt turned by neighbours": grouped(
        rotary=True, size=16, new=3, past=0, rotary_interleaved=1
    ),
    "grouped queries turned at positions": grouped(rotary=True, size=16, positions=True),
    "grouped queries in a window": grouped(local_window_size=3, past=6),
    "grouped queries, a piece of a prompt": grouped(batch=1, new=3),
    "grouped queries with a cap": grouped(softcap=2.0, new=4, past=0),
    "grouped queries with biases": grouped(bias=True, scale=0.2),
    "grouped queries and a sink": grouped(sink=True),
    "grouped queries, smooth": grouped(smooth_softmax=1, new=3, past=0),
    "grouped queries that see all": grouped(causal=0, new=4, past=0),
}


def _attend(q: Any, k: Any, v: Any) -> Any:
    scores = np.einsum("bqhd,bkhd->bhqk", q, k) / np.sqrt(q.shape[-1])
    weights = np.exp(scores - scores.max(-1, keepdims=True))
    result = np.einsum("bhqk,bkhd->bqhd", weights / weights.sum(-1, keepdims=True), v)
    return result.reshape(*result.shape[:2], -1)


def _gelu(x: Any) -> Any:
    return x * 0.5 * (1 + np.vectorize(math.erf)(x / np.sqrt(2)))


def _group_norm(x: Any, gamma: Any, beta: Any, groups: int) -> Any:
    """Over channels last."""
    parts = x.reshape(x.shape[0], -1, groups, x.shape[-1] // groups).astype(np.float64)
    mean, variance = parts.mean((1, 3), keepdims=True), parts.var((1, 3), keepdims=True)
    return ((parts - mean) / np.sqrt(variance + 1e-5)).reshape(x.shape) * gamma + beta


def _silu(x: Any) -> Any:
    return x / (1 + np.exp(-x))


def _conv_last(x: Any, w: Any) -> Any:
    """A valid convolution, image and weights with channels last."""
    windows = np.lib.stride_tricks.sliding_window_view(x, w.shape[1:3], axis=(1, 2))
    return np.einsum("bhwcij,mijc->bhwm", windows, w)


ALONE: dict[str, tuple[Row, Callable[..., list[Any]]]] = {
    "packed heads": (
        ("MultiHeadAttention", [F(0, 2, 4, 2, 3, 3)], 1, {"num_heads": 2}),
        lambda x: [_attend(x[:, :, :, 0], x[:, :, :, 1], x[:, :, :, 2])],
    ),
    "packed key and value": (
        ("MultiHeadAttention", [F(0, 2, 4, 6), F(1, 2, 5, 2, 2, 3)], 1, {"num_heads": 2}),
        lambda q, kv: [_attend(q.reshape(2, 4, 2, 3), kv[:, :, :, 0], kv[:, :, :, 1])],
    ),
    "softmax of a sum": (
        ("BiasSoftmax", [F(0, 2, 3, 4, 5), F(1, 1, 1, 4, 5)], 1, {"axis": 2, "is_inner_broadcast": 0}),
        lambda x, y: [(lambda e: e / e.sum((2, 3), keepdims=True))(np.exp(x + y))],
    ),
    "group norm": (
        ("GroupNorm", [F(0, 2, 3, 3, 8), F(1, 8), F(2, 8)], 1, {"groups": 4, "activation": 1}),
        lambda x, g, b: [_silu(_group_norm(x, g, b, 4))],
    ),
    "group norm of a sum": (
        ("SkipGroupNorm", [F(0, 2, 3, 3, 8), F(1, 8), F(2, 8), F(3, 2, 8), F(4, 8)], 2, {"groups": 2, "activation": 0}),
        lambda x, g, b, s, c: [_group_norm(x + s[:, None, None] + c, g, b, 2), x + s[:, None, None] + c],
    ),
    "sum of three": (("BiasAdd", [F(0, 2, 3, 4), F(1, 4), F(2, 2, 3, 4)], 1, {}), lambda x, b, s: [x + b + s]),
    "halves by gelu": (
        ("BiasSplitGelu", [F(0, 2, 3, 8), F(1, 8)], 1, {}),
        lambda x, b: [(x + b)[..., :4] * _gelu((x + b)[..., 4:])],
    ),
    "convolution, channels last": (
        ("NhwcConv", [F(0, 1, 5, 5, 3), F(1, 4, 3, 2, 3), F(2, 4)], 1, {"kernel_shape": [3, 2]}),
        lambda x, w, b: [_conv_last(x, w) + b],
    ),
    "fused convolution, channels last": (
        ("NhwcFusedConv", [F(0, 1, 5, 5, 3), F(1, 4, 3, 3, 2)], 1, {"activation": "Relu"}),
        lambda x, w: [np.maximum(_conv_last(x, w.transpose(0, 2, 3, 1)), 0)],
    ),
    "product by gelu": (
        ("GemmFastGelu", [F(0, 2, 3), F(1, 3, 4), F(2, 4)], 1, {}),
        lambda x, w, b: [(lambda y: 0.5 * y * (1 + np.tanh(np.sqrt(2 / np.pi) * (y + 0.044715 * y**3))))(x @ w + b)],
    ),
    "quantized mean along axes": (
        ("QLinearReduceMean", [u8(0, 2, 3, 4), S, Z, S, np.uint8(7)], 1, {"axes": [2], "keepdims": 0}),
        lambda x, s, z, t, y: [np.clip(np.rint((x.astype(np.float64) - z).mean(2)) + y, 0, 255)],
    ),
    "sum of integers": (
        ("ReduceSumInteger", [u8(0, 2, 3, 4)], 1, {"axes": [1], "keepdims": 1}),
        lambda x: [x.astype(np.int32).sum(1, keepdims=True, dtype=np.int32)],
    ),
    "product of integers": (
        ("MulInteger", [u8(0, 2, 3), Z, i8(1, 3).view(np.uint8), None], 1, {}),
        lambda x, z, y: [(x.astype(np.int32) - z) * y.astype(np.int32)],
    ),
    "group queries with norms": (
        (
            "GroupQueryAttention",
            [
                *(
                    F(0, 1, 3, 8),
                    F(1, 1, 3, 8),
                    F(2, 1, 3, 8),
                    None,
                    None,
                    np.array([2], np.int32),
                    np.array(3, np.int32),
                ),
                *([None] * 7),
                *(F(3, 4), F(4, 4)),
            ],
            1,
            {"num_heads": 2, "kv_num_heads": 2, "causal": 0},
        ),
        lambda q, k, v, *rest: [_attend(_rms(q, rest[-2]), _rms(k, rest[-1]), v.reshape(1, 3, 2, 4))],
    ),
}


def _rms(x: Any, weight: Any) -> Any:
    parts = x.reshape(1, 3, 2, 4)
    return parts / np.sqrt((parts**2).mean(-1, keepdims=True) + 1e-6) * weight
