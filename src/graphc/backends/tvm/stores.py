"""Writing results in their layouts: vectors at a logical index, padding lanes, halos."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import ExitStack

from graphc.backends.tvm import element_types
from graphc.backends.tvm.scope import Lane
from graphc.backends.tvm.tir import KernelBuilder, broadcast
from graphc.ir import Dim, TensorType
from graphc.ir.symbolic import interval, linear_coefficient, product, substitute, symbols


def steps_of(type_: TensorType) -> tuple[Dim, ...]:
    """Elements between neighbours along each axis of a tensor's storage."""
    storage = type_.layout.storage_shape(type_.dims)
    return tuple(product(storage[position + 1 :]) for position in range(len(storage)))


def store(
    builder: KernelBuilder,
    value: object,
    type_: TensorType,
    operand: int,
    index: Sequence[Dim],
    lane: Lane,
    steps: Sequence[Dim] | None = None,
) -> None:
    """Writes a vector, in its stored form, of an output at a logical index that contains the lane symbol.

    Lanes of a block that lie past the logical extent get the layout's fill (0 where it is undefined), those past the
    lane's count too.

    Args:
        builder: The kernel under construction.
        value: What is written.
        type_: The output's type.
        operand: Its pointer argument.
        index: Logical index.
        lane: The lanes.
        steps: `steps_of` the type as the kernel has computed them.
    """
    layout = type_.layout
    count = lane.count
    value = broadcast(value, lane.lanes)
    if layout.blocked_axis is not None and lane.name is not None:
        extent = type_.dims[layout.blocked_axis]
        place = index[layout.blocked_axis]
        if lane.name in symbols(place) and not (isinstance(extent, int) and extent % layout.block == 0):
            fill = element_types.to_storage(element_types.constant(layout.fill or 0, type_.dtype), type_.dtype)
            inside = builder.simplify(extent - substitute(place, {lane.name: 0}, builder.bounds))
            known = interval(inside, builder.bounds)
            if known is None or known[0] < lane.lanes:
                value = builder.choose(builder.first_lanes(inside, lane.lanes), value, broadcast(fill, lane.lanes))
                count = None
    offset: Dim = 0
    for place, step in zip(layout.storage_index(index), steps or steps_of(type_), strict=True):
        offset = offset + place * step
    offset = builder.simplify(offset)
    if lane.name is None:
        builder.store(operand, value, offset)
        return
    stride = linear_coefficient(offset, lane.name)
    start = substitute(offset, {lane.name: 0}, builder.bounds)
    if stride == 1:
        builder.store(operand, value, start, lane.lanes, 1, count)
    elif stride is not None and count is None:
        builder.store(operand, value, start, lane.lanes, stride)
    else:
        builder.store_lanes(operand, value, offset, lane.name, lane.lanes, count)


def fill_halo(builder: KernelBuilder, operand: int, type_: TensorType) -> None:
    """Writes the layout's fill into every halo cell of an output; nothing where there is no halo or no fill."""
    layout = type_.layout
    if layout.fill is None or not any(map(any, layout.halo)):
        return
    storage = layout.storage_shape(type_.dims)
    rank = len(type_.dims)
    order = layout.order or tuple(range(rank))
    fill = element_types.to_storage(element_types.constant(layout.fill, type_.dtype), type_.dtype)

    def strip(at: int, start: Dim, extent: Dim) -> None:
        """Fills storage cells with axis `at` in `start..start+extent`, whole in the axes after it."""
        with ExitStack() as stack:
            offset: Dim = start * product(storage[at + 1 :])
            for before in range(at):
                lo, hi = layout.halo[order[before]] if before < rank else (0, 0)
                inside = storage[before] - lo - hi
                loop = stack.enter_context(builder.serial(inside, "h"))
                offset = offset + (loop + lo) * product(storage[before + 1 :])
            length = extent * product(storage[at + 1 :])
            lanes = builder.vector_bytes // type_.dtype.itemsize
            if isinstance(length, int) and length < lanes:
                with builder.serial(length, "h") as cell:
                    builder.store(operand, fill, offset + cell)
                return
            vectors = length // lanes
            with builder.serial(vectors, "h") as vector:
                builder.store(operand, broadcast(fill, lanes), offset + vector * lanes, lanes)
            rest = length - vectors * lanes
            if rest != 0:
                builder.store(operand, broadcast(fill, lanes), offset + vectors * lanes, lanes, 1, rest)

    for at in range(rank):
        lo, hi = layout.halo[order[at]]
        if lo:
            strip(at, 0, lo)
        if hi:
            strip(at, storage[at] - hi, hi)
