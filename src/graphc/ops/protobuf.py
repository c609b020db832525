"""One node as ONNX messages, for onnx.reference: NodeProto, attributes, subgraphs, types. Imports onnx when called."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from graphc.ir import Graph, MapType, Node, OptionalType, SequenceType, Tensor, TensorType, Type
from graphc.ir.graph import Attribute, captured_values

if TYPE_CHECKING:
    from onnx import AttributeProto, GraphProto, ModelProto, NodeProto, TensorProto, TypeProto, ValueInfoProto


def model_of(node: Node) -> ModelProto:
    """A model of that one node: its inputs and captured values are graph inputs, captured constants initializers."""
    from onnx import helper

    names = [value.name for value in node.inputs if value is not None]
    constants: dict[str, TensorProto] = {}
    for _, subgraph in node.subgraphs():
        for value in captured_values(subgraph):
            if value.constant is None:
                names.append(value.name)
            else:
                constants[value.name] = tensor_proto(value.constant, value.name)
    graph = helper.make_graph(
        [node_proto(node)],
        node.op_type,
        [_value_info(name, None) for name in dict.fromkeys(names)],
        [_value_info(value.name, None) for value in node.outputs if value.name],
        list(constants.values()),
    )
    versions = {node.domain: node.version}
    for _, subgraph in node.subgraphs():
        for inner in (inner for nested in subgraph.all_graphs() for inner in nested.nodes):
            versions.setdefault(inner.domain, inner.version)
    imports = [helper.make_opsetid(domain, version) for domain, version in versions.items()]
    return helper.make_model(graph, opset_imports=imports)


def node_proto(node: Node) -> NodeProto:
    """The node with its attributes and subgraphs."""
    from onnx import helper

    made = helper.make_node(
        node.op_type,
        ["" if value is None else value.name for value in node.inputs],
        [value.name for value in node.outputs],
        name=node.name,
        domain=node.domain,
    )
    made.attribute.extend(attribute_proto(node, name, value) for name, value in node.attributes.items())
    return made


def attribute_proto(node: Node, name: str, value: Attribute) -> AttributeProto:
    """Attribute `name` of a node; the operator's schema tells the type of an empty list."""
    from onnx import defs, helper

    converted: Any = value
    if isinstance(value, tuple):
        if not value:
            schema = defs.get_schema(node.op_type, max_inclusive_version=node.version, domain=node.domain)
            kind: Any = schema.attributes[name].type
            return helper.make_attribute(name, [], attr_type=kind.value)
        converted = [_attribute_item(item) for item in value]
    else:
        converted = _attribute_item(value)
    return helper.make_attribute(name, converted)


def _attribute_item(value: Any) -> Any:
    if isinstance(value, Tensor):
        return tensor_proto(value)
    if isinstance(value, Graph):
        return graph_proto(value)
    if isinstance(value, TensorType | SequenceType | OptionalType | MapType):
        return type_proto(value)
    return value


def graph_proto(graph: Graph) -> GraphProto:
    """A subgraph; its constants stay Constant nodes."""
    from onnx import helper

    return helper.make_graph(
        [node_proto(node) for node in graph.nodes],
        graph.name,
        [_value_info(value.name, value.type) for value in graph.inputs],
        [_value_info(value.name, value.type) for value in graph.outputs],
    )


def _value_info(name: str, kind: Type | None) -> ValueInfoProto:
    from onnx import ValueInfoProto, helper

    return ValueInfoProto(name=name) if kind is None else helper.make_value_info(name, type_proto(kind))


def tensor_proto(tensor: Tensor, name: str = "") -> TensorProto:
    """A constant's elements."""
    from onnx import numpy_helper

    return numpy_helper.from_array(tensor.array(), name)


def type_proto(kind: Type) -> TypeProto:
    """A value's type; symbolic extents become names."""
    from onnx import helper

    match kind:
        case TensorType(dtype=dtype, shape=shape):
            dims = None if shape is None else [d if isinstance(d, int) else str(d) for d in shape]
            return helper.make_tensor_type_proto(dtype.onnx, dims)
        case SequenceType(element=element):
            return helper.make_sequence_type_proto(type_proto(element))
        case OptionalType(element=element):
            return helper.make_optional_type_proto(type_proto(element))
        case MapType(key=key, value=element):
            return helper.make_map_type_proto(key.onnx, type_proto(element))
