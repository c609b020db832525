"""Parallel matrix products of one operand merged into one: x @ w₁, x @ w₂ are parts of x @ [w₁ w₂]."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from graphc.ir import Builder, Tensor, TensorType, Value, dtypes
from graphc.ops.base import Array
from graphc.passes.base import Refusal, refuse, register_pass
from graphc.passes.rule_pass import RulePass
from graphc.passes.rules import Chooser, Match, P, Rule, Var, every, rule_set

MERGE = rule_set("merge_matmuls")
"""For whatever reads one value: a value with many readers is passed over memory once instead of once for each."""

x = Var("x")
product = P.MatMul(x, Var("w", rank=2, constant=True)).named("product")


@register_pass
@dataclass(frozen=True)
class MergeMatMuls(RulePass):
    """Merges matrix products that read one value and have constant weights, with their biases where all have one.

    Before: constants are folded. After: no two MatMuls of a graph read one value with constant weights of equal rows,
    unless a result is a graph output, only one of them has a bias, or the merged weight would be larger than allowed.
    Each result is a Slice.

    Args:
        max_columns: Most columns of a merged weight.
    """

    name: ClassVar[str] = "merge_matmuls"
    max_columns: int = 16384

    def rules(self) -> list[Rule]:
        """The rules, which refuse what would be too wide."""
        return [dataclasses.replace(rule, conditions=(*rule.conditions, self._fits)) for rule in super().rules()]

    def _fits(self, m: Match) -> Refusal | None:
        columns = sum(_columns(one) for one in m.each)
        if columns <= self.max_columns:
            return None
        return refuse(f"the merged weight would have {columns} columns; max_columns is {self.max_columns}")


def _columns(m: Match) -> int:
    return m.tensor("w").shape[1]


def _is_inner(m: Match) -> Refusal | None:
    """Whether a product, with its bias where the pattern has one, may be a part of another value."""
    result = m.root.output
    if result.is_graph_output:
        return refuse(f"%{result.name} is an output of the graph, which a part of another value cannot be")
    if not m.type("x").rank:
        return refuse(f"the rank of %{m['x'].name} is not known, or 0")
    return None


def _has_bias(m: Match) -> Refusal | None:
    if m.tensor("b").shape != (_columns(m),):
        return refuse(f"%{m['b'].name} is {m.type('b')}, no bias of {_columns(m)} columns")
    return _is_inner(m)


def _has_none(m: Match) -> Refusal | None:
    readers = m.root.output.consumers
    if len(m.root.output.uses) == 1 and readers and readers[0].is_op("Add"):
        others = [value for value in readers[0].inputs if value is not None and value.constant is not None]
        if others and others[0].constant is not None and others[0].constant.shape == (_columns(m),):
            return refuse(f"it is followed by the bias %{others[0].name}, with which it is merged or not at all")
    return _is_inner(m)


def _examples(choose: Chooser) -> dict[str, TensorType]:
    columns = choose.integer(1, 5)
    shapes = {"x": (3, 4), "w": (4, columns), "b": (columns,)}
    return {name: TensorType(dtypes.FLOAT32, shape) for name, shape in shapes.items()}


@MERGE.rule(every(product.only_here() + Var("b", rank=1, constant=True), share="x", when=_has_bias), examples=_examples)
def with_biases(m: Match, b: Builder) -> tuple[Value, ...]:
    """x @ w₁ + b₁, x @ w₂ + b₂, … = the columns of x @ [w₁ w₂ …] + [b₁ b₂ …]."""
    merged = b.op("MatMul", m["x"], b.constant(_joined([one.tensor("w") for one in m.each]), name="weight"))
    biases = b.constant(_joined([one.tensor("b") for one in m.each]), name="bias")
    return _parts(m, b, b.op("Add", merged, biases))


@MERGE.rule(every(product, share="x", when=_has_none))
def without_bias(m: Match, b: Builder) -> tuple[Value, ...]:
    """x @ w₁, x @ w₂, … = the columns of x @ [w₁ w₂ …]."""
    merged = b.op("MatMul", m["x"], b.constant(_joined([one.tensor("w") for one in m.each]), name="weight"))
    return _parts(m, b, merged)


def _parts(m: Match, b: Builder, whole: Value) -> tuple[Value, ...]:
    """A Slice of `whole` for each product."""
    parts, begin = [], 0
    for one in m.each:
        b.origins = one.origins
        end = begin + _columns(one)
        parts.append(b.op("Slice", whole, *(b.constant(np.array([place], np.int64)) for place in (begin, end, -1))))
        begin = end
    return tuple(parts)


def _joined(tensors: Sequence[Tensor]) -> Tensor:
    """The tensors side by side along the last axis, joined when they are read."""
    first = tensors[0]
    shape = (*first.shape[:-1], sum(tensor.shape[-1] for tensor in tensors))

    def load() -> Array:
        return np.concatenate([tensor.array() for tensor in tensors], axis=-1)

    return Tensor(first.dtype, shape, load)
