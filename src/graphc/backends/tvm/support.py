"""Which nodes have a compiled form on CPUs, and why others have none."""

from __future__ import annotations

from graphc.backends.heads import heads_of_region
from graphc.backends.regions import body_of, expression_of
from graphc.backends.tvm import operators, scalar_ops
from graphc.errors import BackendError
from graphc.ir import GRAPHC_DOMAIN, Node, TensorType, dtypes
from graphc.ops.base import UNKNOWN_PREFIX, Trait, find
from graphc.ops.expr import Call, Const, Load, Scalar, Select, walk
from graphc.package import MAX_ARGUMENTS
from graphc.target import Target, Verdict, accepted, refused

TEMPLATED = frozenset({"Attention"})
"""Operators of ai.onnx without a tensor expression that a template of their own takes."""


BOUND_ONLY = frozenset(
    {"Conv", "ConvTranspose", "MaxPool", "AveragePool", "LpPool", "ConvInteger", "MatMulInteger", "QLinearConv"}
)
"""Operators that would be slow without a template, none of which takes open extents of theirs yet."""


def supports(node: Node, target: Target) -> Verdict:
    """Whether a node compiles for `target`, with the types it has now.

    Open extents are those of symbols that the graph bounds; some operators have kernels for bound ones alone.
    """
    if node.is_op("Region", GRAPHC_DOMAIN):
        return accepted()
    operator = find(node)
    if operator is None:
        return refused(f"{node.op} is not an operator that graphc knows")
    if operator.has(Trait.CONTROL) or any(True for _ in node.subgraphs()):
        return refused("control flow runs on the host")
    if operator.has(Trait.RANDOM):
        return refused("random numbers come from the host")
    pointers = len({value for value in node.inputs if value is not None}) + sum(v.is_used for v in node.outputs)
    if pointers > MAX_ARGUMENTS:
        return refused(f"it has {pointers} operands, and a kernel takes {MAX_ARGUMENTS}")
    for what, values in (("input", node.inputs), ("output", node.outputs)):
        for index, value in enumerate(values):
            if value is None or (what == "output" and not value.is_used):
                continue
            reason = _type_refusal(value.type, node)
            if reason:
                return refused(f"{what} {index} (%{value.name}) {reason}")
    if node.domain == "" and node.op_type in TEMPLATED:
        tensors = [value.tensor_type for value in (*node.inputs, *node.outputs) if value is not None]
        return refused("a tensor without elements") if any(t.numel == 0 for t in tensors) else _attention(node)
    own = (node.domain, node.op_type) in operators.OPERATORS and node.op_type not in operators.OPEN
    if _is_open(node) and (node.op_type in BOUND_ONLY or own):
        return refused(f"{node.op_type} has kernels for bound extents only")
    if (node.domain, node.op_type) in operators.OPERATORS:
        return operators.supports(node, target)
    if operator.expression is None:
        return refused(f"{node.op} has no kernel yet")
    try:
        expressions = expression_of(node)
    except BackendError:
        return refused(f"{node.op} has no kernel for these inputs and attributes")
    for expression in expressions:
        for scalar in walk(expression.body):
            if reason := _scalar_refusal(scalar) or _rank_refusal(scalar, node):
                return refused(reason)
    return accepted()


def _is_open(node: Node) -> bool:
    tensors = [value.type for value in (*node.inputs, *node.outputs) if value is not None]
    return any(isinstance(kind, TensorType) and kind.symbols() for kind in tensors)


def _attention(node: Node) -> Verdict:
    try:
        heads_of_region(body_of(node))
    except BackendError as refusal:
        return refused(refusal.message)
    return accepted()


def _type_refusal(kind: object, node: Node) -> str:
    if not isinstance(kind, TensorType):
        return f"is {'untyped' if kind is None else 'a ' + str(kind)}, not a tensor"
    if kind.dtype == dtypes.STRING:
        return "is text, which kernels do not hold"
    if kind.shape is None:
        return "has a rank that only the data tells"
    unbound = sorted(kind.symbols())
    if any(name.startswith(UNKNOWN_PREFIX) for name in unbound):
        return "has extents that only the data tells"
    opened = () if node.graph is None else node.graph.bounds
    unbound = [name for name in unbound if name not in opened]
    return f"depends on {', '.join(unbound)}, which no --dim binds" if unbound else ""


def _scalar_refusal(scalar: Scalar) -> str:
    if scalar.dtype.kind == "complex" and not isinstance(scalar, Load | Select | Const):
        return f"its arithmetic is in {scalar.dtype}, which kernels do not compute with"
    if isinstance(scalar, Call) and not scalar_ops.is_supported(scalar.op, scalar.arguments[0].dtype):
        return f"{scalar.op} of {scalar.arguments[0].dtype} has no compiled form"
    return ""


def _rank_refusal(scalar: Scalar, node: Node) -> str:
    """Of a model that is not valid: an input of a rank that its operator's definition does not foresee."""
    if not isinstance(scalar, Load) or (value := node.input(scalar.input)) is None:
        return ""
    rank = len(value.tensor_type.dims)
    return f"input {scalar.input} (%{value.name}) has rank {rank}" if rank != len(scalar.indices) else ""
