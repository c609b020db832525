"""Shapes that a model declares and nothing proves: where only values tell a shape, a declaration may be wrong.

Kernels compiled for it would answer wrongly wherever the elements happen to suffice. So nodes whose shapes are declared
alone run on the host, where what they make is compared with its type. Those whose values are given to the compile, or
compiled for when they come, have shapes that follow, and are none of them.
"""

from __future__ import annotations

from graphc.errors import GraphcError
from graphc.ir import GRAPHC_DOMAIN, Graph, Node, TensorType, Type, clone_node
from graphc.ops.base import Trait, find
from graphc.ops.compiler_ops import HELD
from graphc.ops.evaluate import captured_inputs
from graphc.ops.inference import Inference
from graphc.ops.parameter_inputs import unknowns

_DERIVED = frozenset({Trait.POINTWISE, Trait.CONTRACTION, Trait.NORMALIZATION})
"""What has the shapes of its inputs, whatever their values."""

_CHECKED = frozenset({Trait.DATA_DEPENDENT})
"""What runs on the host in any case."""


def hold_declared(graph: Graph) -> int:
    """Puts each node with a shape that is only declared into a node that runs on the host; answers how many.

    Args:
        graph: With shapes and values bound and types inferred; nested graphs are gone through too.
    """
    inference, held = Inference(), 0
    for inner in list(graph.all_graphs()):
        for node in list(inner.nodes):
            found = _derived(inference, node)
            if found is not None and any(map(_is_claim, (value.type for value in node.outputs), found)):
                _hold(inner, node, found)
                held += 1
    return held


def _derived(inference: Inference, node: Node) -> list[Type | None] | None:
    """Types of the outputs as inputs alone tell them; None where they are what they are for sure."""
    operator = find(node)
    if operator is None or node.is_op("Constant") or operator.traits & (_DERIVED | _CHECKED):
        return None
    given = (*node.inputs, *captured_inputs(node))
    if any(value is not None and _is_open(value.type) for value in given):
        # Shapes that are not known are no kernel's.
        return None
    try:
        return inference.infer(node)
    except GraphcError:
        # A branch that does not fit raises when it is taken.
        return None


def _is_open(kind: Type | None) -> bool:
    return not isinstance(kind, TensorType) or kind.shape is None or bool(unknowns(kind))


def _is_claim(declared: Type | None, found: Type | None) -> bool:
    return isinstance(found, TensorType) and _is_open(found) and not _is_open(declared)


def _hold(graph: Graph, node: Node, found: list[Type | None]) -> None:
    body = graph.nested("held")
    given = list(dict.fromkeys(value for value in node.inputs if value is not None))
    inner = {value: body.add_input(body.fresh_name(value.name), value.type) for value in given}
    names = [value.name for value in node.outputs]
    copy = clone_node(node, inner, [body.fresh_name(name) if name else "" for name in names])
    for value, kind in zip(copy.outputs, found, strict=True):
        value.type = kind
    body.append(copy)
    made = [index for index, name in enumerate(names) if name]
    body.outputs = [copy.outputs[index] for index in made]
    holder = Node(
        HELD, given, [names[index] for index in made], {"body": body}, domain=GRAPHC_DOMAIN, version=1,
        name=node.name, origins=node.origins or ((node.name,) if node.name else ()),
    )  # fmt: skip
    graph.insert_before(holder, node)
    for index, value in zip(made, holder.outputs, strict=True):
        value.type = node.outputs[index].type
        node.outputs[index].replace_all_uses(value)
    graph.remove(node)
