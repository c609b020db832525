"""Reads the text form of graphs (`graphc.ir.text` says what it looks like) by recursive descent."""

from __future__ import annotations

import base64
import difflib
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

from graphc.ir.graph import Attribute, Graph, Node, Value
from graphc.ir.literal_parser import LiteralParser
from graphc.ir.literals import decode_bits
from graphc.ir.scanner import STRING, WORD
from graphc.ir.tensor import Tensor
from graphc.ir.text import default_version
from graphc.ir.types import TensorType, Type

_CONSTANT = re.compile(r"constant\s+[a-z]")
_GRAPH_ATTRIBUTE = re.compile(rf"(?:{WORD.pattern}|{STRING.pattern})\s*=\s*(?:graph\s*@|\[)", re.ASCII)
_BASE64 = re.compile(r'"[A-Za-z0-9+/=]*"')


def parse_graph(text: str, *, constants: Mapping[str, Tensor] | None = None) -> Graph:
    """The graph that `text` describes.

    A value may be read before its definition, so that graphs which `verify` refuses can be written down too.

    Args:
        text: What `print_graph` writes, or a person.
        constants: Tensors by the digests that the text refers to (`collect_constants`). Those in the text's own
            `constants` block need not be there.

    Raises:
        ParseError: The text is no graph; the error shows the place.
    """
    return _Parser(text, constants or {}).document()


@dataclass
class _Read:
    """A read of a value that has not been defined yet; `resolve` makes it read one."""

    name: str
    position: int
    resolve: Callable[[Value], None]


@dataclass
class _Scope:
    """What a graph under construction defines, and where; and its reads of names not seen yet."""

    graph: Graph
    outer: _Scope | None
    values: dict[str, Value] = field(default_factory=dict)
    places: dict[str, int] = field(default_factory=dict)
    waiting: list[_Read] = field(default_factory=list)

    def find(self, name: str) -> Value | None:
        """The value called `name` in this graph or the nearest one around it."""
        scope: _Scope | None = self
        while scope is not None and name not in scope.values:
            scope = scope.outer
        return None if scope is None else scope.values[name]


@dataclass
class _Output:
    """An output of a node as its line defines it; without a name it is not wanted."""

    name: str
    type: Type | None
    position: int


