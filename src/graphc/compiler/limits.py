"""Tensors that no machine holds, found before anything tries to make one."""

from __future__ import annotations

from math import prod

from graphc.errors import UnsupportedError
from graphc.ir import Graph, TensorType, Value
from graphc.memory import Plan

LARGEST_TENSOR = 1 << 40
"""Bytes. A terabyte is beyond the machines that graphc compiles for, and far below where 64-bit offsets overflow."""


def refuse_huge_tensors(graph: Graph) -> None:
    """Looks at every value of known extents, also those that passes may remove: folding would make them first.

    Raises:
        UnsupportedError: A tensor is larger than `LARGEST_TENSOR`; names its node, or the input.
    """
    for inner in graph.all_graphs():
        for value in (*inner.inputs, *(output for node in inner.nodes for output in node.outputs)):
            kind = value.type
            if not isinstance(kind, TensorType) or not kind.is_static:
                continue
            # Strides are products of extents: one that is too large overflows them even beside an extent of 0.
            size = prod(max(extent, 1) for extent in kind.static_shape) * kind.dtype.itemsize
            if size > LARGEST_TENSOR:
                raise UnsupportedError(
                    f"{value.name!r} is {kind}: {_size(size)} of memory, more than any tensor may have",
                    nodes=_blamed(value),
                    hint="are the repeats, the pads or the target shape what they should be?",
                )


def refuse_huge_arena(plan: Plan) -> None:
    """Raises UnsupportedError where the values that live at once need more than any machine has."""
    if plan.peak > LARGEST_TENSOR:
        raise UnsupportedError(f"the model needs {_size(plan.peak)} of memory at once", hint="bind smaller dimensions")


def _blamed(value: Value) -> tuple[str, ...]:
    node = value.producer
    return (value.name,) if node is None else node.origins or (node.name or value.name,)


def _size(count: int) -> str:
    return f"{count / 1e12:,.1f} TB" if count < 10**18 else f"{count / 1e12:.1e} TB"
