"""Graphs to ONNX models, at any point before lowering, so that ONNX Runtime can judge every pass.

What the compiler made becomes functions of domain `graphc`: a fused region the function of its body, a recurrence a
layer of identity weights, a relayout an Identity. Layouts are not written: they say where elements lie, not what they
are.
"""

from __future__ import annotations

import contextlib
import itertools
import json
import os
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import onnx
from onnx import helper

from graphc.errors import OptionError, UnsupportedError
from graphc.frontend.attributes import FIELDS
from graphc.frontend.order import ORIGINS_KEY
from graphc.frontend.schema import signature
from graphc.frontend.tensor_writer import DataFile, TensorWriter, write_inline
from graphc.ir import GRAPHC_DOMAIN, Attribute, Graph, Node, OptionalType, SequenceType, Tensor, TensorType, Type
from graphc.ops.decomposition import can_expand, standard_form
from graphc.ops.ill_typed import RAISE
from graphc.ops.protobuf import type_proto
from graphc.ops.recurrent import RECURRENCE
from graphc.ops.recurrent_expansion import layer_of

INLINE_BYTES = 3 << 29
"""Constants of more bytes than this go to a data file; protobuf takes no message of 2 GB."""

_KINDS = onnx.AttributeProto


def export_model(graph: Graph) -> onnx.ModelProto:
    """A graph as an ONNX model that means the same; ONNX Runtime can run it.

    Args:
        graph: Any graph before lowering, fused regions and relayouts included.

    Raises:
        OptionError: The constants are too large for one message.
        UnsupportedError: A node of domain `graphc` has no ONNX form.
    """
    total = constant_bytes(graph)
    if total > INLINE_BYTES:
        raise OptionError(
            f"the model's constants take {total / 2**30:.1f} GB, more than one protobuf message holds",
            hint="write it with save_model, which puts them in a file beside the model",
        )
    return _Exporter(write_inline).model(graph)


def save_model(graph: Graph, path: str | os.PathLike[str], *, inline_bytes: int = INLINE_BYTES) -> None:
    """Writes a graph as an ONNX file; constants of more than `inline_bytes` in all go to `<path>.data`.

    Nothing half-written is left behind where it fails.

    Raises:
        OptionError: The files cannot be written.
        UnsupportedError: A node of domain `graphc` has no ONNX form.
    """
    target = Path(path)
    try:
        with contextlib.ExitStack() as stack:
            write: TensorWriter = write_inline
            data: Path | None = None
            if constant_bytes(graph) > inline_bytes:
                data = stack.enter_context(_temporary(target.parent))
                file = stack.enter_context(data.open("wb"))
                write = DataFile(file, f"{target.name}.data")
            model = stack.enter_context(_temporary(target.parent))
            model.write_bytes(_Exporter(write).model(graph).SerializeToString(deterministic=True))
            if data is not None:
                file.close()
                data.replace(target.with_name(f"{target.name}.data"))
            model.replace(target)
    except OSError as error:
        raise OptionError(f"cannot write {str(target)!r}: {error.strerror}") from error


@contextlib.contextmanager
def _temporary(folder: Path) -> Iterator[Path]:
    descriptor, name = tempfile.mkstemp(dir=folder, prefix=".graphc-")
    os.close(descriptor)
    path = Path(name)
    path.chmod(0o666 & ~_umask())
    try:
        yield path
    finally:
        path.unlink(missing_ok=True)


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask


def constant_bytes(graph: Graph) -> int:
    """Bytes of every constant in a graph and its subgraphs."""
    return sum(
        tensor.nbytes
        for inner in graph.all_graphs()
        for node in inner.nodes
        for tensor in node.attributes.values()
        if isinstance(tensor, Tensor)
    )


