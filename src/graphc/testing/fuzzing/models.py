"""Random models: pieces for some wishes, nodes between them, and inputs at which all of it is finite and smooth."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from zlib import crc32

import numpy as np
import onnx

from graphc.errors import GraphcError
from graphc.frontend import read_model
from graphc.frontend.exporter import export_model
from graphc.frontend.schema import signature
from graphc.ir import DType, Graph, Node, TensorType, Value, dtypes
from graphc.ops.base import Array
from graphc.ops.evaluate import evaluate_graph
from graphc.passes.rules import Chooser
from graphc.testing.choosing import SeedChooser
from graphc.testing.edges import EXACT, edge_values
from graphc.testing.fuzzing.pieces import Piece, draw_piece, join, keep_outputs
from graphc.testing.fuzzing.wishes import Wish
from graphc.testing.open_extents import OPEN_DIM, open_extent
from graphc.testing.oracle import RANGES, is_calm
from graphc.testing.random_graphs import GraphOptions, Growing
from graphc.testing.samples import tensor_type, values
from graphc.testing.wide_samples import WIDE_SAMPLERS

OLDEST_OPSET = 13
_SUITE_EVERY = 4
"""Of so many seeds, one takes the ONNX backend suite's nodes where others draw their own."""
_OPEN_EVERY = 3
"""Of so many seeds, one leaves extents of its inputs open, where its operators let it."""
_CONTROL_EVERY = 3
"""Of so many seeds, one grows If, Loop and Scan between its nodes."""
_EDGES_EVERY = 5
"""Of so many seeds, one has a part beside the rest that is given NaN, infinities and ties."""
_EDGE_NODES = 5
_OTHERS = (dtypes.FLOAT64, dtypes.INT64, dtypes.INT32, dtypes.BOOL, dtypes.UINT8)
_KINDS: tuple[DType, ...] = (*[dtypes.FLOAT32] * 4, *_OTHERS)
"""Dtypes of inputs that no wish asks for; most are float32, as in models."""


@dataclass(frozen=True)
class RandomModel:
    """A model with inputs at which it is finite and smooth.

    Args:
        graph: What it computes.
        proto: The model, at some operator set from `OLDEST_OPSET` on.
        inputs: One array for each input.
        fulfilled: The wishes that it has a piece for.
        kinds: What else is of interest in it: `control flow`, `open extents`, `edges`.
    """

    graph: Graph
    proto: onnx.ModelProto
    inputs: list[Array]
    fulfilled: tuple[Wish, ...] = ()
    kinds: tuple[str, ...] = ()

    @property
    def feeds(self) -> dict[str, Array]:
        """The inputs by name."""
        return {value.name: array for value, array in zip(self.graph.inputs, self.inputs, strict=True)}


@dataclass(frozen=True)
class ModelTask:
    """A random model to try.

    Args:
        seed: Of the model.
        wishes: What it is to have pieces for.
        max_nodes: Most random nodes beside the pieces.
        backends: What it is tried on.
        cut: Number of the node whose outputs are to be the model's; the model as it is if None.
    """

    seed: int
    wishes: tuple[Wish, ...] = ()
    max_nodes: int = 6
    backends: tuple[str, ...] = ("cpu", "reference")
    cut: int | None = None


def random_model(task: ModelTask) -> RandomModel | None:
    """The model of a task; None where no inputs suit it, or it has no such node."""
    choose = SeedChooser(task.seed)
    pieces: list[Piece] = []
    fulfilled: list[Wish] = []
    suite = task.seed % _SUITE_EVERY == _SUITE_EVERY - 1
    for wish in task.wishes:
        # Choices of its own: without another wish it is drawn as it was.
        piece = draw_piece(wish, SeedChooser((task.seed, crc32(str(wish).encode()))), suite=suite)
        if piece is not None:
            pieces.append(piece)
            fulfilled.append(wish)
    found = _grown(pieces, task, choose) or (_calm(*join(pieces), choose) if pieces else None)
    if found is None:
        return None
    graph, inputs = found
    if task.seed % _EDGES_EVERY == 3:
        graph, inputs = _with_edges(graph, inputs, choose)
    if task.cut is not None:
        nodes = [node for node in graph.nodes if not node.is_op("Constant")]
        if task.cut >= len(nodes):
            return None
        arrays = {value.name: array for value, array in zip(graph.inputs, inputs, strict=True)}
        inputs = keep_outputs(graph, [value for value in nodes[task.cut].outputs if value.name], arrays)
    for index, node in enumerate(graph.nodes):
        node.name = node.name or f"n{index}"
    proto = export_model(graph)
    if task.seed % _OPEN_EVERY == _OPEN_EVERY - 1:
        proto = _opened(proto, choose)
    for entry in proto.opset_import:
        if entry.domain == "":
            entry.version = choose.integer(_oldest(proto, entry.version), entry.version)
    return RandomModel(graph, proto, inputs, tuple(fulfilled), tuple(_kinds(graph, proto, inputs)))


