"""Smaller variants of a specimen: fewer outputs, nodes passed by, attributes and optional inputs left out."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator
from functools import partial
from typing import TypeAlias

from graphc.ir import Graph, Node, TensorType, Value
from graphc.testing.reduction.specimen import Specimen, without_unused

Variant: TypeAlias = Callable[[], Specimen | None]
"""Makes a variant of a specimen; None where there is none after all. Types that do not fit are its error."""


def single_outputs(specimen: Specimen) -> Iterator[Variant]:
    """The graph with one of its outputs alone."""
    if len(specimen.graph.outputs) > 1:
        for index in range(len(specimen.graph.outputs)):
            yield partial(_with_output, specimen, index)


def _with_output(specimen: Specimen, index: int) -> Specimen:
    graph = specimen.graph.clone()
    graph.outputs = [graph.outputs[index]]
    return without_unused(graph, specimen.inputs)


def nodes_passed_by(specimen: Specimen) -> Iterator[Variant]:
    """The graph with a node's first output replaced by an input of the same type."""
    for index, node in enumerate(specimen.nodes):
        for place, value in enumerate(node.inputs):
            if value is not None and _same(value, node.output):
                yield partial(_passing_by, specimen, index, place)


def kinds_passed_by(specimen: Specimen) -> Iterator[Variant]:
    """The graph with all nodes of one operator passed by: in branches that must match, one alone cannot be."""
    kinds = Counter(node.op for node in specimen.nodes)
    for kind, number in kinds.items():
        if number > 1:
            yield partial(_passing_kind, specimen, kind)


def _passing_kind(specimen: Specimen, kind: str) -> Specimen | None:
    graph = specimen.graph.clone()
    for node in _nodes(graph):
        source = next((value for value in node.inputs if value is not None and _same(value, node.output)), None)
        if node.op == kind and source is not None:
            node.output.replace_all_uses(source)
    return _returning_what_is_made(graph, specimen)


def _passing_by(specimen: Specimen, index: int, place: int) -> Specimen | None:
    graph = specimen.graph.clone()
    node = _nodes(graph)[index]
    source = node.inputs[place]
    assert source is not None
    node.output.replace_all_uses(source)
    return _returning_what_is_made(graph, specimen)


def _returning_what_is_made(graph: Graph, specimen: Specimen) -> Specimen | None:
    # What is returned must be made, and once.
    made = all(value.producer is not None and value.constant is None for value in graph.outputs)
    if not made or len(set(graph.outputs)) < len(graph.outputs):
        return None
    return without_unused(graph, specimen.inputs)


def inputs_left_out(specimen: Specimen) -> Iterator[Variant]:
    """The graph with one input of a node absent."""
    for index, node in enumerate(specimen.nodes):
        for place in reversed(range(1, len(node.inputs))):
            if node.inputs[place] is not None:
                yield partial(_without_input, specimen, index, place)


def _without_input(specimen: Specimen, index: int, place: int) -> Specimen:
    graph = specimen.graph.clone()
    node = _nodes(graph)[index]
    kept = [*node.inputs]
    kept[place] = None
    while kept and kept[-1] is None:
        kept.pop()
    node.inputs = tuple(kept)
    return without_unused(graph, specimen.inputs)


def attributes_left_out(specimen: Specimen) -> Iterator[Variant]:
    """The graph with one attribute of a node at its default."""
    for index, node in enumerate(specimen.nodes):
        for name in node.attributes:
            yield partial(_without_attribute, specimen, index, name)


def _without_attribute(specimen: Specimen, index: int, name: str) -> Specimen:
    graph = specimen.graph.clone()
    del _nodes(graph)[index].attributes[name]
    return without_unused(graph, specimen.inputs)


def _nodes(graph: Graph) -> list[Node]:
    return [node for node in graph.nodes if not node.is_op("Constant")]


def _same(left: Value, right: Value) -> bool:
    a, b = left.type, right.type
    return isinstance(a, TensorType) and isinstance(b, TensorType) and (a.dtype, a.shape) == (b.dtype, b.shape)
