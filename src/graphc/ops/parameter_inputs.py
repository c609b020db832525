"""Which inputs of a graph are parameters: small tensors whose values, not only their shapes, decide what code runs.

The axes of a reduction, the pads of a Pad or the k of a TopK may be inputs of the model. Nothing here lists such
operators: a node whose shapes or expression stay open says by what it asked for which elements it misses, and those
are traced back, through arithmetic that folds once its inputs are known, to inputs of the graph.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import numpy as np

from graphc.errors import GraphcError
from graphc.ir import Graph, Node, TensorType, Type, Value
from graphc.ir.symbolic import symbols
from graphc.ops.base import UNKNOWN_PREFIX, Trait, express, find
from graphc.ops.decomposition import can_expand
from graphc.ops.evaluate import captured_inputs
from graphc.ops.inference import CONTENTS_LIMIT, Inference
from graphc.package import PARAMETER_ELEMENTS

_FLOATS = 16
"""Elements of a float input that may be scales or limits; more of them are data."""

_DEPTH_LIMIT = 100
"""How long a chain of arithmetic behind a parameter is followed."""

_OPAQUE = frozenset({Trait.RANDOM, Trait.CONTROL, Trait.DATA_DEPENDENT})


def parameter_inputs(graph: Graph) -> dict[str, tuple[Node, ...]]:
    """The inputs that are parameters, in the graph's order, each with the nodes that it decides about.

    Args:
        graph: With its types inferred.
    """
    search = _Search(graph)
    found: dict[Value, dict[Node, None]] = {}
    for inner in graph.all_graphs():
        for node in inner.nodes:
            for value in search.undecided(node):
                found.setdefault(value, {})[node] = None
    return {value.name: tuple(found[value]) for value in graph.inputs if value in found}


def may_be_parameter(value: Value) -> bool:
    """Whether an input is of a kind that parameters are: numbers or booleans, a scalar or a short list."""
    kind = value.type
    if not isinstance(kind, TensorType) or kind.shape is None or len(kind.shape) > 1:
        return False
    if kind.dtype.kind in ("string", "complex"):
        return False
    limit = _FLOATS if kind.dtype.is_float else PARAMETER_ELEMENTS
    return all(not isinstance(extent, int) or extent <= limit for extent in kind.shape)


class _Search:
    def __init__(self, graph: Graph) -> None:
        self.inputs = frozenset(graph.inputs)
        self.missed: dict[Value, None] = {}
        self.inference = Inference(missed=self._note)
        self._sources: dict[Value, frozenset[Value] | None] = {}

    def _note(self, value: Value) -> None:
        self.missed[value] = None

    def undecided(self, node: Node) -> Iterable[Value]:
        """Inputs of the graph that decide about a node, which nothing else does."""
        operator = find(node)
        if operator is None or node.is_op("Constant") or operator.has(Trait.DATA_DEPENDENT):
            return ()
        self.missed.clear()
        try:
            is_open = _is_open(node, self.inference.infer(node))
            if not operator.has(Trait.CONTROL) and all(map(_has_rank, node.outputs)):
                # What the shapes miss is not all that the expression may miss: a Resize has sizes and a region.
                is_open = express(node, self._note) is None or is_open
        except GraphcError:
            # Compiling says what is wrong with the node.
            return ()
        if not is_open:
            return ()
        if operator.expression is None and not can_expand(node) and all(map(_is_scalar, node.inputs)):
            # Nothing but folding makes it a constant, and it is made of so little that it may.
            self.missed.update((value, None) for value in node.inputs if value is not None)
        own = [value for value in self.missed if value in node.inputs]
        traced = (self.sources(value, 0) for value in own)
        return list(dict.fromkeys(value for values in traced for value in sorted(values or (), key=_name)))

    def sources(self, value: Value, depth: int) -> frozenset[Value] | None:
        """Inputs of the graph from which a value folds; None where it comes from data, or from too far away."""
        if value not in self._sources:
            self._sources[value] = self._find_sources(value, depth)
        return self._sources[value]

    def _find_sources(self, value: Value, depth: int) -> frozenset[Value] | None:
        if self.inference.contents(value) is not None or self.inference.elements(value) is not None:
            # Known, or following from shapes, which are known when the model runs.
            return frozenset()
        node = value.producer
        if node is None:
            return frozenset({value}) if value in self.inputs and may_be_parameter(value) else None
        if depth > _DEPTH_LIMIT or not _may_be_small(value.type):
            return None
        origins = self._origins(node, value.index)
        if origins is None:
            return None
        found: set[Value] = set()
        for given in origins:
            inner = self.sources(given, depth + 1)
            if inner is None:
                return None
            found |= inner
        return frozenset(found)

    def _origins(self, node: Node, index: int) -> list[Value] | None:
        """What an output of a node folds from; None where it does not fold."""
        if node.is_op("If"):
            branches = [node.graph_attribute(name) for name in ("then_branch", "else_branch")]
            condition = node.inputs[0]
            known = None if condition is None else self.inference.elements(condition)
            if known is not None:
                branches = branches[:1] if known.all() else branches[1:]
            return [*filter(None, node.inputs), *(branch.outputs[index] for branch in branches)]
        operator = find(node)
        if operator is None or operator.evaluate is None or operator.traits & _OPAQUE:
            return None
        return [value for value in node.inputs if value is not None]


def _has_rank(value: Value) -> bool:
    return isinstance(value.type, TensorType) and value.type.shape is not None


def _is_scalar(value: Value | None) -> bool:
    return value is None or (isinstance(value.type, TensorType) and value.type.shape == ())


def _name(value: Value) -> str:
    return value.name


def _is_open(node: Node, found: Sequence[Type | None]) -> bool:
    """Whether types of a node's outputs hold what only data tells, and its inputs do not yet.

    Types that the model declares may say more, and be wrong.
    """
    given = (*node.inputs, *captured_inputs(node))
    before = {name for value in given if value is not None for name in unknowns(value.type)}
    return any(
        not isinstance(kind, TensorType) or kind.shape is None or bool(unknowns(kind) - before)
        for value, kind in zip(node.outputs, found, strict=True)
        if value.is_used
    )


def unknowns(kind: Type | None) -> set[str]:
    """Names of a type's extents that only data tells."""
    if not isinstance(kind, TensorType):
        return set()
    return {name for dim in kind.shape or () for name in symbols(dim) if name.startswith(UNKNOWN_PREFIX)}


def _may_be_small(kind: Type | None) -> bool:
    """Whether a tensor is as small as those that inference follows, or of unknown size."""
    if not isinstance(kind, TensorType) or kind.dtype.kind == "string":
        return False
    if kind.shape is None or not kind.is_static:
        return True
    return int(np.prod(kind.static_shape)) <= CONTENTS_LIMIT
