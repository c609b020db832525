"""ONNX models to graphs: names become values, old operator versions the canonical one, types follow on the way."""

from __future__ import annotations

import difflib
import os
from collections import ChainMap, Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import NoReturn, TypeAlias

import onnx

from graphc.errors import GraphcError, ModelError, TypeInferenceError, UnsupportedError
from graphc.frontend.attributes import attribute_kind, read_attribute
from graphc.frontend.binding import Bindings, Solution, apply_shapes, solve
from graphc.frontend.external import ExternalFiles
from graphc.frontend.functions import Functions, call_attributes, domain_of, opsets_of
from graphc.frontend.opset import Draft, constant_tensor, raise_to
from graphc.frontend.order import node_name, node_origins, producers, sort_nodes
from graphc.frontend.schema import CANONICAL_OPSET, check_node, first_version, signature
from graphc.frontend.source import MAX_NESTING, LoadedModel, ModelSource, read_source
from graphc.frontend.tensors import TensorReader
from graphc.frontend.value_types import DimNames, Resolve, read_type
from graphc.ir import Attribute, Graph, Node, Tensor, TensorType, Type, Value
from graphc.ops.inference import Inference

Scope: TypeAlias = "ChainMap[str, Value | None]"
"""Values by their names in the file, those of enclosing graphs last; None for an absent optional function input."""


@dataclass(frozen=True)
class Imported:
    """A graph and what the file says around it.

    Args:
        graph: The model, at `CANONICAL_OPSET`, every value typed as far as it can be.
        opsets: Operator-set versions that the file imports.
        ir_version: Version of the file format.
        producer: Tool that wrote the file, with its version.
        dim_names: Name in the file of each symbol; dimensions without a name there are left out.
        constant_inputs: Inputs that have an initializer. They are constants here: callers cannot override them.
        misdeclared_outputs: Outputs whose declared shapes are not those that follow from the inputs.
    """

    graph: Graph
    opsets: Mapping[str, int]
    ir_version: int
    producer: str
    dim_names: Mapping[str, str]
    constant_inputs: tuple[str, ...] = ()
    misdeclared_outputs: tuple[str, ...] = ()

    @property
    def inputs(self) -> tuple[str, ...]:
        """Names of the inputs."""
        return tuple(value.name for value in self.graph.inputs)

    @property
    def outputs(self) -> tuple[str, ...]:
        """Names of the outputs."""
        return tuple(value.name for value in self.graph.outputs)


def import_model(
    source: ModelSource, *, dims: Bindings | None = None, folder: str | os.PathLike[str] | None = None
) -> Graph:
    """Reads an ONNX model of any opset as a graph at the canonical opset.

    Weights stay in the file until they are read. Unknown operators are no error here: `check` lists them all.

    Args:
        source: Path, bytes or ModelProto.
        dims: Values of symbolic dimensions: `{"batch": 8}`, bounds `{"seq": (1, 512)}` or shapes `{"x": [1, 3, 8, 8]}`.
        folder: Folder of external data where the model is not given as a path.

    Returns:
        The graph; its inputs and outputs have the model's names and order.

    Raises:
        ModelError: The file is not a valid model; the error names the node or value.
        TypeInferenceError: Shapes or dtypes do not fit a node.
        OptionError: A name in `dims` is unknown or its value does not fit.
        UnsupportedError: A node of an old opset means what no newer operator can say.
    """
    return read_model(source, dims=dims, folder=folder).graph


def read_model(
    source: ModelSource,
    *,
    dims: Bindings | None = None,
    folder: str | os.PathLike[str] | None = None,
    on_error: Callable[[GraphcError], None] | None = None,
) -> Imported:
    """Like `import_model`, with the facts around the graph.

    Args:
        source: Path, bytes or ModelProto.
        dims: Values of symbolic dimensions.
        folder: Folder of external data where the model is not given as a path.
        on_error: Takes errors of single nodes, whose outputs then stay untyped; raised if None.
    """
    loaded = read_source(source, folder)
    return _Importer(loaded, on_error).run(dims or {})


@dataclass(frozen=True)
class _Frame:
    """Where nodes come from: the model itself, or one call of a function.

    Args:
        opsets: Operator-set versions in force.
        prefix: Put before the names of nodes and values: the calls that led here.
        attributes: What attribute references mean; None outside functions.
        depth: Subgraphs and calls around.
        results: Value names that a function's outputs get.
    """

    opsets: Mapping[str, int]
    prefix: str = ""
    attributes: Mapping[str, onnx.AttributeProto] | None = None
    depth: int = 0
    results: Mapping[str, str] = field(default_factory=dict)


