"""What is timed: every family of operators at sizes that models have."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from bench.operators.case import (
    Array,
    Case,
    Draw,
    Generator,
    Operand,
    bytes_weight,
    f16,
    f32,
    flags,
    i64,
    ints,
    scalar,
    u8,
    weight,
)
from bench.operators.trees import forest, support_vectors

MICROSOFT = "com.microsoft"
CLASSICAL = "ai.onnx.ml"
_TOKENS = (128, 768)
_MAP = (1, 64, 56, 56)


def _pointwise(*names: str) -> list[Case]:
    return [Case("pointwise", name, (f32(*_TOKENS),)) for name in names]


def _reductions(*names: str) -> list[Case]:
    rows = [Case("reduction", name, (f32(*_TOKENS), ints(-1)), {"keepdims": 0}, "of rows") for name in names]
    return rows + [Case("reduction", name, (f32(*_TOKENS), ints(0)), {"keepdims": 0}, "of columns") for name in names]


def _conv(note: str, x: Sequence[int], w: Sequence[int], **attributes: Any) -> Case:
    kernel = tuple(w[2:])
    return Case(
        "convolution", "Conv", (f32(*x), weight(*w), weight(w[0])), {"kernel_shape": kernel, **attributes}, note
    )


def _turned(note: str, x: Sequence[int], w: Sequence[int], **attributes: Any) -> Case:
    found = {"kernel_shape": tuple(w[2:]), **attributes}
    channels = w[1] * attributes.get("group", 1)
    return Case("transposed convolution", "ConvTranspose", (f32(*x), weight(*w), weight(channels)), found, note)


def _pool(op_type: str, note: str, x: Sequence[int], **attributes: Any) -> Case:
    return Case("pooling", op_type, (f32(*x),), attributes, note)


def _boxes(count: int, extent: float) -> Draw:
    """Corners of boxes as detectors find them: clusters of much alike ones."""

    def make(generator: Generator) -> Array:
        centres = np.repeat(generator.uniform(0, extent, (count // 10, 2)), 10, axis=0)
        centres = centres + generator.normal(0, 4, centres.shape)
        sizes = generator.uniform(extent / 20, extent / 8, centres.shape)
        return np.concatenate([centres - sizes / 2, centres + sizes / 2], -1)[None]

    return Draw("float32", (1, count, 4), make=make)


def _regions(count: int, extent: float, *, batch_first: bool) -> Draw:
    """Regions of interest within an image, with the number of the image in front where MaxRoiPool wants it."""

    def make(generator: Generator) -> Array:
        corner = generator.uniform(0, extent / 2, (count, 2))
        found = np.concatenate([corner, corner + generator.uniform(extent / 8, extent / 2, (count, 2))], -1)
        return np.concatenate([np.zeros((count, 1)), found], -1) if batch_first else found

    return Draw("float32", (count, 5 if batch_first else 4), make=make)


def _quantized_conv(note: str, x: Sequence[int], w: Sequence[int], **attributes: Any) -> Case:
    operands: tuple[Operand, ...] = (
        *(u8(*x), scalar(0.02), scalar(128, "uint8")),
        *(bytes_weight(*w), scalar(0.01), scalar(0, "int8"), scalar(0.05), scalar(120, "uint8")),
        Draw("int32", (w[0],), -1000, 1000, constant=True),
    )
    return Case("quantized", "QLinearConv", operands, {"kernel_shape": tuple(w[2:]), **attributes}, note)


def _recurrent(op_type: str, gates: int, steps: int, width: int, size: int, direction: str = "forward") -> Case:
    ways = 2 if direction == "bidirectional" else 1
    operands = (
        f32(steps, 1, width),
        weight(ways, gates * size, width),
        weight(ways, gates * size, size),
        weight(ways, 2 * gates * size),
    )
    note = f"{steps} steps of {size}" + (" both ways" if ways == 2 else "")
    return Case("recurrent", op_type, operands, {"hidden_size": size, "direction": direction}, note)


CASES: tuple[Case, ...] = (
    *_pointwise(
        *("Abs", "Acos", "Asinh", "Atan", "Ceil", "Cos", "Elu", "Erf", "Exp", "Gelu", "HardSigmoid", "HardSwish"),
        *("IsNaN", "LeakyRelu", "Mish", "Neg", "Reciprocal", "Relu", "Round", "Selu", "Sigmoid", "Sign", "Sin"),
        *("Softplus", "Softsign", "Tan", "Tanh", "ThresholdedRelu"),
    ),
    Case("pointwise", "Log", (f32(*_TOKENS).within(0.1, 10),)),
    Case("pointwise", "Sqrt", (f32(*_TOKENS).within(0.1, 10),)),
    Case("pointwise", "Add", (f32(*_TOKENS), f32(*_TOKENS))),
    Case("pointwise", "Mul", (f32(*_MAP), f32(1, 64, 1, 1)), note="by channel"),
    Case("pointwise", "Div", (f32(*_TOKENS), f32(128, 1).within(1, 2)), note="by row"),
    Case("pointwise", "Div", (i64(*_TOKENS, below=1000), i64(768, below=9).within(1, 9)), note="of integers"),
    Case("pointwise", "Mod", (i64(*_TOKENS, below=1000), i64(768, below=9).within(1, 9))),
    Case("pointwise", "Pow", (f32(*_TOKENS).within(0.1, 3), f32(768).within(0.5, 3))),
    Case("pointwise", "Clip", (f32(*_TOKENS), scalar(-1), scalar(1))),
    Case("pointwise", "PRelu", (f32(*_MAP), weight(64, 1, 1))),
    Case("pointwise", "Greater", (f32(*_TOKENS), f32(*_TOKENS))),
    Case("pointwise", "Equal", (i64(*_TOKENS, below=4), i64(*_TOKENS, below=4))),
    Case("pointwise", "And", (flags(*_TOKENS), flags(*_TOKENS))),
    Case("pointwise", "Where", (flags(*_TOKENS), f32(*_TOKENS), f32(*_TOKENS))),
    Case("pointwise", "BitShift", (u8(*_TOKENS), u8(768).within(0, 7)), {"direction": "LEFT"}),
    Case("pointwise", "Cast", (f32(*_TOKENS),), {"to": 10}, "to float16"),
    Case("pointwise", "Cast", (u8(1, 3, 224, 224),), {"to": 1}, "bytes to float"),
    Case("pointwise", "Add", (f16(*_TOKENS), f16(*_TOKENS)), note="of float16"),
    *_reductions("ReduceSum", "ReduceMean", "ReduceMax", "ReduceL2", "ReduceLogSumExp", "ReduceProd"),
    Case("reduction", "ReduceMean", (f32(*_MAP), ints(2, 3)), note="of images"),
    Case("reduction", "ReduceMean", (f32(*_MAP), ints(1)), note="of channels"),
    Case("reduction", "ArgMax", (f32(128, 1000),), {"axis": -1}, "of rows"),
    Case("reduction", "ArgMax", (f32(1, 21, 128, 128),), {"axis": 1}, "of channels"),
    Case("normalization", "Softmax", (f32(12, 128, 128),)),
    Case("normalization", "Softmax", (f32(1, 21, 128, 128),), {"axis": 1}, "of channels"),
    Case("normalization", "LogSoftmax", (f32(64, 1000),)),
    Case("normalization", "Hardmax", (f32(64, 1000),)),
    Case("normalization", "LayerNormalization", (f32(*_TOKENS), weight(768), weight(768))),
    Case("normalization", "RMSNormalization", (f32(*_TOKENS), weight(768)), opset=23),
    Case(
        "normalization",
        "BatchNormalization",
        (f32(*_MAP), weight(64), weight(64), weight(64), Draw("float32", (64,), 0.5, 2, constant=True)),
    ),
    Case("normalization", "InstanceNormalization", (f32(*_MAP), weight(64), weight(64))),
    Case("normalization", "GroupNormalization", (f32(*_MAP), weight(64), weight(64)), {"num_groups": 8}),
    Case("normalization", "LpNormalization", (f32(*_TOKENS),)),
    Case("normalization", "MeanVarianceNormalization", (f32(*_MAP),)),
    Case("normalization", "LRN", (f32(*_MAP),), {"size": 5, "alpha": 1e-4, "beta": 0.75, "bias": 1.0}),
    _conv("3x3", _MAP, (64, 64, 3, 3), pads=[1, 1, 1, 1]),
    _conv("3x3 stride 2", _MAP, (128, 64, 3, 3), pads=[1, 1, 1, 1], strides=[2, 2]),
    _conv("1x1", _MAP, (256, 64, 1, 1)),
    _conv("7x7 of a photo", (1, 3, 224, 224), (64, 3, 7, 7), pads=[3, 3, 3, 3], strides=[2, 2]),
    _conv("3x3 depthwise", (1, 96, 56, 56), (96, 1, 3, 3), pads=[1, 1, 1, 1], group=96),
    _conv("3x3 of 32 groups", (1, 128, 56, 56), (128, 4, 3, 3), pads=[1, 1, 1, 1], group=32),
    _conv("3x3 dilated", (1, 64, 28, 28), (64, 64, 3, 3), pads=[2, 2, 2, 2], dilations=[2, 2]),
    _conv("of a signal", (1, 80, 400), (256, 80, 3), pads=[1, 1]),
    _conv("of a volume", (1, 16, 16, 28, 28), (32, 16, 3, 3, 3), pads=[1] * 6),
    Case("convolution", "Conv", (f32(1, 32, 28, 28), f32(32, 32, 3, 3)), {"pads": [1] * 4}, "with computed weights"),
    Case(
        "convolution",
        "DeformConv",
        (f32(1, 64, 28, 28), weight(64, 64, 3, 3), f32(1, 18, 28, 28), weight(64), f32(1, 9, 28, 28)),
        {"kernel_shape": [3, 3], "pads": [1, 1, 1, 1]},
    ),
    Case(
        "convolution",
        "ConvInteger",
        (u8(1, 64, 28, 28), bytes_weight(64, 64, 3, 3), scalar(128, "uint8")),
        {"pads": [1, 1, 1, 1]},
    ),
    _turned("2x2 stride 2", (1, 64, 28, 28), (64, 64, 2, 2), strides=[2, 2]),
    _turned("4x4 stride 2", (1, 64, 28, 28), (64, 64, 4, 4), strides=[2, 2], pads=[1] * 4),
    _turned("3x3 stride 2", (1, 64, 28, 28), (64, 32, 3, 3), strides=[2, 2], pads=[1] * 4, output_padding=[1, 1]),
    _turned("3x3 stride 1", (1, 64, 28, 28), (64, 64, 3, 3), pads=[1] * 4),
    _turned("depthwise", (1, 64, 28, 28), (64, 1, 4, 4), strides=[2, 2], pads=[1] * 4, group=64),
    _turned("of a signal", (1, 128, 100), (128, 64, 16), strides=[8], pads=[4, 4]),
    _pool("MaxPool", "3x3 stride 2", (1, 64, 112, 112), kernel_shape=[3, 3], strides=[2, 2], pads=[1] * 4),
    _pool("MaxPool", "2x2", (1, 64, 112, 112), kernel_shape=[2, 2], strides=[2, 2]),
    _pool("MaxPool", "3x3 stride 1", (1, 192, 28, 28), kernel_shape=[3, 3], pads=[1] * 4),
    _pool("MaxPool", "5x5 of SPPF", (1, 256, 20, 20), kernel_shape=[5, 5], pads=[2] * 4),
    _pool("MaxPool", "13x13 of SPP", (1, 256, 20, 20), kernel_shape=[13, 13], pads=[6] * 4),
    _pool("MaxPool", "of few channels", (1, 3, 224, 224), kernel_shape=[3, 3], strides=[2, 2]),
    _pool("MaxPool", "of a signal", (8, 64, 1000), kernel_shape=[3], strides=[2]),
    _pool("MaxPool", "of a volume", (1, 32, 16, 28, 28), kernel_shape=[3, 3, 3], strides=[2, 2, 2], pads=[1] * 6),
    Case(
        "pooling",
        "MaxPool",
        (f32(1, 64, 56, 56),),
        {"kernel_shape": [2, 2], "strides": [2, 2]},
        "with positions",
        outputs=2,
    ),
    Case("pooling", "MaxPool", (u8(1, 64, 56, 56),), {"kernel_shape": [3, 3], "strides": [2, 2]}, "of bytes"),
    _pool("AveragePool", "3x3", (1, 192, 28, 28), kernel_shape=[3, 3], pads=[1] * 4),
    _pool("AveragePool", "2x2", (1, 128, 56, 56), kernel_shape=[2, 2], strides=[2, 2]),
    _pool("AveragePool", "of a volume", (1, 32, 16, 28, 28), kernel_shape=[2, 2, 2], strides=[2, 2, 2]),
    _pool("LpPool", "2x2", (1, 64, 56, 56), kernel_shape=[2, 2], strides=[2, 2]),
    _pool("GlobalAveragePool", "", (1, 512, 14, 14)),
    _pool("GlobalMaxPool", "", (1, 512, 14, 14)),
    Case(
        "pooling",
        "MaxUnpool",
        (f32(1, 64, 28, 28), Draw("int64", (1, 64, 28, 28), make=lambda g: _winners(64, 28))),
        {"kernel_shape": [2, 2], "strides": [2, 2]},
    ),
    Case("product", "MatMul", (f32(*_TOKENS), weight(768, 768))),
    Case("product", "MatMul", (f32(1, 768), weight(768, 3072)), note="of one row"),
    Case("product", "MatMul", (f32(12, 128, 64), f32(12, 64, 128)), note="of activations"),
    Case("product", "Gemm", (f32(32, 512), weight(1000, 512), weight(1000)), {"transB": 1}),
    Case("product", "Einsum", (f32(1, 128, 12, 64), f32(1, 128, 12, 64)), {"equation": "bqhd,bkhd->bhqk"}),
    Case("product", "FusedMatMul", (f32(12, 128, 64), f32(12, 128, 64)), {"transB": 1}, domain=MICROSOFT, opset=1),
    Case("product", "Det", (f32(256, 8, 8),)),
    Case(
        "product",
        "MatMulNBits",
        (
            f32(1, 1024),
            Draw("uint8", (1024, 32, 16), constant=True),
            Draw("float32", (1024 * 32,), 0.01, 0.02, constant=True),
        ),
        {"K": 1024, "N": 1024, "bits": 4, "block_size": 32},
        domain=MICROSOFT,
        opset=1,
    ),
    _quantized_conv("3x3", _MAP, (64, 64, 3, 3), pads=[1] * 4),
    _quantized_conv("1x1", _MAP, (256, 64, 1, 1)),
    _quantized_conv("7x7 of a photo", (1, 3, 224, 224), (64, 3, 7, 7), pads=[3] * 4, strides=[2, 2]),
    _quantized_conv("depthwise", (1, 96, 56, 56), (96, 1, 3, 3), pads=[1] * 4, group=96),
    Case(
        "quantized",
        "QLinearMatMul",
        (
            *(u8(*_TOKENS), scalar(0.02), scalar(128, "uint8")),
            *(bytes_weight(768, 768), scalar(0.01), scalar(0, "int8"), scalar(0.1), scalar(120, "uint8")),
        ),
    ),
    Case("quantized", "MatMulInteger", (u8(*_TOKENS), bytes_weight(768, 768), scalar(128, "uint8"), scalar(0, "int8"))),
    Case("quantized", "QuantizeLinear", (f32(*_TOKENS), scalar(0.02), scalar(128, "uint8"))),
    Case("quantized", "DequantizeLinear", (u8(*_TOKENS), scalar(0.02), scalar(128, "uint8"))),
    Case("quantized", "DynamicQuantizeLinear", (f32(*_TOKENS),), outputs=3),
    # Scales for which no sum lies between two bytes: engines differ in where they round such a one to.
    Case(
        "quantized",
        "QLinearAdd",
        (
            *(u8(*_MAP), scalar(1 / 64), scalar(128, "uint8"), u8(*_MAP), scalar(1 / 32), scalar(120, "uint8")),
            *(scalar(3 / 64), scalar(127, "uint8")),
        ),
        domain=MICROSOFT,
        opset=1,
    ),
    Case("attention", "Attention", (f32(1, 12, 128, 64), f32(1, 12, 128, 64), f32(1, 12, 128, 64)), opset=23),
    Case(
        "attention",
        "MultiHeadAttention",
        (f32(1, 128, 768), f32(1, 128, 768), f32(1, 128, 768)),
        {"num_heads": 12},
        domain=MICROSOFT,
        opset=1,
    ),
    Case("attention", "RotaryEmbedding", (f32(1, 12, 128, 64), weight(1, 128, 32), weight(1, 128, 32)), opset=23),
    Case(
        "attention",
        "SkipLayerNormalization",
        (f32(1, 128, 768), f32(1, 128, 768), weight(768), weight(768)),
        domain=MICROSOFT,
        opset=1,
    ),
    _recurrent("LSTM", 4, 32, 128, 128),
    _recurrent("LSTM", 4, 32, 256, 256, "bidirectional"),
    _recurrent("GRU", 3, 32, 128, 128),
    _recurrent("RNN", 1, 32, 128, 128),
    Case("movement", "Transpose", (f32(1, 128, 12, 64),), {"perm": [0, 2, 1, 3]}, "of heads"),
    Case("movement", "Transpose", (f32(512, 512),), {"perm": [1, 0]}, "of a matrix"),
    Case("movement", "Transpose", (f32(1, 224, 224, 3),), {"perm": [0, 3, 1, 2]}, "of a photo"),
    Case("movement", "Transpose", (f32(*_MAP),), {"perm": [0, 2, 3, 1]}, "channels to last"),
    Case("movement", "Concat", (f32(*_MAP), f32(*_MAP)), {"axis": 1}, "of channels"),
    Case("movement", "Concat", (f32(*_TOKENS), f32(*_TOKENS)), {"axis": -1}, "of rows"),
    Case("movement", "Split", (f32(128, 2304),), {"axis": -1, "num_outputs": 3}, outputs=3),
    Case("movement", "Slice", (f32(*_MAP), ints(0, 0), ints(55, 55), ints(2, 3), ints(2, 2)), note="every second"),
    Case("movement", "Slice", (f32(*_MAP), ints(1, 1), ints(55, 55), ints(2, 3)), note="cropped"),
    Case("movement", "Pad", (f32(*_MAP), ints(0, 0, 1, 1, 0, 0, 1, 1))),
    Case("movement", "Pad", (f32(*_MAP), ints(0, 0, 3, 3, 0, 0, 3, 3)), {"mode": "reflect"}, "reflecting"),
    Case("movement", "Tile", (f32(1, 64, 28, 28), ints(1, 1, 2, 2))),
    Case("movement", "Expand", (f32(64, 1, 128), ints(64, 64, 128))),
    Case("movement", "DepthToSpace", (f32(1, 64, 56, 56),), {"blocksize": 2}),
    Case("movement", "SpaceToDepth", (f32(1, 3, 224, 224),), {"blocksize": 2}),
    Case("movement", "Trilu", (f32(12, 128, 128),)),
    Case("movement", "ReverseSequence", (f32(100, 8, 64), i64(8, below=100).within(50, 100))),
    Case("movement", "CenterCropPad", (f32(1, 64, 56, 56), ints(48, 64)), {"axes": [2, 3]}),
    Case("movement", "Col2Im", (f32(1, 64 * 9, 28 * 28), ints(28, 28), ints(3, 3)), {"pads": [1] * 4}),
    Case("indexing", "Gather", (weight(30000, 768), i64(1, 128, below=30000)), note="of embeddings"),
    Case("indexing", "Gather", (f32(*_TOKENS), i64(64, below=768)), {"axis": 1}, "of columns"),
    Case("indexing", "GatherElements", (f32(*_TOKENS), i64(128, 100, below=768)), {"axis": 1}),
    Case("indexing", "GatherND", (f32(128, 128, 16), i64(1000, 2, below=128))),
    Case("indexing", "ScatterElements", (f32(*_TOKENS), i64(128, 100, below=768), f32(128, 100)), {"axis": 1}),
    Case(
        "indexing",
        "ScatterElements",
        (f32(*_TOKENS), i64(128, 100, below=768), f32(128, 100)),
        {"axis": 1, "reduction": "add"},
        "adding",
    ),
    Case("indexing", "ScatterND", (f32(1000, 64), i64(100, 1, below=1000), f32(100, 64))),
    Case("indexing", "OneHot", (i64(128, below=1000), ints(1000), np.array([0, 1], np.float32))),
    Case("indexing", "Compress", (f32(1000, 64), flags(1000)), {"axis": 0}),
    Case("indexing", "NonZero", (flags(128, 128),)),
    Case("sorting", "TopK", (f32(128, 1000), ints(5)), outputs=2),
    Case("sorting", "TopK", (f32(1, 8400), ints(300)), outputs=2, note="of a detector"),
    Case("sorting", "TopK", (f32(16, 1000), ints(1000)), outputs=2, note="sorting all"),
    Case("sorting", "Unique", (i64(10000, below=1000),)),
    Case("scan", "CumSum", (f32(*_TOKENS), scalar(-1, "int64")), note="along rows"),
    Case("scan", "CumSum", (f32(*_TOKENS), scalar(0, "int64")), note="down columns"),
    Case("image", "Resize", (f32(1, 64, 28, 28), None, np.array([1, 1, 2, 2], np.float32)), note="nearest"),
    Case(
        "image",
        "Resize",
        (f32(1, 64, 28, 28), None, np.array([1, 1, 2, 2], np.float32)),
        {"mode": "linear"},
        "linear",
    ),
    Case(
        "image",
        "Resize",
        (f32(1, 3, 480, 640), None, None, ints(1, 3, 224, 224)),
        {"mode": "linear", "antialias": 1},
        "of a photo, antialiased",
    ),
    Case(
        "image",
        "Resize",
        (f32(1, 3, 112, 112), None, np.array([1, 1, 2, 2], np.float32)),
        {"mode": "cubic"},
        "cubic",
    ),
    Case("image", "GridSample", (f32(1, 64, 56, 56), f32(1, 56, 56, 2).within(-1, 1))),
    Case("image", "AffineGrid", (f32(1, 2, 3), ints(1, 3, 224, 224))),
    Case(
        "image",
        "RoiAlign",
        (f32(1, 256, 50, 50), _regions(100, 800, batch_first=False), np.zeros(100, np.int64)),
        {"output_height": 7, "output_width": 7, "sampling_ratio": 2, "spatial_scale": 1 / 16},
        opset=16,
    ),
    Case(
        "image",
        "MaxRoiPool",
        (f32(1, 256, 50, 50), _regions(100, 800, batch_first=True)),
        {"pooled_shape": [7, 7], "spatial_scale": 1 / 16},
        opset=21,
    ),
    Case(
        "image",
        "NonMaxSuppression",
        (_boxes(1000, 640), f32(1, 1, 1000).within(0, 1), ints(100), scalar(0.5), scalar(0.25)),
    ),
    Case(
        "image",
        "NonMaxSuppression",
        (_boxes(8400, 640), f32(1, 20, 8400).within(0, 1), ints(100), scalar(0.5), scalar(0.7)),
        note="of a detector",
    ),
    Case("signal", "DFT", (f32(1, 512, 1), None, ints(1).reshape(())), {"onesided": 1}, opset=20),
    Case(
        "signal",
        "STFT",
        (f32(1, 16000, 1), scalar(160, "int64"), np.hanning(400).astype(np.float32), scalar(400, "int64")),
        {"onesided": 1},
    ),
    Case("signal", "HannWindow", (np.array(400, np.int64),)),
    Case("classical", "TreeEnsembleRegressor", (f32(1, 30),), forest(100, 6, 30), "one row", domain=CLASSICAL, opset=3),
    Case(
        "classical",
        "TreeEnsembleRegressor",
        (f32(1000, 30),),
        forest(100, 6, 30),
        "1000 rows",
        domain=CLASSICAL,
        opset=3,
    ),
    Case("classical", "SVMRegressor", (f32(100, 30),), support_vectors(500, 30), domain=CLASSICAL, opset=3),
    Case(
        "classical",
        "Scaler",
        (f32(1000, 30),),
        {"offset": [0.5] * 30, "scale": [2.0] * 30},
        domain=CLASSICAL,
        opset=3,
    ),
    Case("classical", "Normalizer", (f32(1000, 30),), {"norm": "L2"}, domain=CLASSICAL, opset=3),
    Case("classical", "LinearRegressor", (f32(1000, 30),), {"coefficients": [0.5] * 30}, domain=CLASSICAL, opset=3),
)
"""Every case. The names are unique."""


def _winners(channels: int, extent: int) -> Array:
    """Positions that a 2x2 maximum over images of twice the extent might have had, each in its own window."""
    generator = np.random.default_rng(4)
    channel, row, column = np.ogrid[:channels, :extent, :extent]
    inner = generator.integers(0, 2, (2, channels, extent, extent))
    places = (channel * 2 * extent + 2 * row + inner[0]) * 2 * extent + 2 * column + inner[1]
    found: Array = places[None].astype(np.int64)
    return found
