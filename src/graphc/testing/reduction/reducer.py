"""The smallest model found that keeps a property: fewer nodes, then plainer ones, smaller shapes, plainer numbers."""

from __future__ import annotations

import hashlib
import time
from collections.abc import Callable, Collection, Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
import onnx

from graphc.errors import GraphcError, InputError, OptionError
from graphc.frontend import import_model
from graphc.frontend.source import ModelSource, open_view
from graphc.ir import Node
from graphc.ir.verify import verify
from graphc.testing.hostile.minimize import minimize
from graphc.testing.reduction import edits, shrink
from graphc.testing.reduction.ddmin import ddmin
from graphc.testing.reduction.specimen import Specimen

Predicate: TypeAlias = Callable[[onnx.ModelProto, Mapping[str, Any]], bool]
"""Whether a model has the property on inputs, given by name."""

Progress: TypeAlias = Callable[[str, int, int], None]

_EDITS: tuple[tuple[str, Callable[[Specimen], Iterator[edits.Variant]]], ...] = (
    ("fewer outputs", edits.single_outputs),
    ("passing nodes by", edits.nodes_passed_by),
    ("passing kinds by", edits.kinds_passed_by),
    ("smaller extents", shrink.smaller_extents),
    ("smaller axes", shrink.smaller_axes),
    ("fewer inputs", edits.inputs_left_out),
    ("fewer attributes", edits.attributes_left_out),
    ("plainer numbers", shrink.plainer_data),
)


@dataclass(frozen=True)
class Reduced:
    """What a reduction came to.

    Args:
        model: The smallest model that has the property.
        inputs: On which it has it, by name.
        nodes: Its nodes, constants not counted.
        nodes_before: Those of the model given.
        attempts: Models tried.
        complete: Whether nothing smaller was left to try; else time or attempts ran out, or Ctrl-C came.
    """

    model: onnx.ModelProto
    inputs: dict[str, Any]
    nodes: int
    nodes_before: int
    attempts: int
    complete: bool


class _Spent(Exception):  # noqa: N818  # an end, no error
    """No more may be tried."""


def reduce(
    model: ModelSource,
    predicate: Predicate,
    inputs: Mapping[str, Any] | None = None,
    *,
    attempts: int = 1000,
    seconds: float | None = None,
    hints: Collection[str] = (),
    progress: Progress = lambda what, done, total: None,
) -> Reduced:
    """Makes a model small while it keeps a property.

    Nodes go first, by delta debugging: any of them can be cut out, since what others made is known and becomes an
    input. Then outputs, nodes that can be passed by, extents, optional inputs, attributes and numbers, until nothing
    more can go. Ctrl-C ends it with the best so far.

    Args:
        model: Path, bytes or message of an ONNX model.
        predicate: The property, which the model has on `inputs`. It must not depend on the names of nodes.
        inputs: An array for each input by name; seeded ones if None.
        attempts: Models tried at most.
        seconds: Time by the clock after which nothing more is tried.
        hints: Names of ONNX nodes that are probably enough.
        progress: Told what is tried, the attempts, and how many there may be.

    Raises:
        InputError: An input is missing or no tensor.
        OptionError: The model does not have the property.
    """
    data = dict(inputs) if inputs is not None else _seeded(model)
    for name, datum in data.items():
        if not isinstance(datum, np.ndarray):
            raise InputError(f"input {name!r} is no tensor; models of tensors only can be reduced")
    search = _Search(predicate, attempts, seconds, progress)
    content = _content(model)
    try:
        graph = import_model(model, dims={name: array.shape for name, array in data.items()})
        whole = Specimen(graph, {value.name: data[value.name] for value in graph.inputs})
        exported = search.holds(whole)
    except (GraphcError, KeyError):
        exported = False
    if not exported:
        return _reduce_message(content, predicate, data, attempts)
    before = len(whole.nodes)
    complete = True
    try:
        search.run(hints)
    except (_Spent, KeyboardInterrupt):
        complete = False
    best = search.best
    return Reduced(best.model(), dict(best.inputs), len(best.nodes), before, search.attempts, complete)


def _content(model: ModelSource) -> bytes:
    match model:
        case onnx.ModelProto():
            return bytes(model.SerializeToString())
        case bytes() | memoryview():
            return bytes(model)
    return bytes(open_view(Path(model)))


