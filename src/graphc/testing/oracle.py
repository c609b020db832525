"""Are two graphs the same function? Inputs that let one tell, and a comparison that says where they differ."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from graphc.errors import ExecutionError, VerifyError
from graphc.ir import Graph, TensorType
from graphc.ops.base import Array
from graphc.ops.evaluate import evaluate_graph
from graphc.testing.choosing import SeedChooser
from graphc.testing.open_extents import drawn_type
from graphc.testing.samples import values

TOLERANCE = {"float64": 1e-7, "float32": 2e-4, "float16": 2e-2, "bfloat16": 1e-1}
"""Relative to the largest magnitude of an output; wide enough for sums in another order, far from any real error."""

RANGES = ((-2.0, 2.0), (0.25, 2.0), (-0.5, 0.5), (0.5, 1.5))
"""Ranges of float inputs that are tried, until one keeps every value finite and every step away from its edge."""


_NUDGE = 1e-5


class DifferenceError(AssertionError):
    """Two graphs that should be one function are not."""


def random_inputs(graph: Graph, seed: int, low: float = -2, high: float = 2) -> list[Array]:
    """An array for each input of a graph: floats distinct and away from zero, integers small."""
    choose = SeedChooser(seed)
    return [values(choose, drawn_type(graph, value), low=low, high=high) for value in graph.inputs]


def calm_inputs(graph: Graph, seed: int) -> list[Array] | None:
    """Inputs at which the graph is finite and does not jump; None where none are found.

    A NaN or an infinity would hide a difference, and near a jump (a rounding, a comparison, a tie) two right answers
    differ: so the outputs must change little when the inputs do.
    """
    for low, high in RANGES:
        inputs = random_inputs(graph, seed, low, high)
        if is_calm(graph, inputs):
            return inputs
    return None


def is_calm(graph: Graph, inputs: Sequence[Array]) -> bool:
    """Whether every output is finite, and nearly the same when the inputs are nearly the same.

    Nearly the same is a little more and a little less, each element in another direction than its neighbour: what lies
    on an edge falls to either side.
    """
    try:
        here = evaluate_graph(graph, list(inputs))
        for sign in (1, -1):
            there = evaluate_graph(graph, [_nudged(array, sign * _NUDGE) for array in inputs])
            if not all(_is_close(a, b) for a, b in zip(here, there, strict=True)):
                return False
    except ExecutionError:
        return False
    return True


def _nudged(array: Array, by: float) -> Array:
    if array.dtype.kind != "f":
        return array
    signs = np.where(np.arange(array.size) % 3 == 1, -1.0, 1.0).reshape(array.shape)
    return np.asarray(array * (1 + by * signs)).astype(array.dtype)


def _is_close(here: Any, there: Any) -> bool:
    if isinstance(here, list):
        return len(here) == len(there) and all(_is_close(a, b) for a, b in zip(here, there, strict=True))
    here, there = np.asarray(here), np.asarray(there)
    if here.shape != there.shape:  # of what the data decide how much there is
        return False
    if here.dtype.kind not in "fV":
        return bool(np.array_equal(here, there))
    left, right = here.astype(np.float64), there.astype(np.float64)
    if not np.all(np.isfinite(left)):
        return False
    scale = float(np.max(np.abs(left), initial=0.0))
    return scale < 1e6 and bool(np.all(np.abs(left - right) <= 5e-3 * max(scale, 1e-3)))


def assert_equivalent(
    left: Graph, right: Graph, inputs: Sequence[Array] | None = None, *, tolerance: float | None = None, seed: int = 0
) -> None:
    """Fails unless two graphs have one interface and, on `inputs`, one result.

    Args:
        left: The graph taken to be right.
        right: The other one.
        inputs: One array per input; chosen from `seed` if None.
        tolerance: Largest difference over the largest magnitude of an output; by dtype if None.
        seed: Of the inputs.

    Raises:
        DifferenceError: The interfaces or the results differ; names the output, the place and the values.
    """
    for side in ("inputs", "outputs"):
        mine, theirs = ([(v.name, v.type) for v in getattr(graph, side)] for graph in (left, right))
        if [name for name, _ in mine] != [name for name, _ in theirs]:
            raise DifferenceError(f"{side} are {theirs}, not {mine}")
    given = inputs if inputs is not None else (calm_inputs(left, seed) or random_inputs(left, seed))
    expected = evaluate_graph(left, list(given))
    found = evaluate_graph(right, list(given))
    tolerance = tolerance or graph_tolerance(left)
    for value, wanted, got in zip(left.outputs, expected, found, strict=True):
        compare_arrays(f"output %{value.name}", wanted, got, tolerance)


def graph_tolerance(graph: Graph) -> float:
    """The tolerance of the coarsest float that a graph computes in: rounding to it is in every result behind it."""
    kinds = {
        value.type.dtype.name
        for inner in graph.all_graphs()
        for values in (inner.inputs, *(node.outputs for node in inner.nodes))
        for value in values
        if isinstance(value.type, TensorType)
    }
    return max((TOLERANCE.get(kind, 0.0) for kind in kinds), default=0.0)


def compare_arrays(what: str, expected: Any, found: Any, tolerance: float | None = None) -> None:
    """Fails unless two arrays, or the arrays of two sequences, agree in dtype, shape and elements.

    Raises:
        DifferenceError: They do not; says where and by how much.
    """
    if isinstance(expected, list):
        if not isinstance(found, list) or len(found) != len(expected):
            raise DifferenceError(f"{what} is no sequence of {len(expected)}: {found!r}")
        for index, (wanted, got) in enumerate(zip(expected, found, strict=True)):
            compare_arrays(f"{what}[{index}]", wanted, got, tolerance)
        return
    expected, found = np.asarray(expected), np.asarray(found)
    if expected.dtype != found.dtype or expected.shape != found.shape:
        raise DifferenceError(f"{what} is {found.dtype}{found.shape}, not {expected.dtype}{expected.shape}")
    if expected.dtype.kind in "biuOSU":
        wrong = expected != found
        allowed: Any = 0
    else:
        wide = np.complex128 if expected.dtype.kind == "c" else np.float64
        left, right = expected.astype(wide), found.astype(wide)
        finite = np.isfinite(left)
        scale = float(np.max(np.abs(left[finite]), initial=0.0))
        allowed = (tolerance or TOLERANCE.get(expected.dtype.name, 1e-1)) * scale
        with np.errstate(invalid="ignore"):
            same = (left == right) | (np.isnan(left) & np.isnan(right))
            wrong = ~same & ~(finite & (np.abs(left - right) <= allowed))
    if np.any(wrong):
        place = tuple(int(i) for i in np.argwhere(wrong)[0])
        raise DifferenceError(
            f"{what} differs at {int(np.sum(wrong))} of {expected.size} places, first at {list(place)}: "
            f"{found[place]!r}, not {expected[place]!r} (allowed {allowed:g})"
        )


def assert_verified(graph: Graph) -> None:
    """Fails unless the graph keeps every invariant of the IR.

    Raises:
        DifferenceError: It breaks one.
    """
    from graphc.ir.verify import verify

    try:
        verify(graph)
    except VerifyError as error:
        raise DifferenceError(f"the graph is broken: {error}") from error


def is_static(graph: Graph) -> bool:
    """Whether every input is a tensor of known shape."""
    return all(isinstance(value.type, TensorType) and value.type.is_static for value in graph.inputs)
