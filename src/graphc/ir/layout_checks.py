"""The check that every value comes in a layout that its readers accept.

What a graph computes does not depend on layouts, so no evaluation of it can see a missing relayout: this check is what
sees it. Rules come from where layouts are given out; an operator without one reads and makes row-major tensors only.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import TypeAlias

from graphc.ir.check import Check, Problem, all_nodes, graphs_with_holders, is_region
from graphc.ir.graph import GRAPHC_DOMAIN, Graph, Node, Value
from graphc.ir.types import TensorType

LayoutRule: TypeAlias = Callable[[Node], str | None]
"""Says why a node cannot work with the layouts that its inputs and outputs have, None where it can."""

ANY_OPERATOR = "*"

_RULES: dict[tuple[str, str], LayoutRule] = {}


def register_layout_rule(op_type: str, rule: LayoutRule, *, domain: str = "") -> None:
    """Makes `rule` the judge of the layouts around nodes of an operator, in place of any rule before it.

    Args:
        op_type: The operator, or `ANY_OPERATOR` for all that have no rule of their own, whatever their domain.
        rule: The judge; one for all operators should answer with `row_major_only` for those that it does not know.
        domain: The operator's domain.
    """
    _RULES[domain, op_type] = rule


def row_major_only(node: Node) -> str | None:
    """The rule that every input and output is row-major."""
    for what, values in (("input", node.inputs), ("output", node.outputs)):
        for index, value in enumerate(values):
            if value is not None and _has_layout(value):
                return f"{what} {index} of {node.op} must be row-major, not {value.type}"
    return None


def _relayout(node: Node) -> str | None:
    """Any layout to any other, of the same values."""
    if len(node.inputs) != 1 or node.inputs[0] is None or len(node.outputs) != 1:
        return "a relayout has one input and one output"
    source, result = node.inputs[0].type, node.outputs[0].type
    if not isinstance(source, TensorType) or not isinstance(result, TensorType):
        return None if source is None or result is None else "a relayout is of a tensor"
    same = (source.dtype, source.shape) == (result.dtype, result.shape)
    return None if same else f"a relayout changes {source} into {result}"


def _any(node: Node) -> str | None:
    """A region's types are those of its body (check `regions`), whose nodes have rules of their own."""
    return None


register_layout_rule(ANY_OPERATOR, row_major_only)
register_layout_rule("Relayout", _relayout, domain=GRAPHC_DOMAIN)
register_layout_rule("Region", _any, domain=GRAPHC_DOMAIN)


def _has_layout(value: Value) -> bool:
    return isinstance(value.type, TensorType) and not value.type.layout.is_row_major


def _edges(graph: Graph) -> Iterator[Problem]:
    for node in all_nodes(graph):
        rule = _RULES.get((node.domain, node.op_type)) or _RULES["", ANY_OPERATOR]
        reason = rule(node)
        if reason:
            yield Problem(reason, node)


def _boundary(graph: Graph) -> Iterator[Problem]:
    for inner, holder in graphs_with_holders(graph):
        if holder is not None and is_region(holder):
            continue
        for value in inner.outputs:
            if _has_layout(value):
                yield Problem(
                    f"graph {inner.name} returns %{value.name} as {value.type}, not row-major", value.producer
                )
        for value in inner.inputs:
            if _has_layout(value):
                yield Problem(f"graph {inner.name} takes %{value.name} as {value.type}, not row-major", holder)


LAYOUT_CHECKS = (
    Check("layout edges", "every value is in a layout that the operators which make and read it can do", _edges),
    Check("layout boundary", "what graphs take and return is row-major, regions' bodies aside", _boundary),
)
