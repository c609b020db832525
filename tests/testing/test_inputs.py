"""Seeded inputs: of the types and shapes asked for, the same for the same seed, within what indices index."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from graphc.errors import InputError
from graphc.ir import Builder, Graph, TensorType
from graphc.ir.dtypes import from_name
from graphc.package import TensorSpec, numpy_dtype
from graphc.testing.inputs import Range, index_ranges, seeded_inputs

DTYPES = ["float32", "float16", "bfloat16", "float8_e4m3fn", "float64", "complex64", "bool", "string"]
INTEGERS = ["int8", "uint8", "int32", "int64", "uint64", "int4"]
shapes = st.lists(st.integers(0, 4), max_size=3).map(tuple)


@given(st.sampled_from(DTYPES + INTEGERS), shapes, st.integers(0, 3))
def test_arrays_are_what_is_asked_for(dtype: str, shape: tuple[int, ...], seed: int) -> None:
    spec = TensorSpec("x", dtype, shape)
    first, again = (seeded_inputs([spec], [shape], seed=seed)["x"] for _ in range(2))
    assert (first.dtype, first.shape) == (numpy_dtype(dtype), shape)
    assert first.tobytes() == again.tobytes() or np.array_equal(first, again)
    if dtype in INTEGERS:
        assert set(first.reshape(-1).astype(int).tolist()) <= {0, 1}


@given(st.sampled_from(["int32", "int64"]), st.integers(-50, 50), st.integers(0, 50))
def test_integers_reach_both_ends_of_their_range(dtype: str, low: int, extent: int) -> None:
    spec, limits = TensorSpec("ids", dtype, (4000,)), Range(low, low + extent)
    drawn = seeded_inputs([spec], [(4000,)], ranges={"ids": limits})["ids"]
    assert (drawn.min(), drawn.max()) == (low, low + extent)


def test_floats_keep_to_their_range() -> None:
    drawn = seeded_inputs([TensorSpec("x", "float32", (1000,))], [(1000,)], ranges={"x": Range(-0.25, 0.5)})["x"]
    assert -0.25 <= drawn.min() < -0.2
    assert 0.45 < drawn.max() <= 0.5


def test_an_input_does_not_depend_on_the_others() -> None:
    x, y = TensorSpec("x", "float32", (3,)), TensorSpec("y", "float32", (3,))
    alone = seeded_inputs([y], [(3,)])["y"]
    both = seeded_inputs([x, y], [(3,), (3,)])
    np.testing.assert_array_equal(both["y"], alone)
    assert not np.array_equal(both["x"], both["y"])
    assert not np.array_equal(seeded_inputs([y], [(3,)], seed=1)["y"], alone)


def test_what_has_no_range() -> None:
    with pytest.raises(InputError, match=r"2\.\.1 is empty"):
        Range(2, 1)
    with pytest.raises(InputError, match="only numbers have a range"):
        seeded_inputs([TensorSpec("x", "bool", (1,))], [(1,)], ranges={"x": Range(0, 1)})


def gather_graph(rows: int, *, cast: bool, axis: int = 0) -> Graph:
    graph = Graph("g", [("ids", TensorType(from_name("int32"), (2,))), ("mask", TensorType(from_name("int64"), (2,)))])
    builder = Builder(graph)
    table = builder.constant(np.zeros((rows, 3) if axis == 0 else (3, rows), np.float32))
    ids = builder.op("Cast", graph.inputs[0], to=7) if cast else graph.inputs[0]
    taken = builder.op("Gather", table, ids, axis=axis)
    graph.outputs = (taken, graph.inputs[1])
    return graph


@pytest.mark.parametrize("axis", [0, 1])
@pytest.mark.parametrize("cast", [False, True])
def test_indices_lie_within_what_they_index(cast: bool, axis: int) -> None:
    assert index_ranges(gather_graph(7, cast=cast, axis=axis)) == {"ids": Range(0, 6)}


def test_the_smallest_of_several_extents_counts() -> None:
    graph = gather_graph(7, cast=False)
    builder = Builder(graph)
    small = builder.op("Gather", builder.constant(np.zeros((4, 1), np.float32)), graph.inputs[0])
    graph.outputs = (*graph.outputs, small)
    assert index_ranges(graph) == {"ids": Range(0, 3)}
