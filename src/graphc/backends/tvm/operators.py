"""Operators that a template of their own takes one at a time: loops that no tensor expression says, like a sort."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, TypeAlias

from graphc.backends.base import Kernel
from graphc.backends.regions import body_of, constants_of, sole_node
from graphc.backends.tvm import determinant, linear_attention, recurrent, scan, scatter, top_k, trees
from graphc.errors import BackendError
from graphc.ir import GRAPHC_DOMAIN, Graph, Node
from graphc.ops.recurrent import RECURRENCE
from graphc.ops.trees import TREES
from graphc.target import Target, Verdict, accepted, refused

Lower: TypeAlias = "Callable[[Graph, Target, frozenset[int], Mapping[str, Any]], Kernel]"
"""Body, target, numbers of the inputs that are constants, options. Raises BackendError with the reason it refuses."""

OPERATORS: Mapping[tuple[str, str], Lower] = {
    ("", "CumProd"): scan.lower,
    ("", "CumSum"): scan.lower,
    ("", "Det"): determinant.lower,
    ("", "Scatter"): scatter.lower,
    ("", "ScatterElements"): scatter.lower,
    ("", "ScatterND"): scatter.lower,
    ("", "LinearAttention"): linear_attention.lower,
    ("", "TopK"): top_k.lower,
    (GRAPHC_DOMAIN, RECURRENCE): recurrent.lower,
    (GRAPHC_DOMAIN, TREES): trees.lower,
}
"""The template of each such operator, by domain and name. Tensors without elements come to it too."""


OPEN = frozenset({"CumProd", "CumSum", RECURRENCE})
"""Those of them whose templates take open extents."""


def template_of(body: Graph) -> Lower | None:
    """The template of the one node of a body, if it is such an operator."""
    node = sole_node(body)
    return None if node is None else OPERATORS.get((node.domain, node.op_type))


def supports(node: Node, target: Target) -> Verdict:
    """Whether the template of such an operator takes a node: it plans the kernel, and compiles nothing."""
    constants = constants_of(node)
    try:
        OPERATORS[node.domain, node.op_type](body_of(node), target, constants, {})
    except BackendError as refusal:
        return refused(refusal.message)
    return accepted()
