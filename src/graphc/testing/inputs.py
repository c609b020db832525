"""Seeded inputs for a model: values that it accepts, the same for the same seed."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any
from zlib import crc32

import numpy as np

from graphc.errors import InputError
from graphc.package import MAP_KEYS, OPTIONAL, SEQUENCE, TensorSpec, numpy_dtype

if TYPE_CHECKING:
    from graphc.ir import Graph, Value

_FORWARDING = frozenset({"Cast", "Identity", "Reshape", "Squeeze", "Unsqueeze", "Flatten", "Transpose", "Expand"})
_INDEX_INPUT = {"Gather": 1, "GatherElements": 1, "GatherND": 1}
_WORDS = ("alpha", "beta", "gamma", "", "Δ")


@dataclass(frozen=True)
class Range:
    """Values that an input takes.

    Args:
        low: The least.
        high: The largest, inclusive for integers.
    """

    low: float
    high: float

    def __post_init__(self) -> None:
        if not self.low <= self.high:
            raise InputError(f"the range {self.low:g}..{self.high:g} is empty")


def seeded_inputs(
    specs: Sequence[TensorSpec],
    shapes: Sequence[tuple[int, ...] | None],
    *,
    seed: int = 0,
    ranges: Mapping[str, Range] | None = None,
) -> dict[str, Any]:
    """An array for each input; a list or dict of two where it is a sequence or a map, an optional that is there.

    Floats are drawn from the normal distribution, integers from 0 and 1, which are valid tokens, masks and indices
    wherever they are either; `ranges` widens or narrows what is drawn.

    Args:
        specs: What the model takes.
        shapes: Extents of each; None where it is no tensor.
        seed: Another seed, other values. An input's values do not depend on the other inputs.
        ranges: By name of the input.

    Raises:
        InputError: A range is given for an input that is no number.
    """
    arrays = {}
    for spec, shape in zip(specs, shapes, strict=True):
        rng = np.random.default_rng([seed, crc32(spec.name.encode())])
        limits = (ranges or {}).get(spec.name)
        arrays[spec.name] = _draw(spec, shape, rng, limits) if shape is not None else _wrap(spec, rng, limits)
    return arrays


def _wrap(spec: TensorSpec, rng: np.random.Generator, limits: Range | None) -> Any:
    """A sequence, optional or map of tensors; extents that are open are 1."""
    shape = tuple(1 if extent is None else extent for extent in spec.elements or ())

    def make(wraps: tuple[str, ...]) -> Any:
        if not wraps:
            return _draw(spec, shape, rng, limits)
        if wraps[0] == OPTIONAL:
            return make(wraps[1:])
        if wraps[0] == SEQUENCE:
            return [make(wraps[1:]) for _ in range(2)]
        return {MAP_KEYS[wraps[0]](index): make(wraps[1:]) for index in range(2)}

    return make(spec.wraps)


def _draw(spec: TensorSpec, shape: tuple[int, ...], rng: np.random.Generator, limits: Range | None) -> Any:
    dtype = numpy_dtype(spec.dtype)
    if spec.dtype in ("bool", "string"):
        if limits is not None:
            raise InputError(f"input {spec.name!r} is {spec.dtype}; only numbers have a range")
        if spec.dtype == "bool":
            return np.asarray(rng.integers(0, 2, shape), dtype)
        words = [_WORDS[i] for i in np.reshape(rng.integers(0, len(_WORDS), shape), -1)]
        return np.array(words, object).reshape(shape)
    if "int" in spec.dtype:
        low, high = (0, 1) if limits is None else (int(limits.low), int(limits.high))
        return np.asarray(rng.integers(low, high, shape, endpoint=True)).astype(dtype)
    values = rng.standard_normal(shape) if limits is None else rng.uniform(limits.low, limits.high, shape)
    if spec.dtype.startswith("complex"):
        return np.asarray(values + 1j * rng.standard_normal(shape), dtype)
    return np.asarray(values, dtype)


def index_ranges(graph: Graph) -> dict[str, Range]:
    """What integer inputs that a graph gathers by may be: 0 to one less than the extent that they index.

    Args:
        graph: With its types inferred; inputs whose indexed extent is not known are left out.
    """
    found = {}
    for value in graph.inputs:
        limit = _least_extent(value)
        if limit is not None and limit > 0:
            found[value.name] = Range(0, limit - 1)
    return found


def _least_extent(value: Value) -> int | None:
    """The smallest extent that `value` is used as an index into, directly or after operators that keep its values."""
    from graphc.ir import Node, TensorType

    limits = []
    for use in value.uses:
        node = use.user
        if not isinstance(node, Node) or node.domain:
            continue
        if _INDEX_INPUT.get(node.op_type) == use.position:
            data = node.input(0)
            axis = node.int_attribute("axis", 0) if node.op_type != "GatherND" else 0
            shape = data.type.shape if data is not None and isinstance(data.type, TensorType) else None
            if shape and isinstance(extent := shape[axis], int):
                limits.append(extent)
        elif node.op_type in _FORWARDING and use.position == 0:
            inner = _least_extent(node.output)
            limits += [] if inner is None else [inner]
    return min(limits, default=None)
