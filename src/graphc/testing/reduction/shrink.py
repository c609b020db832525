"""Smaller and plainer data: extents cut down wherever they occur, numbers that are easy to read."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from functools import partial
from typing import Any

import numpy as np

from graphc.ir import Graph, Node, Tensor, TensorType
from graphc.testing.reduction.edits import Variant
from graphc.testing.reduction.specimen import Specimen, without_unused

_PLAIN_ELEMENTS = 1 << 20
"""Larger arrays are left as they are: no one reads them."""


def smaller_extents(specimen: Specimen) -> Iterator[Variant]:
    """The graph with one extent smaller on every axis that has it, in inputs, constants and attributes alike.

    Axes that have to agree mostly have the same extent; where others have it too and must keep it, inference refuses.
    """
    shapes = [array.shape for array in specimen.inputs.values()]
    shapes += [tensor.shape for _, tensor in _constants(specimen.graph)]
    for extent in sorted({extent for shape in shapes for extent in shape if extent > 1}, reverse=True):
        for smaller in dict.fromkeys((1, 2, 3, extent // 2, extent - 1)):
            if 0 < smaller < extent:
                for numbers in (False, True):
                    yield partial(_with_extent, specimen, extent, smaller, numbers=numbers)


def smaller_axes(specimen: Specimen) -> Iterator[Variant]:
    """The graph with one axis of one input smaller."""
    for name, array in specimen.inputs.items():
        for axis, extent in enumerate(array.shape):
            for smaller in dict.fromkeys((1, 2, extent // 2, extent - 1)):
                if 0 < smaller < extent:
                    cut = tuple(slice(smaller) if i == axis else slice(None) for i in range(array.ndim))
                    yield partial(_with_inputs, specimen, {**specimen.inputs, name: array[cut].copy()})


def plainer_data(specimen: Specimen) -> Iterator[Variant]:
    """The graph with one input or constant of plain numbers: ones, small integers, one decimal."""
    for name, array in specimen.inputs.items():
        for plain in _plainer(array):
            yield partial(Specimen, specimen.graph, {**specimen.inputs, name: plain})
    for number, (_, tensor) in enumerate(_constants(specimen.graph)):
        for plain in _plainer(tensor.array()):
            yield partial(_with_constant, specimen, number, plain)


def _with_constant(specimen: Specimen, number: int, plain: np.ndarray[Any, Any]) -> Specimen:
    graph = specimen.graph.clone()
    node, _ = _constants(graph)[number]
    node.attributes["value"] = Tensor.of(plain)
    return Specimen(graph, specimen.inputs)


def _plainer(array: np.ndarray[Any, Any]) -> Iterator[np.ndarray[Any, Any]]:
    """Plainer arrays of the same dtype and shape, the plainest first; none for what is no float, or plain already."""
    if array.dtype.kind not in "fV" or not 0 < array.size <= _PLAIN_ELEMENTS:
        return
    wide = array.astype(np.float64)
    count = np.arange(1, array.size + 1, dtype=np.float64).reshape(array.shape)
    makers: Sequence[Callable[[], np.ndarray[Any, Any]]] = (
        lambda: np.ones(array.shape),
        lambda: count,
        lambda: np.round(wide),
        lambda: np.round(wide, 1),
    )
    for make in makers:
        plain = make().astype(array.dtype)
        if np.array_equal(plain, array, equal_nan=True):
            return
        yield plain


def _with_extent(specimen: Specimen, extent: int, smaller: int, *, numbers: bool) -> Specimen:
    """Every extent of one size cut down.

    Args:
        specimen: What is cut.
        extent: The size.
        smaller: What it becomes.
        numbers: Whether integers of that value are taken for extents too, in small constants and attributes.
    """

    def cut(array: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
        return array[tuple(slice(smaller) if size == extent else slice(None) for size in array.shape)].copy()

    graph = specimen.graph.clone()
    for node, tensor in _constants(graph):
        array = tensor.array()
        if numbers and array.dtype == np.int64 and array.ndim <= 1:
            array = np.where(array == extent, smaller, array)
        if array.ndim != 1 or array.dtype != np.int64 or not numbers:
            array = cut(array)
        node.attributes["value"] = Tensor.of(np.ascontiguousarray(array).reshape(array.shape))
        node.output.type = TensorType(tensor.dtype, array.shape)
    if numbers:
        for node in graph.nodes:
            for name, value in node.attributes.items():
                if value == extent and isinstance(value, int) and name not in ("axis", "to"):
                    node.attributes[name] = smaller
                elif isinstance(value, tuple) and extent in value and name not in ("axes", "perm"):
                    node.attributes[name] = tuple(smaller if item == extent else item for item in value)  # type: ignore[assignment]
    return _typed(graph, {name: cut(array) for name, array in specimen.inputs.items()})


def _with_inputs(specimen: Specimen, inputs: dict[str, Any]) -> Specimen:
    return _typed(specimen.graph.clone(), inputs)


def _typed(graph: Graph, inputs: dict[str, Any]) -> Specimen:
    """The graph with its types forgotten, but those of inputs and constants, and inferred again."""
    for value in graph.inputs:
        value.type = TensorType(value.tensor_type.dtype, inputs[value.name].shape)
    for inner in graph.all_graphs():
        for node in inner.nodes:
            if node.is_op("Constant"):
                continue
            for value in node.outputs:
                value.type = None
    return without_unused(graph, inputs)


def _constants(graph: Graph) -> list[tuple[Node, Tensor]]:
    """Constants of the graph itself, those of its subgraphs left out."""
    found = [(node, node.output.constant) for node in graph.nodes if node.is_op("Constant")]
    return [(node, tensor) for node, tensor in found if tensor is not None]
