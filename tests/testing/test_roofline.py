"""What the machine can do: the model's arithmetic, the measurement, and what is kept."""

from __future__ import annotations

import itertools
import os
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from graphc.errors import ToolchainError
from graphc.testing import roofline as module
from graphc.testing.roofline import Roofline, measure, roofline

ROOF = Roofline(1, 100e9, ((1 << 14, 200e9), (1 << 20, 100e9), (1 << 26, 20e9)))


@given(st.integers(0, 10**12), st.integers(0, 10**10))
def test_neither_arithmetic_nor_memory_is_faster_than_the_roof(flops: int, size: int) -> None:
    seconds = ROOF.seconds(flops, size)
    assert seconds >= flops / ROOF.peak
    assert seconds >= size / 200e9
    assert seconds <= max(flops / ROOF.peak, size / 20e9) * (1 + 1e-9)
    assert ROOF.bound(flops, size) in ("compute", "memory")


@given(st.integers(1, 1 << 28), st.integers(1, 1 << 28))
def test_larger_working_sets_are_no_faster_here(a: int, b: int) -> None:
    assert ROOF.bandwidth_of(min(a, b)) >= ROOF.bandwidth_of(max(a, b)) * (1 - 1e-9)


def test_between_measured_sizes_the_rate_is_between_theirs() -> None:
    assert ROOF.bandwidth_of(1 << 17) == pytest.approx(200e9 * 0.5**0.5)
    assert ROOF.bandwidth_of(1) == 200e9
    assert ROOF.bandwidth_of(1 << 30) == 20e9


def test_bounds() -> None:
    assert ROOF.bound(10**9, 1000) == "compute"
    assert ROOF.bound(1000, 10**6) == "memory"
    assert ROOF.bound(0, 0) == "compute" and ROOF.seconds(0, 0) == 0


def test_a_measurement(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_SECONDS", 0.001)
    told: list[tuple[int, int]] = []
    found = measure(2, lambda done, total: told.append((done, total)))
    assert found.threads == 2
    # Any machine since 2010 does more; none does a million times as much.
    assert 1e9 < found.peak < 1e15
    assert [size for size, _ in found.bandwidth] == [2 * size for size in module._SIZES]
    assert all(1e8 < rate < 1e14 for _, rate in found.bandwidth)
    assert told[-1][0] == told[-1][1] == len(told)


def test_it_is_kept_unless_the_machine_is_busy(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GRAPHC_CACHE", str(tmp_path))
    answers = (Roofline(1, float(rate), ((1, 1.0),)) for rate in itertools.count(1))
    monkeypatch.setattr(module, "measure", lambda threads, progress=None: next(answers))
    load = [9.0 * len(os.sched_getaffinity(0)), 0.0, 0.0]
    monkeypatch.setattr(os, "getloadavg", lambda: tuple(load))
    assert [roofline(1).peak, roofline(1).peak] == [1, 2]
    load[0] = 0.0
    assert [roofline(1).peak, roofline(1).peak] == [3, 3]
    assert roofline(1, again=True).peak == 4
    assert roofline(2).peak == 5, "another number of threads is another measurement"
    (kept,) = [path for path in (tmp_path / "machines").iterdir() if '"threads": 1' in path.read_text()]
    for damage in ("", "{}", '{"threads": 1, "peak": "x", "bandwidth": []}', "[]"):
        kept.write_text(damage)
        roofline(1)
        assert '"peak"' in kept.read_text(), "a damaged file is replaced"


def test_a_cache_that_cannot_be_written_is_no_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "machines").write_text("not a folder")
    monkeypatch.setenv("GRAPHC_CACHE", str(tmp_path))
    monkeypatch.setattr(module, "measure", lambda threads, progress=None: Roofline(threads, 1.0, ((1, 1.0),)))
    monkeypatch.setattr(os, "getloadavg", lambda: (0.0, 0.0, 0.0))
    assert roofline(1).peak == 1


def test_without_a_compiler(monkeypatch: pytest.MonkeyPatch) -> None:
    def none() -> None:
        raise ToolchainError("no C compiler")

    monkeypatch.setattr(module, "find_linker", none)
    with pytest.raises(ToolchainError):
        measure(1)
