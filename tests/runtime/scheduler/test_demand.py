"""Averages that forget."""

from __future__ import annotations

import numpy as np
import pytest

from graphc.runtime.scheduler.demand import Decaying, Dispersion


def test_a_sum_decays() -> None:
    total = Decaying(2.0)
    total.add(8.0, 1.0)
    assert total.total(1.0) == 8.0
    assert total.total(3.0) == pytest.approx(8 / np.e)
    total.add(1.0, 3.0)
    assert total.total(3.0) == pytest.approx(1 + 8 / np.e)


def test_a_steady_rate_is_found() -> None:
    total = Decaying(0.5)
    for number in range(1000):
        total.add(3.0, number / 100)
    assert total.rate(10.0) == pytest.approx(300, rel=0.02)


@pytest.mark.parametrize("size", [1, 4, 8])
def test_dispersion_is_the_size_of_bursts(size: int) -> None:
    rng = np.random.default_rng(3)
    seen = Dispersion(0.05)
    values = []
    for time in np.cumsum(rng.exponential(0.01, 20_000)):
        seen.add(size, float(time))
        values.append(seen.value)
    assert np.mean(values[1000:]) == pytest.approx(size, rel=0.2)


def test_even_arrivals_have_little_dispersion() -> None:
    seen = Dispersion(0.05)
    for number in range(4000):
        seen.add(1, number * 0.001)
    assert seen.value < 0.2


def test_a_long_silence_is_taken_in() -> None:
    seen = Dispersion(0.05)
    for number in range(100):
        seen.add(1, number * 0.01)
    seen.add(1, 1e9)
    assert 0.1 <= seen.value <= 32
