"""Fusion: grouping nodes into regions, each of which becomes one kernel.

A region has at most one anchor, the node that decides its loops:

    contraction, window, attention    the kernel is a template; pointwise operators follow in its epilogue
    reduction, normalization          a row at a time; pointwise operators before and after it
    none                              one loop nest over the output; pointwise and movement operators inlined

Anchors are served in that order, because an epilogue costs a matmul nothing and saves a whole pass over memory.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import ClassVar

from graphc.ir import GRAPHC_DOMAIN, Graph, Node, TensorType, Value, clone_node
from graphc.ops.base import Trait, express, find, parameters
from graphc.ops.expr import Load, Scalar, walk
from graphc.passes.base import PassContext, register_pass

REGION = "Region"

_HEAVY = frozenset({Trait.CONTRACTION, Trait.WINDOW})
_ROWS = frozenset({Trait.REDUCTION, Trait.NORMALIZATION})
_INLINED = frozenset({Trait.POINTWISE, Trait.MOVEMENT})
_DUPLICATION = 1.5
"""A producer may be inlined where this computes it at most so many times as often as storing it would."""

_BRANCHING = frozenset({"Concat", "Pad"})
"""Movements that evaluate every source under a condition: what is inlined there is computed for nothing elsewhere."""


@register_pass
@dataclass(frozen=True)
class Fuse:
    """Groups compiled nodes into `graphc::Region` nodes.

    Before: typed graph, layouts assigned. After: every group of more than one node is a Region whose closed body
    computes the same values; nodes that have no compiled form, views and constants stay as they are.

    Args:
        max_nodes: Most nodes of a region, so that kernels stay small enough to compile quickly.
        max_inputs: Most inputs of a region: each is a pointer that a kernel keeps in a register.
    """

    name: ClassVar[str] = "fuse"
    max_nodes: int = 24
    max_inputs: int = 16

    def run(self, graph: Graph, context: PassContext) -> int:
        """Groups, then replaces each group by its region; answers how many regions were made."""
        plan = _Grouping(self, graph, context)
        groups = [group for group in plan.groups() if len(group.nodes) > 1]
        made = 0
        for group in groups:
            if context.permit(self.name, group.nodes[-1]):
                _make_region(graph, group)
                made += 1
        if made:
            graph.topological_sort()
        return made


@dataclass
class _Group:
    """Nodes of one region in graph order, and the one that anchors it."""

    nodes: list[Node]
    anchor: Node


class _Grouping:
    """One run of the pass over one graph."""

    def __init__(self, options: Fuse, graph: Graph, context: PassContext) -> None:
        self.options = options
        self.graph = graph
        self.context = context
        self.position = {node: i for i, node in enumerate(graph.nodes)}
        self.taken: set[Node] = set()
        self.compiled = {node for node in graph.nodes if self._is_compiled(node)}

    def _is_compiled(self, node: Node) -> bool:
        if node.is_op("Constant") or node.is_op(REGION, GRAPHC_DOMAIN):
            return False
        static = all(isinstance(v.type, TensorType) and v.type.shape is not None for v in node.outputs)
        capability = self.context.capability
        return static and find(node) is not None and (capability is None or bool(capability.supports(node)))

    def groups(self) -> Iterator[_Group]:
        """Every group, heavy anchors first."""
        nodes = list(self.graph.nodes)
        for traits, grow in ((_HEAVY, self._heavy), (_ROWS, self._rows)):
            for node in nodes:
                if node in self.compiled and node not in self.taken and _has(node, traits):
                    yield self._take(grow(node), node)
        for node in reversed(nodes):
            if node in self.compiled and node not in self.taken and _has(node, _INLINED) and not _is_view(node):
                yield self._take(self._producers({node}, node), node)

    def _take(self, nodes: set[Node], anchor: Node) -> _Group:
        self.taken |= nodes
        return _Group(sorted(nodes, key=self.position.__getitem__), anchor)

    def _heavy(self, anchor: Node) -> set[Node]:
        """The anchor and what can follow it in registers; for attention, also the views and transposes around it."""
        if anchor.is_op("Attention"):
            return self._moved_by(anchor)
        return self._epilogue({anchor}, anchor)

    def _moved_by(self, anchor: Node) -> set[Node]:
        nodes = {anchor}
        for value in anchor.inputs[:3]:
            while value is not None and (node := value.producer) in self.compiled and node not in self.taken:
                movement = _has(node, {Trait.MOVEMENT}) and not _branches(node) and len(node.outputs) == 1
                if not movement or len(value.uses) != 1:
                    break
                nodes.add(node)
                value = node.input(0)
        value = anchor.output
        while len(value.uses) == 1 and isinstance(user := value.uses[0].user, Node):
            if user not in self.compiled or user in self.taken or user.op_type not in ("Transpose", "Reshape"):
                break
            nodes.add(user)
            value = user.output
        return nodes

    def _rows(self, anchor: Node) -> set[Node]:
        """A reduction with the pointwise operators before it and after it."""
        nodes = self._epilogue({anchor}, anchor)
        return self._producers(nodes, anchor, keep=anchor.output.type == _result(nodes, self.position).type)

    def _epilogue(self, nodes: set[Node], anchor: Node) -> set[Node]:
        """Adds pointwise consumers of the anchor's shape; a chain may fork as long as it joins again.

        What is kept is the largest prefix of the walk after which a single value is read outside.
        """
        shape = anchor.output.tensor_type.shape
        grown, kept = set(nodes), set(nodes)
        if len([value for value in anchor.outputs if value.is_used]) != 1:
            return kept
        while len(grown) < self.options.max_nodes:
            following = self._next_pointwise(grown, shape)
            if following is None:
                break
            grown.add(following)
            if len(_read_outside(grown)) == 1 and len(_inputs(grown)) <= self.options.max_inputs:
                kept = set(grown)
        return kept

    def _next_pointwise(self, nodes: set[Node], shape: object) -> Node | None:
        """The earliest consumer outside that could join an epilogue of `shape`."""
        found: Node | None = None
        for value in _read_outside(nodes):
            for node in value.consumers:
                if node in nodes or not self._can_follow(node, nodes, shape):
                    continue
                if found is None or self.position[node] < self.position[found]:
                    found = node
        return found

    def _can_follow(self, node: Node, nodes: set[Node], shape: object) -> bool:
        if node not in self.compiled or node in self.taken or not (_has(node, {Trait.POINTWISE}) or _is_relayout(node)):
            return False
        if node.output.tensor_type.shape != shape:
            return False
        return not any(
            value is not None and value.producer not in nodes and self._depends(value, nodes) for value in node.inputs
        )

    def _depends(self, value: Value, nodes: set[Node]) -> bool:
        """Whether `value`, made outside, is computed from results of `nodes`: fusing its reader would make a cycle."""
        first = min(self.position[node] for node in nodes)
        stack, seen = [value.producer], set()
        while stack:
            node = stack.pop()
            if node is None or node in seen or self.position.get(node, -1) < first:
                continue
            if node in nodes:
                return True
            seen.add(node)
            stack.extend(v.producer for v in node.inputs if v is not None)
        return False

    def _producers(self, nodes: set[Node], anchor: Node, *, keep: bool = False) -> set[Node]:
        """Adds producers that only the group reads and that are cheap to compute where they are read.

        Args:
            nodes: The group so far.
            anchor: Its anchor.
            keep: Whether a producer of the result's shape may join though others read it too: it becomes a further
                output of the kernel (the sum before a layer norm, which the next residual needs).
        """
        result = _result(nodes, self.position)
        grown = set(nodes)
        frontier = list(grown)
        while frontier:
            node = frontier.pop()
            for value in node.inputs:
                if value is None or value.producer is None or value.producer in grown:
                    continue
                producer = value.producer
                if not self._can_inline(producer, node, grown, result):
                    continue
                alone = all(user in grown for user in value.consumers) and not value.is_graph_output
                extra = keep and value.type == result.type and len(_read_outside(grown)) == 1
                if not alone and not (extra and not self._read_before(value, grown)):
                    continue
                trial = grown | {producer}
                if len(trial) > self.options.max_nodes or len(_inputs(trial)) > self.options.max_inputs:
                    continue
                grown = trial
                frontier.append(producer)
        return grown

    def _read_before(self, value: Value, nodes: set[Node]) -> bool:
        """Whether some node of the group depends on `value` through a node outside."""
        outside = [user for user in value.consumers if user not in nodes]
        return any(
            v is not None and v.producer not in nodes and self._reaches(outside, v) for n in nodes for v in n.inputs
        )

    def _reaches(self, sources: Iterable[Node], value: Value) -> bool:
        return value.producer is not None and self._depends(value, set(sources)) if sources else False

    def _can_inline(self, producer: Node, reader: Node, nodes: set[Node], result: Value) -> bool:
        if producer not in self.compiled or producer in self.taken or not _has(producer, _INLINED):
            return False
        if len(producer.outputs) != 1 or _branches(reader) or _branches(producer):
            return False
        if any(_is_gathered(reader, i) for i, value in enumerate(reader.inputs) if value is producer.output):
            return False
        if _has(producer, {Trait.MOVEMENT}) and any(_has(node, _ROWS) for node in nodes):
            return False
        made, read = producer.output.tensor_type.numel, result.tensor_type.numel
        if _has(reader, _ROWS):
            read = made
        once = made == read or (isinstance(made, int) and isinstance(read, int) and read <= _DUPLICATION * made)
        return once or _has(producer, {Trait.MOVEMENT})


def _has(node: Node | None, traits: Iterable[Trait]) -> bool:
    operator = None if node is None else find(node)
    return operator is not None and any(operator.has(trait) for trait in traits)


def _is_view(node: Node) -> bool:
    return _has(node, {Trait.VIEW})


def _is_relayout(node: Node) -> bool:
    return node.is_op("Relayout", GRAPHC_DOMAIN)


def _branches(node: Node) -> bool:
    return node.domain == "" and node.op_type in _BRANCHING


def _is_gathered(node: Node, number: int) -> bool:
    """Whether `node` reads input `number` at indices that are data: those are checked against a stored tensor."""
    return any(
        isinstance(scalar, Load) and scalar.input == number and any(isinstance(i, Scalar) for i in scalar.indices)
        for expression in express(node) or ()
        for scalar in walk(expression.body)
    )


def _result(nodes: Iterable[Node], position: dict[Node, int]) -> Value:
    """The first output of the last node."""
    return max(nodes, key=position.__getitem__).output


def _read_outside(nodes: set[Node]) -> list[Value]:
    """Values of the group that something outside reads."""
    return [
        value
        for node in nodes
        for value in node.outputs
        if value.is_graph_output or any(user not in nodes for user in value.consumers)
    ]


def _inputs(nodes: set[Node]) -> dict[Value, None]:
    """Values that a group reads and does not make, without the constants that go into its body."""
    return {
        value: None
        for node in nodes
        for value, inner in zip(node.inputs, _inner_constants(node), strict=True)
        if value is not None and value.producer not in nodes and not inner
    }


def _inner_constants(node: Node) -> list[bool]:
    """Which inputs belong to a kernel's code: constants of one element, and the shapes and axes of operators."""
    known = parameters(node)
    return [
        value is not None and value.constant is not None and (value.constant.size == 1 or index in known)
        for index, value in enumerate(node.inputs)
    ]


