"""Constant folding."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np

from graphc.errors import ExecutionError, GraphcError
from graphc.ir import Builder, Graph, Node, Tensor, TensorType, Value, clone_node
from graphc.ops.base import Trait, find
from graphc.ops.evaluate import evaluate_node
from graphc.ops.inference import Inference
from graphc.passes.base import PassContext, register_pass
from graphc.passes.edit import cannot_replace, copy_nodes, erase_unused, replace_value

_WEIGHED = ("Conv", "Gemm", "MatMul")
"""Operators whose second input kernels pack once where it is a constant."""

_GROWTH = 8
"""How much larger than its inputs a value may be that is made a constant, unless it is small."""


@register_pass
@dataclass(frozen=True)
class Fold:
    """Evaluates what depends on constants alone, and puts a branch that is always taken in place of its If.

    Before: types are inferred. After: no node of bounded output has only constants as inputs, and no small tensor has
    elements that inference knows, unless its value must be kept for other reasons (random operators). Types that follow
    from what was folded are inferred anew.

    Args:
        max_bytes: Largest value that is made a constant. Larger ones are left to the run, so that a broadcast does not
            swell the package.
        grown_bytes: Largest value of more than `_GROWTH` times the bytes of what it is made of, but for weights of
            products and convolutions: those that are no constants are packed anew with every call.
        lazy_bytes: Values above this are evaluated when they are read, and again at each reading, so that folding a
            model's weights never holds all of them in memory.
        keep_bytes: Whether weights of a product that are integers with scales stay so: its kernel widens them where it
            reads them, from half the memory or less. Kernels of GPUs do.
    """

    name: ClassVar[str] = "fold"
    max_bytes: int = 1 << 29
    grown_bytes: int = 1 << 26
    lazy_bytes: int = 1 << 20
    keep_bytes: bool = False

    def run(self, graph: Graph, context: PassContext) -> int:
        """One sweep in order suffices: inputs are folded before their readers."""
        return _Folding(self, context).sweep(graph.nodes)


class _Folding:
    def __init__(self, options: Fold, context: PassContext) -> None:
        self.options = options
        self.context = context
        self.inference = Inference()
        self.refined: set[Value] = set()

    def sweep(self, nodes: Iterable[Node]) -> int:
        changes = 0
        for node in list(nodes):
            self.refine(node)
            inlined = self.inline_branch(node) if node.is_op("If") else None
            if inlined is not None:
                changes += 1 + self.sweep(inlined)
                continue
            for _, subgraph in node.subgraphs():
                changes += self.sweep(subgraph.nodes)
            changes += self.fold(node)
        return changes

    def is_refined(self, node: Node) -> bool:
        """Whether an input of the node is better known than when its types were inferred."""
        return any(value in self.refined for value in node.inputs)

    def refine(self, node: Node) -> None:
        """Infers the node's types anew where its inputs became better known, by their types or as constants."""
        if not self.is_refined(node):
            return
        before = [value.type for value in node.outputs]
        try:
            self.inference.visit(node)
        except GraphcError:
            # The types stay as open as they were; if the node ever runs, it says what does not fit.
            return
        self.refined.update(value for value, kind in zip(node.outputs, before, strict=True) if value.type != kind)

    def fold(self, node: Node) -> int:
        if node.is_op("Constant") or not all(isinstance(value.type, TensorType) for value in _read(node)):
            return 0
        tensors = self.tensors(node)
        if not tensors or node.graph is None or not self.context.permit("fold", node):
            return 0
        builder = Builder(node.graph, before=node, origins=node.origins)
        # Inference may have missed these elements, or those before them, where readers would have had a use for them.
        is_news = any(self.inference.elements(value) is None for value in tensors) or self.is_refined(node)
        for value, tensor in tensors.items():
            constant = builder.constant(tensor, name=value.name)
            if is_news:
                self.refined.add(constant)
            replace_value(value, constant)
        erase_unused([node])
        return 1

    def tensors(self, node: Node) -> dict[Value, Tensor] | None:
        """What each output that is read always is; None where that is not known or too large."""
        known = {value: self.inference.elements(value) for value in _read(node)}
        if known and all(array is not None for array in known.values()):
            return {value: _tensor(value, array) for value, array in known.items()}
        operator = find(node)
        constants = [None if value is None else value.constant for value in node.inputs]
        if operator is None or operator.has(Trait.RANDOM) or operator.has(Trait.CONTROL):
            return None
        if self.options.keep_bytes and _is_weight_of_bytes(node):
            return None
        if not node.inputs or any(c is None and v is not None for c, v in zip(constants, node.inputs, strict=True)):
            return None
        types = [value.tensor_type for value in _read(node)]
        size = sum(t.numel * t.dtype.itemsize for t in types if t.is_static)
        assert isinstance(size, int), types
        has_grown = size > _GROWTH * sum(c.nbytes for c in constants if c is not None) and not _is_weight(node)
        limits = (self.options.max_bytes, "max_bytes"), (self.options.grown_bytes, "grown_bytes")
        limit, name = min(limits[: 1 + has_grown])
        if size > limit:
            self.context.refused("fold", node, f"its result would be {size} bytes; {name} is {limit}")
            return None
        if size > self.options.lazy_bytes and all(t.is_static for t in types):
            detached = _Detached(node, constants)
            return {value: _lazy(value, detached) for value in _read(node)}
        try:
            results = evaluate_node(node, [None if c is None else c.array() for c in constants])
        except ExecutionError as error:
            # A node in a branch that is never taken may be wrong without the model being so; the run time tells.
            self.context.refused("fold", node, error.message)
            return None
        return {value: _tensor(value, results[value.index]) for value in _read(node)}

    def inline_branch(self, node: Node) -> list[Node] | None:
        """Puts the branch that is always taken in the place of an If; answers the nodes put there."""
        condition, graph = node.input(0), node.graph
        known = None if condition is None else self.inference.elements(condition)
        if graph is None or known is None or known.size != 1 or not self.context.permit("inline_if", node):
            return None
        taken = node.graph_attribute("then_branch" if known.reshape(()).item() else "else_branch")
        values: dict[Value, Value] = {}
        builder = Builder(graph, before=node, origins=node.origins)
        made = copy_nodes(builder, taken.nodes, values)
        # What the branch reads may be better known than when it was typed, and what it answers than what either might.
        self.refined.update(value for copy in made for value in copy.inputs if value is not None)
        self.refined.update(values.get(output, output) for output in taken.outputs)
        for old, inner_output in zip(node.outputs, taken.outputs, strict=True):
            new = values.get(inner_output, inner_output)
            if cannot_replace(old, new, fresh=False) is not None:
                new = builder.op("Identity", new, types=[new.type])
            replace_value(old, new)
        erase_unused([node])
        return made


