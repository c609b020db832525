"""Graphs of ONNX messages: each node checked, raised to the canonical opset, added and typed, functions unfolded."""

from __future__ import annotations

from collections import ChainMap, Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace

import onnx

from graphc.errors import GraphcError, ModelError, TypeInferenceError, UnsupportedError
from graphc.frontend.attributes import attribute_kind, read_attribute
from graphc.frontend.functions import Functions, call_attributes, domain_of, opsets_of
from graphc.frontend.gradient import GRADIENT, write_gradient
from graphc.frontend.opset import Draft, constant_tensor, raise_to
from graphc.frontend.order import node_name, node_origins, producers, sort_nodes
from graphc.frontend.schema import (
    CANONICAL_OPSET,
    WRITTEN_EARLY,
    check_node,
    dtype_misfit,
    first_version,
    signature,
)
from graphc.frontend.scope import Frame, Scope, UniqueNames, fail_dangling, lookup
from graphc.frontend.source import MAX_NESTING
from graphc.frontend.tensors import TensorReader
from graphc.frontend.value_types import DimNames, read_type
from graphc.ir import Attribute, Graph, Node, Tensor, TensorType, Type, Value
from graphc.ops.inference import Inference


@dataclass
class GraphReader:
    """Reads the graphs of one model.

    Args:
        tensors: Reader of its tensors.
        functions: Functions that it defines.
        on_error: Takes errors of single nodes, whose outputs then stay untyped; raised if None.
        dims: Names of its dimensions.
        unique: Value names of the graph.
    """

    tensors: TensorReader
    functions: Functions
    on_error: Callable[[GraphcError], None] | None = None
    dims: DimNames = field(default_factory=DimNames)
    unique: UniqueNames = field(default_factory=UniqueNames)
    inference: Inference = field(default_factory=Inference)
    declared: dict[str, Type] = field(default_factory=dict)
    made: dict[str, Value] = field(default_factory=dict)

    def model_inputs(self, graph: Graph, proto: onnx.GraphProto, scope: Scope) -> tuple[str, ...]:
        """Adds the inputs of the model; answers those that an initializer makes constant, which are not added."""
        constant = {tensor.name for tensor in proto.initializer}
        constant.update(tensor.values.name for tensor in proto.sparse_initializer)
        _check_inputs(proto)
        for info in proto.input:
            if info.name not in constant:
                # Symbols are extents of tensors: what sequences and optionals hold, only the data tells.
                one = info.type.HasField("tensor_type")
                kind = read_type(info.type, self.dims.declare if one else self.dims.recall, info.name)
                if kind is None:
                    raise ModelError(f"input {info.name!r} declares no type", nodes=(info.name,))
                scope[info.name] = graph.add_input(info.name, kind)
        return tuple(info.name for info in proto.input if info.name in constant)

    def _subgraph_inputs(self, graph: Graph, proto: onnx.GraphProto, scope: Scope) -> None:
        """Adds the inputs of a subgraph."""
        _check_inputs(proto)
        for info in proto.input:
            kind = read_type(info.type, self.dims.recall, info.name)
            scope[info.name] = graph.add_input(self.unique.make(info.name), kind)

    def contents(self, graph: Graph, proto: onnx.GraphProto, scope: Scope, frame: Frame) -> None:
        """Adds constants, nodes and outputs."""
        nested = frame.depth > 0
        for tensor in proto.initializer:
            self._constant(graph, tensor.name, self.tensors.read(tensor, tensor.name), scope, nested)
        for sparse in proto.sparse_initializer:
            owner = sparse.values.name
            self._constant(graph, owner, self.tensors.read_sparse(sparse, owner), scope, nested)
        hints = {
            info.name: kind
            for info in (*proto.value_info, *proto.output)
            if (kind := read_type(info.type, self.dims.recall, info.name)) is not None
        }
        self._nodes(graph, proto.node, scope, frame, hints, proto.name)
        outputs = []
        for info in proto.output:
            value = scope.get(info.name)
            if value is None:
                fail_dangling(info.name, scope, f"output {info.name!r} of graph {proto.name!r} is never produced")
            outputs.append(value)
        if not nested:
            if not outputs:
                raise ModelError(f"graph {proto.name!r} has no outputs")
            for name, count in Counter(info.name for info in proto.output).items():
                if count > 1:
                    raise ModelError(f"output {name!r} is listed twice", nodes=(name,))
        graph.outputs = outputs

    def _constant(self, graph: Graph, name: str, tensor: Tensor, scope: Scope, nested: bool) -> None:
        if not name or name in scope.maps[0]:
            raise ModelError(f"initializer {name!r} has no name or is defined twice", nodes=(name,))
        own = self.unique.make(name) if nested else name
        node = Node("Constant", (), [own], {"value": tensor}, version=CANONICAL_OPSET, name=name, origins=(name,))
        graph.append(node)
        node.output.type = TensorType(tensor.dtype, tensor.shape)
        scope[name] = node.output

    def _nodes(
        self,
        graph: Graph,
        nodes: Sequence[onnx.NodeProto],
        scope: Scope,
        frame: Frame,
        hints: Mapping[str, Type],
        owner: str,
    ) -> None:
        made_by = producers(nodes, scope.maps[0], owner)
        for index in sort_nodes(nodes, made_by):
            node = nodes[index]
            label = frame.prefix + node_name(node, index)
            inputs = [lookup(name, scope, label) if name else None for name in node.input]
            while inputs and inputs[-1] is None:
                inputs.pop()
            outputs = [self._output_name(name, frame) if name else "" for name in node.output]
            for name, own in zip(node.output, outputs, strict=True):
                if name in hints:
                    self.declared[own] = hints[name]
            self._node(graph, node, label, inputs, outputs, scope, frame)
            scope.update((name, self.made[own]) for name, own in zip(node.output, outputs, strict=True) if name)

    def _output_name(self, name: str, frame: Frame) -> str:
        return frame.results.get(name) or (name if frame.depth == 0 else self.unique.make(frame.prefix + name))

    def _node(
        self,
        graph: Graph,
        node: onnx.NodeProto,
        label: str,
        inputs: list[Value | None],
        outputs: list[str],
        scope: Scope,
        frame: Frame,
    ) -> None:
        """Adds one node, or what it stands for."""
        protos = _resolve_references(node, frame, label)
        function = self.functions.find(node)
        domain = domain_of(node.domain)
        version = frame.opsets.get(domain)
        if function is not None and (domain or signature("", node.op_type, version or 0) is None):
            self._call(graph, function, call_attributes(node, function, protos), inputs, outputs, frame, label)
            return
        if version is None:
            raise ModelError(
                f"{node.op_type} is of domain {domain or 'ai.onnx'!r}, which the model does not import",
                nodes=(label,),
                hint="opset_import must list every domain that nodes use",
            )
        if not domain:
            version = max(version, WRITTEN_EARLY.get(node.op_type, version))
        found = signature(domain, node.op_type, version)
        if found is not None and found.deprecated and signature(domain, node.op_type, found.since - 1) is not None:
            # Exporters kept writing operators past their end (Upsample, Scatter); their last meaning is clear.
            version = found.since - 1
            found = signature(domain, node.op_type, version)
        if found is not None:
            check_node(node, {name: attribute_kind(proto) for name, proto in protos.items()}, found, label)
        types = [None if value is None else value.type for value in inputs]
        misfit = None if found is None else dtype_misfit(node.op_type, types, found, label)
        inner = replace(frame, depth=frame.depth + 1, results={}, branch=frame.branch or node.op_type == "If")
        draft = Draft(
            node.op_type,
            domain,
            version,
            inputs,
            list(outputs),
            {name: self._attribute(proto, label, scope, inner) for name, proto in protos.items()},
            name=node.name,
            origins=node_origins(node, label),
            target=CANONICAL_OPSET,
            append=lambda made: self._append(graph, made, frame, misfit),
            fresh=self.unique.make,
        )
        if (domain, draft.op_type) == GRADIENT and found is not None:
            self._gradient(draft, scope, label)
            return
        if draft.op_type == "Constant" and not domain:
            draft.attributes = {"value": constant_tensor(draft)}
        try:
            if found is not None and found.since <= CANONICAL_OPSET:
                raise_to(draft, CANONICAL_OPSET)
            elif found is None:
                _refuse_early_use(draft)
        except (ModelError, UnsupportedError) as error:
            self.report(error)
        draft.finish()

    def _gradient(self, draft: Draft, scope: Scope, label: str) -> None:
        """Adds what a Gradient stands for."""

        def named(attribute: str) -> list[Value]:
            found = draft.attributes.get(attribute, ())
            names = (found,) if isinstance(found, str) else found if isinstance(found, tuple) else ()
            values = [lookup(str(name), scope, label) for name in names]
            return [value for value in values if value is not None]

        try:
            write_gradient(draft, named("y"), named("xs"), named("zs"))
        except (ModelError, UnsupportedError) as error:
            self.report(error)
            draft.finish()

    def _append(self, graph: Graph, node: Node, frame: Frame, misfit: TypeInferenceError | None = None) -> Node:
        graph.append(node)
        for value in node.outputs:
            value.type = self.declared.pop(value.name, None)
            self.made[value.name] = value
        try:
            if misfit is not None:
                raise misfit
            self.inference.visit(node)
        except TypeInferenceError as error:
            if not frame.branch:
                self.report(error)
        return node

    def report(self, error: GraphcError) -> None:
        """Hands an error of one node to the collector, or raises it."""
        if self.on_error is None:
            raise error
        self.on_error(error)

    def _attribute(self, proto: onnx.AttributeProto, label: str, scope: Scope, frame: Frame) -> Attribute:
        def subgraph(inner: onnx.GraphProto) -> Graph:
            return self._subgraph(inner, scope, frame, label)

        return read_attribute(proto, label, tensors=self.tensors, resolve=self.dims.recall, graph=subgraph)

    def _subgraph(self, proto: onnx.GraphProto, scope: Scope, frame: Frame, label: str) -> Graph:
        _check_depth(frame, label)
        graph = Graph(proto.name or "graph", opset=CANONICAL_OPSET)
        inner = scope.new_child()
        self._subgraph_inputs(graph, proto, inner)
        self.contents(graph, proto, inner, frame)
        return graph

    def _call(
        self,
        graph: Graph,
        function: onnx.FunctionProto,
        attributes: Mapping[str, onnx.AttributeProto],
        inputs: list[Value | None],
        outputs: list[str],
        frame: Frame,
        label: str,
    ) -> None:
        """Adds the nodes of a function's body in place of a call."""
        _check_depth(frame, label)
        if len(inputs) > len(function.input) or len(outputs) > len(function.output):
            raise ModelError(
                f"function {function.name!r} has {len(function.input)} inputs and {len(function.output)} outputs, "
                f"the call has {len(inputs)} and {len(outputs)}",
                nodes=(label,),
            )
        absent = [None] * (len(function.input) - len(inputs))
        scope: Scope = ChainMap(dict(zip(function.input, (*inputs, *absent), strict=True)))
        results = {formal: own for formal, own in zip(function.output, outputs, strict=False) if own}
        opsets = {**frame.opsets, **opsets_of(function.opset_import, f"function {function.name!r}")}
        inner = Frame(opsets, f"{label}/", attributes, frame.depth + 1, results, frame.branch)
        hints = {
            info.name: kind
            for info in function.value_info
            if (kind := read_type(info.type, self.dims.recall, info.name)) is not None
        }
        self._nodes(graph, function.node, scope, inner, hints, function.name)
        for formal, own in results.items():
            value = lookup(formal, scope, label)
            if value is None or value.name != own:
                # The function returns one of its inputs.
                made = Node("Identity", (value,), (own,), version=CANONICAL_OPSET, origins=(label,))
                self._append(graph, made, frame)


