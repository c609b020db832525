"""Numbers at the edges: NaN, infinities, zeros of both signs, ties, the largest and the least of a type.

Sums and products of such numbers say little, since an infinity less another is NaN in whatever order: two right answers
differ. The operators here only choose, move, compare or round what they are given, so that there is one right answer
for any numbers, and a difference is a defect.
"""

from __future__ import annotations

import numpy as np

from graphc.ir import Graph, TensorType
from graphc.ops.base import Array
from graphc.passes.rules import Chooser
from graphc.testing.choosing import SeedChooser
from graphc.testing.open_extents import drawn_type
from graphc.testing.samples import values

EXACT = (
    *("Identity", "Abs", "Neg", "Relu", "Sign", "Floor", "Ceil", "Round", "IsNaN", "IsInf", "Clip"),
    *("Max", "Min", "Where", "Equal", "Less", "Greater", "LessOrEqual", "GreaterOrEqual", "Not", "And", "Or", "Xor"),
    *("Transpose", "Reshape", "Flatten", "Squeeze", "Unsqueeze", "Concat", "Split", "Slice", "Expand", "Tile", "Pad"),
    *("Gather", "GatherElements", "GatherND", "Trilu", "DepthToSpace", "SpaceToDepth"),
    *("ReduceMax", "ReduceMin", "ArgMax", "ArgMin", "TopK", "MaxPool", "GlobalMaxPool"),
)
"""Operators with one right answer whatever the numbers."""

_FLOATS = (np.nan, np.inf, -np.inf, 0.0, -0.0, 1.0, 1.0, -1.0, 0.5, 1.5, 2.5, -2.5, 6.0)


def edge_inputs(graph: Graph, seed: int) -> list[Array]:
    """An array of edges for each input of a graph."""
    choose = SeedChooser(seed)
    return [edge_values(choose, drawn_type(graph, value)) for value in graph.inputs]


def edge_values(choose: Chooser, type_: TensorType) -> Array:
    """Elements of a type that are edges of it, some of them several times."""
    dtype = type_.dtype
    if dtype.kind == "float":
        numbers = np.array(_FLOATS, np.float64)
    elif dtype.is_integer:
        limits = np.iinfo(dtype.numpy)
        numbers = np.array([limits.min, limits.max, 0, 0, 1, 2], dtype.numpy)
    else:
        return values(choose, type_)
    random = np.random.default_rng(choose.integer(0, 2**16))
    return np.asarray(random.choice(numbers, type_.static_shape)).astype(dtype.numpy)
