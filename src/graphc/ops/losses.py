"""Losses, which inference models carry now and then."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from graphc.ir import Node, Type
from graphc.ops.base import Array, Datum, InferenceContext, Operator, register
from graphc.ops.contraction import wide


def _loss_shape(ctx: InferenceContext) -> Type:
    scores, labels = ctx.shape(0), ctx.shape(1)
    if len(scores) < 2 or len(labels) != len(scores) - 1:
        ctx.fail(f"labels of shape {list(labels)} do not fit scores of shape {list(scores)}")
    expected = (scores[0], *scores[2:])
    if any(isinstance(a, int) and isinstance(b, int) and a != b for a, b in zip(labels, expected, strict=True)):
        ctx.fail(f"labels of shape {list(labels)} do not fit scores of shape {list(scores)}")
    reduction = ctx.node.str_attribute("reduction", "mean")
    if reduction not in ("none", "sum", "mean"):
        ctx.fail(f"reduction {reduction!r} is none of none, sum, mean")
    return ctx.tensor(0).with_shape(expected if reduction == "none" else ())


def _infer_likelihood(ctx: InferenceContext) -> Sequence[Type]:
    return [_loss_shape(ctx)]


def _infer_cross_entropy(ctx: InferenceContext) -> Sequence[Type]:
    return [_loss_shape(ctx), ctx.tensor(0).with_shape(ctx.shape(0))][: max(len(ctx.node.outputs), 1)]


def _likelihood(node: Node, log_probabilities: Array, labels: Array, weights: Array | None) -> Array:
    """Negative log-likelihood of `labels`, weighted by class and reduced; ignored labels weigh nothing."""
    ignored = node.attributes.get("ignore_index")
    counted = np.ones(labels.shape, bool) if ignored is None else labels != ignored
    safe = np.where(counted, labels, 0)
    picked = np.take_along_axis(log_probabilities, np.expand_dims(safe, 1), axis=1).squeeze(1)
    scale = counted.astype(log_probabilities.dtype) if weights is None else np.where(counted, weights[safe], 0)
    # What is ignored counts for nothing, were its likelihood 0.
    loss: Array = np.where(counted, -picked * scale, 0)
    reduction = node.str_attribute("reduction", "mean")
    if reduction == "none":
        return loss
    return np.asarray(loss.sum() / scale.sum() if reduction == "mean" else loss.sum())


def _evaluate_likelihood(node: Node, inputs: Sequence[Datum]) -> Sequence[Datum]:
    scores, labels, weights = [*inputs, None][:3]
    loss = _likelihood(node, wide(scores), labels, None if weights is None else wide(weights))
    return [loss.astype(scores.dtype)]


def _evaluate_cross_entropy(node: Node, inputs: Sequence[Datum]) -> Sequence[Datum]:
    scores, labels, weights = [*inputs, None][:3]
    shifted = wide(scores) - wide(scores).max(axis=1, keepdims=True)
    logs = shifted - np.log(np.exp(shifted).sum(axis=1, keepdims=True))
    loss = _likelihood(node, logs, labels, None if weights is None else wide(weights))
    return [loss.astype(scores.dtype), logs.astype(scores.dtype)]


register(Operator("NegativeLogLikelihoodLoss", _infer_likelihood, _evaluate_likelihood))
register(Operator("SoftmaxCrossEntropyLoss", _infer_cross_entropy, _evaluate_cross_entropy))
