"""Fourier transforms of every length compile to products, with no host step."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.compiler.compiled import check_compiled
from tests.ops.differential import case
from tests.ops.oracles import numbers, seeds


@given(
    st.lists(st.integers(1, 6), min_size=1, max_size=3),
    st.data(),
    st.booleans(),
    st.booleans(),
    st.booleans(),
    st.sampled_from(["float32", "float64", "float16"]),
    seeds,
)
@settings(max_examples=8, deadline=None)
def test_short_transforms_along_any_axis(
    shape: list[int], data: st.DataObject, inverse: bool, pairs: bool, onesided: bool, dtype: str, seed: int
) -> None:
    axis = data.draw(st.integers(0, len(shape) - 1))
    length = data.draw(st.none() | st.integers(1, 9))
    if inverse and onesided and length is None and shape[axis] == 1:
        length = 2
    x = numbers(seed, (*shape, 2 if pairs else 1), dtype)
    inputs = [x, None if length is None else np.array(length), np.array(axis)]
    check_compiled(case("DFT", inputs, inverse=int(inverse), onesided=int(onesided), constants=[1, 2]))


@pytest.mark.parametrize("length", [257, 509, 600, 1024, 1031])
@pytest.mark.parametrize(("inverse", "onesided", "parts"), [(0, 0, 2), (0, 1, 1), (1, 0, 2), (1, 1, 2), (1, 1, 1)])
def test_long_transforms(length: int, inverse: int, onesided: int, parts: int) -> None:
    # 509 and 1031 are prime: a convolution with a chirp. The others come apart.
    bins = length // 2 + 1 if inverse and onesided else length
    inputs = [numbers(0, (2, bins, parts), "float32"), np.array(length), np.array(1)]
    check_compiled(case("DFT", inputs, inverse=inverse, onesided=onesided, constants=[1, 2]), targets=["cpu"])


@pytest.mark.parametrize("length", [700, 1100])
def test_long_transforms_of_fewer_and_of_more_samples(length: int) -> None:
    inputs = [numbers(0, (900, 3, 2), "float64"), np.array(length), np.array(0)]
    check_compiled(case("DFT", inputs, constants=[1, 2]), targets=["cpu"])


def test_a_transform_of_a_large_number_of_samples_is_as_exact_as_a_short_one() -> None:
    inputs = [numbers(0, (1, 1 << 16, 1), "float32"), None, np.array(1)]
    check_compiled(case("DFT", inputs, onesided=1, constants=[2]), targets=["cpu"], tolerance=2e-6)


@given(
    st.integers(2, 20),
    st.integers(1, 7),
    st.sampled_from([None, "constant", "computed", "shorter"]),
    st.booleans(),
    st.booleans(),
    seeds,
)
@settings(max_examples=6, deadline=None)
def test_short_time_transforms(
    size: int, step: int, windowed: str | None, onesided: bool, pairs: bool, seed: int
) -> None:
    signal = numbers(seed, (2, 40, 2 if pairs else 1), "float32")
    window = None if windowed is None else np.hanning(size - (windowed == "shorter")).astype(np.float32)
    inputs: list[Any] = [signal, np.array(step), window, np.array(size)]
    constants = [1, 3] if windowed == "computed" else [1, 2, 3]
    check_compiled(case("STFT", inputs, onesided=int(onesided), constants=constants))


def test_speech_frames() -> None:
    signal = numbers(0, (1, 4000, 1), "float32")
    for size in (400, 1200):
        window = np.hanning(size).astype(np.float32)
        check_compiled(case("STFT", [signal, np.array(160), window], constants=[1, 2]), targets=["cpu"])
