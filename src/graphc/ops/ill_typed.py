"""Branches that do not fit the shapes a model is compiled for: no error of the model unless one of them is taken.

Exporters write branches for every rank and every setting a model was meant for, one of which each call takes. An If is
typed by the branches that fit. In place of one that does not, its graph raises the error that inference found.
"""

from __future__ import annotations

from collections.abc import Sequence

from graphc.errors import ExecutionError, TypeInferenceError
from graphc.ir import GRAPHC_DOMAIN, Graph, Node, OptionalType, SequenceType, TensorType, Type
from graphc.ops.base import Datum, InferenceContext, Operator, Trait, register

RAISE = "Raise"


def make_raising(graph: Graph, error: TypeInferenceError, types: Sequence[Type]) -> None:
    """Empties a subgraph and lets it raise what is wrong with it.

    Args:
        graph: A branch.
        error: What inference found.
        types: What the branch would have to answer.
    """
    graph.outputs = ()
    for node in reversed(list(graph.nodes)):
        graph.remove(node)
    results = []
    for kind in types:
        name = graph.fresh_name("raised")
        attributes = {"message": error.message, "type": kind}
        node = Node(RAISE, (), [name], attributes, domain=GRAPHC_DOMAIN, version=1, origins=error.nodes)
        graph.append(node).output.type = kind
        results.append(node.output)
    graph.outputs = results


def _infer(ctx: InferenceContext) -> Sequence[Type]:
    kind = ctx.node.attributes.get("type")
    if not isinstance(kind, TensorType | SequenceType | OptionalType):
        ctx.fail(f"answers {kind!r}, which is no type of a branch's output")
    return [kind]


def _evaluate(node: Node, inputs: Sequence[Datum]) -> Sequence[Datum]:
    raise ExecutionError(
        f"the branch taken does not fit the shapes that the model was compiled for: {node.str_attribute('message', '')}"
    )


register(Operator(RAISE, _infer, _evaluate, domain=GRAPHC_DOMAIN, traits=frozenset({Trait.DATA_DEPENDENT})))
