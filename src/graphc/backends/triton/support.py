"""Which nodes have a compiled form on GPUs, and why others have none."""

from __future__ import annotations

from graphc.backends.regions import body_of, constants_of
from graphc.backends.support import TEMPLATED, expression_refusal, has_elements, is_open, node_refusal
from graphc.backends.triton import scalar_ops
from graphc.backends.triton.templates import OPERATORS, TEMPLATES, Lower
from graphc.errors import BackendError
from graphc.ir import GRAPHC_DOMAIN, Node
from graphc.target import CudaTarget, Verdict, accepted, refused


def supports(node: Node, target: CudaTarget) -> Verdict:
    """Whether a node compiles for `target`, with the types it has now."""
    if node.is_op("Region", GRAPHC_DOMAIN):
        return accepted()
    if reason := node_refusal(node):
        return refused(reason)
    if is_open(node):
        return refused("kernels of GPUs are made for bound extents only")
    own = OPERATORS.get((node.domain, node.op_type))
    if own is not None:
        return _taken(node, target, own)
    if node.domain == "" and node.op_type in TEMPLATED:
        return _templated(node, target)
    reason = expression_refusal(node, scalar_ops.is_supported)
    return refused(reason) if reason else accepted()


def _templated(node: Node, target: CudaTarget) -> Verdict:
    """Whether the template called like an operator takes it."""
    template = dict(TEMPLATES).get(node.op_type.lower())
    if template is None:
        return refused(f"{node.op} has no kernel yet")
    return _taken(node, target, template) if has_elements(node) else refused("a tensor without elements")


def _taken(node: Node, target: CudaTarget, template: Lower) -> Verdict:
    """Whether a template takes a node: it writes the kernel, and compiles nothing."""
    constants = constants_of(node)
    try:
        template(body_of(node), target, constants, {})
    except BackendError as refusal:
        return refused(refusal.message)
    return accepted()