def _kinds(graph: Graph, proto: onnx.ModelProto, inputs: Sequence[Array]) -> Iterator[str]:
    if any(True for node in graph.nodes for _ in node.subgraphs()):
        yield "control flow"
    if any(dim.dim_param for info in proto.graph.input for dim in info.type.tensor_type.shape.dim):
        yield "open extents"
    if any(array.dtype.kind == "f" and not np.all(np.isfinite(array)) for array in inputs):
        yield "edges"


def _opened(proto: onnx.ModelProto, choose: Chooser) -> onnx.ModelProto:
    """The model with one extent open wherever its inputs have it; as it is where that is no valid model."""
    shapes = [info.type.tensor_type.shape.dim for info in proto.graph.input]
    extent = open_extent([tuple(dim.dim_value for dim in shape) for shape in shapes], choose)
    if extent is None:
        return proto
    opened = onnx.ModelProto()
    opened.CopyFrom(proto)
    for info in opened.graph.input:
        for dim in info.type.tensor_type.shape.dim:
            if dim.dim_value == extent:
                dim.dim_param = OPEN_DIM
    for info in opened.graph.output:
        for dim in info.type.tensor_type.shape.dim:
            dim.Clear()
    del opened.graph.value_info[:]
    try:
        read_model(opened)
    except GraphcError:
        return proto
    return opened


def _grown(pieces: list[Piece], task: ModelTask, choose: Chooser) -> tuple[Graph, list[Array]] | None:
    """The pieces with nodes grown around them; None where that has no calm inputs."""
    if not pieces and not task.max_nodes:
        return None
    graph, arrays = join(pieces)
    nesting = 2 if task.seed % _CONTROL_EVERY == 1 else 0
    options = GraphOptions(samplers=WIDE_SAMPLERS, kinds=_KINDS, ranks=(0, 5), nesting=nesting)
    growing = Growing(choose, options, graph)
    if nesting and task.max_nodes:
        growing.control()
    growing.grow(choose.integer(0 if pieces else 1, task.max_nodes))
    return _calm(growing.finished(), arrays, choose)


def _with_edges(graph: Graph, inputs: list[Array], choose: Chooser) -> tuple[Graph, list[Array]]:
    """The graph with nodes beside it of which there is one right answer whatever their inputs are."""
    growing = Growing(choose, GraphOptions(operators=EXACT, samplers=WIDE_SAMPLERS, kinds=_KINDS, ranks=(0, 5)))
    growing.add_input(tensor_type(choose, ranks=(1, 4)))
    growing.grow(choose.integer(1, _EDGE_NODES))
    beside = growing.finished()
    edges = [edge_values(choose, value.tensor_type) for value in beside.inputs]
    try:
        evaluate_graph(beside, list(edges))
    except GraphcError:
        return graph, inputs
    whole, arrays = join([Piece(graph, inputs), Piece(beside, edges)])
    return whole, [arrays[value] for value in whole.inputs]


def _calm(graph: Graph, arrays: Mapping[Value, Array], choose: Chooser) -> tuple[Graph, list[Array]] | None:
    seed = choose.integer(0, 2**16)
    for low, high in RANGES:
        drawn = SeedChooser(seed)
        inputs = [
            arrays[value] if value in arrays else values(drawn, value.tensor_type, low=low, high=high)
            for value in graph.inputs
        ]
        try:
            if is_calm(graph, inputs):
                return graph, inputs
        except GraphcError:
            return None
        if len(arrays) == len(inputs):
            break
    return None


def node_dtype(node: Node) -> str:
    """Dtype of a node's first input; empty where that is no tensor."""
    first = node.inputs[0] if node.inputs else None
    return first.type.dtype.name if first is not None and isinstance(first.type, TensorType) else ""


def _oldest(proto: onnx.ModelProto, newest: int) -> int:
    """The oldest operator set at which the model's nodes mean what they mean at the newest."""
    since = [OLDEST_OPSET]
    for node in proto.graph.node:
        found = signature(node.domain, node.op_type, newest)
        since.append(found.since if found is not None else newest)
    return max(since)
