"""Where does a compiled model first go wrong? Every step beside its own meaning, and beside the source model.

Each step is looked at three times. Its kernel is held against the meaning of its nodes in NumPy, on the very inputs
that it had: a difference there is a defect of that kernel. What it made is held against the value of the same name in
the source model: a difference that begins there, with all kernels right, is a defect of a pass, or rounding that has
added up. And what was live before it and is not its own must be as it was: a step that writes elsewhere is a defect of
the memory plan where the two places overlap in it, of the kernel where they do not.

A value that is rounded to integers may fall on the other side of a half (`halves`). That is nobody's defect; what comes
of it in later steps is no longer held against the source model's values, only against the steps' own meaning.

The model runs as it was compiled, fused and in its arena. Nothing is copied: a value is read where it lies and known by
a checksum, and the source model is evaluated as far as the steps have come, so that both sides hold what is live.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any
from zlib import crc32

import numpy as np

from graphc.compiler.open_dims import renamed
from graphc.ir import GRAPHC_DOMAIN, Dim, Graph, Node, TensorType, Value
from graphc.ir.symbolic import evaluate
from graphc.ops.evaluate import captured_inputs, evaluate_node
from graphc.package import HostTensor, KernelStep, Step
from graphc.passes.buffers import Storage
from graphc.testing.halves import rounds_alike
from graphc.testing.source_values import SourceValues
from graphc.testing.verification import Difference, Statistics, Tolerance, compare_array, error_statistics

if TYPE_CHECKING:
    from graphc.compiler.program import Program
    from graphc.runtime import Executable


@dataclass(frozen=True)
class Overwritten:
    """A value that a step changed though others still read it.

    Args:
        name: Of the value.
        made_by: Number of the step that made it.
        planned: Whether the plan gave the two the same bytes; else the kernel wrote where it had no business.
    """

    name: str
    made_by: int
    planned: bool


@dataclass(frozen=True)
class Layer:
    """One step's comparison.

    Args:
        step: Its number.
        label: What it is.
        origins: The ONNX nodes it came from.
        kernel: Its outputs beside what its nodes mean on its own inputs.
        model: Its outputs beside the source model's values of those names, as far as passes have kept them.
        overwritten: Live values that it changed.
        statistics: Of the first output that differs; None where none does.
    """

    step: int
    label: str
    origins: tuple[str, ...]
    kernel: tuple[Difference, ...]
    model: tuple[Difference, ...]
    overwritten: tuple[Overwritten, ...] = ()
    statistics: Statistics | None = None
    halves: bool = False
    """Whether a value was rounded to the other side of a half, here or before."""

    @property
    def kernel_is_right(self) -> bool:
        """Whether the step does what its nodes mean, and nothing else; true too where the plan lets it spoil inputs."""
        in_bounds = all(overwritten.planned for overwritten in self.overwritten)
        return in_bounds and (not self.plan_is_right or all(difference.ok for difference in self.kernel))

    @property
    def plan_is_right(self) -> bool:
        """Whether the step's place is none that others still need."""
        return not any(overwritten.planned for overwritten in self.overwritten)

    @property
    def ok(self) -> bool:
        """Whether nothing was found."""
        return self.kernel_is_right and self.plan_is_right and all(difference.ok for difference in self.model)


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
    source: Graph | None = None,
    tolerance: Tolerance | None = None,
    *,
    begin: Callable[[int, Step], None] = lambda number, step: None,
) -> Iterator[Layer]:
    """Runs a model step by step, comparing each.

    Args:
        executable: The package that `program` was compiled to.
        program: What the compiler made of the model, for the shapes of `inputs` or for any.
        inputs: By name, one for each.
        source: The model as imported, its dimensions bound to those of `inputs`; without it, steps are held against
            themselves alone.
        tolerance: Of both comparisons.
        begin: Told each step before it runs: where a run ends that does not come back.

    Yields:
        A layer for each step, in order.
    """
    variant = executable.variant_for(inputs)
    steps, nodes = variant.steps, program.buffers.steps
    # An open program's symbols are those of the model, under names that its kernels can have.
    extents = _Extents({**variant.bindings, **{renamed(name): n for name, n in variant.bindings.items()}})
    places = [_places(program, node, step, extents) for node, step in zip(nodes, steps, strict=True)]
    wanted = Counter(source_name(value) for made in places for value, _ in made)
    origin = SourceValues(source, inputs, wanted) if source is not None else None
    held = _Held(program, inputs, extents)
    if steps:
        begin(0, steps[0])
    halves = False
    for index, read in executable.walk(inputs):
        layer = _layer(index, steps[index], nodes[index], places[index], held, read, origin, tolerance, halves)
        halves = layer.halves
        if index + 1 < len(steps):
            begin(index + 1, steps[index + 1])
        yield layer