@dataclass
class _Exporter:
    write: TensorWriter
    opsets: dict[str, int] = field(default_factory=dict)
    functions: dict[str, onnx.FunctionProto] = field(default_factory=dict)
    names: set[str] = field(default_factory=set)
    labels: set[str] = field(default_factory=set)

    def model(self, graph: Graph) -> onnx.ModelProto:
        self.opsets[""] = graph.opset
        for inner in graph.all_graphs():
            self.names.update(value.name for value in inner.inputs)
            for node in inner.nodes:
                self.names.update(value.name for value in node.outputs)
                self.opsets[node.domain] = max(self.opsets.get(node.domain, 1), node.version, 1)
        proto = self.graph(graph)
        imports = [helper.make_opsetid(domain, version) for domain, version in sorted(self.opsets.items())]
        model = onnx.ModelProto(producer_name="graphc", graph=proto, opset_import=imports)
        model.ir_version = helper.find_min_ir_version_for(imports, ignore_unknown=True)
        for function in self.functions.values():
            # Functions are called by functions written before them.
            function.opset_import.extend(imports)
            model.functions.append(function)
        for key, value in graph.metadata.items():
            model.metadata_props.add(key=key, value=value)
        return model

    def graph(self, graph: Graph, *, inner: bool = False) -> onnx.GraphProto:
        proto = onnx.GraphProto(name=graph.name or "graph")
        proto.input.extend(_value_info(value.name, value.type) for value in graph.inputs)
        for node in graph.nodes:
            constant = node.output.constant if node.outputs else None
            if constant is not None:
                proto.initializer.append(self.write(constant, node.output.name))
            else:
                proto.node.append(self.node(node))
                proto.value_info.extend(
                    _value_info(value.name, value.type)
                    for value in node.outputs
                    if value.name and value.type is not None and not value.is_graph_output
                )
        names = self.returned(graph, proto.node, inner=inner)
        proto.output.extend(_value_info(name, value.type) for name, value in zip(names, graph.outputs, strict=True))
        return proto

    def node(self, node: Node) -> onnx.NodeProto:
        call = node.domain == GRAPHC_DOMAIN
        proto = onnx.NodeProto(
            op_type=self.function(node) if call else node.op_type,
            domain=node.domain,
            name=self.label(node),
            input=["" if value is None else value.name for value in node.inputs if value is not None or not call],
            output=[value.name for value in node.outputs],
        )
        if not call:
            proto.attribute.extend(self.attribute(node, name, value) for name, value in node.attributes.items())
        if node.origins and node.origins != (proto.name,):
            proto.metadata_props.add(key=ORIGINS_KEY, value=json.dumps(node.origins, ensure_ascii=False))
        return proto

    def function(self, node: Node) -> str:
        """Writes what a node of domain `graphc` computes as a function; answers its name."""
        body = layer_of(node) if node.op_type == RECURRENCE else node.attributes.get("body")
        if isinstance(body, Graph):
            kind = node.str_attribute("kind", node.op_type)
            name = f"{kind}_{len(self.functions)}"
            self.functions[name] = onnx.FunctionProto()
            self.functions[name] = self.body(name, body)
            return name
        if can_expand(node):
            name = f"{node.op_type}_{len(self.functions)}"
            self.functions[name] = onnx.FunctionProto()
            self.functions[name] = self.body(name, standard_form(node))
            return name
        if len(node.inputs) == len(node.outputs) == 1:
            identity = helper.make_node("Identity", ["x"], ["y"])
            self.functions.setdefault(
                node.op_type,
                onnx.FunctionProto(domain=GRAPHC_DOMAIN, name=node.op_type, input=["x"], output=["y"], node=[identity]),
            )
            return node.op_type
        if node.is_op(RAISE, GRAPHC_DOMAIN):
            name = f"{RAISE}_{len(self.functions)}"
            self.functions[name] = _raising(name, node)
            return name
        raise UnsupportedError(f"{node.op} has no ONNX form", nodes=node.origins or (node.name,))

    def body(self, name: str, graph: Graph) -> onnx.FunctionProto:
        proto = onnx.FunctionProto(domain=GRAPHC_DOMAIN, name=name, input=[value.name for value in graph.inputs])
        proto.node.extend(self.node(node) for node in graph.nodes)
        proto.output.extend(self.returned(graph, proto.node, inner=True))
        return proto

    def returned(self, graph: Graph, nodes: Any, *, inner: bool) -> list[str]:
        """Names of a graph's outputs; where ONNX wants a name of its own, an Identity makes it.

        Args:
            graph: The graph.
            nodes: Its nodes as ONNX messages; grows.
            inner: Whether it is a subgraph or a function, which must not return what it was given.
        """
        names: list[str] = []
        for value in graph.outputs:
            name = value.name
            given = value.producer is None or value.producer.graph is not graph
            if name in names or (inner and given):
                name = self.fresh(f"{value.name}_returned")
                nodes.append(helper.make_node("Identity", [value.name], [name]))
            names.append(name)
        return names

    def label(self, node: Node) -> str:
        """A name for a node that no other node has, as ONNX Runtime wants it."""
        base = node.name or "+".join(node.origins[:4])
        return _unlike(self.labels, base) if base else ""

    def fresh(self, base: str) -> str:
        """A value name that the model does not have."""
        return _unlike(self.names, base)

    def attribute(self, node: Node, name: str, value: Attribute) -> Any:
        found = signature(node.domain, node.op_type, node.version)
        kind = None if found is None else found.attributes.get(name)
        if kind is None:
            kind = _kind_of(value)
        proto: Any = onnx.AttributeProto(name=name)
        proto.type = kind
        target = FIELDS[kind]
        if kind in (_KINDS.FLOAT, _KINDS.INT, _KINDS.STRING):
            setattr(proto, target, self.item(value))
        elif isinstance(value, tuple):
            getattr(proto, target).extend(self.item(item) for item in value)
        else:
            getattr(proto, target).CopyFrom(self.item(value))
        return proto

    def item(self, value: Any) -> Any:
        if isinstance(value, str):
            return value.encode()
        if isinstance(value, Tensor):
            return self.write(value, "")
        if isinstance(value, Graph):
            return self.graph(value, inner=True)
        return value if isinstance(value, int | float | bytes) else type_proto(value)


