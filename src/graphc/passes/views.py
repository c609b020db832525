"""Nodes whose result is their first input's bytes under another type."""

from __future__ import annotations

from graphc.ir import Layout, Node, TensorType
from graphc.ops.base import Trait, find
from graphc.ops.movement import permutation


def is_view(node: Node) -> bool:
    """Whether a node only says that storage has another shape, or that its axes are other ones."""
    operator = find(node)
    return operator is not None and (operator.has(Trait.VIEW) or turns_no_bytes(node))


def turns_no_bytes(node: Node) -> bool:
    """Whether a Transpose finds its result's order in storage already: of channels that are last, to the last axis."""
    if not node.is_op("Transpose") or node.inputs[0] is None:
        return False
    source, made = node.inputs[0].type, node.output.type
    if not isinstance(source, TensorType) or not isinstance(made, TensorType) or source.shape is None:
        return False
    orders = [_order(kind.layout, len(source.shape)) for kind in (source, made)]
    # Row-major to row-major is the business of whoever simplifies graphs.
    if None in orders or (source.layout.is_row_major and made.layout.is_row_major):
        return False
    turned = permutation(node, len(source.shape))
    return orders[0] == tuple(turned[axis] for axis in orders[1] or ())


def _order(layout: Layout, rank: int) -> tuple[int, ...] | None:
    """The order of axes in storage, where that is all that a layout says."""
    return layout.order or tuple(range(rank)) if layout == Layout(order=layout.order) else None
