"""Is a difference behind a rounding to integers no more than the rounding of floats before it?

A sum of floats in another order differs in its last bits, and where it lies by a half, quantizing makes a whole step of
that. What a node may then answer lies between what it answers with everything that it quantizes a little less, and a
little more: by as much as floats may differ, of the range of the integers.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np

from graphc.ir import GRAPHC_DOMAIN, Builder, Graph, Node, TensorType, Value
from graphc.ops.evaluate import evaluate_graph, evaluate_node
from graphc.ops.quantization import spread
from graphc.testing.verification import Tolerance

_FEW = 4
"""Quantizers of which all combinations are tried."""


def rounds_alike(node: Node, operands: Sequence[Any], index: int, found: Any, tolerance: Tolerance | None) -> bool:
    """Whether a region that quantizes may answer `found`, on which side of a half its floats ever fall.

    Args:
        node: What was computed.
        operands: Data of its inputs.
        index: Which of its outputs.
        found: What that was.
        tolerance: By how much floats may differ, of the largest.
    """
    if not isinstance(found, np.ndarray) or found.dtype.kind in "OSUc":
        return False
    share = (tolerance or Tolerance()).scale
    answers = [np.asarray(answer).astype(np.float64) for answer in _answers(node, operands, index, share)]
    if not answers or any(answer.shape != found.shape for answer in answers):
        return False
    value = found.astype(np.float64)
    slack = 0.0 if found.dtype.kind in "iub" else share * max(float(np.abs(a).max(initial=0)) for a in answers)
    inside = (value >= np.minimum.reduce(answers) - slack) & (value <= np.maximum.reduce(answers) + slack)
    return bool(np.all(inside | (np.isnan(answers[0]) & np.isnan(value))))


def _answers(node: Node, operands: Sequence[Any], index: int, share: float) -> Iterator[Any]:
    """What a node answers with a share of the integers' range added to, or taken from, all that it quantizes."""
    if _quantizes(node):
        x, scale = np.asarray(operands[0]), np.asarray(operands[1])
        amount = spread(node, scale, x.shape) * (share * 2.0 ** node.outputs[0].tensor_type.dtype.bits)
        for nudged in (x - amount, x + amount):
            yield evaluate_node(node, [nudged.astype(x.dtype), *operands[1:]])[index]
    elif node.is_op("Region", GRAPHC_DOMAIN):
        body = node.graph_attribute("body")
        number = sum(map(_quantizes, body.nodes))
        for signs in _signs(number):
            yield evaluate_graph(_nudged(body, [sign * share for sign in signs]), operands)[index]


def _signs(number: int) -> Iterator[tuple[int, ...]]:
    """Which way each of some quantizers is nudged: all ways of a few, else each alone and all together."""
    if 0 < number <= _FEW:
        yield from itertools.product((-1, 1), repeat=number)
    elif number:
        for sign in (-1, 1):
            yield (sign,) * number
            yield from (tuple(sign * (place == other) for other in range(number)) for place in range(number))


def _quantizes(node: Node) -> bool:
    """Whether a node quantizes by scales that are no blocks."""
    return node.is_op("QuantizeLinear") and not node.int_attribute("block_size", 0)


def _nudged(body: Graph, shares: Sequence[float]) -> Graph:
    """`body` with a share of the integers' range added to what each of its quantizers reads."""
    copy = body.clone()
    quantizers = [node for node in copy.nodes if _quantizes(node)]
    for node, share in zip(quantizers, shares, strict=True):
        x, scale = node.inputs[:2]
        made = node.outputs[0].type
        assert x is not None and scale is not None and isinstance(made, TensorType)
        builder = Builder(copy, before=node)
        amount = np.array(share * 2.0**made.dtype.bits, scale.tensor_type.dtype.numpy)
        step = builder.op("Mul", scale, builder.constant(amount), version=14)
        node.set_input(0, builder.op("Add", x, _along(builder, node, x, scale, step), version=14))
    return copy


def _along(builder: Builder, node: Node, x: Value, scale: Value, step: Value) -> Value:
    """A number for each place of the quantizer's axis, to be added to its input."""
    rank = len(x.tensor_type.dims)
    if len(scale.tensor_type.dims) != 1 or rank < 2:
        return step
    axis = node.int_attribute("axis", 1) % rank
    others = [place for place in range(rank) if place != axis]
    return builder.op("Unsqueeze", step, builder.constant(np.array(others)), version=13)
