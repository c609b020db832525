"""Operators that the compiler makes, of domain `graphc`: fused regions and changes of layout.

- `Region` holds its body as attribute `body` (a closed graph: it captures nothing) and what made it as `kind`. It
  computes what its body computes.
- `Held` holds a node in attribute `body` and keeps it as it is, on the host, where its outputs' shapes are checked.
- `Relayout` copies its input into the layout of its output's type. The values stay the same.
"""

from __future__ import annotations

from collections.abc import Sequence

from graphc.ir import GRAPHC_DOMAIN, Node, Type
from graphc.ops.base import Datum, ExpressionContext, InferenceContext, Operator, Trait, register
from graphc.ops.control import captured_data
from graphc.ops.evaluate import evaluate_graph
from graphc.ops.expr import TensorExpr, axes_of, load
from graphc.ops.indexing import indices_of

HELD = "Held"


def _infer_region(ctx: InferenceContext) -> Sequence[Type]:
    body = ctx.node.graph_attribute("body")
    if len(body.inputs) != len(ctx.inputs):
        ctx.fail(f"body takes {len(body.inputs)} inputs, the node has {len(ctx.inputs)}")
    for inner, kind in zip(body.inputs, ctx.inputs, strict=True):
        inner.type = kind
    ctx.infer_subgraph(body)
    types = []
    for value in body.outputs:
        if value.type is None:
            ctx.fail(f"the type of the body's output {value.name!r} is unknown")
        types.append(value.type)
    return types


def _evaluate_region(node: Node, inputs: Sequence[Datum]) -> Sequence[Datum]:
    return evaluate_graph(node.graph_attribute("body"), inputs)


def _infer_relayout(ctx: InferenceContext) -> Sequence[Type]:
    kind = ctx.tensor(0)
    made = ctx.node.outputs[0].type
    declared = getattr(made, "layout", None)
    return [kind if declared is None else kind.with_layout(declared)]


def _evaluate_relayout(node: Node, inputs: Sequence[Datum]) -> Sequence[Datum]:
    return [inputs[0]]


def _express_relayout(ctx: ExpressionContext) -> Sequence[TensorExpr]:
    kind = ctx.tensor(0)
    axes = axes_of(kind.dims)
    return [TensorExpr(axes, load(0, kind.dtype, indices_of(axes)))]


def held_node(node: Node) -> Node:
    """The node that a `Held` holds; another node itself."""
    return next(iter(node.graph_attribute("body").nodes)) if node.is_op(HELD, GRAPHC_DOMAIN) else node


def _evaluate_held(node: Node, data: Sequence[Datum]) -> Sequence[Datum]:
    count = len(node.inputs)
    return evaluate_graph(node.graph_attribute("body"), data[:count], captured=captured_data(node, data))


register(Operator("Region", _infer_region, _evaluate_region, domain=GRAPHC_DOMAIN))
register(
    Operator(
        HELD,
        _infer_region,
        _evaluate_held,
        domain=GRAPHC_DOMAIN,
        traits=frozenset({Trait.CONTROL, Trait.DATA_DEPENDENT}),
    )
)
register(
    Operator(
        "Relayout",
        _infer_relayout,
        _evaluate_relayout,
        domain=GRAPHC_DOMAIN,
        traits=frozenset({Trait.MOVEMENT}),
        expression=_express_relayout,
    )
)
