"""ONNX models to graphs: names become values, old operator versions the canonical one, types follow on the way."""

from __future__ import annotations

import os
from collections import ChainMap
from collections.abc import Callable, Mapping
from dataclasses import dataclass

import onnx

from graphc.errors import GraphcError, ModelError, TypeInferenceError
from graphc.frontend.binding import Bindings, Solution, apply_shapes, solve
from graphc.frontend.external import ExternalFiles
from graphc.frontend.functions import Functions, opsets_of
from graphc.frontend.graph_reader import GraphReader
from graphc.frontend.schema import CANONICAL_OPSET
from graphc.frontend.scope import Frame, Scope
from graphc.frontend.source import LoadedModel, ModelSource, read_source
from graphc.frontend.tensors import TensorReader
from graphc.frontend.value_types import DimNames, read_type
from graphc.ir import Graph, TensorType, Value


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
    return _import(loaded, dims or {}, on_error)


def _import(loaded: LoadedModel, dims: Bindings, on_error: Callable[[GraphcError], None] | None) -> Imported:
    model, proto = loaded.proto, loaded.proto.graph
    if not model.HasField("graph"):
        raise ModelError(
            f"{loaded.name!r} holds no graph, so it is not an ONNX model",
            hint="pass the model itself, not a tensor or a part of a model",
        )
    opsets = _check_versions(model)
    functions = Functions.of(model)
    functions.check(proto)
    reader = GraphReader(TensorReader(loaded.payloads, ExternalFiles(loaded.folder)), functions, on_error)
    reader.unique.reserve(proto)
    graph = Graph(proto.name or "graph", opset=CANONICAL_OPSET)
    graph.metadata = {entry.key: entry.value for entry in model.metadata_props}
    scope: Scope = ChainMap()
    constant_inputs = reader.model_inputs(graph, proto, scope)
    _bind(graph, solve(graph.inputs, dims, reader.dims.originals), reader.dims)
    reader.contents(graph, proto, scope, Frame(opsets))
    reader.inference.close_branches()
    return Imported(
        graph,
        opsets,
        model.ir_version,
        f"{model.producer_name} {model.producer_version}".strip(),
        dict(reader.dims.originals),
        constant_inputs,
        tuple(
            info.name
            for info, value in zip(proto.output, graph.outputs, strict=True)
            if not _as_declared(info, value, reader)
        ),
    )


def _bind(graph: Graph, solution: Solution, dims: DimNames) -> None:
    for value in graph.inputs:
        value.type = solution.type_of(value.type)
    apply_shapes(graph, solution)
    graph.bounds.update(solution.bounds)
    dims.bindings = solution.values


def _as_declared(info: onnx.ValueInfoProto, value: Value, reader: GraphReader) -> bool:
    """Holds what inference found against what the model declares; answers whether the shapes agree.

    A wrong dtype is an error. Shapes that disagree are common in trained models (declared for one batch, or wrong)
    and harmless: what inference found counts.
    """
    declared = read_type(info.type, reader.dims.recall, info.name)
    found = value.type
    if not isinstance(declared, TensorType) or not isinstance(found, TensorType):
        return True
    if declared.dtype != found.dtype:
        reader.report(
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