def _make_region(graph: Graph, group: _Group) -> Node:
    """Replaces the group's nodes by a region that computes what is read outside."""
    inside = set(group.nodes)
    body = Graph("region", opset=graph.opset)
    body.bounds = graph.bounds
    mapping: dict[Value, Value] = {}
    inputs: list[Value] = []
    for node in group.nodes:
        for value, inner in zip(node.inputs, _inner_constants(node), strict=True):
            if value is None or value in mapping or value.producer in inside:
                continue
            if inner and value.producer is not None:
                mapping[value] = body.append(clone_node(value.producer, {})).output
            else:
                mapping[value] = body.add_input(value.name, value.type)
                inputs.append(value)
        copy = body.append(clone_node(node, mapping))
        mapping.update(zip(node.outputs, copy.outputs, strict=True))
    results = sorted(_read_outside(inside), key=lambda v: group.nodes.index(v.producer) if v.producer else -1)
    body.outputs = [mapping[value] for value in results]
    origins = [name for node in group.nodes for name in node.origins]
    last = group.nodes[-1]
    region = Node(
        REGION,
        inputs,
        [value.name for value in results],
        {"body": body, "kind": group.anchor.op_type},
        domain=GRAPHC_DOMAIN,
        version=1,
        name="+".join(node.op_type for node in group.nodes if not _is_view(node))[:120],
        origins=origins,
    )
    graph.insert_after(region, last)
    for old, new in zip(results, region.outputs, strict=True):
        new.type = old.type
        old.replace_all_uses(new)
    for node in reversed(group.nodes):
        graph.remove(node)
    return region


def dissolve(graph: Graph, region: Node) -> None:
    """Puts the nodes of a region's body back into the graph in its place."""
    body = region.graph_attribute("body")
    values = dict(zip(body.inputs, (value for value in region.inputs if value is not None), strict=True))
    for node in body.nodes:
        names = [graph.fresh_name(value.name) if value.name else "" for value in node.outputs]
        copy = graph.insert_before(clone_node(node, values, names), region)
        values.update(zip(node.outputs, copy.outputs, strict=True))
    for old, inner in zip(region.outputs, body.outputs, strict=True):
        new = values[inner]
        if old.is_graph_output:
            old.name, new.name = new.name, old.name
        old.replace_all_uses(new)
    graph.remove(region)
