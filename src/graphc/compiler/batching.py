"""Whether a package's rows are independent, so that requests may share a call: the proof, for the shapes compiled."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from graphc.frontend import bind_dims
from graphc.ir import Graph, TensorType
from graphc.ir.symbolic import symbol, symbols
from graphc.package import BatchAxes
from graphc.passes.batch_axes import Proof, prove

_MOST_PROOFS = 8
"""Bindings of the other dimensions that are proved one by one; with more of them, they are proved left open."""


def batch_axes(source: Graph, bindings: Sequence[Mapping[str, int]]) -> BatchAxes | Proof:
    """The axes along which rows are independent in every variant, or the proof that failed.

    Args:
        source: The graph as imported.
        bindings: Values of the symbols in each variant.
    """
    rows = row_symbol(source)
    if rows is None:
        return Proof(reason="no dimension is shared by all inputs")
    others: list[dict[str, int]] = []
    for bound in bindings:
        rest = {name: value for name, value in bound.items() if name != rows}
        if rest not in others:
            others.append(rest)
    if len(others) > _MOST_PROOFS:
        others = [{}]
    found: Proof | None = None
    for rest in others:
        graph = source.clone()
        bind_dims(graph, rest)
        proof = prove(graph, rows)
        if not proof:
            return proof
        if found is not None and proof != found:
            return Proof(reason="rows lie along different axes in different variants")
        found = proof
    return BatchAxes(rows, found.inputs, found.outputs) if found else Proof(reason="no variant was compiled")


def row_symbol(graph: Graph) -> str | None:
    """The symbol that is the extent of exactly one axis of every input, the first such axis of the first input."""
    shapes = [value.type.shape or () if isinstance(value.type, TensorType) else () for value in graph.inputs]
    for dim in shapes[0] if shapes else ():
        name = str(dim)
        if isinstance(dim, int) or dim != symbol(name):
            continue
        if all([d for d in shape if name in symbols(d)] == [dim] for shape in shapes):
            return name
    return None
