"""Random graphs with an extent left open, and the number at which they were drawn."""

from __future__ import annotations

from graphc.errors import GraphcError
from graphc.ir import Graph, TensorType, Value
from graphc.ir.symbolic import evaluate, symbol, symbols
from graphc.ops.inference import infer_graph
from graphc.passes.rules import Chooser
from graphc.testing.choosing import chance

OPEN_DIM = "n"
"""What an open extent is called."""

_DRAWN = "drawn at "


def opened(graph: Graph, choose: Chooser) -> Graph:
    """The graph with one extent a symbol wherever its inputs have it; as it is where its operators do not let it."""
    extent = open_extent([value.tensor_type.static_shape for value in graph.inputs], choose)
    if extent is None:
        return graph
    copy = graph.clone()
    for value in copy.inputs:
        shape = value.tensor_type.static_shape
        value.type = value.tensor_type.with_shape([symbol(OPEN_DIM) if e == extent else e for e in shape])
    for inner in copy.all_graphs():
        for node in inner.nodes:
            for value in node.outputs:
                if not node.is_op("Constant"):
                    value.type = None
    copy.metadata[_DRAWN + OPEN_DIM] = str(extent)
    try:
        infer_graph(copy)
    except GraphcError:
        return graph
    return copy if all(isinstance(value.type, TensorType) for value in copy.outputs) else graph


def open_extent(shapes: list[tuple[int, ...]], choose: Chooser) -> int | None:
    """An extent that inputs of these shapes have, most often a first one, as batches are; None where all are 1."""
    first = sorted({shape[0] for shape in shapes if shape} - {0, 1})
    every = sorted({extent for shape in shapes for extent in shape} - {0, 1})
    if first and chance(choose, 60):
        every = first
    return int(choose.pick(every)) if every else None


def drawn_type(graph: Graph, value: Value) -> TensorType:
    """The type of an input with numbers for its extents: those at which the graph was drawn where they are open."""
    kind = value.tensor_type
    names = {name for extent in kind.dims for name in symbols(extent)}
    drawn = {name: int(graph.metadata[_DRAWN + name]) for name in names}
    return kind.with_shape([evaluate(extent, drawn) for extent in kind.dims])
