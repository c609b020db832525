"""The public instances of MiniMalloc: real problems on which greedy orders fail, each packed into its capacity."""

from __future__ import annotations

import csv
from pathlib import Path

import pytest

from graphc import memory
from tests.memory.strategies import Buffer

CAPACITY = 1_048_576
FOLDER = Path(__file__).parent / "challenging"
# Those that take a second at most; the others take up to ten each.
QUICK = ("B", "E", "F", "H", "J")
NAMES = [name if name in QUICK else pytest.param(name, marks=pytest.mark.slow) for name in "ABCDEFGHIJK"]


def instance(name: str) -> list[Buffer]:
    with (FOLDER / f"{name}.csv").open() as file:
        return [(int(row["lower"]), int(row["upper"]), int(row["size"])) for row in csv.DictReader(file)]


@pytest.mark.parametrize("name", NAMES)
def test_a_challenging_instance_fits(name: str) -> None:
    buffers = instance(name)
    plan = memory.plan(buffers, capacity=CAPACITY, node_budget=1_000_000)
    memory.check(buffers, plan)
    assert plan.peak <= CAPACITY
    assert plan.order.startswith("search/"), "a greedy order would have been enough"
