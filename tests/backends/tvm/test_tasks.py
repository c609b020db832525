"""Chunks and tiles cover every task and row once, whatever their number."""

from __future__ import annotations

import ctypes
from collections.abc import Callable

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from tvm.tirx.script.builder import ir as tir

from graphc.backends.extents import ceildiv
from graphc.backends.tvm import objects
from graphc.backends.tvm.tasks import (
    CHUNKS_PER_CORE,
    IMBALANCE,
    RowTiles,
    chunks_of,
    imbalance,
    row_tiles,
    split_until_balanced,
)
from graphc.backends.tvm.tir import Expr, KernelBuilder
from graphc.backends.tvm.transpose import copy_transposed
from graphc.ir import Dim, dtypes, symbol
from graphc.target import Target
from tests.backends.tvm.harness import HOST, TARGETS, Array, load_object


@given(st.integers(1, 10_000), st.integers(1, 64))
def test_chunks_are_few_and_none_is_empty(tasks: int, cores: int) -> None:
    chunks = chunks_of(tasks, cores, parallel=True)
    assert (chunks.count - 1) * chunks.size < tasks <= chunks.count * chunks.size
    assert chunks.count <= CHUNKS_PER_CORE * cores
    assert chunks_of(tasks, cores, parallel=False).count == 1


@given(st.integers(1, 500), st.integers(1, 20), st.integers(1, 30))
def test_blocks_of_row_tiles_are_no_more_than_asked_and_none_is_empty(rows: int, height: int, blocks: int) -> None:
    cut = row_tiles(rows, height, blocks)
    assert cut.blocks <= blocks
    assert (cut.blocks - 1) * cut.size * height < rows <= cut.blocks * cut.size * height


@given(st.integers(1, 50), st.integers(1, 50), st.integers(1, 64))
def test_tasks_are_split_no_further_than_balance_needs(tasks: int, most: int, cores: int) -> None:
    parts = split_until_balanced(tasks, most, cores)
    assert 1 <= parts <= most
    if parts > 1:
        assert imbalance(tasks * (parts - 1), cores) > IMBALANCE


def visits(size: int, emit: Callable[[KernelBuilder, Callable[[Dim], None]], None]) -> Array:
    """How often each of `size` places is visited by a kernel whose body `emit(builder, visit)` writes."""
    with KernelBuilder("visits", [dtypes.FLOAT32], vector_bytes=HOST.vector_bytes) as builder:
        emit(builder, lambda place: builder.store(0, builder.load(0, place) + tir.float32(1), place))
    function = load_object(objects.compile_function(builder.function, "visits", HOST), "visits")
    result = np.zeros(size, np.float32)
    assert function(None, ctypes.c_void_p(result.ctypes.data)) == 0
    return result


@pytest.mark.parametrize(("tasks", "cores"), [(1, 2), (7, 2), (40, 2), (130, 4)])
def test_every_task_is_done_once(tasks: int, cores: int) -> None:
    chunks = chunks_of(tasks, cores, parallel=True)

    def emit(builder: KernelBuilder, visit: Callable[[Dim], None]) -> None:
        with chunks.each(builder) as (_, task):
            visit(task)

    assert (visits(tasks, emit) == 1).all()


@pytest.mark.parametrize(("rows", "height", "blocks"), [(1, 4, 3), (12, 4, 1), (13, 4, 2), (50, 6, 3), (48, 6, 4)])
def test_every_row_is_done_once(rows: int, height: int, blocks: int) -> None:
    cut = row_tiles(rows, height, blocks)

    def emit(builder: KernelBuilder, visit: Callable[[Dim], None]) -> None:
        def tile(row: Dim, count: int) -> None:
            for r in range(count):
                visit(row + r)

        with builder.parallel(cut.blocks) as block:
            cut.each(builder, block, tile)

    assert (visits(rows, emit) == 1).all()


@pytest.mark.parametrize("exact", [False, True])
@pytest.mark.parametrize(("height", "size"), [(1, 2), (4, None), (9, 2), (14, 1)])
def test_every_row_of_any_number_is_done_once(height: int, size: int | None, exact: bool) -> None:
    count = symbol("rows")
    cut = RowTiles(count, height, ceildiv(count, height) if size is None else size, exact)
    with KernelBuilder(
        "visits", [dtypes.FLOAT32], vector_bytes=HOST.vector_bytes, dims=["rows"], bounds={"rows": (1, None)}
    ) as builder:

        def tile(row: Dim, rows: int) -> None:
            for r in range(rows):
                builder.store(0, builder.load(0, row + r) + tir.float32(1), row + r)

        with builder.parallel(cut.blocks) as block:
            cut.each(builder, block, tile)

    function = load_object(objects.compile_function(builder.function, "visits", HOST), "visits")
    for rows in range(1, 45):
        result, table = np.zeros(64, np.float32), np.array([rows], np.int64)
        assert function(ctypes.c_void_p(table.ctypes.data), ctypes.c_void_p(result.ctypes.data)) == 0
        assert (result[:rows] == 1).all(), rows
        assert not result[rows:].any(), rows


@pytest.mark.parametrize(("rows", "columns"), [(16, 16), (5, 3), (33, 20), (16, 70), (40, 1)])
@pytest.mark.parametrize("target", TARGETS, ids=str)
def test_a_copy_is_the_transpose_with_zeros_after_the_last_row(rows: int, columns: int, target: Target) -> None:
    lanes = target.lanes(dtypes.FLOAT32)
    width = -(-rows // lanes) * lanes + lanes
    source = np.random.default_rng(0).standard_normal((rows, columns)).astype(np.float32)
    with KernelBuilder("turn", [dtypes.FLOAT32] * 2, vector_bytes=target.vector_bytes) as builder:

        def read(row: Dim, column: Dim, count: int | None) -> Expr:
            return builder.load(0, row * columns + column, lanes, 1, count)

        copy_transposed(builder, read, rows, columns, lanes, 1, 0, width)
    function = load_object(objects.compile_function(builder.function, "turn", target), "turn")
    result = np.full((columns, width), np.nan, np.float32)
    assert function(None, ctypes.c_void_p(source.ctypes.data), ctypes.c_void_p(result.ctypes.data)) == 0
    np.testing.assert_array_equal(result[:, :rows], source.T)
    assert (result[:, rows : width - lanes] == 0).all()
    assert np.isnan(result[:, width - lanes :]).all()
