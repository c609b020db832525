"""Shared libraries of packages: loaded once, shared, and let go of with the last who runs them."""

from __future__ import annotations

import gc
import re
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np

import graphc
from graphc.package import KernelStep, Location, TensorSpec
from tests.runtime.conftest import Build

SPECS = [TensorSpec("x", "float32", (64,))], [TensorSpec("y", "float32", (64,))]
STEPS = [KernelStep("scale", (Location("input"), Location("output")), (64,), "scale")]
X = np.arange(64, dtype=np.float32)


def libraries() -> set[str]:
    """Packages' libraries in this process, by the inodes of their anonymous files."""
    gc.collect()
    return set(re.findall(r" (\d+) +/memfd:graphc", Path("/proc/self/maps").read_text()))


def test_a_library_goes_with_the_last_who_runs_it(build: Build, library: bytes) -> None:
    pool = graphc.load(build(*SPECS, STEPS, code=library + b"the one whose threads serve all"))
    pool([X])
    before = libraries()
    path = build(*SPECS, STEPS, name="other", code=library + b"another")
    first, second = graphc.load(path), graphc.load(path)
    assert len(libraries() - before) == 1
    np.testing.assert_array_equal(first([X])["y"], 2 * X)
    first.close()
    del first
    np.testing.assert_array_equal(second([X])["y"], 2 * X)
    assert len(libraries() - before) == 1
    second.close()
    del second
    assert libraries() == before
    np.testing.assert_array_equal(pool([X])["y"], 2 * X)


def test_the_library_with_the_pool_stays(build: Build) -> None:
    graphc.load(build(*SPECS, STEPS)).close()
    assert libraries()


def test_calls_in_flight_keep_their_library(build: Build, library: bytes) -> None:
    def use(number: int) -> None:
        model = graphc.load(paths[number % 3])
        for _ in range(20):
            np.testing.assert_array_equal(model([X])["y"], 2 * X)
        model.close()

    paths = [build(*SPECS, STEPS, name=f"m{n}", code=library + bytes([n])) for n in range(3)]
    graphc.load(paths[0])([X])
    before = libraries()
    with ThreadPoolExecutor(4) as pool:
        list(pool.map(use, range(60)))
    assert len(libraries()) <= len(before) + 1