def _raising(name: str, node: Node) -> onnx.FunctionProto:
    """A function that fails when it runs, and not before: it looks up at a random index where nothing lies."""
    kind, wraps = node.output.type, []
    while isinstance(kind, SequenceType | OptionalType):
        wraps.append("SequenceConstruct" if isinstance(kind, SequenceType) else "Optional")
        kind = kind.element
    if not isinstance(kind, TensorType):
        raise UnsupportedError(f"{node.op} has no ONNX form", nodes=node.origins or (node.name,))
    shape = [extent if isinstance(extent, int) else 1 for extent in kind.shape or ()]
    blank: Any = b"" if kind.dtype.kind == "string" else 0
    something = helper.make_tensor("", kind.dtype.onnx, [1], [blank])
    nodes = [
        helper.make_node("RandomUniform", [], ["index"], shape=[1], low=4.0, high=8.0),
        helper.make_node("Cast", ["index"], ["outside"], to=onnx.TensorProto.INT64),
        helper.make_node("Constant", [], ["something"], value=something),
        helper.make_node("Gather", ["something", "outside"], ["nothing"], axis=0),
        helper.make_node("Constant", [], ["shape"], value_ints=shape),
        helper.make_node("Reshape", ["nothing", "shape"], ["y"]),
    ]
    result = "y"
    for count, wrap in enumerate(reversed(wraps)):
        nodes.append(helper.make_node(wrap, [result], [f"y{count}"]))
        result = f"y{count}"
    return onnx.FunctionProto(domain=GRAPHC_DOMAIN, name=name, output=[result], node=nodes)


def _unlike(taken: set[str], base: str) -> str:
    """`base`, or `base_1`, `base_2`..., whichever is not taken; takes it."""
    candidates = itertools.chain([base], (f"{base}_{count}" for count in itertools.count(1)))
    name = next(candidate for candidate in candidates if candidate not in taken)
    taken.add(name)
    return name


def _value_info(name: str, kind: Type | None) -> onnx.ValueInfoProto:
    return onnx.ValueInfoProto(name=name) if kind is None else helper.make_value_info(name, type_proto(kind))


def _kind_of(value: Attribute) -> int:
    """Attribute type by the value's own, for operators that onnx does not define."""
    many = isinstance(value, tuple)
    first: Any = (value[0] if value else 0) if isinstance(value, tuple) else value
    for kinds, single, plural in (
        ((int,), _KINDS.INT, _KINDS.INTS),
        ((float,), _KINDS.FLOAT, _KINDS.FLOATS),
        ((str, bytes), _KINDS.STRING, _KINDS.STRINGS),
        ((Tensor,), _KINDS.TENSOR, _KINDS.TENSORS),
        ((Graph,), _KINDS.GRAPH, _KINDS.GRAPHS),
    ):
        if isinstance(first, kinds):
            return int(plural if many else single)
    return int(_KINDS.TYPE_PROTOS if many else _KINDS.TYPE_PROTO)
