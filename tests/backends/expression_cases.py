"""Regions whose operators all have tensor expressions, one of each kind of access: every backend gets them right."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from graphc.ir import Value, dtypes

RNG = np.random.default_rng(0)
Make = Callable[..., Value | list[Value]]


def normal(*shape: int) -> Any:
    return RNG.standard_normal(shape).astype(np.float32)


def ints(*values: int) -> Any:
    return np.array(values, np.int64)


ODD = np.array([np.nan, np.inf, -np.inf, 1, 0, -0.0, 1e8] * 9, np.float32)

CASES: dict[str, tuple[list[Any], Make]] = {
    "pointwise": ([normal(3, 5, 7)], lambda b, x: b.op("Relu", x)),
    # What holds of numbers and not of NaN, infinities or rounded sums: TVM's simplifier knows of numbers only.
    "less itself": ([ODD], lambda b, x: b.op("Sub", x, x)),
    "and its opposite": ([ODD], lambda b, x: b.op("Add", b.op("Neg", x), x)),
    "there and back": ([ODD, ODD[::-1].copy()], lambda b, x, y: b.op("Sub", b.op("Add", x, y), x)),
    "there and back by a number": (
        [ODD],
        lambda b, x: b.op("Sub", b.op("Add", x, b.constant(np.float32(1e8))), b.constant(np.float32(1e8))),
    ),
    "equal to itself": ([ODD], lambda b, x: b.op("Equal", x, x)),
    "unlike itself": ([ODD.astype(np.float64)], lambda b, x: b.op("Not", b.op("Equal", x, x))),
    "not less": ([ODD, ODD[::-1].copy()], lambda b, x, y: b.op("Not", b.op("Less", x, y))),
    "less or not": ([ODD, ODD], lambda b, x, y: b.op("Or", b.op("Less", x, y), b.op("GreaterOrEqual", x, y))),
    "by zero": ([ODD], lambda b, x: b.op("Div", x, b.constant(np.float32(0)))),
    "by less than zero": ([normal()], lambda b, x: b.op("Div", x, b.constant(np.float32(-0.0)))),
    "mean of nothing": ([normal(3, 0)], lambda b, x: b.op("ReduceMean", x, b.constant(ints(1)))),
    "truth of floats": ([ODD], lambda b, x: b.op("Cast", x, to=dtypes.BOOL.onnx)),
    "row broadcast": ([normal(3, 5, 37), normal(37)], lambda b, x, y: b.op("Add", x, y)),
    "column broadcast": ([normal(3, 5, 37), normal(5, 1)], lambda b, x, y: b.op("Mul", b.op("Tanh", x), y)),
    "scalar": ([normal()], lambda b, x: b.op("Exp", x)),
    "long": ([normal(300, 1001)], lambda b, x: b.op("Sigmoid", x)),
    "softmax": ([normal(7, 130)], lambda b, x: b.op("Softmax", x, axis=-1)),
    "short softmax": ([normal(7, 13)], lambda b, x: b.op("Softmax", x, axis=-1)),
    "inner softmax": ([normal(4, 7, 33)], lambda b, x: b.op("Softmax", x, axis=1)),
    "softmax down columns": ([normal(70, 3001)], lambda b, x: b.op("Softmax", x, axis=0)),
    "moments of channels": ([normal(5, 9, 33, 34)], lambda b, x: b.op("MeanVarianceNormalization", x, axes=(0, 2, 3))),
    "layer norm": (
        [normal(7, 384), normal(384), normal(384)],
        lambda b, x, scale, bias: b.op("LayerNormalization", x, scale, bias, axis=-1),
    ),
    "row mean": ([normal(7, 384)], lambda b, x: b.op("ReduceMean", x, b.constant(ints(-1)), keepdims=0)),
    "column max": ([normal(70, 33)], lambda b, x: b.op("ReduceMax", x, b.constant(ints(0)), keepdims=0)),
    "whole sum": ([normal(9, 33, 5)], lambda b, x: b.op("ReduceSum", x, keepdims=0)),
    "argmax": ([normal(7, 50, 3)], lambda b, x: b.op("ArgMax", x, axis=1)),
    "argmin, last": (
        [RNG.integers(0, 5, (7, 50, 3))],
        lambda b, x: b.op("ArgMin", x, axis=1, select_last_index=1, keepdims=0),
    ),
    "transpose": ([normal(7, 38, 5)], lambda b, x: b.op("Transpose", x, perm=[2, 0, 1])),
    "squares": ([normal(3, 37, 53)], lambda b, x: b.op("Transpose", x, perm=[0, 2, 1])),
    "squares with little over": ([normal(33, 9)], lambda b, x: b.op("Neg", b.op("Transpose", x, perm=[1, 0]))),
    "squares of doubles": ([normal(2, 19, 27).astype(np.float64)], lambda b, x: b.op("Transpose", x, perm=[2, 0, 1])),
    "squares of halves": (
        [normal(40, 3, 41).astype(np.float16)],
        lambda b, x: b.op("Transpose", b.op("Relu", x), perm=[2, 1, 0]),
    ),
    "squares of bytes": ([RNG.integers(0, 255, (33, 70)).astype(np.uint8)], lambda b, x: b.op("Transpose", x)),
    "squares of truths": ([normal(40, 36) > 0], lambda b, x: b.op("Transpose", x, perm=[1, 0])),
    "two squares and a row": (
        [normal(5, 24, 33), normal(24, 33), normal(33, 24)],
        lambda b, x, y, z: b.op("Add", b.op("Transpose", b.op("Mul", x, y), perm=[0, 2, 1]), z),
    ),
    "squares of a slice": (
        [normal(30, 50)],
        lambda b, x: b.op(
            "Transpose", b.op("Slice", x, *(b.constant(ints(*v)) for v in ((2, 3), (29, 47)))), perm=[1, 0]
        ),
    ),
    "squares and halves of a concat": (
        [normal(20, 33), normal(20, 21)],
        lambda b, x, y: b.op("Transpose", b.op("Concat", x, y, axis=1), perm=[1, 0]),
    ),
    "reshape and transpose": (
        [normal(7, 38, 6)],
        lambda b, x: b.op("Transpose", b.op("Reshape", x, b.constant(ints(7, 19, 2, 6))), perm=[0, 2, 1, 3]),
    ),
    "concat": ([normal(7, 5), normal(7, 9), normal(7, 16)], lambda b, *x: b.op("Concat", *x, axis=1)),
    "concat of rows": ([normal(7, 5), normal(2, 5)], lambda b, *x: b.op("Concat", *x, axis=0)),
    "pad": ([normal(7, 5)], lambda b, x: b.op("Pad", x, b.constant(ints(1, 2, 0, 3)), b.constant(np.float32(3.5)))),
    "strided slice": (
        [normal(7, 50)],
        lambda b, x: b.op("Slice", x, *(b.constant(ints(v)) for v in (1, 44, 1, 3))),
    ),
    "gather": ([normal(70, 50), RNG.integers(-70, 70, (3, 4))], lambda b, x, i: b.op("Gather", x, i, axis=0)),
    "inner gather": ([normal(70, 50), RNG.integers(0, 50, (3, 4))], lambda b, x, i: b.op("Gather", x, i, axis=1)),
    "where": ([normal(7, 50) > 0, normal(7, 50), normal(50)], lambda b, c, x, y: b.op("Where", c, x, y)),
    "max pool": (
        [normal(1, 5, 9, 9)],
        lambda b, x: b.op("MaxPool", x, kernel_shape=[3, 3], strides=[2, 2], pads=[1, 1, 1, 1]),
    ),
    "matmul": ([normal(7, 33), normal(33, 18)], lambda b, x, y: b.op("MatMul", x, y)),
    "convolution": (
        [normal(1, 6, 9, 9), normal(5, 6, 3, 3), normal(5)],
        lambda b, x, w, c: b.op("Conv", x, w, c, kernel_shape=[3, 3], pads=[1, 1, 1, 1]),
    ),
    "half": ([normal(7, 100).astype(np.float16)], lambda b, x: b.op("Relu", x)),
    "double": ([normal(100).astype(np.float64)], lambda b, x: b.op("Erf", b.op("Sin", x))),
    "libm": ([normal(100) * np.float32(0.1)], lambda b, x: b.op("Asinh", b.op("Atan", x))),
    "two outputs": (
        [normal(7, 96), normal(7, 96)],
        lambda b, x, y: [b.op("Add", x, y), b.op("Mul", x, y)],
    ),
}
