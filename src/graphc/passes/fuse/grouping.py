"""Which nodes go into one region."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass

from graphc.ir import GRAPHC_DOMAIN, Graph, Node, TensorType, Value
from graphc.ir.ordering import producers_of
from graphc.ops.base import Trait, express, find, parameters
from graphc.ops.expr import Load, Scalar, walk
from graphc.passes.base import PassContext
from graphc.passes.views import is_view

REGION = "Region"

HEAVY = frozenset({Trait.CONTRACTION, Trait.WINDOW})
ROWS = frozenset({Trait.REDUCTION, Trait.NORMALIZATION})
INLINED = frozenset({Trait.POINTWISE, Trait.MOVEMENT})
PRODUCTS = frozenset({"Gemm", "MatMul", "MatMulInteger"})
"""Operators whose kernels can be told to move what they read and make."""

_DUPLICATION = 1.5
"""A producer may be inlined where this computes it at most so many times as often as storing it would."""

_BRANCHING = frozenset({"Concat", "Pad"})
"""Movements that evaluate every source under a condition: what is inlined there is computed for nothing elsewhere."""


@dataclass
class Group:
    """Nodes of one region in graph order, and the one that anchors it."""

    nodes: list[Node]
    anchor: Node


class Grouping:
    """One run of the pass over one graph.

    Args:
        graph: Its nodes are grouped; it is not changed.
        context: Says what has a compiled form.
        max_nodes: Most nodes of a group.
        max_inputs: Most inputs of a group.
        moves: Whether kernels of products store what is reshaped where it belongs, and read operands that are moved or
            widened from where they come.
    """

    def __init__(
        self, graph: Graph, context: PassContext, *, max_nodes: int, max_inputs: int, moves: bool = False
    ) -> None:
        self.graph = graph
        self.context = context
        self.moves = moves
        self.max_nodes, self.max_inputs = max_nodes, max_inputs
        self.position = {node: i for i, node in enumerate(graph.nodes)}
        self.taken: set[Node] = set()
        self.compiled = {node for node in graph.nodes if self.not_compiled(node) is None}

    def not_compiled(self, node: Node) -> str | None:
        """Why a node has no part in regions; None where it can have."""
        if node.graph is not self.graph:
            return f"{node.op} stands in another graph, of a branch or a loop or around it"
        if node.is_op("Constant") or node.is_op(REGION, GRAPHC_DOMAIN):
            return f"{node.op} is not computed"
        if any(not isinstance(v.type, TensorType) or v.type.shape is None for v in node.outputs):
            return f"the rank of what {node.op} makes is unknown"
        if find(node) is None:
            return f"{node.op} is unknown"
        verdict = None if self.context.capability is None else self.context.capability.supports(node)
        return None if verdict is None or verdict else f"{node.op} runs on the host: {verdict.reason}"

    def groups(self) -> Iterator[Group]:
        """Every group, heavy anchors first."""
        nodes = list(self.graph.nodes)
        for traits, grow in ((HEAVY, self._heavy), (ROWS, self._rows)):
            for node in nodes:
                if node in self.compiled and node not in self.taken and has(node, traits):
                    yield self._take(grow(node), node)
        for node in reversed(nodes):
            if node in self.compiled and node not in self.taken and has(node, INLINED) and not is_view(node):
                yield self._take(self._producers({node}, node), node)

    def _take(self, nodes: set[Node], anchor: Node) -> Group:
        self.taken |= nodes
        return Group(sorted(nodes, key=self.position.__getitem__), anchor)

    def _heavy(self, anchor: Node) -> set[Node]:
        """The anchor and what can follow it in registers; for attention, also the views and transposes around it."""
        if anchor.is_op("Attention"):
            return self._moved_by(anchor)
        nodes = self._without_last_views(self._epilogue({anchor}, anchor), anchor)
        return self._operands(nodes, anchor) if self.moves and is_product(anchor) else nodes

    def _without_last_views(self, nodes: set[Node], anchor: Node) -> set[Node]:
        """Nodes without the views at their end, which cost nothing outside."""
        kept = set(nodes)
        while (last := max(kept, key=self.position.__getitem__)) is not anchor and is_movement_view(last):
            kept.remove(last)
        return kept

    def _operands(self, nodes: set[Node], anchor: Node) -> set[Node]:
        """Adds what alone moves an operand of a product or makes it wider: both cost less where it is read."""
        grown = set(nodes)
        for operand in anchor.inputs[:2]:
            chain: set[Node] = set()
            value = operand
            while operand is not None and value is not None and (node := self._feeding(value)) is not None:
                chain.add(node)
                value, trial = node.input(0), grown | chain
                fits = len(trial) <= self.max_nodes and len(inputs_of(trial)) <= self.max_inputs
                # Views at the end of a chain cost nothing outside, and wider operands more bytes.
                if fits and not is_view(node) and value is not None and _bits(value) <= _bits(operand):
                    grown = trial
        return grown

    def _feeding(self, value: Value) -> Node | None:
        """What makes a value that nothing but a product reads, if that may compute it."""
        node = value.producer
        alone = len(value.uses) == 1 and not value.is_graph_output
        if node is None or not alone or node in self.taken or self.cannot_feed(node) is not None:
            return None
        return node

    def cannot_feed(self, node: Node) -> str | None:
        """Why a product does not compute `node`, which makes an operand of it, where it reads that."""
        if node not in self.compiled:
            return self.not_compiled(node)
        source, result = node.input(0), node.output.tensor_type
        if len(node.outputs) != 1 or source is None:
            return f"{node.op} has several results"
        if node.is_op("Transpose"):
            order = node.ints_attribute("perm") or tuple(reversed(range(len(result.dims))))
            apart = len(order) - 1 not in order[-2:]
            return f"{node.op} leaves no neighbours along either axis of the product" if apart else None
        if is_movement_view(node) or node.op_type in ("Cast", "DequantizeLinear", "Slice"):
            return None
        return f"{node.op} is not movement or a conversion, and only those are computed where a product reads"

    def _moved_by(self, anchor: Node) -> set[Node]:
        nodes = {anchor}
        for value in anchor.inputs[:3]:
            while value is not None and (node := value.producer) in self.compiled and node not in self.taken:
                movement = has(node, {Trait.MOVEMENT}) and not _branches(node) and len(node.outputs) == 1
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
        return self._producers(nodes, anchor, keep=anchor.output.type == result_of(nodes, self.position).type)

    def _epilogue(self, nodes: set[Node], anchor: Node) -> set[Node]:
        """Adds pointwise consumers of the anchor's shape; a chain may fork as long as it joins again.

        What is kept is the largest prefix of the walk after which a single value is read outside.
        """
        shape = anchor.output.tensor_type.shape
        grown, kept = set(nodes), set(nodes)
        if len([value for value in anchor.outputs if value.is_used]) != 1:
            return kept
        while len(grown) < self.max_nodes:
            following = self._next_pointwise(grown, shape)
            if following is None:
                break
            grown.add(following)
            if len(read_outside(grown)) == 1 and len(inputs_of(grown)) <= self.max_inputs:
                kept = set(grown)
        return kept

    def _next_pointwise(self, nodes: set[Node], shape: object) -> Node | None:
        """The earliest consumer outside that could join an epilogue of `shape`."""
        found: Node | None = None
        for value in read_outside(nodes):
            for node in value.consumers:
                if node in nodes or not self._can_follow(node, nodes, shape):
                    continue
                if found is None or self.position[node] < self.position[found]:
                    found = node
        return found

    def _can_follow(self, node: Node, nodes: set[Node], shape: object) -> bool:
        return node not in self.taken and self.cannot_follow(node, nodes, shape) is None

    def cannot_follow(self, node: Node, nodes: set[Node], shape: object) -> str | None:
        """Why `node`, which reads a result of `nodes`, cannot be computed in the registers of their epilogue."""
        if node not in self.compiled:
            return self.not_compiled(node)
        moves = self.moves and any(map(is_product, nodes))
        reshapes = moves and is_movement_view(node)
        if not (reshapes or has(node, {Trait.POINTWISE}) or _is_relayout(node)):
            return f"{node.op} is not pointwise, and only pointwise operators follow in registers"
        made = [v.tensor_type.shape for v in node.inputs if v is not None and v.producer in nodes] if moves else [shape]
        if not reshapes and any(node.output.tensor_type.shape != shape for shape in made):
            return f"{node.op} makes {node.output.tensor_type}, another shape than the region's"
        late = [v for v in node.inputs if v is not None and v.producer not in nodes and self._depends(v, nodes)]
        return f"{node.op} also needs %{late[0].name}, which is computed from what the region makes" if late else None

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
            stack.extend(producers_of(node))
        return False

    def _producers(self, nodes: set[Node], anchor: Node, *, keep: bool = False) -> set[Node]:
        """Adds producers that only the group reads and that are cheap to compute where they are read.

        Args:
            nodes: The group so far.
            anchor: Its anchor.
            keep: Whether a producer of the result's shape may join though others read it too: it becomes a further
                output of the kernel (the sum before a layer norm, which the next residual needs).
        """
        result = result_of(nodes, self.position)
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
                extra = keep and value.type == result.type and len(read_outside(grown)) == 1
                if not alone and not (extra and not self._read_before(value, grown)):
                    continue
                trial = grown | {producer}
                if len(trial) > self.max_nodes or len(inputs_of(trial)) > self.max_inputs:
                    continue
                grown = trial
                frontier.append(producer)
        return grown

    def _read_before(self, value: Value, nodes: set[Node]) -> bool:
        """Whether some node of the group depends on `value` through a node outside."""
        outside = [user for user in value.consumers if user not in nodes]
        if any(user.graph is not self.graph for user in outside):
            return True  # in a branch or a loop, whose node may come before the group
        return any(
            v is not None and v.producer not in nodes and self._reaches(outside, v) for n in nodes for v in n.inputs
        )

    def _reaches(self, sources: Iterable[Node], value: Value) -> bool:
        return value.producer is not None and self._depends(value, set(sources)) if sources else False

    def _can_inline(self, producer: Node, reader: Node, nodes: set[Node], result: Value) -> bool:
        return producer not in self.taken and self.cannot_inline(producer, reader, nodes, result) is None

    def cannot_inline(self, producer: Node, reader: Node, nodes: set[Node], result: Value) -> str | None:
        """Why `producer` cannot be computed where `reader`, one of `nodes`, reads it."""
        if producer not in self.compiled:
            return self.not_compiled(producer)
        if not has(producer, INLINED):
            return f"{producer.op} is neither pointwise nor a movement, and only those are computed where they are read"
        if len(producer.outputs) != 1:
            return f"{producer.op} has several results"
        for node in (reader, producer):
            if _branches(node):
                return f"{node.op} would evaluate each of its operands for every element"
        if any(_is_gathered(reader, i) for i, value in enumerate(reader.inputs) if value is producer.output):
            return f"{reader.op} reads %{producer.output.name} at indices that are data, checked against what is stored"
        if has(producer, {Trait.MOVEMENT}) and any(has(node, ROWS) for node in nodes):
            return f"{producer.op} moves elements, and the region reads rows in order"
        made, read = producer.output.tensor_type.numel, result.tensor_type.numel
        if has(reader, ROWS):
            read = made
        once = made == read or (isinstance(made, int) and isinstance(read, int) and read <= _DUPLICATION * made)
        if once or has(producer, {Trait.MOVEMENT}):
            return None
        return f"{producer.op} makes {made} elements, and would be computed for each of the region's {read}"


def has(node: Node | None, traits: Iterable[Trait]) -> bool:
    """Whether a node is of one of these traits."""
    operator = None if node is None else find(node)
    return operator is not None and any(operator.has(trait) for trait in traits)


def _bits(value: Value) -> int:
    return value.tensor_type.dtype.bits


def is_product(node: Node) -> bool:
    """Whether a node is a product of matrices."""
    return node.domain == "" and node.op_type in PRODUCTS


def is_movement_view(node: Node) -> bool:
    """Whether a node gives elements another shape and nothing else (Reshape, Squeeze)."""
    return has(node, {Trait.VIEW}) and has(node, {Trait.MOVEMENT}) and not has(node, {Trait.POINTWISE})


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


def result_of(nodes: Iterable[Node], position: dict[Node, int]) -> Value:
    """The first output of the last node."""
    return max(nodes, key=position.__getitem__).output


def read_outside(nodes: set[Node]) -> list[Value]:
    """Values of the group that something outside reads."""
    return [
        value
        for node in nodes
        for value in node.outputs
        if value.is_graph_output or any(user not in nodes for user in value.consumers)
    ]


def inputs_of(nodes: set[Node]) -> dict[Value, None]:
    """Values that a group reads and does not make, without the constants that go into its body."""
    return {
        value: None
        for node in nodes
        for value, inner in zip(node.inputs, inner_constants(node), strict=True)
        if value is not None and value.producer not in nodes and not inner
    }


def inner_constants(node: Node) -> list[bool]:
    """Which inputs belong to a kernel's code: constants of one element, and the shapes and axes of operators."""
    known = parameters(node)
    return [
        value is not None and value.constant is not None and (value.constant.size == 1 or index in known)
        for index, value in enumerate(node.inputs)
    ]
