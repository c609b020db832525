"""Where a tensor expression is rendered: in which lanes, and what is known there."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from graphc.backends.tvm.tir import Expr
from graphc.ir import Dim


@dataclass
class Lane:
    """The vector in whose lanes an expression is rendered.

    Args:
        name: Symbol of the lane number in index expressions; None when rendering scalars.
        lanes: Vector width.
        count: How many lanes are inside the tensor; None for all.
    """

    name: str | None = None
    lanes: int = 1
    count: Dim | None = None


@dataclass
class Scope:
    """What is known at one point of the kernel: values computed so far, and where index symbols stand.

    Args:
        axes: Index expression, over loop symbols, of each axis of the tensor expressions.
        values: Scalars already computed here, by identity.
    """

    axes: Mapping[str, Dim] = field(default_factory=dict)
    values: dict[int, Expr] = field(default_factory=dict)

    def inner(self, axes: Mapping[str, Dim]) -> Scope:
        """The scope of a loop inside, which sees everything here."""
        return Scope({**self.axes, **axes}, dict(self.values))
