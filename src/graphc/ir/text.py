"""The text form of graphs: what `parse_graph` reads back to an equal graph.

    graph @mlp(%x: float32[batch, 64]) opset 22 {
      bounds batch: 1..32
      %w = constant float32[64x10]<sha256:0f3c9a51b2d47e60>
      %axes = constant int64[1]<-1>
      %h: float32[batch, 10] = MatMul(%x, %w) from "fc"
      %y: float32[batch, 10] = graphc::Region(%h) {kind="softmax"} from "exp", "div"
        body = graph @softmax(%h1: float32[batch, 10]) {
          %s: float32[batch, 10] = Softmax(%h1) {axis=-1}
          return %s
        }
      return %y
    }

- A value is `%name`, quoted where the name has unusual characters; `_` is an absent input or an unwanted output.
- A type is `float32[1x64x56x56]`, with commas where an extent is symbolic, `[?]` where the rank is unknown, and the
  layout in braces after it where it is not row-major: `{block=1x16 halo=0:0,0:0,1:1,1:1 fill=0}`.
- An operator shows its version (`Resize@11`) where it is not the graph's opset (1 outside ai.onnx).
- `as "conv1"` names a node, which is its own origin too unless `from` lists others or `from nothing` says it has none;
  `from` alone lists the origins of a node without a name.
- Floats are exact; `1e-05f` is the float32 nearest to 1e-05. A tensor's elements stand between angle brackets, alike
  ones as `<splat 0.0>`, many as the start of their SHA-256: `collect_constants` maps these to tensors, and with
  `constants="embed"` they follow the graph in base64.
- `#` and `//` start a comment.
"""

from __future__ import annotations

import base64
import re
from typing import Literal, TypeAlias

from graphc.ir import dtypes
from graphc.ir.graph import Attribute, Graph, Node, Value
from graphc.ir.literals import bytes_text, encode_bits, float_text, string_text, tensor_text
from graphc.ir.tensor import Tensor
from graphc.ir.types import MapType, OptionalType, SequenceType, TensorType

Constants: TypeAlias = Literal["digest", "embed", "elide"]
INLINE_LIMIT = 16
"""Elements up to which a tensor's elements are written out."""

_WORD = re.compile(r"[A-Za-z_][\w.$-]*", re.ASCII)
_VALUE_NAME = re.compile(r"[\w./$+-]+(?:::[\w./$+-]+)*", re.ASCII)
_LINE_WIDTH = 120


def print_graph(graph: Graph, *, constants: Constants = "digest", inline_limit: int = INLINE_LIMIT) -> str:
    """The graph as text, with a newline at the end.

    Args:
        graph: What to print; a subgraph's reads of outer values show as names only.
        constants: How tensors of many elements show: by their digest, by their digest and again in full at the end,
            or not at all (which reads no data and does not parse back).
        inline_limit: Elements up to which they are written out.
    """
    return _Printer(constants, inline_limit).document(graph)


def print_node(node: Node) -> str:
    """The node's first line in the text form: subgraphs and large tensors are left out."""
    return _Printer("elide", INLINE_LIMIT).node_line(node, node.graph.opset if node.graph else 0)


def constant_key(tensor: Tensor) -> str:
    """How the text form refers to a tensor of many elements: the first 16 hexadecimal digits of its digest."""
    return tensor.digest()[:8].hex()


def collect_constants(graph: Graph) -> dict[str, Tensor]:
    """Every tensor in attributes of the graph and its subgraphs, by the key that the text form uses."""
    return {constant_key(tensor): tensor for tensor in _tensors(graph)}


def _tensors(graph: Graph) -> list[Tensor]:
    found: list[Tensor] = []
    for inner in graph.all_graphs():
        for node in inner.nodes:
            for attribute in node.attributes.values():
                items = attribute if isinstance(attribute, tuple) else (attribute,)
                found.extend(item for item in items if isinstance(item, Tensor))
    return found


def word_text(name: str) -> str:
    """An operator, attribute or graph name, quoted where it is not a plain word."""
    return name if _WORD.fullmatch(name) and name != "_" else string_text(name)


def value_text(name: str) -> str:
    """A value's name with its `%`, quoted where it has unusual characters."""
    return f"%{name}" if _VALUE_NAME.fullmatch(name) else f"%{string_text(name)}"


def default_version(domain: str, opset: int) -> int:
    """The version that a node without one in its text has."""
    return opset if domain == "" else 1