def _layer(
    index: int,
    step: Step,
    node: Node,
    places: Sequence[tuple[Value, HostTensor]],
    held: _Held,
    read: Callable[[HostTensor], Any],
    origin: SourceValues | None,
    tolerance: Tolerance | None,
    halves: bool,
) -> Layer:
    # Before anything is compared: what was overwritten can no longer be read as an input.
    overwritten = held.changed(index, [tensor for _, tensor in places], read)
    kernel, model = [], []
    statistics: Statistics | None = None
    operands = held.operands(node, read)
    expected = dict(zip(node.outputs, evaluate_node(node, operands), strict=False))
    for value, tensor in places:
        found = held.extents.logical(value, read(tensor))
        reference = expected.pop(value)
        difference = compare_array(value.name, reference, found, tolerance)
        if not difference.ok and rounds_alike(node, operands, value.index, found, tolerance):
            difference, halves = replace(difference, ok=True), True
        kernel.append(difference)
        if not kernel[-1].ok:
            statistics = statistics or error_statistics(reference, found)
        del reference
        name = source_name(value)
        if origin is not None and name in origin:
            reference = origin.take(name)
            if not halves:
                difference = compare_array(name, reference, found, tolerance)
                if not difference.ok and rounds_alike(node, operands, value.index, reference, tolerance):
                    difference, halves = replace(difference, ok=True), True
                model.append(difference)
            if model and not model[-1].ok:
                statistics = statistics or error_statistics(reference, found)
    held.keep(index, places, read)
    return Layer(index, step.label, step.origins, tuple(kernel), tuple(model), overwritten, statistics, halves)


@dataclass
class _Kept:
    """A value that is live: where it lies, and what it was when it was made."""

    storage: Storage
    value: Value
    step: int
    tensor: HostTensor
    checksum: int


class _Held:
    """Where the values lie that the program's steps have made, for as long as they are read."""

    def __init__(self, program: Program, inputs: Mapping[str, Any], extents: _Extents) -> None:
        self.extents = extents
        self._storage = program.buffers.storage
        self._inputs = {id(self._storage[value]): inputs[value.name] for value in program.graph.inputs}
        self._kept: dict[int, _Kept] = {}
        # Not as the plan has it, which may be what is wrong.
        self._last_read: dict[int, int] = {}
        for number, node in enumerate(program.buffers.steps):
            for value in (*node.inputs, *captured_inputs(node)):
                if value is not None:
                    self._last_read[id(self._storage[value])] = number
        for value in program.graph.outputs:
            self._last_read[id(self._storage[value])] = len(program.buffers.steps)

    def keep(self, step: int, places: Sequence[tuple[Value, HostTensor]], read: Callable[[HostTensor], Any]) -> None:
        """Remembers what a step made, and forgets what no later one reads."""
        for value, tensor in places:
            storage = self._storage[value]
            self._kept[id(storage)] = _Kept(storage, value, step, tensor, _checksum(read(tensor)))
        gone = [key for key in self._kept if self._last_read.get(key, step) <= step]
        for key in gone:
            del self._kept[key]

    def changed(
        self, step: int, written: Sequence[HostTensor], read: Callable[[HostTensor], Any]
    ) -> tuple[Overwritten, ...]:
        """Live values that are no longer what they were, a step having run that wrote to the places given."""
        found = []
        for kept in self._kept.values():
            checksum = _checksum(read(kept.tensor))
            if checksum != kept.checksum:
                planned = any(_overlap(kept.tensor, tensor) for tensor in written)
                found.append(Overwritten(kept.value.name, kept.step, planned))
                kept.checksum = checksum
        return tuple(found)

    def operands(self, node: Node, read: Callable[[HostTensor], Any]) -> list[Any]:
        """Data of a node's inputs, then of the values that its subgraphs read."""
        data = [None if value is None else self._read(value, read) for value in node.inputs]
        return [*data, *(self._read(value, read) for value in captured_inputs(node))]

    def _read(self, value: Value, read: Callable[[HostTensor], Any]) -> Any:
        if value.constant is not None:
            return value.constant.array()
        storage = self._storage[value]
        if storage.kind == "weight" and storage.root.constant is not None:
            datum = storage.root.constant.array()
        elif id(storage) in self._inputs:
            datum = self._inputs[id(storage)]
        else:
            kept = self._kept[id(storage)]
            datum = self.extents.logical(kept.value, read(kept.tensor))
        # A view is its root under another shape.
        return datum if storage.root is value else np.reshape(datum, self.extents.of(value.tensor_type.dims))


def _checksum(datum: Any) -> int:
    """Of an array's bytes; other objects belong to the step that made them and cannot be written over."""
    if not isinstance(datum, np.ndarray) or datum.dtype.hasobject:
        return 0
    return crc32(np.ascontiguousarray(datum).reshape(-1).view(np.uint8).data)


def _overlap(left: HostTensor, right: HostTensor) -> bool:
    a, b = left.location, right.location
    if (a.kind, a.index) != (b.kind, b.index) or left.shape is None or right.shape is None:
        return False
    return a.offset < b.offset + right.nbytes and b.offset < a.offset + left.nbytes


def _places(program: Program, node: Node, step: Step, extents: _Extents) -> Sequence[tuple[Value, HostTensor]]:
    """The values that a step makes, and where they lie."""
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
            stored = extents.of(kind.layout.storage_shape(kind.dims))
            places.append((value, HostTensor(location, kind.dtype.name, stored)))
    return places


@dataclass(frozen=True)
class _Extents:
    """What the symbols of a program are in one run."""

    bindings: Mapping[str, int]

    def of(self, dims: Sequence[Dim]) -> tuple[int, ...]:
        """Dimensions as numbers."""
        return tuple(evaluate(dim, self.bindings) for dim in dims)

    def logical(self, value: Value, datum: Any) -> Any:
        """What lies in storage, as the logical tensor; a view of it where it is row-major."""
        kind = value.type
        if isinstance(kind, TensorType) and isinstance(datum, np.ndarray) and not kind.layout.is_row_major:
            return kind.layout.unpack(datum, self.of(kind.dims))
        return datum
