"""Graphs in static single assignment form: values, nodes and the use lists that tie them together.

A value has one producer and knows its uses, so replacing all uses costs the uses, not the graph. Nodes of a graph form
a doubly linked list in topological order: inserting or removing one is constant time and never invalidates iteration
over a snapshot (`list(graph.nodes)`). A subgraph (If, Loop, Scan, a fused region) is a graph inside a node's attribute;
its nodes may use values of enclosing graphs, except in regions, whose bodies are closed.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple, TypeAlias

from graphc.errors import VerifyError
from graphc.ir.names import Names
from graphc.ir.tensor import Tensor
from graphc.ir.types import TensorType, Type

GRAPHC_DOMAIN = "graphc"
"""Domain of the operators that the compiler makes: fused regions, relayouts."""

Attribute: TypeAlias = (
    "int | float | str | bytes | Tensor | Type | Graph | tuple[int, ...] | tuple[float, ...] | tuple[str, ...]"
    " | tuple[Tensor, ...] | tuple[Graph, ...]"
)


class Use(NamedTuple):
    """One place where a value is read: input `position` of a node, or output `position` of a graph."""

    user: Node | Graph
    position: int


class Value:
    """What one node output, graph input or captured name stands for.

    Args:
        name: Unique in the model, subgraphs included; a region's body, being closed, has names of its own.
        type: Its type; None where inference has not come yet.
        producer: The node that makes it; None for a graph input.
        index: Position among the producer's outputs or the graph's inputs.
    """

    __slots__ = ("_uses", "index", "name", "producer", "type")

    def __init__(self, name: str, type: Type | None = None, producer: Node | None = None, index: int = 0) -> None:
        self.name = name
        self.type = type
        self.producer = producer
        self.index = index
        self._uses: dict[Use, None] = {}

    @property
    def uses(self) -> tuple[Use, ...]:
        """Every place that reads the value, in the order in which the uses were made."""
        return tuple(self._uses)

    @property
    def consumers(self) -> tuple[Node, ...]:
        """The nodes that read the value, each once."""
        return tuple(dict.fromkeys(use.user for use in self._uses if isinstance(use.user, Node)))

    @property
    def is_graph_output(self) -> bool:
        """Whether some graph returns the value."""
        return any(isinstance(use.user, Graph) for use in self._uses)

    @property
    def is_used(self) -> bool:
        """Whether anything reads the value."""
        return bool(self._uses)

    @property
    def tensor_type(self) -> TensorType:
        """The type of a value that is known to be a tensor (a caller's precondition)."""
        assert isinstance(self.type, TensorType), f"{self.name} has type {self.type}, not a tensor type"
        return self.type

    @property
    def constant(self) -> Tensor | None:
        """The tensor that the value always is, or None."""
        if self.producer is not None and self.producer.op_type == "Constant" and self.producer.domain == "":
            tensor = self.producer.attributes.get("value")
            return tensor if isinstance(tensor, Tensor) else None
        return None

    def replace_all_uses(self, other: Value) -> int:
        """Makes every user read `other` instead; answers how many uses changed."""
        if other is self:
            return 0
        uses = self.uses
        for use in uses:
            if isinstance(use.user, Node):
                use.user.set_input(use.position, other)
            else:
                use.user.set_output(use.position, other)
        return len(uses)

    def __repr__(self) -> str:
        return f"%{self.name}: {self.type}"


class Node:
    """An operator applied to values.

    Args:
        op_type: Operator's name, e.g. `Conv`.
        inputs: Values read; None for an optional input that is absent.
        outputs: Names of the values made, `""` for an optional output that is not wanted.
        attributes: Attribute values by name.
        domain: Operator's domain, `""` for ai.onnx.
        version: Version of the operator set of `domain` that defines the node's meaning.
        name: For messages; need not be unique.
        origins: Names of the ONNX nodes that the node came from.
    """

    __slots__ = (
        "_inputs",
        "_next",
        "_previous",
        "attributes",
        "domain",
        "graph",
        "name",
        "op_type",
        "origins",
        "outputs",
        "version",
    )

    def __init__(
        self,
        op_type: str,
        inputs: Sequence[Value | None] = (),
        outputs: Sequence[str] = (),
        attributes: Mapping[str, Attribute] | None = None,
        *,
        domain: str = "",
        version: int = 0,
        name: str = "",
        origins: Iterable[str] = (),
    ) -> None:
        self.op_type = op_type
        self.domain = domain
        self.version = version
        self.name = name
        self.origins = tuple(dict.fromkeys(origins))
        self.attributes: dict[str, Attribute] = dict(attributes or {})
        self.outputs = tuple(Value(output, None, self, i) for i, output in enumerate(outputs))
        self.graph: Graph | None = None
        self._previous: Node | None = None
        self._next: Node | None = None
        self._inputs: list[Value | None] = []
        self.inputs = tuple(inputs)

    @property
    def inputs(self) -> tuple[Value | None, ...]:
        """Values read, None for an absent optional input."""
        return tuple(self._inputs)

    @inputs.setter
    def inputs(self, values: Sequence[Value | None]) -> None:
        for index in range(len(self._inputs)):
            self.set_input(index, None)
        self._inputs = [None] * len(values)
        for index, value in enumerate(values):
            self.set_input(index, value)

    def input(self, index: int) -> Value | None:
        """Input `index`, None where it is absent or not there at all."""
        return self._inputs[index] if index < len(self._inputs) else None

    def set_input(self, index: int, value: Value | None) -> None:
        """Makes input `index` read `value`, keeping use lists right."""
        old = self._inputs[index]
        if old is value:
            return
        use = Use(self, index)
        if old is not None:
            del old._uses[use]
        self._inputs[index] = value
        if value is not None:
            value._uses[use] = None

    @property
    def output(self) -> Value:
        """The first output."""
        return self.outputs[0]

    @property
    def op(self) -> str:
        """Qualified name for messages: `Conv`, `com.microsoft::Gelu`."""
        return f"{self.domain}::{self.op_type}" if self.domain else self.op_type

    def is_op(self, op_type: str, domain: str = "") -> bool:
        """Whether the node is of operator `domain::op_type`."""
        return self.op_type == op_type and self.domain == domain

    def subgraphs(self) -> Iterator[tuple[str, Graph]]:
        """Graphs held in attributes, with the attribute's name."""
        for name, value in self.attributes.items():
            if isinstance(value, Graph):
                yield name, value
            elif isinstance(value, tuple) and value and isinstance(value[0], Graph):
                # Lists are of one kind; those of numbers may be long.
                for item in value:
                    if isinstance(item, Graph):
                        yield name, item

    def int_attribute(self, name: str, default: int) -> int:
        """Attribute `name` as an int."""
        value = self.attributes.get(name, default)
        assert isinstance(value, int), f"attribute {name} of {self.op} is {value!r}"
        return value

    def float_attribute(self, name: str, default: float) -> float:
        """Attribute `name` as a float."""
        value = self.attributes.get(name, default)
        assert isinstance(value, int | float), f"attribute {name} of {self.op} is {value!r}"
        return float(value)

    def str_attribute(self, name: str, default: str) -> str:
        """Attribute `name` as text."""
        value = self.attributes.get(name, default)
        if isinstance(value, bytes):
            return value.decode("utf-8", "replace")
        assert isinstance(value, str), f"attribute {name} of {self.op} is {value!r}"
        return value

    def ints_attribute(self, name: str, default: Sequence[int] | None = None) -> tuple[int, ...] | None:
        """Attribute `name` as a tuple of ints; `default` where it is absent."""
        value = self.attributes.get(name)
        if value is None:
            return None if default is None else tuple(default)
        assert isinstance(value, tuple), f"attribute {name} of {self.op} is {value!r}"
        return tuple(item for item in value if isinstance(item, int))

    def graph_attribute(self, name: str) -> Graph:
        """Attribute `name` as a graph that must be there."""
        value = self.attributes[name]
        assert isinstance(value, Graph), f"attribute {name} of {self.op} is {value!r}"
        return value

    def describe(self) -> str:
        """The node in one line of text form, for messages."""
        outputs = ", ".join(f"%{value.name}" for value in self.outputs)
        inputs = ", ".join("_" if value is None else f"%{value.name}" for value in self._inputs)
        return f"{outputs} = {self.op}({inputs})"

    def __repr__(self) -> str:
        return self.describe()


class Graph:
    """A function from inputs to outputs: nodes in topological order.

    Args:
        name: For messages and export.
        inputs: Names and types of the inputs.
        opset: Version of ai.onnx that nodes are normalized to.
    """

    def __init__(self, name: str = "graph", inputs: Iterable[tuple[str, Type | None]] = (), *, opset: int = 0) -> None:
        self.name = name
        self.opset = opset
        self.bounds: dict[str, tuple[int, int | None]] = {}
        """Inclusive bounds of symbols, where they are known to be tighter than `1..`."""
        self.metadata: dict[str, str] = {}
        self._inputs: list[Value] = []
        self._outputs: list[Value] = []
        self._first: Node | None = None
        self._last: Node | None = None
        self._count = 0
        self._names = Names()
        for input_name, input_type in inputs:
            self.add_input(input_name, input_type)

    @property
    def inputs(self) -> tuple[Value, ...]:
        """Values given by the caller."""
        return tuple(self._inputs)

    @property
    def outputs(self) -> tuple[Value, ...]:
        """Values returned to the caller; one value may be returned twice."""
        return tuple(self._outputs)

    @outputs.setter
    def outputs(self, values: Sequence[Value]) -> None:
        for index, old in enumerate(self._outputs):
            old._uses.pop(Use(self, index), None)
        self._outputs = list(values)
        for index, value in enumerate(self._outputs):
            value._uses[Use(self, index)] = None

    def set_output(self, index: int, value: Value) -> None:
        """Makes output `index` return `value`."""
        use = Use(self, index)
        del self._outputs[index]._uses[use]
        self._outputs[index] = value
        value._uses[use] = None

    def add_input(self, name: str, type: Type | None) -> Value:
        """Appends an input."""
        value = Value(name, type, None, len(self._inputs))
        self._names.take(name)
        self._inputs.append(value)
        return value

    def remove_input(self, value: Value) -> None:
        """Removes an input that nothing reads.

        Raises:
            VerifyError: Something still reads it.
        """
        if value.is_used:
            raise VerifyError(f"input {value.name} of graph {self.name} is still used by {value.uses[0].user}")
        self._inputs.remove(value)
        for index, remaining in enumerate(self._inputs):
            remaining.index = index

    @property
    def nodes(self) -> Iterator[Node]:
        """Nodes in order. Safe against removal of the node just yielded; take a list before larger changes."""
        node = self._first
        while node is not None:
            following = node._next
            yield node
            node = following

    def __len__(self) -> int:
        return self._count

    def __iter__(self) -> Iterator[Node]:
        return self.nodes

    def append(self, node: Node) -> Node:
        """Adds `node` at the end; answers it."""
        return self._link(node, self._last, None)

    def insert_before(self, node: Node, anchor: Node) -> Node:
        """Adds `node` just before `anchor`; answers it."""
        assert anchor.graph is self, f"{anchor} is not in graph {self.name}"
        return self._link(node, anchor._previous, anchor)

    def insert_after(self, node: Node, anchor: Node) -> Node:
        """Adds `node` just after `anchor`; answers it."""
        assert anchor.graph is self, f"{anchor} is not in graph {self.name}"
        return self._link(node, anchor, anchor._next)

    def prepend(self, node: Node) -> Node:
        """Adds `node` at the beginning; answers it."""
        return self._link(node, None, self._first)

    def _link(self, node: Node, previous: Node | None, following: Node | None) -> Node:
        assert node.graph is None, f"{node} already belongs to a graph"
        node.graph = self
        node._previous, node._next = previous, following
        if previous is None:
            self._first = node
        else:
            previous._next = node
        if following is None:
            self._last = node
        else:
            following._previous = node
        self._count += 1
        for value in node.outputs:
            self._names.take(value.name)
        for _, subgraph in node.subgraphs():
            for inner in subgraph.all_graphs():
                self._names.absorb(inner._names)
                inner._names = self._names
        return node

    def remove(self, node: Node) -> None:
        """Takes out a node whose outputs nothing reads; its inputs lose their uses.

        Graphs in its attributes read nothing any more, so that no use by them is left on values outside: clone one, or
        take it out of `attributes` first, to keep it.

        Raises:
            VerifyError: Some output is still read.
        """
        for value in node.outputs:
            if value.is_used:
                raise VerifyError(f"cannot remove {node}: %{value.name} is still read by {value.uses[0].user}")
        self._unlink(node)
        node.inputs = ()
        for _, subgraph in node.subgraphs():
            for inner in subgraph.all_graphs():
                inner.outputs = ()
                for dead in inner.nodes:
                    dead.inputs = ()

    def _unlink(self, node: Node) -> None:
        assert node.graph is self, f"{node} is not in graph {self.name}"
        if node._previous is None:
            self._first = node._next
        else:
            node._previous._next = node._next
        if node._next is None:
            self._last = node._previous
        else:
            node._next._previous = node._previous
        node.graph = node._previous = node._next = None
        self._count -= 1

    def between(self, nodes: Sequence[Node]) -> list[Node]:
        """The nodes from the first of some to the last of them, in order; costs how far they are apart."""
        first, *others = nodes
        missing = {*others} - {first}
        before: list[Node] = []
        after = [first]
        back, forth = first._previous, first._next
        while missing:
            assert back is not None or forth is not None, f"{missing} are not in graph {self.name}"
            if forth is not None:
                after.append(forth)
                missing.discard(forth)
                forth = forth._next
            if missing and back is not None:
                before.append(back)
                missing.discard(back)
                back = back._previous
        found, wanted = [*reversed(before), *after], set(nodes)
        ends = [place for place, node in enumerate(found) if node in wanted]
        return found[ends[0] : ends[-1] + 1]

    def move_before(self, node: Node, anchor: Node) -> None:
        """Puts a node of the graph just before another one; topology is not checked here."""
        self._unlink(node)
        self._link(node, anchor._previous, anchor)

    def reorder(self, nodes: Sequence[Node]) -> None:
        """Puts the nodes into the order given, which must be a permutation of them; topology is not checked here."""
        assert len(nodes) == self._count and set(nodes) == set(self.nodes), "not a permutation of the graph's nodes"
        for node in nodes:
            self._unlink(node)
        for node in nodes:
            self.append(node)

    def fresh_name(self, base: str) -> str:
        """A value name that neither this graph nor one nested in it has seen: `base`, or `base_1`, `base_2`..."""
        return self._names.fresh(base)

    def nested(self, name: str) -> Graph:
        """An empty graph for an attribute of a node of this one: fresh names of either are fresh in both."""
        made = Graph(name, opset=self.opset)
        made._names = self._names
        return made

    def topological_sort(self) -> None:
        """Orders nodes so that producers come first, keeping the present order where it is free (stable).

        Raises:
            VerifyError: The nodes form a cycle; the error names it.
        """
        from graphc.ir.ordering import topological_order

        nodes = list(self.nodes)
        order = topological_order(nodes)
        if order != nodes:
            self.reorder(order)

    def clone(self) -> Graph:
        """A deep copy: new values, nodes and subgraphs; constant tensors and captured outer values are shared."""
        return _clone(self, {})

    def all_graphs(self) -> Iterator[Graph]:
        """This graph and every graph nested in its nodes, outermost first."""
        yield self
        for node in self.nodes:
            for _, subgraph in node.subgraphs():
                yield from subgraph.all_graphs()

    def __str__(self) -> str:
        from graphc.ir.text import print_graph

        return print_graph(self)

    def __repr__(self) -> str:
        return f"Graph({self.name!r}, {self._count} nodes)"


def captured_values(graph: Graph) -> tuple[Value, ...]:
    """Values of enclosing graphs that `graph` or its subgraphs read, each once."""
    own: set[Value] = set()
    read: dict[Value, None] = {}
    for inner in graph.all_graphs():
        own.update(inner.inputs)
        for node in inner.nodes:
            own.update(node.outputs)
            read.update(dict.fromkeys(v for v in node.inputs if v is not None))
        read.update(dict.fromkeys(inner.outputs))
    return tuple(value for value in read if value not in own)


def clone_node(node: Node, values: Mapping[Value, Value], outputs: Sequence[str] | None = None) -> Node:
    """A copy of `node` whose inputs (captured ones too) are looked up in `values`, with new subgraphs.

    Args:
        node: What to copy.
        values: Replacement of each input value; a value not there is used as it is.
        outputs: Names of the outputs; the same as before if None.
    """
    mapping = dict(values)
    attributes: dict[str, Any] = {}
    for name, attribute in node.attributes.items():
        if isinstance(attribute, Graph):
            attributes[name] = _clone(attribute, mapping)
        elif isinstance(attribute, tuple) and attribute and isinstance(attribute[0], Graph):
            attributes[name] = tuple(_clone(item, mapping) for item in attribute if isinstance(item, Graph))
        else:
            attributes[name] = attribute
    copy = Node(
        node.op_type,
        [None if value is None else mapping.get(value, value) for value in node.inputs],
        [value.name for value in node.outputs] if outputs is None else outputs,
        attributes,
        domain=node.domain,
        version=node.version,
        name=node.name,
        origins=node.origins,
    )
    for old, new in zip(node.outputs, copy.outputs, strict=True):
        new.type = old.type
    return copy


def _clone(graph: Graph, values: dict[Value, Value]) -> Graph:
    copy = Graph(graph.name, opset=graph.opset)
    copy.bounds = dict(graph.bounds)
    copy.metadata = dict(graph.metadata)
    mapping = dict(values)
    for value in graph.inputs:
        mapping[value] = copy.add_input(value.name, value.type)
    for node in graph.nodes:
        added = copy.append(clone_node(node, mapping))
        mapping.update(zip(node.outputs, added.outputs, strict=True))
    copy.outputs = [mapping.get(value, value) for value in graph.outputs]
    return copy
