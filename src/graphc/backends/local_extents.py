"""Open extents of a body by names of its own: one symbol for each, whatever it is in the model.

A layer deep in a network has `(height + 31) // 32` rows. Its kernel is told that number as `extent1` instead: offsets
stay short, nothing is divided when it runs, and layers that differ only in where they stand share a kernel.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace

from graphc.ir import Dim, Graph, TensorType, Value
from graphc.ir.symbolic import Bounds, interval, substitute, symbol, typical

USUAL_PIXELS = 224
"""Rows and columns of an image by which costs are weighed where its size is open."""


@dataclass(frozen=True)
class Localized:
    """A body over symbols of its own.

    Args:
        body: The body.
        extents: What each of its symbols is in the graph that it came from; empty for bound extents.
        bounds: Of the symbols in that graph.
    """

    body: Graph
    extents: Mapping[str, Dim] = field(default_factory=dict)
    bounds: Bounds = field(default_factory=dict)

    def original(self, value: Dim) -> Dim:
        """An expression over the body's symbols as one over those of the graph."""
        return substitute(value, self.extents)

    def usual(self, value: Dim, near: int = USUAL_PIXELS) -> int:
        """An expression over the body's symbols where those of the graph are `near`, as far as they can be."""
        return typical(self.original(value), self.bounds, near)


def localized(body: Graph) -> Localized:
    """A copy of a body in which each open extent is a symbol of its own; a body of bound extents as it is."""
    names: dict[Dim, str] = {}
    for value in _values(body):
        for extent in value.tensor_type.dims if isinstance(value.type, TensorType) else ():
            if not isinstance(extent, int):
                names.setdefault(extent, f"extent{len(names)}")
    if not names:
        return Localized(body)
    copy = body.clone()
    for value in _values(copy):
        kind = value.tensor_type
        value.type = replace(kind, shape=tuple(symbol(names[d]) if d in names else d for d in kind.dims))
    copy.bounds = {name: _bounds(extent, body.bounds) for extent, name in names.items()}
    return Localized(copy, {name: extent for extent, name in names.items()}, body.bounds)


def _bounds(extent: Dim, bounds: Bounds) -> tuple[int, int | None]:
    """Of an extent that is never 0."""
    found = interval(extent, bounds)
    return (1, None) if found is None else (max(1, found[0]), found[1])


def _values(body: Graph) -> Iterator[Value]:
    yield from body.inputs
    for node in body.nodes:
        yield from node.outputs
