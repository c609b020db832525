"""What classical models do with their scores last: transforms, the second class of two, labels by number.

Where the specification says little, results are those of ONNX Runtime.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from graphc.ir import Builder, Value
from graphc.ops.decomposition import scalar_like

TRANSFORMS = ("NONE", "LOGISTIC", "SOFTMAX", "SOFTMAX_ZERO", "PROBIT")


def post_transformed(b: Builder, scores: Value, transform: str) -> Value:
    """Scores, (rows, classes), after `transform`."""
    if transform == "LOGISTIC":
        return b.op("Sigmoid", scores)
    if transform == "SOFTMAX":
        return b.op("Softmax", scores, axis=1)
    if transform == "SOFTMAX_ZERO":
        return _softmax_of_nonzero(b, scores)
    if transform == "PROBIT":
        return _probit(b, scores)
    return scores


def _softmax_of_nonzero(b: Builder, scores: Value) -> Value:
    """A softmax in which scores of about zero stay what they are, scaled."""
    axis = b.constant(np.array([1]))
    peak = b.op("ReduceMax", scores, axis)
    small = b.op("Less", b.op("Abs", scores), scalar_like(b, 1e-7, scores))
    scaled = b.op("Mul", scores, b.op("Exp", b.op("Neg", peak)))
    grown = b.op("Where", small, scaled, b.op("Exp", b.op("Sub", scores, peak)))
    return b.op("Div", grown, b.op("ReduceSum", grown, axis))


def _probit(b: Builder, scores: Value) -> Value:
    """The normal distribution's quantiles, by S. Winitzki's approximation of the inverse error function (2008)."""

    def number(value: float) -> Value:
        return scalar_like(b, value, scores)

    x = b.op("Sub", b.op("Mul", scores, number(2)), number(1))
    log = b.op("Log", b.op("Mul", b.op("Sub", number(1), x), b.op("Add", number(1), x)))
    v = b.op("Add", b.op("Mul", log, number(0.5)), number(2 / (np.pi * 0.147)))
    inside = b.op("Sub", b.op("Mul", v, v), b.op("Mul", log, number(1 / 0.147)))
    size = b.op("Sqrt", b.op("Sub", b.op("Sqrt", inside), v))
    sign = b.op("Where", b.op("Less", x, number(0)), number(-1), number(1))
    return b.op("Mul", b.op("Mul", size, sign), number(1.41421356))


def with_second_class(b: Builder, score: Value, transform: str, *, probability: bool) -> Value:
    """Scores of two classes, (rows, 2), from that of the second, (rows, 1).

    Args:
        b: Where nodes go.
        score: The score.
        transform: What follows; only LOGISTIC changes anything, which is ONNX Runtime's reading.
        probability: Whether the score is a probability, whose opposite is 1 - p; else it is a margin, whose is -m.
    """
    both = b.op("Concat", b.op("Neg", score), score, axis=1)
    if transform == "LOGISTIC":
        return b.op("Sigmoid", both)
    if probability:
        return b.op("Concat", b.op("Sub", scalar_like(b, 1, score), score), score, axis=1)
    return both


def labels_of(b: Builder, number: Value, labels: Sequence[int] | Sequence[str]) -> Value:
    """The label of each number, (rows): the numbers themselves where labels count up from 0."""
    if list(labels) == list(range(len(labels))):
        return number
    if isinstance(labels[0], str):
        return b.op("Gather", b.constant(np.array(labels, object)), number, axis=0)
    return b.op("Gather", b.constant(np.array(labels, np.int64)), number, axis=0)
