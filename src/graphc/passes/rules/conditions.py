"""Conditions and builders that many rules share."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np

from graphc.ir import Attribute, Builder, DType, Node, Value
from graphc.ir.symbolic import Dim
from graphc.passes.base import Refusal, refuse
from graphc.passes.rules.match import Match
from graphc.passes.rules.rule import Condition


def keeps_shape(name: str) -> Condition:
    """The root's value has the dtype and shape of the value called `name`: it was not broadcast."""

    def condition(m: Match) -> Refusal | None:
        if m.output_shape != m.shape(name) or m.output.dtype != m.type(name).dtype:
            return refuse(f"the result is {m.output}, but %{m[name].name} is {m.type(name)}")
        return None

    return condition


def is_float(name: str) -> Condition:
    """The value called `name` is a real floating point tensor."""

    def condition(m: Match) -> Refusal | None:
        return None if m.type(name).dtype.is_float else refuse(f"%{m[name].name} is {m.type(name).dtype}, not a float")

    return condition


def reshape_target(source: Sequence[Dim], target: Sequence[Dim]) -> tuple[int, ...] | None:
    """The numbers with which Reshape (without allowzero) turns shape `source` into `target`; None where none say it.

    An open extent becomes 0 where the source has it at the same place, and -1 at most once.
    """
    if 0 in target:
        return tuple(d for d in target if isinstance(d, int)) if all(isinstance(d, int) for d in target) else None
    numbers: list[int] = []
    for axis, extent in enumerate(target):
        if isinstance(extent, int):
            numbers.append(extent)
        elif axis < len(source) and source[axis] == extent:
            numbers.append(0)
        else:
            numbers.append(-1)
    return tuple(numbers) if numbers.count(-1) <= 1 else None


def reshape(b: Builder, value: Value, source: Sequence[Dim], target: Sequence[Dim]) -> Value | Refusal:
    """A Reshape of `value` from shape `source` to `target`, or a refusal where constant numbers cannot say it."""
    numbers = reshape_target(source, target)
    if numbers is None:
        return refuse(f"shape {list(target)} has several open extents that %{value.name} does not have in place")
    if not _holds(source, numbers):
        # A model may declare what its data contradicts; whoever runs it is told then.
        return refuse(f"shape {list(source)} does not have the elements of the declared {list(target)}")
    shape = b.constant(np.array(numbers, np.int64), name="shape")
    return b.op("Reshape", value, shape, allowzero=1 if 0 in target else None)


def _holds(source: Sequence[Dim], numbers: Sequence[int]) -> bool:
    """Whether as many elements as `source` has can have the shape of these numbers; true where nothing is known."""
    known = [extent for extent in source if isinstance(extent, int)]
    if len(known) != len(source) or (0 in numbers and -1 in numbers):
        return True
    rest = math.prod(extent for extent in numbers if extent != -1)
    total = math.prod(known)
    return rest != 0 and total % rest == 0 if -1 in numbers else total == rest


def normalized_axes(axes: Sequence[int], rank: int) -> tuple[int, ...]:
    """Axes counted from the front, in ascending order."""
    return tuple(sorted(axis % rank for axis in axes))


def copy_op(b: Builder, node: Node, *inputs: Value | None, **changes: Attribute | None) -> Value:
    """A node of the operator and with the attributes of `node` on other inputs; a change to None drops an attribute."""
    attributes: dict[str, Any] = {**node.attributes, **changes}
    return b.op(node.op_type, *inputs, domain=node.domain, version=node.version, **attributes)


def scalar(b: Builder, value: float, dtype: DType) -> Value:
    """A rank-0 constant."""
    return b.constant(np.array(value).astype(dtype.numpy))


def element(array: np.ndarray[Any, Any]) -> float:
    """The only element of a one-element array."""
    return float(array.reshape(-1)[0])
