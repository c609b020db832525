"""Pieces of random models, each drawn for one wish: an instance of a rule's pattern, or a node of an operator."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import onnx

from graphc.errors import GraphcError, ModelError
from graphc.frontend import read_model
from graphc.ir import Builder, DType, Graph, TensorType, Value, clone_node, dtypes
from graphc.ops.base import Array
from graphc.ops.inference import infer_graph
from graphc.ops.parameter_inputs import parameter_inputs
from graphc.passes.base import PassContext
from graphc.passes.dce import DeadCodeElimination
from graphc.passes.rules import Chooser
from graphc.testing.conformance import Case
from graphc.testing.fuzzing.wishes import Wish, rules
from graphc.testing.instances import OPSET, RejectedError, grow_instance
from graphc.testing.operators import cases_by_operator, retype
from graphc.testing.oracle import calm_inputs, is_calm
from graphc.testing.random_graphs import GraphOptions, Growing
from graphc.testing.wide_samples import WIDE_SAMPLERS

_TRIES = 8
"""Draws of one piece until it is given up."""


@dataclass(frozen=True)
class Piece:
    """A graph with inputs at which it is finite and smooth.

    Args:
        graph: What it computes.
        inputs: One array for each input.
    """

    graph: Graph
    inputs: list[Array]


def draw_piece(wish: Wish, choose: Chooser, *, suite: bool) -> Piece | None:
    """A piece for a wish; None where no draw led to one.

    Args:
        wish: What it is for.
        choose: Makes the choices.
        suite: Whether to take the ONNX backend suite's node for an operator that could be drawn as well.
    """
    for _ in range(_TRIES):
        try:
            piece = _rule_piece(wish, choose) if wish.kind == "rule" else _operator_piece(wish, choose, suite)
        except RejectedError:
            continue
        if piece is not None:
            return piece
    return None


def _rule_piece(wish: Wish, choose: Chooser) -> Piece | None:
    graph = grow_instance(rules()[wish.name], choose)
    inputs = calm_inputs(graph, choose.integer(0, 2**16))
    return None if inputs is None else Piece(graph, inputs)


def _operator_piece(wish: Wish, choose: Chooser, suite: bool) -> Piece | None:
    """A node with operands drawn for it, or as the ONNX backend suite has it, on another dtype."""
    dtype = dtypes.from_name(wish.dtype)
    sampler = WIDE_SAMPLERS.get(wish.name) if not wish.domain else None
    sampled = sampler is not None and dtype in sampler.dtypes
    cases = cases_by_operator().get((wish.domain, wish.name), []) if suite or not sampled else []
    if cases:
        return _suite_piece(choose.pick(cases), dtype, choose)
    return _sampled_piece(wish.name, dtype, choose) if sampled else None


def _sampled_piece(name: str, dtype: DType, choose: Chooser) -> Piece | None:
    sampler = WIDE_SAMPLERS[name]
    growing = Growing(choose, GraphOptions(1, [name], samplers=WIDE_SAMPLERS, kinds=[dtype], ranks=sampler.ranks))
    growing.forward()
    graph = growing.finished()
    if not any(node.is_op(name) for node in graph.nodes):
        return None
    inputs = calm_inputs(graph, choose.integer(0, 2**16))
    return None if inputs is None else Piece(graph, inputs)


def _suite_piece(case: Case, dtype: DType, choose: Chooser) -> Piece | None:
    """A case's node with its first input on `dtype`; what decides shapes is constant."""
    model = case.proto()
    node = model.graph.node[0]
    version = next(entry.version for entry in model.opset_import if entry.domain == node.domain)
    schema = onnx.defs.get_schema(node.op_type, version, node.domain)
    if not retype(model, schema, dtype):
        return None
    try:
        graph = read_model(model).graph
    except ModelError:
        return None  # the dtype does not go with what the case's attributes and other inputs say
    if graph.opset != OPSET:
        return None
    given = dict(zip((value.name for value in graph.inputs), case.data_sets[0][0], strict=False))
    arrays = {}
    for value in graph.inputs:
        found = given.get(value.name)
        if not isinstance(found, np.ndarray) or not isinstance(value.type, TensorType) or not value.type.is_static:
            return None
        if found.dtype.kind in "OSU" and value.type.dtype.kind != "string":
            return None
        arrays[value.name] = _as(found, value.tensor_type.dtype)
    if decisive := parameter_inputs(graph):
        for name in decisive:
            _bind(graph, name, arrays.pop(name))
        infer_graph(graph)
    inputs = [arrays[value.name] for value in graph.inputs]
    try:
        return Piece(graph, inputs) if is_calm(graph, inputs) else None
    except GraphcError:
        return None


def _as(array: Array, dtype: DType) -> Array:
    """Elements of a case on another dtype; small fractions become whole numbers that differ."""
    if array.dtype == dtype.numpy:
        return array
    if dtype.kind == "string":
        # One by one: NumPy casts no narrow floats to strings.
        return np.array([str(element) for element in array.flat], object).reshape(array.shape)
    if array.dtype.kind == "f" and not (dtype.is_float or dtype.kind == "bool"):
        array = np.round(4 * array)
    if dtype.kind == "uint":
        array = np.abs(array)
    if dtype.is_integer and dtype.bits < 8:
        array = np.clip(array, -2 if dtype.kind == "int" else 0, 1 if dtype.bits < 4 else 7)
    with np.errstate(all="ignore"):  # what is too large for a dtype is some other element of it
        # Between narrow types there are no casts of their own.
        narrow = array.dtype.itemsize == 1 and dtype.bits < 16
        return np.asarray(array.astype(np.float32) if narrow else array).astype(dtype.numpy)


def _bind(graph: Graph, name: str, array: Array) -> None:
    value = next(value for value in graph.inputs if value.name == name)
    value.replace_all_uses(Builder(graph, before=next(graph.nodes, None)).constant(array))
    graph.remove_input(value)


def join(pieces: Sequence[Piece]) -> tuple[Graph, dict[Value, Array]]:
    """One graph of the nodes of several, with an array for each of its inputs."""
    graph = Graph("random", opset=OPSET)
    arrays: dict[Value, Array] = {}
    outputs: list[Value] = []
    for piece in pieces:
        mapping: dict[Value, Value] = {}
        for value, array in zip(piece.graph.inputs, piece.inputs, strict=True):
            made = graph.add_input(graph.fresh_name(value.name), value.type)
            mapping[value], arrays[made] = made, array
        for node in piece.graph.nodes:
            names = [graph.fresh_name(value.name) if value.name else "" for value in node.outputs]
            copy = graph.append(clone_node(node, mapping, names))
            mapping.update(zip(node.outputs, copy.outputs, strict=True))
        outputs += [mapping[value] for value in piece.graph.outputs]
    graph.outputs = outputs
    return graph, arrays


def keep_outputs(graph: Graph, outputs: Sequence[Value], arrays: Mapping[str, Array]) -> list[Array]:
    """Makes some values the only outputs, without what they do not need; answers the arrays of the inputs left."""
    graph.outputs = outputs
    DeadCodeElimination().run(graph, PassContext())
    for value in graph.inputs:
        if not value.is_used and len(graph.inputs) > 1:
            graph.remove_input(value)
    return [arrays[value.name] for value in graph.inputs]
