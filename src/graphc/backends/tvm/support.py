"""Which nodes have a compiled form on CPUs, and why others have none."""

from __future__ import annotations

from graphc.backends.heads import heads_of_region
from graphc.backends.regions import body_of
from graphc.backends.support import TEMPLATED, expression_refusal, has_elements, is_open, node_refusal
from graphc.backends.tvm import operators, scalar_ops
from graphc.errors import BackendError
from graphc.ir import GRAPHC_DOMAIN, Node
from graphc.target import Target, Verdict, accepted, refused

BOUND_ONLY = frozenset({"ConvTranspose", "LpPool", "ConvInteger", "MatMulInteger", "QLinearConv"})
"""Operators that would be slow without a template, none of which takes open extents of theirs yet."""


def supports(node: Node, target: Target) -> Verdict:
    """Whether a node compiles for `target`, with the types it has now.

    Open extents are those of symbols that the graph bounds; some operators have kernels for bound ones alone.
    """
    if node.is_op("Region", GRAPHC_DOMAIN):
        return accepted()
    if reason := node_refusal(node):
        return refused(reason)
    if node.domain == "" and node.op_type in TEMPLATED:
        return _attention(node) if has_elements(node) else refused("a tensor without elements")
    own = (node.domain, node.op_type) in operators.OPERATORS and node.op_type not in operators.OPEN
    if is_open(node) and (node.op_type in BOUND_ONLY or own):
        return refused(f"{node.op_type} has kernels for bound extents only")
    if (node.domain, node.op_type) in operators.OPERATORS:
        return operators.supports(node, target)
    reason = expression_refusal(node, scalar_ops.is_supported)
    return refused(reason) if reason else accepted()


def _attention(node: Node) -> Verdict:
    try:
        heads_of_region(body_of(node))
    except BackendError as refusal:
        return refused(refusal.message)
    return accepted()