@dataclass
class _Importer:
    loaded: LoadedModel
    on_error: Callable[[GraphcError], None] | None = None
    names: DimNames = field(default_factory=DimNames)
    inference: Inference = field(default_factory=Inference)
    declared: dict[str, Type] = field(default_factory=dict)
    taken: set[str] = field(default_factory=set)
    counts: dict[str, int] = field(default_factory=dict)
    made: dict[str, Value] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.tensors = TensorReader(self.loaded.payloads, ExternalFiles(self.loaded.folder))
        self.functions = Functions.of(self.loaded.proto)

    def run(self, dims: Bindings) -> Imported:
        model = self.loaded.proto
        if not model.HasField("graph"):
            raise ModelError(
                f"{self.loaded.name!r} holds no graph, so it is not an ONNX model",
                hint="pass the model itself, not a tensor or a part of a model",
            )
        opsets = _check_versions(model)
        self.functions.check(model.graph)
        proto = model.graph
        graph = Graph(proto.name or "graph", opset=CANONICAL_OPSET)
        graph.metadata = {entry.key: entry.value for entry in model.metadata_props}
        frame = _Frame(opsets)
        # Names of the model's own values are kept; those inside subgraphs and functions give way.
        self.taken.update(value.name for value in proto.input)
        self.taken.update(name for node in proto.node for name in node.output)
        self.taken.update(tensor.name for tensor in proto.initializer)
        scope: Scope = ChainMap()
        constant_inputs = self.inputs(graph, proto, scope, self.names.declare)
        solution = solve(graph.inputs, dims, self.names.originals)
        self.bind(graph, solution)
        self.contents(graph, proto, scope, frame)
        stale = [
            info.name
            for info, value in zip(proto.output, graph.outputs, strict=True)
            if not self.check_output(info, value)
        ]
        return Imported(
            graph,
            opsets,
            model.ir_version,
            f"{model.producer_name} {model.producer_version}".strip(),
            dict(self.names.originals),
            constant_inputs,
            tuple(stale),
        )

    def bind(self, graph: Graph, solution: Solution) -> None:
        for value in graph.inputs:
            value.type = solution.type_of(value.type)
        apply_shapes(graph, solution)
        graph.bounds.update(solution.bounds)
        self.names.bindings = solution.values

    def inputs(self, graph: Graph, proto: onnx.GraphProto, scope: Scope, resolve: Resolve) -> tuple[str, ...]:
        """Adds the graph's inputs; answers those that an initializer makes constant."""
        constant = {tensor.name for tensor in proto.initializer}
        constant.update(tensor.values.name for tensor in proto.sparse_initializer)
        seen: set[str] = set()
        for info in proto.input:
            if not info.name or info.name in seen:
                raise ModelError(f"input {info.name!r} of graph {proto.name!r} has no name or is listed twice")
            seen.add(info.name)
            if info.name not in constant:
                # Names within the model's own graph are reserved already.
                name = info.name if resolve == self.names.declare else self.unique(info.name)
                kind = read_type(info.type, resolve, info.name)
                if kind is None and resolve == self.names.declare:
                    raise ModelError(f"input {info.name!r} declares no type", nodes=(info.name,))
                scope[info.name] = graph.add_input(name, kind)
        return tuple(info.name for info in proto.input if info.name in constant)

    def contents(self, graph: Graph, proto: onnx.GraphProto, scope: Scope, frame: _Frame) -> None:
        """Adds constants, nodes and outputs."""
        outer = frame.depth > 0
        for tensor in proto.initializer:
            self.constant(graph, tensor.name, self.tensors.read(tensor, tensor.name), scope, outer)
        for sparse in proto.sparse_initializer:
            owner = sparse.values.name
            self.constant(graph, owner, self.tensors.read_sparse(sparse, owner), scope, outer)
        hints = {
            info.name: kind
            for info in (*proto.value_info, *proto.output)
            if (kind := read_type(info.type, self.names.recall, info.name)) is not None
        }
        self.nodes(graph, proto.node, scope, frame, hints, proto.name)
        outputs = []
        for info in proto.output:
            value = scope.get(info.name)
            if value is None:
                self.dangling(info.name, scope, f"output {info.name!r} of graph {proto.name!r} is never produced", ())
            outputs.append(value)
        if not outer:
            if not outputs:
                raise ModelError(f"graph {proto.name!r} has no outputs")
            for name, count in Counter(info.name for info in proto.output).items():
                if count > 1:
                    raise ModelError(f"output {name!r} is listed twice", nodes=(name,))
        graph.outputs = outputs

    def constant(self, graph: Graph, name: str, tensor: Tensor, scope: Scope, outer: bool) -> None:
        if not name or name in scope.maps[0]:
            raise ModelError(f"initializer {name!r} has no name or is defined twice", nodes=(name,))
        own = self.unique(name) if outer else name
        node = Node("Constant", (), [own], {"value": tensor}, version=CANONICAL_OPSET, name=name, origins=(name,))
        graph.append(node)
        node.output.type = TensorType(tensor.dtype, tensor.shape)
        scope[name] = node.output

    def nodes(
        self,
        graph: Graph,
        nodes: Sequence[onnx.NodeProto],
        scope: Scope,
        frame: _Frame,
        hints: Mapping[str, Type],
        owner: str,
    ) -> None:
        made_by = producers(nodes, scope.maps[0], owner)
        for index in sort_nodes(nodes, made_by):
            node = nodes[index]
            label = frame.prefix + node_name(node, index)
            inputs = [self.read(name, scope, label) if name else None for name in node.input]
            while inputs and inputs[-1] is None:
                inputs.pop()
            outputs = [self.output_name(name, frame) if name else "" for name in node.output]
            for name, own in zip(node.output, outputs, strict=True):
                if name in hints:
                    self.declared[own] = hints[name]
            self.node(graph, node, label, inputs, outputs, scope, frame)
            scope.update((name, self.made[own]) for name, own in zip(node.output, outputs, strict=True) if name)

    def output_name(self, name: str, frame: _Frame) -> str:
        return frame.results.get(name) or (name if frame.depth == 0 else self.unique(frame.prefix + name))

    def node(
        self,
        graph: Graph,
        node: onnx.NodeProto,
        label: str,
        inputs: list[Value | None],
        outputs: list[str],
        scope: Scope,
        frame: _Frame,
    ) -> None:
        """Adds one node, or what it stands for."""
        protos = _resolve_references(node, frame, label)
        function = self.functions.find(node)
        domain = domain_of(node.domain)
        version = frame.opsets.get(domain)
        if function is not None and (domain or signature("", node.op_type, version or 0) is None):
            self.call(graph, function, call_attributes(node, function, protos), inputs, outputs, frame, label)
            return
        if version is None:
            raise ModelError(
                f"{node.op_type} is of domain {domain or 'ai.onnx'!r}, which the model does not import",
                nodes=(label,),
                hint="opset_import must list every domain that nodes use",
            )
        found = signature(domain, node.op_type, version)
        if found is not None and found.deprecated and signature(domain, node.op_type, found.since - 1) is not None:
            # Exporters kept writing operators past their end (Upsample, Scatter); their last meaning is clear.
            version = found.since - 1
            found = signature(domain, node.op_type, version)
        if found is not None:
            check_node(node, {name: attribute_kind(proto) for name, proto in protos.items()}, found, label)
        draft = Draft(
            node.op_type,
            domain,
            version,
            inputs,
            list(outputs),
            {name: self.attribute(proto, label, scope, frame) for name, proto in protos.items()},
            name=node.name,
            origins=node_origins(node, label),
            target=CANONICAL_OPSET,
            append=lambda made: self.append(graph, made),
            fresh=self.unique,
        )
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

    def append(self, graph: Graph, node: Node) -> Node:
        graph.append(node)
        for value in node.outputs:
            value.type = self.declared.pop(value.name, None)
            self.made[value.name] = value
        try:
            self.inference.visit(node)
        except TypeInferenceError as error:
            self.report(error)
        return node

    def report(self, error: GraphcError) -> None:
        if self.on_error is None:
            raise error
        self.on_error(error)

    def attribute(self, proto: onnx.AttributeProto, label: str, scope: Scope, frame: _Frame) -> Attribute:
        def subgraph(inner: onnx.GraphProto) -> Graph:
            return self.subgraph(inner, scope, replace(frame, depth=frame.depth + 1, results={}), label)

        return read_attribute(proto, label, tensors=self.tensors, resolve=self.names.recall, graph=subgraph)

    def subgraph(self, proto: onnx.GraphProto, scope: Scope, frame: _Frame, label: str) -> Graph:
        if frame.depth > MAX_NESTING:
            raise ModelError(
                f"subgraphs and function calls are nested deeper than {MAX_NESTING} levels", nodes=(label,)
            )
        graph = Graph(proto.name or "graph", opset=CANONICAL_OPSET)
        inner = scope.new_child()
        self.inputs(graph, proto, inner, self.names.recall)
        self.contents(graph, proto, inner, frame)
        return graph

    def call(
        self,
        graph: Graph,
        function: onnx.FunctionProto,
        attributes: Mapping[str, onnx.AttributeProto],
        inputs: list[Value | None],
        outputs: list[str],
        frame: _Frame,
        label: str,
    ) -> None:
        """Adds the nodes of a function's body in place of a call."""
        if frame.depth > MAX_NESTING:
            raise ModelError(
                f"subgraphs and function calls are nested deeper than {MAX_NESTING} levels", nodes=(label,)
            )
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
        inner = _Frame(opsets, f"{label}/", attributes, frame.depth + 1, results)
        hints = {
            info.name: kind
            for info in function.value_info
            if (kind := read_type(info.type, self.names.recall, info.name)) is not None
        }
        self.nodes(graph, function.node, scope, inner, hints, function.name)
        for formal, own in results.items():
            value = self.read(formal, scope, label)
            if value is None or value.name != own:
                # The function returns one of its inputs.
                self.append(graph, Node("Identity", (value,), (own,), version=CANONICAL_OPSET, origins=(label,)))

    def unique(self, base: str) -> str:
        """A value name that the model does not have: `base`, or `base_1`, `base_2`..."""
        name = base
        while name in self.taken:
            self.counts[base] = self.counts.get(base, 0) + 1
            name = f"{base}_{self.counts[base]}"
        self.taken.add(name)
        return name

    def check_output(self, info: onnx.ValueInfoProto, value: Value) -> bool:
        """Holds what inference found against what the model declares; answers whether the shapes agree.

        A wrong dtype is an error. Shapes that disagree are common in trained models (declared for one batch, or wrong)
        and harmless: what inference found counts.
        """
        declared = read_type(info.type, self.names.recall, info.name)
        found = value.type
        if not isinstance(declared, TensorType) or not isinstance(found, TensorType):
            return True
        if declared.dtype != found.dtype:
            self.report(
                TypeInferenceError(
                    f"output {info.name!r} is {found}, but the model declares {declared.dtype}",
                    nodes=value.producer.origins if value.producer is not None else (info.name,),
                    hint="the declaration or a node's attributes are wrong; export the model again",
                )
            )
        if declared.shape is None or found.shape is None:
            return True
        return len(declared.shape) == len(found.shape) and not any(
            isinstance(left, int) and isinstance(right, int) and left != right
            for left, right in zip(declared.shape, found.shape, strict=True)
        )

    def read(self, name: str, scope: Scope, label: str) -> Value | None:
        if name not in scope:
            self.dangling(name, scope, f"input {name!r} is not produced by any node, input or initializer", (label,))
        return scope[name]

    def dangling(self, name: str, scope: Scope, message: str, nodes: tuple[str, ...]) -> NoReturn:
        near = [other for other in scope if abs(len(other) - len(name)) <= 2][:2000]
        close = difflib.get_close_matches(name, near, 3)
        hint = f"did you mean {' or '.join(repr(item) for item in close)}?" if close else None
        raise ModelError(
            message, nodes=nodes, hint=hint or "the tool that wrote the model dropped the node that makes it"
        )


def _check_versions(model: onnx.ModelProto) -> dict[str, int]:
    """Operator-set versions of a model that this graphc can read."""
    if model.ir_version > onnx.IR_VERSION:
        raise ModelError(
            f"the model has IR version {model.ir_version}; the newest known here is {onnx.IR_VERSION}",
            hint="upgrade the onnx package, or export with an older one",
        )
    opsets = opsets_of(model.opset_import, "the model")
    if not opsets:
        raise ModelError(
            "the model imports no operator set", hint="the file is damaged or was written by a broken tool"
        )
    return opsets


def _refuse_early_use(draft: Draft) -> None:
    """Refuses an operator of ai.onnx that is younger than the opset that the model imports."""
    since = None if draft.domain else first_version("", draft.op_type)
    if since is not None:
        raise ModelError(
            f"{draft.op_type} exists since opset {since}, and the model imports {draft.version}",
            nodes=draft.origins,
            hint=f"export the model with opset {since} or newer",
        )


def _resolve_references(node: onnx.NodeProto, frame: _Frame, label: str) -> dict[str, onnx.AttributeProto]:
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
