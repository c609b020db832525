"""Operators that are defined by others: a function writes the graph of standard operators that one node stands for.

Type inference and evaluation of such an operator are those of that graph, and `expand` puts the graph into the node's
place, so that what compiles for the standard operators compiles for it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import TypeAlias

import numpy as np

from graphc.errors import TypeInferenceError
from graphc.ir import Builder, Graph, Node, TensorType, Type, Value, dtypes
from graphc.ops.base import Datum, Express, InferenceContext, Operator, Trait, node_names, register
from graphc.ops.evaluate import evaluate_graph
from graphc.ops.inference import infer_node

Decompose: TypeAlias = Callable[[Builder, Node, Sequence[Value | None]], Sequence[Value | None] | None]
"""Adds the nodes that a node stands for, reading the values given in place of its inputs; answers its outputs.

None says that it stands for nothing as long as these inputs are not known better; nothing was added then.
"""

_UNFIT = (ValueError, IndexError, KeyError, TypeError, ArithmeticError, AssertionError)

OPSET = 25
"""Version of ai.onnx that decompositions are written in where no graph around them says otherwise."""

DECOMPOSITIONS: dict[tuple[str, str], Decompose] = {}
"""What stands for each operator, by domain and name."""


def decomposed(
    name: str,
    decompose: Decompose,
    *,
    domain: str = "",
    traits: Iterable[Trait] = (),
    define: bool = True,
    expression: Express | None = None,
) -> None:
    """Registers a decomposition.

    Args:
        name: Operator.
        decompose: What it stands for.
        domain: Operator's domain.
        traits: Traits of the operator.
        define: Whether the decomposition defines the operator; else it has a definition elsewhere.
        expression: Tensor expression of each output of an operator that is defined here.
    """
    DECOMPOSITIONS[domain, name] = decompose
    if define:
        register(Operator(name, _infer, _evaluate, domain=domain, traits=frozenset(traits), expression=expression))


def can_expand(node: Node) -> bool:
    """Whether the node's operator has a decomposition."""
    return (node.domain, node.op_type) in DECOMPOSITIONS


def expand(node: Node, decompose: Decompose | None = None) -> bool:
    """Replaces a node in its graph by what it stands for; the new nodes have its origins.

    The node's inputs must have types. Answers False, and changes nothing, where the operator has no decomposition or
    has none for these inputs.

    Args:
        node: The node.
        decompose: What it stands for; its operator's decomposition if None.

    Raises:
        TypeInferenceError: Inputs or attributes do not fit the operator.
    """
    decompose = decompose or DECOMPOSITIONS.get((node.domain, node.op_type))
    graph = node.graph
    if decompose is None or graph is None:
        return False
    builder = Builder(graph, before=node, origins=node.origins or ((node.name,) if node.name else ()), infer=_types)
    try:
        results = decompose(builder, node, node.inputs)
    except _UNFIT as error:
        # Inputs of a model that is not valid, which inference let pass.
        raise TypeInferenceError(str(error), nodes=node_names(node)) from error
    if results is None:
        return False
    made = [(old, new) for old, new in zip(node.outputs, results, strict=False) if new is not None]
    for old, new in made:
        if not _agree(old.type, new.type):
            message = f"{node.op}: these inputs make {new.type} of output {old.name!r}, which is {old.type}"
            raise TypeInferenceError(message, nodes=node_names(node))
    for old, new in made:
        old.replace_all_uses(new)
    graph.remove(node)
    return True


def _agree(left: Type | None, right: Type | None) -> bool:
    """Whether two types may be of one value: nothing that both know differs."""
    if not isinstance(left, TensorType) or not isinstance(right, TensorType):
        return True
    if left.dtype != right.dtype or left.shape is None or right.shape is None:
        return left.dtype == right.dtype
    pairs = zip(left.shape, right.shape, strict=False)
    return len(left.shape) == len(right.shape) and not any(
        isinstance(a, int) and isinstance(b, int) and a != b for a, b in pairs
    )


def standard_form(node: Node) -> Graph:
    """What a typed node stands for, as a graph over inputs of its inputs' types.

    Raises:
        TypeInferenceError: It stands for nothing with these inputs.
    """
    return _body(node, [None if value is None else value.type for value in node.inputs])[0]


def rank_of(value: Value) -> int:
    """Rank of a value whose type is known."""
    return len(value.tensor_type.dims)


def scalar_like(builder: Builder, value: float, like: Value) -> Value:
    """A constant of rank 0 in the dtype of `like`."""
    return builder.constant(np.array(value, like.tensor_type.dtype.numpy))


def _types(node: Node) -> list[Type]:
    return [TensorType(dtypes.FLOAT32, None) if kind is None else kind for kind in infer_node(node)]


def _body(node: Node, types: Sequence[Type | None]) -> tuple[Graph, list[Value | None]]:
    """The graph that a node stands for, over inputs of `types`, and the node's outputs in it, None for those unmade."""
    graph = Graph(node.op_type, opset=OPSET)
    names = (f"x{i}" for i in range(len(types)))
    inputs = [None if kind is None else graph.add_input(name, kind) for name, kind in zip(names, types, strict=False)]
    builder = Builder(graph, origins=node.origins, infer=_types)
    made = DECOMPOSITIONS[node.domain, node.op_type](builder, node, inputs)
    if made is None:
        raise TypeInferenceError(f"{node.op} has no definition for these inputs", nodes=node_names(node))
    results = list(made)
    graph.outputs = [value for value in results if value is not None]
    return graph, results


def _infer(ctx: InferenceContext) -> Sequence[Type]:
    _, results = _body(ctx.node, ctx.inputs)
    types: list[Type] = []
    for value in results:
        if value is not None and value.type is None:
            ctx.fail("the type of an output is unknown")
        types.append(TensorType(dtypes.FLOAT32, None) if value is None or value.type is None else value.type)
    unmade = [
        output.name for output, value in zip(ctx.node.outputs, results, strict=False) if output.name and not value
    ]
    if unmade or len(results) < len(ctx.node.outputs):
        ctx.fail(f"output {(unmade or [ctx.node.outputs[-1].name])[0]!r} has no definition for these inputs")
    return types


def _evaluate(node: Node, data: Sequence[Datum]) -> Sequence[Datum]:
    types = [None if x is None else TensorType(dtypes.from_numpy(np.asarray(x).dtype), np.shape(x)) for x in data]
    graph, results = _body(node, types)
    found = iter(evaluate_graph(graph, [x for x in data if x is not None]))
    return [None if value is None else next(found) for value in results]