class _Printer:
    def __init__(self, constants: Constants, inline_limit: int) -> None:
        self.constants = constants
        self.inline_limit = inline_limit
        self.embedded: dict[str, Tensor] = {}

    def document(self, graph: Graph) -> str:
        lines = self.graph(graph, "", 0)
        if self.embedded:
            lines.append("constants {")
            for key, tensor in self.embedded.items():
                data = base64.b64encode(encode_bits(tensor)).decode()
                lines.append(f'  sha256:{key}: {TensorType(tensor.dtype, tensor.shape)} "{data}"')
            lines.append("}")
        return "\n".join(lines) + "\n"

    def graph(self, graph: Graph, indent: str, outer_opset: int) -> list[str]:
        inside = indent + "  "
        opset = f" opset {graph.opset}" if graph.opset != outer_opset else ""
        inputs = [self.definition(value) for value in graph.inputs]
        head, tail = f"graph @{word_text(graph.name)}(", f"){opset} {{"
        line = head + ", ".join(inputs) + tail
        if len(indent) + len(line) <= _LINE_WIDTH or len(inputs) < 2:
            lines = [line]
        else:
            commas = [","] * (len(inputs) - 1) + [""]
            lines = [
                head,
                *(f"{inside}  {text}{comma}" for text, comma in zip(inputs, commas, strict=True)),
                inside + tail,
            ]
        for name, (low, high) in graph.bounds.items():
            lines.append(f"{inside}bounds {word_text(name)}: {low}..{'' if high is None else high}")
        for key, text in graph.metadata.items():
            lines.append(f"{inside}metadata {string_text(key)}: {string_text(text)}")
        for node in graph.nodes:
            lines.append(inside + self.node_line(node, graph.opset))
            lines.extend(self.graph_attributes(node, inside + "  ", graph.opset))
        outputs = ", ".join(value_text(value.name) for value in graph.outputs)
        lines.append(f"{inside}return {outputs}".rstrip())
        lines.append(indent + "}")
        return lines

    def definition(self, value: Value) -> str:
        name = value_text(value.name) if value.name else "_"
        return name if value.type is None else f"{name}: {value.type}"

    def node_line(self, node: Node, opset: int) -> str:
        version = "" if node.version == default_version(node.domain, opset) else f"@{node.version}"
        tensor = _plain_constant(node) if not version else None
        if tensor is not None:
            text = f"{value_text(node.output.name)} = constant {self.attribute(tensor)}"
        else:
            outputs = ", ".join(map(self.definition, node.outputs)) or "()"
            domain = f"{word_text(node.domain)}::" if node.domain else ""
            inputs = ", ".join("_" if value is None else value_text(value.name) for value in node.inputs)
            text = f"{outputs} = {domain}{word_text(node.op_type)}{version}({inputs})"
            attributes = [
                f"{word_text(name)}={self.attribute(value)}"
                for name, value in sorted(node.attributes.items())
                if not _holds_graphs(value)
            ]
            text += f" {{{', '.join(attributes)}}}" if attributes else ""
        if node.name:
            text += f" as {string_text(node.name)}"
        if node.origins != ((node.name,) if node.name else ()):
            text += f" from {', '.join(map(string_text, node.origins)) or 'nothing'}"
        return text

    def graph_attributes(self, node: Node, indent: str, opset: int) -> list[str]:
        lines: list[str] = []
        for name, value in sorted(node.attributes.items()):
            if isinstance(value, Graph):
                first, *rest = self.graph(value, indent, opset)
                lines += [f"{indent}{word_text(name)} = {first}", *rest]
            elif _holds_graphs(value) and isinstance(value, tuple):
                lines.append(f"{indent}{word_text(name)} = [")
                for item in value:
                    assert isinstance(item, Graph), item
                    first, *rest = self.graph(item, indent + "  ", opset)
                    lines += [f"{indent}  {first}", *rest]
                    lines[-1] += ","
                lines.append(f"{indent}]")
        return lines

    def attribute(self, value: Attribute) -> str:
        match value:
            case bool():
                return f"!{value!r}"  # no attribute may be a bool: shown, and refused by the parser
            case int():
                return str(value)
            case float():
                return float_text(value)
            case str():
                return string_text(value)
            case bytes():
                return bytes_text(value)
            case tuple():
                return f"[{', '.join(map(self.attribute, value))}]"
            case Tensor():
                return f"{TensorType(value.dtype, value.shape)}{self.elements(value)}"
            case TensorType() | SequenceType() | OptionalType() | MapType():
                return f"type({value})"
            case _:
                return f"!{value!r}"

    def elements(self, tensor: Tensor) -> str:
        strings_in_full = self.constants == "embed" and tensor.dtype is dtypes.STRING
        limit = tensor.size if strings_in_full else self.inline_limit
        if self.constants != "elide" or tensor.size <= limit:
            text = tensor_text(tensor, limit)
            if text is not None:
                return text
        if self.constants == "elide":
            return "<...>"
        key = constant_key(tensor)
        if self.constants == "embed":
            self.embedded[key] = tensor
        return f"<sha256:{key}>"


def _holds_graphs(value: Attribute) -> bool:
    return isinstance(value, Graph) or (isinstance(value, tuple) and any(isinstance(item, Graph) for item in value))


def _plain_constant(node: Node) -> Tensor | None:
    """The tensor of a Constant node that says nothing but its tensor, type and name."""
    if not node.is_op("Constant") or node.inputs or len(node.outputs) != 1 or set(node.attributes) != {"value"}:
        return None
    tensor, output = node.attributes["value"], node.outputs[0]
    if isinstance(tensor, Tensor) and output.name and output.type == TensorType(tensor.dtype, tensor.shape):
        return tensor
    return None


__all__ = ["Constants", "collect_constants", "constant_key", "print_graph", "print_node"]
