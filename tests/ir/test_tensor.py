"""Constants behind loaders: how often they are loaded, and what is kept of them."""

from __future__ import annotations

import gc

import numpy as np
import pytest

from graphc.ir import Tensor, dtypes
from graphc.ir.tensor import SAMPLES


def counted(count: int, *, keep: bool = False) -> tuple[Tensor, list[int]]:
    """A tensor of so many elements, and a list that grows with every load."""
    loads: list[int] = []

    def load() -> np.ndarray:
        loads.append(count)
        return np.arange(count, dtype=np.float32)

    return Tensor(dtypes.FLOAT32, (count,), load, keep=keep), loads


def test_what_somebody_holds_is_not_loaded_again() -> None:
    tensor, loads = counted(1000)
    held = tensor.array()
    assert tensor.array() is held and len(loads) == 1
    assert tensor.digest() == Tensor.of(held).digest() and len(loads) == 1
    del held
    gc.collect()
    tensor.array()
    assert len(loads) == 2, "nobody held it, and a large constant is not to stay in memory"


def test_what_is_kept_is_loaded_once() -> None:
    tensor, loads = counted(10, keep=True)
    tensor.array()
    gc.collect()
    tensor.array()
    assert len(loads) == 1


@pytest.mark.parametrize("count", [0, 1, SAMPLES, SAMPLES + 1, 100 * SAMPLES + 7])
def test_samples_are_few_spread_and_read_once(count: int) -> None:
    tensor, loads = counted(count)
    sample = tensor.sample()
    assert min(count, SAMPLES) <= sample.size <= 2 * SAMPLES
    assert sample.base is None, "a view would keep all of it"
    assert count == 0 or (sample[0] == 0 and sample[-1] >= count - max(1, count // SAMPLES) - 1)
    assert tensor.sample() is sample and len(loads) == 1
