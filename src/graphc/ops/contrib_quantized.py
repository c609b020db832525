"""Quantized operators of domain com.microsoft, as standard operators between DequantizeLinear and QuantizeLinear."""

from __future__ import annotations

import numpy as np

from graphc.ir import Builder, Node, Value, dtypes
from graphc.ops.base import Trait
from graphc.ops.contrib import DOMAIN, Values, added, embedded, given, kept, needed, numbers
from graphc.ops.contrib_images import channels_first, channels_last
from graphc.ops.decomposition import Decompose, decomposed, rank_of

_GEOMETRY = ("kernel_shape", "strides", "pads", "dilations", "group", "auto_pad")
CONTRACTION = frozenset({Trait.CONTRACTION})


def dequantized(b: Builder, x: Values, first: int) -> Value:
    """Inputs `first`, `first + 1`, `first + 2` (values, scale, zero point) as floats."""
    return b.op("DequantizeLinear", needed(x, first), needed(x, first + 1), given(x, first + 2))


def _quantized(b: Builder, value: Value, scale: Value, zero: Value | None, like: Value) -> Value:
    """`value` in the integer type of `zero`, or of `like` where that is absent."""
    dtype = None if zero is not None else like.tensor_type.dtype.onnx
    return b.op("QuantizeLinear", value, scale, zero, output_dtype=dtype)


def _unary(op_type: str, *names: str) -> Decompose:
    """(X, scale, zero, Y scale, Y zero) through a standard operator with the attributes `names`."""

    def decompose(b: Builder, node: Node, x: Values) -> Values:
        last = node.int_attribute("channels_last", 0)
        data = dequantized(b, x, 0)
        result = b.op(op_type, channels_first(b, data) if last else data, **kept(node, *names))
        result = channels_last(b, result) if last else result
        return [_quantized(b, result, needed(x, 3), given(x, 4), needed(x, 0))]

    return decompose


def _binary(op_type: str) -> Decompose:
    def decompose(b: Builder, node: Node, x: Values) -> Values:
        result = b.op(op_type, dequantized(b, x, 0), dequantized(b, x, 3))
        return [_quantized(b, result, needed(x, 6), given(x, 7), needed(x, 0))]

    return decompose


def _where(b: Builder, node: Node, x: Values) -> Values:
    result = b.op("Where", needed(x, 0), dequantized(b, x, 1), dequantized(b, x, 4))
    return [_quantized(b, result, needed(x, 7), given(x, 8), needed(x, 1))]


def _mean(b: Builder, node: Node, x: Values) -> Values:
    axes = node.ints_attribute("axes")
    reduced = b.op("ReduceMean", dequantized(b, x, 0), numbers(b, *axes) if axes else None, **kept(node, "keepdims"))
    return [_quantized(b, reduced, needed(x, 3), given(x, 4), needed(x, 0))]


def _sum_of_integers(b: Builder, node: Node, x: Values) -> Values:
    axes = node.ints_attribute("axes")
    wide = b.op("Cast", needed(x, 0), to=dtypes.INT32.onnx)
    return [b.op("ReduceSum", wide, numbers(b, *axes) if axes else None, **kept(node, "keepdims"))]


def _product_of_integers(b: Builder, node: Node, x: Values) -> Values:
    def centred(value: Value, zero: Value | None) -> Value:
        wide = b.op("Cast", value, to=dtypes.INT32.onnx)
        return wide if zero is None else b.op("Sub", wide, b.op("Cast", zero, to=dtypes.INT32.onnx))

    return [b.op("Mul", centred(needed(x, 0), given(x, 1)), centred(needed(x, 2), given(x, 3)))]


def _conv(b: Builder, node: Node, x: Values) -> Values:
    """QLinearConv of ai.onnx, of an image whose channels may come last; its weights are as ever."""
    last = node.int_attribute("channels_last", 0)
    data = channels_first(b, needed(x, 0)) if last else needed(x, 0)
    result = b.op("QLinearConv", data, *x[1:], **kept(node, *_GEOMETRY))
    return [channels_last(b, result) if last else result]


def _embeddings(b: Builder, node: Node, x: Values) -> Values:
    """EmbedLayerNormalization of tables of 8-bit integers, of which only the rows that are read become floats."""

    def table(values: int, scale: int) -> Value:
        return b.op("DequantizeLinear", needed(x, values), needed(x, scale), needed(x, scale + 5))

    segments = (None, None) if given(x, 4) is None else (needed(x, 1), table(4, 10))
    floats = [needed(x, 0), segments[0], table(2, 8), table(3, 9), segments[1], table(5, 11), table(6, 12), given(x, 7)]
    return embedded(b, node, floats)[:2]


def _concat(b: Builder, node: Node, x: Values) -> Values:
    parts = [dequantized(b, x, i) for i in range(2, len(x), 3)]
    result = b.op("Concat", *parts, axis=node.int_attribute("axis", 0))
    return [_quantized(b, result, needed(x, 0), given(x, 1), needed(x, 2))]


def _gemm(b: Builder, node: Node, x: Values) -> Values:
    """A product of quantized matrices; C comes as int32 in units of the operands' scales."""
    left = dequantized(b, x, 0)
    right_scale = needed(x, 4)
    # A scale per column belongs to B's last axis, the first where B is transposed.
    axis = 0 if node.int_attribute("transB", 0) else 1
    right = b.op("DequantizeLinear", needed(x, 3), right_scale, given(x, 5), axis=axis)
    bias = given(x, 6)
    if bias is not None:
        unit = b.op("Mul", needed(x, 1), right_scale)
        bias = b.op("Mul", b.op("Cast", bias, to=dtypes.FLOAT32.onnx), unit)
        alpha = node.float_attribute("alpha", 1.0)
        bias = bias if alpha == 1 else b.op("Mul", bias, b.constant(np.float32(alpha)))
    result = b.op("Gemm", left, right, bias, **kept(node, "transA", "transB", "alpha"))
    scale = given(x, 7)
    return [result if scale is None else _quantized(b, result, scale, given(x, 8), needed(x, 0))]


