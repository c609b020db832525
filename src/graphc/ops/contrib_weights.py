"""Weights of few bits in domain com.microsoft: blocks of integers or of codes, each block with a scale of its own."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from graphc.ir import Builder, Node, Value, dtypes
from graphc.ops.base import Trait
from graphc.ops.contrib import DOMAIN, Values, added, given, needed, numbers
from graphc.ops.decomposition import decomposed, rank_of

CONTRACTION = frozenset({Trait.CONTRACTION})

_FP4 = (0, 1 / 192, 2 / 3, 1, 1 / 3, 1 / 2, 1 / 6, 1 / 4)
"""Positive values of 4-bit floats by their code (bitsandbytes)."""

_NF4 = (
    *(-1.0, -0.6961928009986877, -0.5250730514526367, -0.39491748809814453),
    *(-0.28444138169288635, -0.18477343022823334, -0.09105003625154495, 0.0),
    *(0.07958029955625534, 0.16093020141124725, 0.24611230194568634, 0.33791524171829224),
    *(0.44070982933044434, 0.5626170039176941, 0.7229568362236023, 1.0),
)
"""Quantiles of the normal distribution (https://arxiv.org/abs/2305.14314, appendix E)."""


def unpacked(b: Builder, packed: Value, bits: int) -> Value:
    """Unsigned integers of `bits` bits out of bytes, lowest first: the last axis grows by `8 / bits`."""
    if bits == 8:
        return packed
    flat = b.op("Unsqueeze", packed, numbers(b, -1))
    mask = b.constant(np.uint8(2**bits - 1))
    parts = [
        b.op(
            "BitwiseAnd",
            b.op("BitShift", flat, b.constant(np.uint8(shift)), direction="RIGHT") if shift else flat,
            mask,
        )
        for shift in range(0, 8, bits)
    ]
    whole = b.op("Concat", *parts, axis=-1)
    leading = [0] * (rank_of(packed) - 1)
    return b.op("Reshape", whole, numbers(b, *leading, -1))


def _sliced(b: Builder, value: Value, count: int, axis: int) -> Value:
    """The first `count` places of an axis."""
    return b.op("Slice", value, *(numbers(b, n) for n in (0, count, axis)))


def _bits(node: Node) -> int:
    bits = node.int_attribute("bits", 4)
    if bits not in (2, 4, 8):
        raise ValueError(f"weights of {bits} bits are not defined; 2, 4 and 8 are")
    return bits


def _matmul_n_bits(b: Builder, node: Node, x: Values) -> Values:
    """A product with weights of 2, 4 or 8 bits, in blocks that each have a scale and a zero point."""
    bits, size = _bits(node), node.int_attribute("block_size", 0)
    rows, columns = (node.int_attribute(name, 0) for name in "NK")
    if given(x, 4) is not None or node.int_attribute("weight_prepacked", 0):
        raise ValueError("weights in an order of their own (g_idx, weight_prepacked) are not defined")
    if min(size, rows, columns) < 1:
        raise ValueError(f"block_size {size}, N {rows} and K {columns} must be positive")
    a, packed, scales, zeros = needed(x, 0), needed(x, 1), needed(x, 2), given(x, 3)
    blocks = -(-columns // size)

    def integers(value: Value, shape: Sequence[int]) -> Value:
        """Of their own width where there is such a type, so that a compiler knows what they need."""
        whole = b.op("Reshape", unpacked(b, value, bits), numbers(b, *shape))
        return b.op("Cast", whole, to=dtypes.UINT4.onnx) if bits == 4 else whole

    weights = integers(packed, [rows, blocks * size])
    scale = b.op("Reshape", scales, numbers(b, rows, blocks))
    if zeros is not None and zeros.tensor_type.dtype != dtypes.UINT8:
        steps = b.op("Reshape", b.op("Cast", weights, to=a.tensor_type.dtype.onnx), numbers(b, rows, blocks, size))
        offset = b.op("Reshape", zeros, numbers(b, rows, blocks, 1))
        scale = b.op("Reshape", scale, numbers(b, rows, blocks, 1))
        values = b.op("Reshape", b.op("Mul", b.op("Sub", steps, offset), scale), numbers(b, rows, blocks * size))
    else:
        if zeros is None:
            # One number for all, in the shape that the operator wants.
            points = b.op("Expand", b.constant(np.uint8(2 ** (bits - 1))), numbers(b, rows, blocks))
            points = b.op("Cast", points, to=dtypes.UINT4.onnx) if bits == 4 else points
        else:
            # Each row's zero points begin with a byte of their own.
            by_row = b.op("Reshape", zeros, numbers(b, rows, -1))
            points = _sliced(b, integers(by_row, [rows, -1]), blocks, 1)
        values = b.op("DequantizeLinear", weights, scale, points, axis=1, block_size=size)
    matrix = _sliced(b, values, columns, 1)
    return [added(b, b.op("MatMul", a, b.op("Transpose", matrix, perm=[1, 0])), given(x, 5))]


def _matmul_bnb4(b: Builder, node: Node, x: Values) -> Values:
    """A product with weights of 4-bit codes, blocks of which run on over the ends of rows."""
    a, packed, largest = (needed(x, i) for i in range(3))
    size, rows, columns = (node.int_attribute(name, 0) for name in ("block_size", "N", "K"))
    if min(size, rows, columns) < 1:
        raise ValueError(f"block_size {size}, N {rows} and K {columns} must be positive")
    if not node.int_attribute("transB", 1):
        raise ValueError("transB = 0, which is for training, is not defined")
    codes = _NF4 if node.int_attribute("quant_type", 0) == 1 else (*_FP4, *(-code for code in _FP4))
    # The first of two codes is in the high half of its byte.
    pairs = b.op("Unsqueeze", b.op("Reshape", packed, numbers(b, -1)), numbers(b, -1))
    high = b.op("BitShift", pairs, b.constant(np.uint8(4)), direction="RIGHT")
    low = b.op("BitwiseAnd", pairs, b.constant(np.uint8(15)))
    order = b.op("Cast", b.op("Concat", high, low, axis=-1), to=dtypes.INT64.onnx)
    table = b.constant(np.array(codes).astype(a.tensor_type.dtype.numpy))
    scales = b.op("Expand", b.op("Unsqueeze", largest, numbers(b, -1)), numbers(b, 1, size))

    def in_rows(value: Value) -> Value:
        flat = _sliced(b, b.op("Reshape", value, numbers(b, -1)), rows * columns, 0)
        return b.op("Reshape", flat, numbers(b, rows, columns))

    matrix = b.op("Mul", in_rows(b.op("Gather", table, order)), in_rows(scales))
    return [b.op("MatMul", a, b.op("Transpose", matrix, perm=[1, 0]))]


def _gather_block_quantized(b: Builder, node: Node, x: Values) -> Values:
    """Rows of a table of few bits, of which only what is taken becomes floats."""
    data, indices, scales, zeros = needed(x, 0), needed(x, 1), needed(x, 2), given(x, 3)
    rank, bits = rank_of(data), _bits(node)
    taken, along = node.int_attribute("gather_axis", 0) % rank, node.int_attribute("quantize_axis", 1) % rank
    size, is_bytes = node.int_attribute("block_size", 128), data.tensor_type.dtype == dtypes.UINT8
    if not data.tensor_type.dtype.is_integer or size < 1:
        raise ValueError("tables of floats and blocks without a size are not defined")
    if is_bytes and zeros is None:
        zeros = b.op("Expand", b.constant(np.uint8(2 ** (bits - 1))), b.op("Shape", scales))
    elif is_bytes and zeros is not None:
        blocks = scales.tensor_type.dims[-1]
        zeros = unpacked(b, zeros, bits)
        zeros = _sliced(b, zeros, blocks, rank - 1) if isinstance(blocks, int) else zeros

    def gather(value: Value | None) -> Value | None:
        return None if value is None else b.op("Gather", value, indices, axis=taken)

    def floats(table: Value, scale: Value | None, zero: Value | None, axis: int) -> Value:
        table = unpacked(b, table, bits) if is_bytes else table
        return b.op("DequantizeLinear", table, scale, zero, axis=axis, block_size=size)

    if taken == along:
        return [b.op("Gather", floats(data, scales, zeros, along), indices, axis=taken)]
    axis = along if along < taken else along + rank_of(indices) - 1
    return [floats(b.op("Gather", data, indices, axis=taken), gather(scales), gather(zeros), axis)]


decomposed("MatMulNBits", _matmul_n_bits, domain=DOMAIN, traits=CONTRACTION)
decomposed("MatMulBnb4", _matmul_bnb4, domain=DOMAIN, traits=CONTRACTION)
decomposed("GatherBlockQuantized", _gather_block_quantized, domain=DOMAIN)
