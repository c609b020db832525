"""Parallel matrix products of one operand merged into one: x @ w1, x @ w2 are parts of x @ [w1 w2]."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from graphc.ir import Builder, Graph, Node, Tensor, TensorType, Value
from graphc.ops.base import Array
from graphc.ops.inference import infer_node
from graphc.passes.base import Finding, PassContext, register_pass
from graphc.passes.edit import erase_unused, replace_value


@register_pass
@dataclass(frozen=True)
class MergeMatMuls:
    """Merges matrix products that read one value and have constant weights, with their biases where all have one.

    Before: constants are folded. After: no two MatMuls of a graph read one value with constant weights of equal rows,
    unless a result is a graph output or the merged weight would be larger than allowed. Each result is a Slice.

    Args:
        max_columns: Most columns of a merged weight.
    """

    name: ClassVar[str] = "merge_matmuls"
    max_columns: int = 16384

    def run(self, graph: Graph, context: PassContext) -> int:
        """Merges group by group, nested graphs included."""
        return sum(self._merge_in(inner, context) for inner in list(graph.all_graphs()))

    def explain(self, graph: Graph, context: PassContext) -> Iterator[Finding]:
        """The products that would be merged, and why others would not."""
        for inner in graph.all_graphs():
            groups = _groups(inner)
            for branches in groups:
                for branch in branches:
                    others = tuple(other.matmul for other in branches if other is not branch)
                    reason = self._refusal(branches) or _alone(branch, groups)
                    text = reason or f"merged with {len(others)} more of %{branch.source.name}"
                    yield Finding(branch.matmul, text, done=reason is None, others=others)
            for node in inner.nodes:
                found = _Branch.of(node) if node.is_op("MatMul") else None
                if isinstance(found, str):
                    yield Finding(node, found)

    def _merge_in(self, graph: Graph, context: PassContext) -> int:
        merged = 0
        for branches in _groups(graph):
            reason = self._refusal(branches)
            if len(branches) > 1 and reason is not None:
                context.refused(self.name, branches[0].matmul, reason)
            elif len(branches) > 1 and context.permit(self.name, branches[0].matmul, _all_origins(branches)):
                _merge(graph, branches)
                merged += 1
        return merged

    def _refusal(self, branches: Sequence[_Branch]) -> str | None:
        columns = sum(branch.columns for branch in branches)
        if columns <= self.max_columns:
            return None
        return f"the merged weight would have {columns} columns; max_columns is {self.max_columns}"


def _groups(graph: Graph) -> list[list[_Branch]]:
    """Products that could be one, single ones too."""
    groups: dict[tuple[Value, object], list[_Branch]] = {}
    for node in graph.nodes:
        branch = _Branch.of(node) if node.is_op("MatMul") else None
        if isinstance(branch, _Branch):
            key = (branch.source, (branch.weight.shape[0], branch.weight.dtype, branch.bias is None))
            groups.setdefault(key, []).append(branch)
    return list(groups.values())


def _alone(branch: _Branch, groups: Sequence[Sequence[_Branch]]) -> str | None:
    """Why a product is merged with no other; None where it is."""
    if any(branch in branches and len(branches) > 1 for branches in groups):
        return None
    others = [b for branches in groups for b in branches if b.source is branch.source and b is not branch]
    if not others:
        return f"no other product of %{branch.source.name} has a constant weight"
    if (others[0].bias is None) != (branch.bias is None):
        return f"only one of it and {others[0].matmul.describe()} is followed by a bias that can be merged"
    return f"the weight of {others[0].matmul.describe()} is {others[0].weight.dtype}, not {branch.weight.dtype}"


@dataclass(frozen=True)
class _Branch:
    """A product of `source` and a weight, and the addition of a bias after it."""

    source: Value
    matmul: Node
    weight: Tensor
    bias: Tensor | None
    result: Value

    @property
    def columns(self) -> int:
        return self.weight.shape[1]

    @staticmethod
    def of(node: Node) -> _Branch | str:
        """The branch that begins at a MatMul, or why it cannot be merged with others."""
        source, weight = node.inputs[:2]
        assert source is not None and weight is not None, node
        if weight.constant is None:
            return f"its weight %{weight.name} is not constant"
        if len(weight.constant.shape) != 2:
            return f"its weight is of shape {list(weight.constant.shape)}, not a matrix"
        if not isinstance(source.type, TensorType) or not source.type.rank:
            return f"the rank of %{source.name} is unknown"
        bias = _bias_of(node, weight.constant.shape[1])
        result = node.output if bias is None else bias[0]
        if result.is_graph_output:
            return f"%{result.name} is an output of the graph, which a part of another value cannot be"
        return _Branch(source, node, weight.constant, None if bias is None else bias[1], result)


def _bias_of(matmul: Node, columns: int) -> tuple[Value, Tensor] | None:
    """The sum and the bias, where the product's only reader adds a constant vector."""
    readers = matmul.output.consumers
    if len(matmul.output.uses) != 1 or not readers or not readers[0].is_op("Add"):
        return None
    operands = [value for value in readers[0].inputs if value is not None and value is not matmul.output]
    tensor = operands[0].constant if len(operands) == 1 else None
    if tensor is None or tensor.shape != (columns,) or readers[0].output.type != matmul.output.type:
        return None
    return readers[0].output, tensor


def _merge(graph: Graph, branches: Sequence[_Branch]) -> None:
    builder = Builder(graph, before=branches[0].matmul, origins=_all_origins(branches), infer=infer_node)
    weights = [branch.weight for branch in branches]
    product = builder.op("MatMul", branches[0].source, builder.constant(_joined(weights), name="weight"))
    biases = [branch.bias for branch in branches if branch.bias is not None]
    if biases:
        product = builder.op("Add", product, builder.constant(_joined(biases), name="bias"))
    begin = 0
    for branch in branches:
        builder.origins = _origins(branch)
        bounds = (np.array([place], np.int64) for place in (begin, begin + branch.columns, -1))
        part = builder.op("Slice", product, *(builder.constant(bound) for bound in bounds))
        replace_value(branch.result, part)
        begin += branch.columns
    for branch in branches:
        erase_unused([node for node in (branch.result.producer, branch.matmul) if node is not None])


def _all_origins(branches: Sequence[_Branch]) -> list[str]:
    return [origin for branch in branches for origin in _origins(branch)]


def _origins(branch: _Branch) -> tuple[str, ...]:
    adder = branch.result.producer
    return (*branch.matmul.origins, *(adder.origins if adder is not None and adder is not branch.matmul else ()))


def _joined(tensors: Sequence[Tensor]) -> Tensor:
    """The tensors side by side along the last axis, joined when they are read."""
    first = tensors[0]
    shape = (*first.shape[:-1], sum(tensor.shape[-1] for tensor in tensors))

    def load() -> Array:
        return np.concatenate([tensor.array() for tensor in tensors], axis=-1)

    return Tensor(first.dtype, shape, load)
