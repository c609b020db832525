"""The operator `ai.onnx.preview.training::Gradient`: written out at import, by reverse-mode differentiation.

It names values of the graph around it: `y`, and `xs` with respect to which `y` is to be derived, at the values that
its inputs give to `xs` and `zs`. Where these are not the values that the graph itself has there, the way from them to
`y` is computed anew.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from graphc.errors import ModelError, UnsupportedError
from graphc.frontend.derivatives import FIRST_ONLY, FLOATS, PULLS, Product
from graphc.frontend.opset import Draft
from graphc.ir import Node, Tensor, TensorType, Value, dtypes
from graphc.ir.dtypes import DType
from graphc.ops.base import node_names

GRADIENT = ("ai.onnx.preview.training", "Gradient")
"""Domain and name."""


def write_gradient(draft: Draft, ys: Sequence[Value], xs: Sequence[Value], zs: Sequence[Value]) -> None:
    """Puts the nodes that compute the gradients in front of a Gradient; each of its outputs becomes an Identity.

    Args:
        draft: The Gradient.
        ys: What is derived: one value.
        xs: With respect to what.
        zs: Values that are held.

    Raises:
        ModelError: The node has not as many inputs as `xs` and `zs`, or what is derived is no tensor of floats.
        UnsupportedError: An operator on the way from `xs` to `y` has no derivative here.
    """
    if len(ys) != 1:
        raise ModelError("Gradient: its attribute y names no value", nodes=draft.origins)
    (y,) = ys
    given = [*xs, *zs]
    values = [value for value in draft.inputs if value is not None]
    if len(values) != len(given) or len(draft.outputs) > len(xs):
        raise ModelError(
            f"Gradient names {len(xs)} values xs and {len(zs)} zs, and has {len(values)} inputs and "
            f"{len(draft.outputs)} outputs",
            nodes=draft.origins,
        )
    for value in (y, *xs, *values[: len(xs)]):
        if not isinstance(value.type, TensorType) or value.type.dtype not in FLOATS:
            raise ModelError(f"Gradient: {value.name!r} is {value.type}, not a tensor of floats", nodes=draft.origins)
    way = _way(y, xs, given, draft)
    at: dict[Value, Value] = dict(zip(given, values, strict=True))
    _recompute(draft, way, at)
    gradients: dict[Value, Value] = {y: _filled(draft, at.get(y, y), y.tensor_type.dtype, 1.0)}
    needed = {*xs, *(output for node in way for output in node.outputs)}
    for node in reversed(way):
        _pull(draft, node, at, gradients, needed)
    for x, name in zip(xs, draft.outputs, strict=False):
        if name:
            found = gradients[x] if x in gradients else _filled(draft, at[x], x.tensor_type.dtype, 0.0)
            draft.op("Identity", found, outputs=[name])


def _way(y: Value, xs: Sequence[Value], stops: Sequence[Value], draft: Draft) -> list[Node]:
    """Nodes through which `y` depends on `xs`, producers first."""
    depends: dict[Value, bool] = dict.fromkeys(stops, False) | dict.fromkeys(xs, True)
    order: list[Node] = []
    stack = [y]
    while stack:
        value = stack[-1]
        node = value.producer
        if value in depends or node is None:
            depends.setdefault(value, False)
            stack.pop()
            continue
        waiting = [read for read in node.inputs if read is not None and read not in depends]
        if waiting:
            stack += waiting
            continue
        stack.pop()
        found = any(depends[read] for read in node.inputs if read is not None)
        depends.update(dict.fromkeys(node.outputs, found))
        if found:
            _refuse_unknown(node)
            order.append(node)
        elif any(True for _ in node.subgraphs()):
            raise UnsupportedError(f"the way to {y.name!r} leads through {node.op}", nodes=node_names(node))
    return order


def _refuse_unknown(node: Node) -> None:
    if node.domain or node.op_type not in PULLS:
        raise UnsupportedError(
            f"{node.op} has no derivative here",
            nodes=node_names(node),
            hint=f"Gradient goes through: {', '.join(sorted(PULLS))}",
        )


def _recompute(draft: Draft, way: Sequence[Node], at: dict[Value, Value]) -> None:
    """Computes the nodes on the way at the values given, where these are others than the graph's own."""
    for node in way:
        reads = [None if value is None else at.get(value, value) for value in node.inputs]
        if reads != list(node.inputs):
            at[node.output] = draft.op(node.op_type, *reads, outputs=(), **node.attributes)


def _pull(draft: Draft, node: Node, at: dict[Value, Value], gradients: dict[Value, Value], needed: set[Value]) -> None:
    gradient = gradients.get(node.output)
    if gradient is None:
        return
    reads = [value for value in node.inputs if value is not None]
    product = Product(
        draft, node, [at.get(value, value) for value in reads], at.get(node.output, node.output), gradient
    )
    for index, value in enumerate(reads):
        if value not in needed or (index and node.op_type in FIRST_ONLY):
            continue
        part = PULLS[node.op_type](product, index)
        known = gradients.get(value)
        gradients[value] = part if known is None else draft.op("Add", known, part)


def _filled(draft: Draft, like: Value, dtype: DType, number: float) -> Value:
    """A tensor of the shape of `like`, which is of that dtype."""
    zeros = draft.op("ConstantOfShape", draft.op("Shape", like), value=_one(number))
    return zeros if dtype == dtypes.FLOAT32 else draft.op("CastLike", zeros, like)


def _one(number: float) -> Tensor:
    return Tensor.of(np.array([number], np.float32), dtypes.FLOAT32)
