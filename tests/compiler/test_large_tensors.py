"""Tensors large enough that loops are shared among threads, at sizes that leave tails everywhere."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from onnx import TensorProto

import graphc
from tests.compiler.agreement import WIDTHS, assert_close, target_or_skip
from tests.compiler.test_edges import node
from tests.frontend.models import Array, info, model, run_ort

RNG = np.random.default_rng(3)


def normal(*shape: int) -> Array:
    return RNG.standard_normal(shape).astype(np.float32)


WEIGHTS: dict[str, Array] = {
    "row": normal(257),
    "column": normal(401, 1),
    "scale": normal(1, 17, 1, 1),
    "square": normal(257, 129) / 16,
    "kernel": normal(33, 17, 3, 3) / 12,
    "pads": np.array([0, 0, 1, 2, 0, 0, 3, 4], np.int64),
    "flat": np.array([17, -1], np.int64),
    "picked": RNG.integers(-401, 401, 1003),
    "three": np.array(3, np.int64),
    "starts": np.array([5, 250], np.int64),
    "ends": np.array([-7, 3], np.int64),
    "axes": np.array([0, 1], np.int64),
    "steps": np.array([2, -3], np.int64),
}

MATRIX, PICTURE = (401, 257), (2, 17, 61, 67)
CASES: dict[str, tuple[tuple[int, ...], list[Any]]] = {
    "pointwise": ((100_003,), [node("Mul", ["x", "x"], ["m"]), node("Sigmoid", ["m"], ["y"])]),
    "broadcast": (MATRIX, [node("Add", ["x", "row"], ["a"]), node("Mul", ["a", "column"], ["y"])]),
    "transpose": (MATRIX, [node("Transpose", ["x"], ["t"]), node("Tanh", ["t"], ["y"])]),
    "transpose of four": (PICTURE, [node("Transpose", ["x"], ["y"], perm=[0, 2, 3, 1])]),
    "softmax": (MATRIX, [node("Softmax", ["x"], ["y"])]),
    "softmax across": (MATRIX, [node("Softmax", ["x"], ["y"], axis=0)]),
    "sum along": (MATRIX, [node("ReduceSum", ["x", "minus"], ["y"], keepdims=0)]),
    "sum across": (MATRIX, [node("ReduceSum", ["x", "zero"], ["y"], keepdims=0)]),
    "sum of all": (MATRIX, [node("ReduceMean", ["x"], ["y"], keepdims=0)]),
    "largest": (MATRIX, [node("ArgMax", ["x"], ["y"], axis=1)]),
    "layer norm": (MATRIX, [node("LayerNormalization", ["x", "row"], ["n"]), node("Gelu", ["n"], ["y"])]),
    "product": (MATRIX, [node("MatMul", ["x", "square"], ["p"]), node("Relu", ["p"], ["y"])]),
    "joined": (MATRIX, [node("Neg", ["x"], ["n"]), node("Concat", ["x", "n", "x"], ["y"], axis=1)]),
    "padded": (PICTURE, [node("Pad", ["x", "pads"], ["p"]), node("Abs", ["p"], ["y"])]),
    "gathered": (MATRIX, [node("Gather", ["x", "picked"], ["g"], axis=0), node("Exp", ["g"], ["y"])]),
    "sliced": (MATRIX, [node("Slice", ["x", "starts", "ends", "axes", "steps"], ["s"]), node("Neg", ["s"], ["y"])]),
    "cast": (MATRIX, [node("Cast", ["x"], ["c"], to=TensorProto.FLOAT16), node("Cast", ["c"], ["y"], to=1)]),
    "scaled channels": (PICTURE, [node("Mul", ["x", "scale"], ["m"]), node("HardSwish", ["m"], ["y"])]),
    "convolution": (PICTURE, [node("Conv", ["x", "kernel"], ["c"], pads=[1] * 4), node("Relu", ["c"], ["y"])]),
    "strided convolution": (PICTURE, [node("Conv", ["x", "kernel"], ["y"], strides=[2, 3], dilations=[2, 1])]),
    "pooled": (PICTURE, [node("MaxPool", ["x"], ["y"], kernel_shape=[3, 2], strides=[2, 2], pads=[1, 0, 1, 0])]),
    "averaged": (PICTURE, [node("AveragePool", ["x"], ["y"], kernel_shape=[3, 3], pads=[1] * 4)]),
    "resized": (PICTURE, [node("Resize", ["x", "", "zoom"], ["y"], mode="linear")]),
    "running sum": (MATRIX, [node("CumSum", ["x", "one"], ["y"])]),
    "sorted": (MATRIX, [node("TopK", ["x", "k"], ["y", "i"], axis=0)]),
}
SMALL: dict[str, Array] = {
    "minus": np.array([-1], np.int64),
    "zero": np.array([0], np.int64),
    "one": np.array(1, np.int64),
    "k": np.array([5], np.int64),
    "zoom": np.array([1, 1, 1.7, 2.3], np.float32),
}


@pytest.mark.parametrize("target", WIDTHS)
@pytest.mark.parametrize("what", CASES)
def test_shared_loops(what: str, target: str) -> None:
    shape, nodes = CASES[what]
    used = {name for n in nodes for name in n.input}
    initializers = {name: array for name, array in {**WEIGHTS, **SMALL}.items() if name in used}
    proto = model(nodes, [info("x", shape=shape)], ["y"], initializers=initializers, opset=20)
    feeds = {"x": normal(*shape)}
    (expected,) = run_ort(proto, feeds)
    answers = []
    for threads in (1, 3):
        with graphc.compile(proto, target=target_or_skip(target), threads=threads) as module:
            answers.append(module(feeds)["y"])
    assert_close("y", expected, answers[0], 2e-5)
    np.testing.assert_array_equal(answers[0], answers[1], "the number of threads shows")
