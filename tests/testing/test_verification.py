"""Comparing results: what differs is found, where it differs most, and nothing else is."""

from __future__ import annotations

import ml_dtypes
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as npst

from graphc.errors import OptionError
from graphc.testing.verification import Tolerance, compare_array, compare_outputs

floats = npst.arrays(np.float32, npst.array_shapes(max_dims=3, max_side=4), elements=st.floats(-100, 100, width=32))


@given(floats, st.data())
def test_one_wrong_element_is_found(array: np.ndarray, data: st.DataObject) -> None:  # type: ignore[type-arg]
    assert compare_array("y", array, array.copy()).ok
    place = tuple(data.draw(st.integers(0, extent - 1)) for extent in array.shape)
    scale = float(np.abs(array).max())
    wrong = array.copy()
    wrong[place] += np.float32(max(scale, 1.0))
    difference = compare_array("y", array, wrong)
    assert not difference.ok
    assert difference.place == place
    assert difference.error == pytest.approx(max(scale, 1.0) / (scale or 1.0), rel=1e-3)
    assert difference.found == str(wrong[place])


@given(st.floats(1e-7, 1e-2), st.floats(0.01, 100))
def test_the_tolerance_is_of_the_scale(tolerance: float, scale: float) -> None:
    expected = np.array([scale, -scale / 3, 0.0])
    for factor, ok in ((0.9, True), (1.1, False)):
        found = expected + np.array([0.0, 0.0, factor * tolerance * scale])
        assert compare_array("y", expected, found, Tolerance(tolerance)).ok is ok


def test_elementwise_bounds() -> None:
    expected, found = np.array([1000.0, 0.001]), np.array([1000.0, 0.0012])
    assert compare_array("y", expected, found).ok
    assert not compare_array("y", expected, found, Tolerance(rtol=1e-3)).ok
    assert compare_array("y", expected, found, Tolerance(rtol=1e-3, atol=1e-3)).ok
    assert not compare_array("y", expected, np.array([np.nan, 0.001]), Tolerance(rtol=1e-3)).ok


@pytest.mark.parametrize(
    ("expected", "found", "ok"),
    [
        ([np.nan, 1.0], [np.nan, 1.0], True),
        ([np.nan, 1.0], [1.0, 1.0], False),
        ([1.0, 1.0], [np.nan, 1.0], False),
        ([np.inf, 1.0], [np.inf, 1.0], True),
        ([np.inf, 1.0], [-np.inf, 1.0], False),
        ([1.0, 1.0], [np.inf, 1.0], False),
        ([-np.inf], [3.0], False),
    ],
)
def test_what_is_not_finite_must_agree(expected: list[float], found: list[float], ok: bool) -> None:
    difference = compare_array("y", np.array(expected, np.float32), np.array(found, np.float32))
    assert difference.ok is ok
    assert ok or difference.error == float("inf")


def test_integers_booleans_and_strings_must_be_equal() -> None:
    for dtype in (np.int64, np.bool_, np.uint8, object):
        expected = np.array([1, 0, 1], dtype)
        assert compare_array("y", expected, expected.copy()).ok
        wrong = expected.copy()
        wrong[1] = 1
        difference = compare_array("y", expected, wrong)
        assert (difference.ok, difference.place, difference.error) == (False, (1,), float("inf"))
    small = np.array([1, 2], ml_dtypes.int4)
    assert not compare_array("y", small, np.array([1, 3], ml_dtypes.int4)).ok


def test_narrow_floats() -> None:
    expected = np.array([1.0, 2.0], ml_dtypes.bfloat16)
    assert compare_array("y", expected, expected.copy()).ok
    assert not compare_array("y", expected, np.array([1.0, 2.5], ml_dtypes.bfloat16)).ok


def test_arrays_of_rank_0() -> None:
    assert not compare_array("y", np.array(np.inf), np.array(1.0)).ok
    assert compare_array("y", np.array(1.0), np.array(1.0)).ok


def test_types_shapes_and_absences() -> None:
    array = np.zeros((2, 3), np.float32)
    for other in (array.astype(np.float64), array.reshape(3, 2), None, [0.0]):
        difference = compare_array("y", array, other)
        assert (difference.ok, difference.error) == (False, float("inf"))
    assert compare_array("y", np.zeros((0, 3), np.float32), np.zeros((0, 3), np.float32)).ok
    assert compare_array("y", [array, array], [array, array]).ok
    assert not compare_array("y", [array, array], [array]).ok
    assert [d.ok for d in compare_outputs({"a": array, "b": array}, {"b": array})] == [False, True]


@pytest.mark.parametrize("values", [{"scale": -1.0}, {"rtol": float("nan")}, {"atol": float("inf")}])
def test_tolerances_are_numbers(values: dict[str, float]) -> None:
    with pytest.raises(OptionError, match="tolerance"):
        Tolerance(**values)
