"""The losses of ai.onnx spelled out: a logarithm of a softmax, a gather along the classes, and a weighted sum."""

from __future__ import annotations

import numpy as np

from graphc.ir import Builder, Node, Value, dtypes
from graphc.ops.contrib import Values, given, needed, numbers
from graphc.ops.decomposition import decomposed, scalar_like


def _widened(b: Builder, x: Value) -> Value:
    """`x` in the type in which its sums are formed."""
    dtype = x.tensor_type.dtype
    return b.op("Cast", x, to=dtypes.FLOAT32.onnx) if dtype.is_float and dtype.bits < 32 else x


def _likelihood(b: Builder, node: Node, logs: Value, labels: Value, weights: Value | None) -> Value:
    """Negative log-likelihood of `labels` in the dtype of `logs`, weighted by class and reduced."""
    ignore = node.attributes.get("ignore_index")
    counted: Value | None = None
    if isinstance(ignore, int):
        ignored = b.op("Equal", labels, b.constant(np.array(ignore, labels.tensor_type.dtype.numpy)))
        # An ignored label need not be a class: it reads the first one, and what it reads counts for nothing.
        labels = b.op("Where", ignored, b.constant(np.array(0, labels.tensor_type.dtype.numpy)), labels)
        counted = b.op("Not", ignored)
    places = b.op("Unsqueeze", labels, numbers(b, 1))
    loss = b.op("Neg", b.op("Squeeze", b.op("GatherElements", logs, places, axis=1), numbers(b, 1)))
    scale: Value | None = None
    if weights is not None:
        scale = b.op("Gather", weights, labels)
        loss = b.op("Mul", loss, scale)
    if counted is not None:
        zero = scalar_like(b, 0.0, loss)
        loss = b.op("Where", counted, loss, zero)
        weight = scalar_like(b, 1.0, loss) if scale is None else scale
        scale = b.op("Where", counted, weight, zero)
    match node.str_attribute("reduction", "mean"):
        case "none":
            return loss
        case "sum":
            return b.op("ReduceSum", loss, keepdims=0)
    if scale is None:
        return b.op("ReduceMean", loss, keepdims=0)
    return b.op("Div", b.op("ReduceSum", loss, keepdims=0), b.op("ReduceSum", scale, keepdims=0))


def _weights(b: Builder, x: Values) -> Value | None:
    weights = given(x, 2)
    return None if weights is None else _widened(b, weights)


def _negative_log_likelihood(b: Builder, node: Node, x: Values) -> Values:
    logs = needed(x, 0)
    loss = _likelihood(b, node, _widened(b, logs), needed(x, 1), _weights(b, x))
    return [b.op("Cast", loss, to=logs.tensor_type.dtype.onnx)]


def _softmax_cross_entropy(b: Builder, node: Node, x: Values) -> Values:
    scores = needed(x, 0)
    target = scores.tensor_type.dtype.onnx
    logs = b.op("LogSoftmax", _widened(b, scores), axis=1)
    loss = _likelihood(b, node, logs, needed(x, 1), _weights(b, x))
    return [b.op("Cast", loss, to=target), b.op("Cast", logs, to=target)]


decomposed("NegativeLogLikelihoodLoss", _negative_log_likelihood, define=False)
decomposed("SoftmaxCrossEntropyLoss", _softmax_cross_entropy, define=False)