def _matmul_to_float(b: Builder, node: Node, x: Values) -> Values:
    product = b.op("MatMulInteger", needed(x, 0), needed(x, 1), given(x, 4), given(x, 5))
    scale = b.op("Mul", needed(x, 2), needed(x, 3))
    floats = b.op("Cast", product, to=needed(x, 2).tensor_type.dtype.onnx)
    return [added(b, b.op("Mul", floats, scale), given(x, 6))]


def _dynamic_matmul(b: Builder, node: Node, x: Values) -> Values:
    quantized = b.op("DynamicQuantizeLinear", needed(x, 0), outputs=3).producer
    assert quantized is not None
    values, scale, zero = quantized.outputs
    product = b.op("MatMulInteger", values, needed(x, 1), zero, given(x, 3))
    floats = b.op("Cast", product, to=dtypes.FLOAT32.onnx)
    return [added(b, b.op("Mul", floats, b.op("Mul", scale, needed(x, 2))), given(x, 4))]


def _dynamic_lstm(b: Builder, node: Node, x: Values) -> Values:
    """LSTM whose weights are 8-bit integers and come transposed.

    ONNX Runtime rounds the input and every step's state to 8 bits as well, for the sake of integer products; here they
    stay as they are.
    """

    def weights(values: int, scale: int) -> Value:
        def along(index: int) -> Value:
            """Numbers for each direction, or for each of its rows, beside (directions, inputs, rows)."""
            found = b.op("Cast", needed(x, index), to=dtypes.FLOAT32.onnx)
            return b.op("Unsqueeze", found, numbers(b, *((1, 2) if rank_of(found) == 1 else (1,))))

        floats = b.op("Cast", needed(x, values), to=dtypes.FLOAT32.onnx)
        return b.op("Transpose", b.op("Mul", b.op("Sub", floats, along(scale + 1)), along(scale)), perm=[0, 2, 1])

    names = ("direction", "activations", "activation_alpha", "activation_beta", "clip", "hidden_size", "input_forget")
    operands = (needed(x, 0), weights(1, 8), weights(2, 10), *x[3:8])
    layer = b.op("LSTM", *operands, outputs=3, **kept(node, *names)).producer
    assert layer is not None
    return list(layer.outputs)


def _quantize(b: Builder, node: Node, x: Values) -> Values:
    return [b.op("QuantizeLinear", *x, **kept(node, "axis"))]


def _dequantize(b: Builder, node: Node, x: Values) -> Values:
    return [b.op("DequantizeLinear", *x, **kept(node, "axis"))]


def _dynamic_quantize(b: Builder, node: Node, x: Values) -> Values:
    """DynamicQuantizeLinear of ai.onnx, whose range one reduction over the whole tensor finds."""
    data = needed(x, 0)
    zero, one, top = (b.constant(np.float32(n)) for n in (0, 1, 255))
    low = b.op("Min", b.op("ReduceMin", data, keepdims=0), zero)
    high = b.op("Max", b.op("ReduceMax", data, keepdims=0), zero)
    spread = b.op("Sub", high, low)
    # A tensor of zeros alone has no range; any scale represents it.
    scale = b.op("Where", b.op("Equal", spread, zero), one, b.op("Div", spread, top))
    offset = b.op("Round", b.op("Div", b.op("Neg", low), scale))
    zero_point = b.op("Cast", b.op("Clip", offset, zero, top), to=dtypes.UINT8.onnx)
    return [b.op("QuantizeLinear", data, scale, zero_point), scale, zero_point]


for _name, _decompose in (
    ("QLinearAdd", _binary("Add")),
    ("QLinearMul", _binary("Mul")),
    ("QLinearSigmoid", _unary("Sigmoid")),
    ("QLinearLeakyRelu", _unary("LeakyRelu", "alpha")),
    ("QLinearGlobalAveragePool", _unary("GlobalAveragePool")),
    (
        "QLinearAveragePool",
        _unary("AveragePool", "kernel_shape", "strides", "pads", "auto_pad", "ceil_mode", "count_include_pad"),
    ),
    ("QLinearSoftmax", _unary("Softmax", "axis")),
    ("QLinearConcat", _concat),
    ("QLinearWhere", _where),
    ("QLinearReduceMean", _mean),
    ("ReduceSumInteger", _sum_of_integers),
    ("MulInteger", _product_of_integers),
    ("QEmbedLayerNormalization", _embeddings),
    ("QuantizeLinear", _quantize),
    ("DequantizeLinear", _dequantize),
):
    decomposed(_name, _decompose, domain=DOMAIN)
for _name, _decompose in (
    ("QGemm", _gemm),
    ("QLinearConv", _conv),
    ("MatMulIntegerToFloat", _matmul_to_float),
    ("DynamicQuantizeMatMul", _dynamic_matmul),
    ("DynamicQuantizeLSTM", _dynamic_lstm),
):
    decomposed(_name, _decompose, domain=DOMAIN, traits=CONTRACTION)
decomposed("DynamicQuantizeLinear", _dynamic_quantize, define=False)
