"""Loop forms that several kernel templates share."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from graphc.backends.problem import Problem
from graphc.backends.tvm.nest import emit
from graphc.backends.tvm.tir import KernelBuilder
from graphc.ir import Dim, TensorType
from graphc.ir.symbolic import product
from graphc.ops.expr import axes_of, load


def unravel(builder: KernelBuilder, flat: Dim, extents: Sequence[Dim]) -> list[Dim]:
    """The index, over axes of `extents`, of place `flat` in their row-major order; each computed once."""
    index: list[Dim] = []
    rest = flat
    for position, extent in reversed(list(enumerate(extents))):
        if extent == 1:
            index.append(0)
        elif all(e == 1 for e in extents[:position]):
            index.append(rest)
        else:
            place = builder.simplify(rest % extent)
            index.append(builder.bind_index(place, 0, extent - 1, "at"))
            most = product(extents[:position]) - 1
            rest = builder.bind_index(builder.simplify(rest // extent), 0, most, "rest")
    return index[::-1]


def unrolled(builder: KernelBuilder, extent: int, factor: int, step: Callable[[Dim], None]) -> None:
    """`step(k)` for `0 <= k < extent`, `factor` of them per iteration; short loops are unrolled whole."""
    if extent <= 2 * factor:
        for k in range(extent):
            step(k)
        return
    with builder.serial(extent // factor, "k") as block:
        for u in range(factor):
            step(block * factor + u)
    for k in range(extent // factor * factor, extent):
        step(k)


def copy_tensor(builder: KernelBuilder, source: TensorType, read: int, made: TensorType, written: int) -> None:
    """Copies a tensor into another layout, fill of halos included.

    Args:
        builder: The kernel under construction.
        source: Type of what is read.
        read: Its pointer argument.
        made: Type of what is written, of the same shape.
        written: Its pointer argument.
    """
    axes = axes_of(source.dims)
    element = load(0, source.dtype, [axis.index for axis in axes])
    emit(builder, Problem(axes, (element,), (source,), (made,)), (read, written))