class _Detached:
    """A node with its constant inputs, kept to be evaluated when its value is read."""

    def __init__(self, node: Node, constants: list[Tensor | None]) -> None:
        stand_ins = {value: Value(value.name, value.type) for value in node.inputs if value is not None}
        self.node = clone_node(node, stand_ins)
        self.constants = constants

    def result(self, index: int) -> np.ndarray[Any, Any]:
        arrays = [None if tensor is None else tensor.array() for tensor in self.constants]
        return np.asarray(evaluate_node(self.node, arrays)[index])


def _is_weight(node: Node) -> bool:
    """Whether all that is read of it are weights of products and convolutions."""
    uses = [use for value in _read(node) for use in value.uses]
    return all(u.position == 1 and isinstance(u.user, Node) and u.user.op_type in _WEIGHED for u in uses)


def _lazy(value: Value, detached: _Detached) -> Tensor:
    index, type_ = value.index, value.tensor_type
    return Tensor(type_.dtype, type_.static_shape, lambda: _shaped(detached.result(index), type_))


def _shaped(array: np.ndarray[Any, Any], type_: TensorType) -> np.ndarray[Any, Any]:
    return np.asarray(array, type_.dtype.numpy).reshape(type_.static_shape)


def _tensor(value: Value, array: Any) -> Tensor:
    return Tensor.of(np.asarray(array), value.tensor_type.dtype)


def _is_weight_of_bytes(node: Node) -> bool:
    """Whether a node widens integers that nothing but products read, as they are or moved."""
    data = node.input(0)
    return node.is_op("DequantizeLinear") and data is not None and data.constant is not None and _feeds(node.output)


def _feeds(value: Value) -> bool:
    return (
        bool(value.consumers)
        and not value.is_graph_output
        and all(
            (node.op_type in ("Gemm", "MatMul") and value in node.inputs[:2])
            or (node.op_type in ("Cast", "Reshape", "Slice", "Transpose") and _feeds(node.output))
            for node in value.consumers
        )
    )


def _read(node: Node) -> list[Value]:
    return [value for value in node.outputs if value.is_used]
