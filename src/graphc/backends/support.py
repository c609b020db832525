"""Which nodes a compiling backend may take, as far as that is the same for all, and why others not."""

from __future__ import annotations

from collections.abc import Callable

from graphc.backends.regions import expression_of
from graphc.errors import BackendError
from graphc.ir import Node, TensorType, dtypes
from graphc.ir.dtypes import DType
from graphc.ops.base import UNKNOWN_PREFIX, Trait, find
from graphc.ops.expr import Call, Const, Load, Scalar, Select, walk
from graphc.package import MAX_ARGUMENTS

TEMPLATED = frozenset({"Attention"})
"""Operators of ai.onnx without a tensor expression that a template of regions takes."""


def node_refusal(node: Node) -> str:
    """Why no kernel takes a node, whatever it computes; empty where one may."""
    operator = find(node)
    if operator is None:
        return f"{node.op} is not an operator that graphc knows"
    if operator.has(Trait.CONTROL) or any(True for _ in node.subgraphs()):
        return "control flow runs on the host"
    if operator.has(Trait.RANDOM):
        return "random numbers come from the host"
    pointers = len({value for value in node.inputs if value is not None}) + sum(v.is_used for v in node.outputs)
    if pointers > MAX_ARGUMENTS:
        return f"it has {pointers} operands, and a kernel takes {MAX_ARGUMENTS}"
    for what, values in (("input", node.inputs), ("output", node.outputs)):
        for index, value in enumerate(values):
            if value is None or (what == "output" and not value.is_used):
                continue
            reason = _type_refusal(value.type, node)
            if reason:
                return f"{what} {index} (%{value.name}) {reason}"
    return ""


def expression_refusal(node: Node, is_supported: Callable[[str, DType], bool]) -> str:
    """Why no kernel can be made of a node's tensor expression; empty where one can.

    Args:
        node: That nothing refuses as such.
        is_supported: Whether the backend has a scalar operation on an element type.
    """
    operator = find(node)
    if operator is None or operator.expression is None:
        return f"{node.op} has no kernel yet"
    try:
        expressions = expression_of(node)
    except BackendError:
        return f"{node.op} has no kernel for these inputs and attributes"
    for expression in expressions:
        for scalar in walk(expression.body):
            if reason := _scalar_refusal(scalar, is_supported) or _rank_refusal(scalar, node):
                return reason
    return ""


def is_open(node: Node) -> bool:
    """Whether a tensor of a node has an extent that is not bound."""
    tensors = [value.type for value in (*node.inputs, *node.outputs) if value is not None]
    return any(isinstance(kind, TensorType) and kind.symbols() for kind in tensors)


def has_elements(node: Node) -> bool:
    """Whether every tensor of a node has elements."""
    tensors = [value.tensor_type for value in (*node.inputs, *node.outputs) if value is not None]
    return all(tensor.numel != 0 for tensor in tensors)


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


def _scalar_refusal(scalar: Scalar, is_supported: Callable[[str, DType], bool]) -> str:
    if scalar.dtype.kind == "complex" and not isinstance(scalar, Load | Select | Const):
        return f"its arithmetic is in {scalar.dtype}, which kernels do not compute with"
    if isinstance(scalar, Call) and not is_supported(scalar.op, scalar.arguments[0].dtype):
        return f"{scalar.op} of {scalar.arguments[0].dtype} has no compiled form"
    return ""


def _rank_refusal(scalar: Scalar, node: Node) -> str:
    """Of a model that is not valid: an input of a rank that its operator's definition does not foresee."""
    if not isinstance(scalar, Load) or (value := node.input(scalar.input)) is None:
        return ""
    rank = len(value.tensor_type.dims)
    return f"input {scalar.input} (%{value.name}) has rank {rank}" if rank != len(scalar.indices) else ""
