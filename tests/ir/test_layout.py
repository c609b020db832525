"""Layouts: the packed array, the storage index and the storage shape tell the same story."""

from __future__ import annotations

import itertools
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from graphc.errors import OptionError
from graphc.ir import ROW_MAJOR, Layout, TensorType, blocked, channels_last, dtypes, symbol, symbolic
from graphc.ir.literals import parse_layout
from tests.ir.strategies import layouts

NUMERIC = [d for d in dtypes.ALL if d.kind in ("float", "int", "uint", "bool") and d.bits >= 8 and d.bits <= 32]


@st.composite
def laid_out(draw: st.DrawFn) -> tuple[Layout, tuple[int, ...]]:
    shape = tuple(draw(st.lists(st.integers(0, 5), max_size=4)))
    return draw(layouts(len(shape))), shape


def numbered(shape: tuple[int, ...]) -> np.ndarray[Any, Any]:
    return np.arange(1, int(np.prod(shape)) + 1, dtype=np.float32).reshape(shape)


@given(laid_out())
def test_unpack_undoes_pack(case: tuple[Layout, tuple[int, ...]]) -> None:
    layout, shape = case
    array = numbered(shape)
    storage = layout.pack(array, undefined=np.nan)
    assert storage.flags.c_contiguous
    np.testing.assert_array_equal(layout.unpack(storage, shape), array)


@given(laid_out())
def test_storage_shape_and_size_are_those_of_the_packed_array(case: tuple[Layout, tuple[int, ...]]) -> None:
    layout, shape = case
    storage = layout.pack(numbered(shape))
    assert layout.storage_shape(shape) == storage.shape
    assert layout.storage_size(shape) == storage.size
    assert TensorType(dtypes.FLOAT32, shape, layout).storage_bytes == storage.nbytes


@given(laid_out())
def test_storage_index_finds_every_element_and_the_rest_is_fill(case: tuple[Layout, tuple[int, ...]]) -> None:
    layout, shape = case
    array = numbered(shape)
    storage = layout.pack(array, undefined=-7)
    seen = np.zeros(storage.shape, bool)
    for index in itertools.product(*map(range, shape)):
        place = tuple(symbolic.evaluate(axis, {}) for axis in layout.storage_index(index))
        assert storage[place] == array[index]
        assert not seen[place]
        seen[place] = True
    padding = np.float32(-7 if layout.fill is None else layout.fill)
    np.testing.assert_array_equal(storage[~seen], padding)


@given(laid_out(), st.data())
def test_symbolic_storage_agrees_with_the_numbers(case: tuple[Layout, tuple[int, ...]], data: st.DataObject) -> None:
    layout, shape = case
    names = [f"d{axis}" for axis in range(len(shape))]
    bindings = dict(zip(names, shape, strict=True))
    symbols = [symbol(name) for name in names]
    symbolic_shape = layout.storage_shape(symbols)
    assert tuple(symbolic.evaluate(extent, bindings) for extent in symbolic_shape) == layout.storage_shape(shape)
    assert symbolic.evaluate(layout.storage_size(symbols), bindings) == layout.storage_size(shape)
    index = [data.draw(st.integers(0, 20)) for _ in shape]
    found = [symbolic.evaluate(place, dict(zip(names, index, strict=True))) for place in layout.storage_index(symbols)]
    assert tuple(found) == layout.storage_index(index)


@given(st.integers(0, 4).flatmap(layouts))
def test_text_parses_back(layout: Layout) -> None:
    if layout == ROW_MAJOR:
        assert str(layout) == "row_major"
    else:
        assert parse_layout(str(layout)) == layout


@pytest.mark.parametrize("dtype", NUMERIC, ids=str)
def test_every_dtype_packs(dtype: dtypes.DType) -> None:
    array = (np.arange(30) % 2).reshape(2, 3, 5).astype(dtype.numpy)
    layout = blocked(1, 2, halo=((0, 0), (0, 0), (1, 1)), fill=1)
    storage = layout.pack(array)
    assert storage.dtype == dtype.numpy
    assert layout.unpack(storage, array.shape).tobytes() == array.tobytes()


def test_well_known_layouts() -> None:
    array = numbered((2, 3, 4, 5))
    np.testing.assert_array_equal(channels_last(4).pack(array), array.transpose(0, 2, 3, 1))
    packed = blocked(1, 2, fill=0.0).pack(array)
    assert packed.shape == (2, 2, 4, 5, 2)
    np.testing.assert_array_equal(packed[:, 0, :, :, 1], array[:, 1])
    np.testing.assert_array_equal(packed[:, 1, :, :, 1], 0)
    assert (
        str(blocked(1, 16, halo=((0, 0), (0, 0), (1, 1), (1, 1)), fill=0)) == "block=1x16 halo=0:0,0:0,1:1,1:1 fill=0"
    )


def test_layouts_that_store_the_same_way_are_equal() -> None:
    assert Layout(order=(0, 1, 2)) == ROW_MAJOR
    assert Layout(halo=((0, 0), (0, 0))) == ROW_MAJOR
    assert Layout(fill=0.0) == ROW_MAJOR
    assert Layout(order=(0, 1, 2)).is_row_major and not channels_last(3).is_row_major
    assert blocked(1, 8, halo=((0, 0), (0, 0))) == blocked(1, 8)


def test_which_ranks_a_layout_fits() -> None:
    assert ROW_MAJOR.rank is None and ROW_MAJOR.fits(0) and ROW_MAJOR.fits(7)
    assert channels_last(4).rank == 4 and channels_last(4).fits(4) and not channels_last(4).fits(3)
    assert blocked(1, 8).fits(2) and not blocked(1, 8).fits(1)


@pytest.mark.parametrize(
    "make",
    [
        lambda: Layout(blocked_axis=1),
        lambda: Layout(block=4),
        lambda: Layout(blocked_axis=1, block=0),
        lambda: Layout(blocked_axis=-1, block=4),
        lambda: Layout(order=(0, 2)),
        lambda: Layout(order=(1, 1)),
        lambda: Layout(halo=((0, -1),)),
        lambda: Layout(order=(1, 0), halo=((1, 1),)),
        lambda: Layout(order=(1, 0), blocked_axis=2, block=4),
        lambda: Layout(halo=((1, 1),), blocked_axis=1, block=4),
    ],
)
def test_contradictions_are_refused(make: Any) -> None:
    with pytest.raises(OptionError, match="layout"):
        make()
