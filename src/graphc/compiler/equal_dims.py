"""Dimensions that a model gives several names and that must be equal: found where its nodes demand it.

An exporter may name the length of every cache of a decoder differently, though their heads are added to one another.
Where a sum, a product or a concatenation makes `s1 + 1` and `s2 + 1` meet, `s2` is `s1`.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

from graphc.ir import Graph, Node, TensorType
from graphc.ir.symbolic import Dim, SymbolicInt, add, linear_coefficient, multiply, substitute, symbols
from graphc.ops.base import Trait, find


def equalities(graph: Graph) -> dict[str, Dim]:
    """For each symbol that follows from others: what it is over those that remain.

    Args:
        graph: Types inferred, over symbols.
    """
    found: dict[str, Dim] = {}
    wanted = sorted(set().union(*(v.type.symbols() for v in graph.inputs if isinstance(v.type, TensorType))))
    for node in graph.nodes:
        for left, right in _meeting(node):
            solved = _solved(substitute(left, found), substitute(right, found), wanted)
            if solved is not None:
                name, value = solved
                found = {old: substitute(known, {name: value}) for old, known in found.items()}
                found[name] = value
    return found


def _meeting(node: Node) -> Iterator[tuple[Dim, Dim]]:
    """Pairs of extents of which a node demands that they are equal, or one of them 1."""
    shapes: list[Sequence[Dim]] = []
    for value in node.inputs:
        if value is not None and isinstance(value.type, TensorType) and value.type.shape is not None:
            shapes.append(value.type.shape)
    operator = find(node)
    if operator is None or len(shapes) < 2:
        return
    if node.is_op("MatMul"):
        left, right = shapes
        if len(left) > 0 and len(right) > 0:
            yield left[-1], right[-2 if len(right) > 1 else 0]
        yield from _aligned([left[:-2], right[:-2]])
    elif node.is_op("Concat"):
        axis = node.int_attribute("axis", 0) % max(len(shapes[0]), 1)
        if all(len(shape) == len(shapes[0]) for shape in shapes):
            yield from _aligned([[*shape[:axis], *shape[axis + 1 :]] for shape in shapes])
    elif node.is_op("QuantizeLinear") or node.is_op("DequantizeLinear"):
        # Scales are laid along one axis, or in blocks, not broadcast from the last axis on.
        if len(shapes[1]) == 1 and shapes[0] and not node.int_attribute("block_size", 0):
            yield shapes[0][node.int_attribute("axis", 1) % len(shapes[0])], shapes[1][0]
    elif operator.has(Trait.POINTWISE) and not node.is_op("CastLike"):  # of its second operand only the dtype matters
        yield from _aligned(shapes)


def _aligned(shapes: Sequence[Sequence[Dim]]) -> Iterator[tuple[Dim, Dim]]:
    rank = max(map(len, shapes), default=0)
    for axis in range(rank):
        extents = [shape[axis - rank] for shape in shapes if len(shape) >= rank - axis]
        known = [extent for extent in extents if extent != 1]
        yield from ((known[0], extent) for extent in known[1:])


def _solved(left: Dim, right: Dim, wanted: Sequence[str]) -> tuple[str, Dim] | None:
    """One symbol of an equation over the others: of those that it is linear in, the one that comes last.

    A symbol that is another one less something is left, and the other solved for: extents are no negative numbers.
    """
    difference = add(left, multiply(-1, right))
    if isinstance(difference, int):
        return None
    choices: list[tuple[str, Dim]] = []
    for name in sorted(symbols(difference) & set(wanted)):
        slope = linear_coefficient(difference, name)
        if slope in (1, -1):
            rest = substitute(difference, {name: 0})
            choices.append((name, multiply(-slope, rest)))
    choices = [(name, value) for name, value in choices if _is_sum(value)]
    return choices[-1] if choices else None


def _is_sum(value: Dim) -> bool:
    """Whether nothing is taken away from a symbol."""
    return not isinstance(value, SymbolicInt) or all(coefficient > 0 for _, coefficient in value.terms)


def with_equalities(values: Mapping[str, int], equal: Mapping[str, Dim]) -> dict[str, int]:
    """Values of all symbols, from those that remain."""
    found = dict(values)
    for name, value in equal.items():
        bound = substitute(value, values)
        assert isinstance(bound, int), f"{name} is {value}"
        found[name] = bound
    return found