class _Parser(LiteralParser):
    def document(self) -> Graph:
        if not self.keyword("graph"):
            self.expected("'graph'")
        graph = self.graph(None)
        if self.keyword("constants"):
            self.constants_block()
        if self.position < len(self.text):
            self.expected("the end of the text")
        self.check_references()
        return graph

    def constants_block(self) -> None:
        self.expect("{")
        while not self.accept("}"):
            key = self.key()
            self.expect(":")
            kind, size = self.tensor_kind()
            start = self.position
            token = self.match(_BASE64)
            if token is None:
                self.expected("base64 in quotes")
            with self.errors_at(start):
                array = decode_bits(kind.dtype, base64.b64decode(token[1:-1], validate=True), size)
            self.constants[key] = Tensor.of(array.reshape(kind.static_shape), kind.dtype)

    def graph(self, outer: _Scope | None) -> Graph:
        """A graph, from after its keyword."""
        self.enter()
        self.expect("@")
        graph = Graph(self.word("the graph's name"), opset=outer.graph.opset if outer else 0)
        scope = _Scope(graph, outer)
        self.expect("(")
        while not self.accept(")"):
            position = self.position
            name = self.value_name()
            self.define(scope, graph.add_input(name, self.annotation()), position)
            self.separator(")")
        if self.keyword("opset"):
            graph.opset = self.integer()
        self.expect("{")
        while not self.keyword("return"):
            self.statement(scope)
        self.outputs(scope)
        self.expect("}")
        self.resolve(scope)
        self.depth -= 1
        return graph

    def statement(self, scope: _Scope) -> None:
        if self.at("%") or self.at("_") or self.at("("):
            self.node(scope)
        elif self.keyword("bounds"):
            name = self.word("a symbol")
            self.expect(":")
            low = self.integer()
            self.expect("..")
            scope.graph.bounds[name] = (low, self.optional_integer())
        elif self.keyword("metadata"):
            key = self.string()
            self.expect(":")
            scope.graph.metadata[key] = self.string()
        else:
            self.expected("a node, 'bounds', 'metadata' or 'return'")

    def annotation(self) -> Type | None:
        return self.type() if self.accept(":") else None

    def define(self, scope: _Scope, value: Value, position: int) -> None:
        if value.name in scope.values:
            line = self.line_of(scope.places[value.name])
            self.fail(f"%{value.name} is defined twice; first on line {line}", position)
        scope.values[value.name] = value
        scope.places[value.name] = position

    def outputs(self, scope: _Scope) -> None:
        graph = scope.graph
        reads: list[_Read] = []
        while self.at("%"):
            position, index = self.position, len(reads)
            reads.append(_Read(self.value_name(), position, lambda value, i=index: graph.set_output(i, value)))  # type: ignore[misc]
            if not self.accept(","):
                break
        unknown = Value("")
        graph.outputs = [unknown] * len(reads)
        self.read(scope, reads)

    def read(self, scope: _Scope, reads: list[_Read]) -> None:
        """Resolves the reads of what is defined already; the others wait for the graph's end."""
        for read in reads:
            found = scope.find(read.name)
            if found is None:
                scope.waiting.append(read)
            else:
                read.resolve(found)

    def resolve(self, scope: _Scope) -> None:
        for read in scope.waiting:
            if read.name in scope.values:
                read.resolve(scope.values[read.name])
            elif scope.outer is not None:
                scope.outer.waiting.append(read)
            else:
                near = difflib.get_close_matches(read.name, list(scope.values), n=1)
                suggestion = f"; did you mean %{near[0]}?" if near else ""
                self.fail(f"%{read.name} is not defined{suggestion}", read.position)

    def node(self, scope: _Scope) -> None:
        outputs = self.definitions()
        self.expect("=")
        node = self.constant(scope, outputs) if self.sees(_CONSTANT) else self.operator(scope, outputs)
        if self.keyword("as"):
            node.name = self.string()
            node.origins = (node.name,)
        if self.keyword("from"):
            node.origins = self.origins()
        scope.graph.append(node)
        for value, output in zip(node.outputs, outputs, strict=True):
            value.type = output.type
            if output.name:
                self.define(scope, value, output.position)
        while self.sees(_GRAPH_ATTRIBUTE):
            self.graph_attribute(scope, node)

    def origins(self) -> tuple[str, ...]:
        if self.keyword("nothing"):
            return ()
        origins = [self.string()]
        while self.accept(","):
            origins.append(self.string())
        return tuple(dict.fromkeys(origins))

    def definitions(self) -> list[_Output]:
        if self.accept("("):
            self.expect(")")
            return []
        outputs: list[_Output] = []
        while not outputs or self.accept(","):
            position = self.position
            name = "" if self.accept("_") else self.value_name()
            outputs.append(_Output(name, self.annotation(), position))
        return outputs

    def constant(self, scope: _Scope, outputs: list[_Output]) -> Node:
        """`constant` and a tensor: a Constant node whose output has the tensor's type."""
        if len(outputs) != 1 or not outputs[0].name or outputs[0].type is not None:
            self.fail("a constant has one name, and its type after the word 'constant'", outputs[0].position)
        self.keyword("constant")
        tensor = self.tensor()
        outputs[0].type = TensorType(tensor.dtype, tensor.shape)
        return Node("Constant", (), [outputs[0].name], {"value": tensor}, version=scope.graph.opset)

    def operator(self, scope: _Scope, outputs: list[_Output]) -> Node:
        domain, op_type = "", self.word("an operator")
        if self.accept("::"):
            domain, op_type = op_type, self.word("an operator")
        version = self.integer() if self.accept("@") else default_version(domain, scope.graph.opset)
        names: list[tuple[str | None, int]] = []
        self.expect("(")
        while not self.accept(")"):
            position = self.position
            names.append((None if self.accept("_") else self.value_name(), position))
            self.separator(")")
        attributes: dict[str, Attribute] = {}
        if self.accept("{"):
            while not self.accept("}"):
                position = self.position
                name = self.word("an attribute's name")
                if name in attributes:
                    self.fail(f"attribute {name} is given twice", position)
                self.expect("=")
                attributes[name] = self.attribute()
                self.separator("}")
        made = [output.name for output in outputs]
        node = Node(op_type, [None] * len(names), made, attributes, domain=domain, version=version)
        reads = [
            _Read(name, position, lambda value, i=index: node.set_input(i, value))  # type: ignore[misc]
            for index, (name, position) in enumerate(names)
            if name is not None
        ]
        self.read(scope, reads)
        return node

    def graph_attribute(self, scope: _Scope, node: Node) -> None:
        """`name = graph @...`, or a list of graphs, on the lines below a node."""
        position = self.position
        name = self.word("an attribute's name")
        if name in node.attributes:
            self.fail(f"attribute {name} is given twice", position)
        self.expect("=")
        if not self.accept("["):
            node.attributes[name] = self.subgraph(scope)
            return
        graphs: list[Graph] = []
        while not self.accept("]"):
            graphs.append(self.subgraph(scope))
            self.separator("]")
        node.attributes[name] = tuple(graphs)

    def subgraph(self, scope: _Scope) -> Graph:
        if not self.keyword("graph"):
            self.expected("'graph'")
        return self.graph(scope)