def _seeded(model: ModelSource) -> dict[str, Any]:
    from graphc.package import TensorSpec
    from graphc.testing.inputs import index_ranges, seeded_inputs

    graph = import_model(model)
    specs = [TensorSpec(v.name, v.tensor_type.dtype.name, v.tensor_type.static_shape) for v in graph.inputs]
    shapes = [value.tensor_type.static_shape for value in graph.inputs]
    return seeded_inputs(specs, shapes, ranges=index_ranges(graph))


def _reduce_message(content: bytes, predicate: Predicate, inputs: dict[str, Any], attempts: int) -> Reduced:
    """Fields of the message taken away, where the model cannot be imported or its import is what is looked for."""
    tried = 0

    def fails(candidate: bytes) -> bool:
        nonlocal tried
        tried += 1
        try:
            message = onnx.ModelProto.FromString(candidate)
        except Exception:  # protobuf's own; what is no message cannot be asked about
            return False
        return predicate(message, _inputs_of(message, inputs))

    if not fails(content):
        raise OptionError(
            "the model does not have the property that it should keep", hint="the check must fail on the whole model"
        )
    small = onnx.ModelProto.FromString(minimize(content, fails, attempts=attempts))
    before = len(onnx.ModelProto.FromString(content).graph.node)
    return Reduced(small, _inputs_of(small, inputs), len(small.graph.node), before, tried, tried < attempts)


def _inputs_of(model: onnx.ModelProto, inputs: Mapping[str, Any]) -> dict[str, Any]:
    names = {value.name for value in model.graph.input}
    return {name: array for name, array in inputs.items() if name in names}


class _Search:
    """Tries specimens, keeping the best and never asking about one twice."""

    def __init__(self, predicate: Predicate, limit: int, seconds: float | None, progress: Progress) -> None:
        self._predicate = predicate
        self._limit = limit
        self._end = None if seconds is None else time.monotonic() + seconds
        self._progress = progress
        self._known: set[bytes] = set()
        self.attempts = 0
        self.best: Specimen
        self.what = "the whole model"

    def holds(self, specimen: Specimen | None) -> bool:
        """Whether a specimen has the property; it is the best then.

        Raises:
            _Spent: No more may be tried.
        """
        if specimen is None or not specimen.graph.outputs:
            return False
        try:
            verify(specimen.graph)
            model = specimen.model()
        except GraphcError:
            return False
        key = _digest(model, specimen.inputs)
        if key in self._known:
            return False
        if self.attempts >= self._limit or (self._end is not None and time.monotonic() > self._end):
            raise _Spent
        self._known.add(key)
        self.attempts += 1
        self._progress(self.what, self.attempts, self._limit)
        if not self._predicate(model, dict(specimen.inputs)):
            return False
        self.best = specimen
        return True

    def run(self, hints: Collection[str]) -> None:
        """Goes on until nothing smaller has the property."""
        self._cut([node for node in self.best.nodes if set(node.origins) & set(hints)])
        progress = True
        while progress:
            self._minimal_nodes()
            progress = any([self._improve(what, edit) for what, edit in _EDITS])

    def _cut(self, nodes: list[Node]) -> None:
        if 0 < len(nodes) < len(self.best.nodes):
            self._holds_made(partial(self.best.part, nodes))

    def _minimal_nodes(self) -> None:
        self.what = "fewer nodes"
        whole = self.best
        ddmin(whole.nodes, lambda nodes: self._holds_made(partial(whole.part, nodes)))

    def _improve(self, what: str, edit: Callable[[Specimen], Iterator[edits.Variant]]) -> bool:
        """Takes every variant of one kind that has the property, each on top of those before."""
        self.what = what
        improved = False
        while any(self._holds_made(variant) for variant in edit(self.best)):
            improved = True
        return improved

    def _holds_made(self, make: Callable[[], Specimen | None]) -> bool:
        try:
            return self.holds(make())
        except GraphcError:
            # What is left may not fit together, or not run on what the others made.
            return False


def _digest(model: onnx.ModelProto, inputs: Mapping[str, Any]) -> bytes:
    digest = hashlib.sha256(model.SerializeToString(deterministic=True))
    for name, array in sorted(inputs.items()):
        digest.update(f"{name}{array.dtype}{array.shape}".encode())
        digest.update(np.ascontiguousarray(array).tobytes())
    return digest.digest()