def _check_depth(frame: Frame, label: str) -> None:
    if frame.depth > MAX_NESTING:
        raise ModelError(f"subgraphs and calls are nested deeper than {MAX_NESTING} levels", nodes=(label,))


def _check_inputs(proto: onnx.GraphProto) -> None:
    for name, count in Counter(info.name for info in proto.input).items():
        if not name or count > 1:
            raise ModelError(f"input {name!r} of graph {proto.name!r} has no name or is listed twice")


def _refuse_early_use(draft: Draft) -> None:
    """Refuses an operator of ai.onnx that is younger than the opset that the model imports."""
    since = None if draft.domain else first_version("", draft.op_type)
    if since is not None:
        raise ModelError(
            f"{draft.op_type} exists since opset {since}, and the model imports {draft.version}",
            nodes=draft.origins,
            hint=f"export the model with opset {since} or newer",
        )


def _resolve_references(node: onnx.NodeProto, frame: Frame, label: str) -> dict[str, onnx.AttributeProto]:
    """A node's attributes by name; those that refer to an attribute of the enclosing function's call replaced."""
    found: dict[str, onnx.AttributeProto] = {}
    for attribute in node.attribute:
        if attribute.name in found:
            raise ModelError(f"attribute {attribute.name!r} is given twice", nodes=(label,))
        if not attribute.ref_attr_name:
            found[attribute.name] = attribute
        elif frame.attributes is None:
            raise ModelError(
                f"attribute {attribute.name!r} refers to {attribute.ref_attr_name!r}, and the node is in no function",
                nodes=(label,),
            )
        elif attribute.ref_attr_name in frame.attributes:
            found[attribute.name] = frame.attributes[attribute.ref_attr_name]
    return found
