"""Where does a compiled model first go wrong? Every step beside its own meaning, and beside the source model.

Each step is compared twice. Its kernel is held against the meaning of its nodes in NumPy, on the very inputs that it
had: a difference there is a defect of that kernel, or of the plan that let something overwrite its inputs. And what it
made is held against the value of the same name in the source model: a difference that begins there, with all kernels
right, is a defect of a pass, or rounding that has added up.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from graphc.ir import GRAPHC_DOMAIN, Graph, Node, TensorType, Value
from graphc.ops.evaluate import captured_inputs, evaluate_graph, evaluate_node
from graphc.package import HostTensor, KernelStep, Step
from graphc.testing.verification import Difference, Tolerance, compare_array

if TYPE_CHECKING:
    from graphc.compiler.program import Program
    from graphc.runtime import Executable


@dataclass(frozen=True)
class Layer:
    """One step's comparison.

    Args:
        step: Its number.
        label: What it is.
        origins: The ONNX nodes it came from.
        kernel: Its outputs beside what its nodes mean on its own inputs.
        model: Its outputs beside the source model's values of those names, as far as passes have kept them.
    """

    step: int
    label: str
    origins: tuple[str, ...]
    kernel: tuple[Difference, ...]
    model: tuple[Difference, ...]

    @property
    def kernel_is_right(self) -> bool:
        """Whether the step does what its nodes mean."""
        return all(difference.ok for difference in self.kernel)

    @property
    def ok(self) -> bool:
        """Whether neither comparison shows a difference beyond the tolerance."""
        return self.kernel_is_right and all(difference.ok for difference in self.model)


def source_values(graph: Graph, inputs: Mapping[str, Any], wanted: set[str]) -> dict[str, Any]:
    """Values of the source model by name, evaluated in NumPy.

    Args:
        graph: The model as imported, its dimensions bound.
        inputs: By name.
        wanted: Names to keep; the others are dropped as they come.
    """
    kept: dict[str, Any] = {}

    def watch(value: Value, datum: Any) -> None:
        if value.name in wanted:
            kept[value.name] = datum

    evaluate_graph(graph, [inputs[value.name] for value in graph.inputs], watch=watch)
    return kept


def step_values(program: Program) -> set[str]:
    """Names under which the source model may know the values that the program's steps make."""
    return {source_name(value) for node in program.buffers.steps for value in node.outputs if value.name}


def source_name(value: Value) -> str:
    """The name of a step's result in the source model: relayouts make new names of the same logical values."""
    node = value.producer
    while node is not None:
        if node.is_op("Region", GRAPHC_DOMAIN):
            value = node.graph_attribute("body").outputs[value.index]
        elif node.is_op("Relayout", GRAPHC_DOMAIN) and (source := node.input(0)) is not None:
            value = source
        else:
            break
        node = value.producer
    return value.name


def compare_layers(
    executable: Executable,
    program: Program,
    inputs: Mapping[str, Any],
    source: Mapping[str, Any],
    tolerance: Tolerance | None = None,
) -> Iterator[Layer]:
    """Runs a model step by step, comparing each.

    Args:
        executable: The package that `program` was compiled to.
        program: What the compiler made of the model, for the shapes of `inputs`.
        inputs: By name, one for each.
        source: Values of the source model by name, see `source_values`.
        tolerance: Of both comparisons.

    Yields:
        A layer for each step, in order.
    """
    steps = executable.variant_for(inputs).steps
    held = _Held(program, inputs)
    for index, read in executable.walk(inputs):
        node, step = program.buffers.steps[index], steps[index]
        expected = dict(zip(node.outputs, evaluate_node(node, held.operands(node)), strict=False))
        made = {}
        for value, tensor in _places(program, node, step):
            made[value] = _logical(value, read(tensor))
        held.keep(made)
        yield Layer(
            index,
            step.label,
            step.origins,
            tuple(compare_array(value.name, expected[value], found, tolerance) for value, found in made.items()),
            tuple(
                compare_array(name, source[name], found, tolerance)
                for value, found in made.items()
                if (name := source_name(value)) in source
            ),
        )


class _Held:
    """Data of the program's values, as its steps made them."""

    def __init__(self, program: Program, inputs: Mapping[str, Any]) -> None:
        self._storage = program.buffers.storage
        self._data = {id(self._storage[value]): inputs[value.name] for value in program.graph.inputs}

    def keep(self, made: Mapping[Value, Any]) -> None:
        """Remembers what a step made."""
        self._data.update({id(self._storage[value]): datum for value, datum in made.items()})

    def operands(self, node: Node) -> list[Any]:
        """Data of a node's inputs, then of the values that its subgraphs read."""
        data = [None if value is None else self._read(value) for value in node.inputs]
        return [*data, *(self._read(value) for value in captured_inputs(node))]

    def _read(self, value: Value) -> Any:
        if value.constant is not None:
            return value.constant.array()
        storage = self._storage[value]
        if storage.kind == "weight" and storage.root.constant is not None:
            datum = storage.root.constant.array()
        else:
            datum = self._data[id(storage)]
        # A view is its root under another shape.
        return datum if storage.root is value else np.reshape(datum, value.tensor_type.static_shape)


def _places(program: Program, node: Node, step: Step) -> Sequence[tuple[Value, HostTensor]]:
    """The values that a step has made, and where they lie now."""
    if not isinstance(step, KernelStep):
        pairs = zip(node.outputs, step.outputs, strict=False)
        return [(value, tensor) for value, tensor in pairs if tensor is not None]
    kernel = program.kernels[node]
    outputs = [value for value in node.outputs if value.is_used] or list(node.outputs)
    places = []
    for operand, location in zip(kernel.operands, step.arguments, strict=True):
        if operand.kind == "output":
            value = outputs[operand.index]
            kind = value.tensor_type
            shape = kind.layout.storage_shape(kind.static_shape)
            static = tuple(extent for extent in shape if isinstance(extent, int))
            places.append((value, HostTensor(location, kind.dtype.name, static)))
    return places


def _logical(value: Value, datum: Any) -> Any:
    """A copy of what lies in storage, as the logical tensor."""
    kind = value.type
    if isinstance(kind, TensorType) and isinstance(datum, np.ndarray):
        return np.array(kind.layout.unpack(datum, datum.shape if kind.layout.is_row_major else kind.static_shape))
    return datum
