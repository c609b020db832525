"""Operators around convolutions, whose values lie in blocks of channels: every way in and out of that layout."""

from __future__ import annotations

import concurrent.futures
from typing import Any

import numpy as np
import pytest

import graphc
from tests.compiler.agreement import WIDTHS, assert_agrees, target_or_skip
from tests.compiler.test_driver import normal, perceptron
from tests.compiler.test_edges import node
from tests.frontend.models import info, model

CONV = node("Conv", ["x", "w"], ["c"], pads=[1, 1, 1, 1])
WEIGHTS: dict[str, Any] = {
    "w": normal(24, 16, 3, 3) / 12,
    "one": normal(24, 24, 1, 1),
    "third": normal(12, 8, 1, 1),
    "seven": normal(5, 7, 1, 1),
    "picked": np.array([3, -1, 7, 0, 5], np.int64),
    "reversed": np.arange(16, dtype=np.int64)[::-1].copy(),
    "groups": np.array([1, 3, 8, 9, 9], np.int64),
    "joined": np.array([1, 24, 9, 9], np.int64),
    "parts": np.array([7, 17], np.int64),
    "space": np.array([2, 3], np.int64),
    "begin": np.array([5], np.int64),
    "end": np.array([22], np.int64),
    "channels": np.array([1], np.int64),
    "flat": np.array([1, -1], np.int64),
    "rows": normal(9, 9),
    "bias": normal(24, 1, 1),
    "pads": np.array([0, 2, 0, 0, 0, 3, 0, 0], np.int64),
}

CASES: dict[str, list[Any]] = {
    "channels picked": [CONV, node("Gather", ["c", "picked"], ["g"], axis=1), node("Relu", ["g"], ["y"])],
    "columns picked": [CONV, node("Gather", ["c", "picked"], ["g"], axis=3), node("Relu", ["g"], ["y"])],
    "channels turned round": [
        node("Gather", ["x", "reversed"], ["g"], axis=1),
        node("Conv", ["g", "w"], ["y"], pads=[1, 1, 1, 1]),
    ],
    "channels shuffled": [
        CONV,
        node("Reshape", ["c", "groups"], ["r"]),
        node("Transpose", ["r"], ["t"], perm=[0, 2, 1, 3, 4]),
        node("Reshape", ["t", "joined"], ["u"]),
        node("Conv", ["u", "third"], ["y"], group=3),
    ],
    "an odd split": [
        CONV,
        node("Split", ["c", "parts"], ["a", "b"], axis=1),
        node("Conv", ["a", "seven"], ["d"]),
        node("Concat", ["b", "d"], ["y"], axis=1),
    ],
    "an odd slice": [CONV, node("Slice", ["c", "begin", "end", "channels"], ["y"])],
    "more channels": [CONV, node("Pad", ["c", "pads"], ["y"])],
    "squeeze and excite": [
        CONV,
        node("GlobalAveragePool", ["c"], ["g"]),
        node("Conv", ["g", "one"], ["s"]),
        node("Sigmoid", ["s"], ["z"]),
        node("Mul", ["c", "z"], ["m"]),
        node("ReduceMean", ["m", "space"], ["y"], keepdims=0),
    ],
    "softmax over channels": [CONV, node("Softmax", ["c"], ["y"], axis=1)],
    "softmax over columns": [CONV, node("Softmax", ["c"], ["y"], axis=3)],
    "the largest channel": [CONV, node("ArgMax", ["c"], ["y"], axis=1)],
    "padding is not zero": [CONV, node("Exp", ["c"], ["e"]), node("Conv", ["e", "one"], ["y"], pads=[1, 1, 1, 1])],
    "padding is no maximum": [
        CONV,
        node("Sigmoid", ["c"], ["e"]),
        node("Neg", ["e"], ["n"]),
        node("MaxPool", ["n"], ["y"], kernel_shape=[3, 3], pads=[1, 1, 1, 1]),
    ],
    "a matrix at the end": [CONV, node("Flatten", ["c"], ["f"]), node("Reshape", ["f", "flat"], ["y"])],
    "a product of pictures": [CONV, node("MatMul", ["c", "rows"], ["y"])],
    "one operand in rows": [CONV, node("Add", ["c", "rows"], ["a"]), node("Add", ["a", "bias"], ["y"])],
    "turned twice": [
        CONV,
        node("Transpose", ["c"], ["t"], perm=[0, 2, 3, 1]),
        node("Relu", ["t"], ["r"]),
        node("Transpose", ["r"], ["u"], perm=[0, 3, 1, 2]),
        node("Conv", ["u", "one"], ["y"]),
    ],
    "read by two": [
        CONV,
        node("Relu", ["c"], ["r"]),
        node("Conv", ["r", "one"], ["d"]),
        node("Add", ["d", "c"], ["y"]),
    ],
}


@pytest.mark.parametrize("target", WIDTHS)
@pytest.mark.parametrize("what", CASES)
def test_blocked_values(what: str, target: str) -> None:
    nodes = CASES[what]
    used = {name for n in nodes for name in n.input}
    initializers = {name: array for name, array in WEIGHTS.items() if name in used}
    proto = model(nodes, [info("x", shape=[1, 16, 9, 9])], ["y"], initializers=initializers, opset=20)
    assert_agrees(
        proto, {"x": normal(1, 16, 9, 9)}, target=target_or_skip(target), require_compiled=True, tolerance=2e-5
    )


def test_threads_that_bring_new_shapes_at_once() -> None:
    feeds = {rows: {"x": normal(rows, 19)} for rows in range(1, 6)}
    expected = {rows: graphc.compile(perceptron(rows))(feeds[rows])["y"] for rows in feeds}
    module = graphc.compile(perceptron("batch"), open_variants=False)
    order = [*feeds] * 4
    with concurrent.futures.ThreadPoolExecutor(6) as pool:
        answers = list(pool.map(lambda rows: module(feeds[rows])["y"], order))
    for rows, answer in zip(order, answers, strict=True):
        np.testing.assert_array_equal(answer, expected[rows])
    assert len(module.variants) == len(feeds)
