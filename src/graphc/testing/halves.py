"""Is a difference behind a rounding to integers no more than the rounding of floats before it?

A sum of floats in another order differs in its last bits, and where it lies by a half, quantizing makes a whole step of
that. What a node may then answer lies between what it answers with everything that it quantizes a little less, and a
little more: by as much as floats may differ, of the range of the integers.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from graphc.ir import GRAPHC_DOMAIN, Builder, Graph, Node, TensorType, Value
from graphc.ops.evaluate import evaluate_graph, evaluate_node
from graphc.ops.quantization import spread
from graphc.testing.verification import Tolerance


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
    sides = [_answer(node, operands, index, sign * share) for sign in (-1, 1)]
    low, high = sides
    if low is None or high is None:
        return False
    if low.shape != found.shape or low.dtype != found.dtype:
        return False
    left, right, value = (array.astype(np.float64) for array in (low, high, found))
    slack = share * max(float(np.abs(left).max(initial=0)), float(np.abs(right).max(initial=0)))
    slack = slack if found.dtype.kind not in "iub" else 0.0
    inside = (value >= np.minimum(left, right) - slack) & (value <= np.maximum(left, right) + slack)
    return bool(np.all(inside | (np.isnan(left) & np.isnan(value))))


def _answer(node: Node, operands: Sequence[Any], index: int, share: float) -> Any:
    """What a node answers with a share of the integers' range added to what it quantizes; None where it does not."""
    if _quantizes(node):
        x, scale = np.asarray(operands[0]), np.asarray(operands[1])
        amount = spread(node, scale, x.shape) * scale.dtype.type(share * 2.0 ** node.outputs[0].tensor_type.dtype.bits)
        return evaluate_node(node, [x + amount.astype(x.dtype), *operands[1:]])[index]
    if not node.is_op("Region", GRAPHC_DOMAIN):
        return None
    nudged = _nudged(node.graph_attribute("body"), share)
    return None if nudged is None else evaluate_graph(nudged, operands)[index]


def _quantizes(node: Node) -> bool:
    """Whether a node quantizes by scales that are no blocks."""
    return node.is_op("QuantizeLinear") and not node.int_attribute("block_size", 0)


def _nudged(body: Graph, share: float) -> Graph | None:
    """`body` with a share of the integers' range added to all that it quantizes; None where it quantizes nothing."""
    copy = body.clone()
    quantizers = [
        node for node in copy.nodes if node.is_op("QuantizeLinear") and not node.int_attribute("block_size", 0)
    ]
    for node in quantizers:
        x, scale = node.inputs[:2]
        made = node.outputs[0].type
        assert x is not None and scale is not None and isinstance(made, TensorType)
        builder = Builder(copy, before=node)
        amount = np.array(share * 2.0**made.dtype.bits, scale.tensor_type.dtype.numpy)
        step = builder.op("Mul", scale, builder.constant(amount), version=14)
        node.set_input(0, builder.op("Add", x, _along(builder, node, x, scale, step), version=14))
    return copy if quantizers else None


def _along(builder: Builder, node: Node, x: Value, scale: Value, step: Value) -> Value:
    """A number for each place of the quantizer's axis, to be added to its input."""
    rank = len(x.tensor_type.dims)
    if len(scale.tensor_type.dims) != 1 or rank < 2:
        return step
    axis = node.int_attribute("axis", 1) % rank
    others = [place for place in range(rank) if place != axis]
    return builder.op("Unsqueeze", step, builder.constant(np.array(others)), version=13)
