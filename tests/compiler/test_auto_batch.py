"""Batch sizes chosen by what they cost."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

import graphc
from graphc.compiler.auto_batch import CANDIDATES, TOLERANCE, worth_keeping
from graphc.errors import OptionError
from graphc.runtime.calibration import load_calibration
from graphc.runtime.scheduler.costs import CostCurve
from tests.compiler.test_batching import MIXED, POOLED


def table(first: float, each: float) -> dict[int, float]:
    return {size: first + each * size for size in CANDIDATES}


def test_where_rows_cost_the_same_in_any_batch_one_is_enough() -> None:
    assert worth_keeping([table(0.0, 1.0)]) == (1,)


def test_where_a_call_costs_the_same_for_any_rows_the_largest_serves_all() -> None:
    assert worth_keeping([table(1.0, 0.0)]) == (1, 32)


def test_in_between_several_are_kept() -> None:
    kept = worth_keeping([table(4.0, 1.0)])
    assert kept[0] == 1
    assert kept[-1] == 32
    assert len(kept) >= 4


def test_what_any_shape_needs_is_kept() -> None:
    assert worth_keeping([table(0.0, 1.0), table(1.0, 0.0)]) == (1, 32)


@given(st.lists(st.floats(0.001, 1.0), min_size=6, max_size=6))
def test_no_number_of_rows_gets_much_slower(costs: list[float]) -> None:
    full = dict(zip(CANDIDATES, costs, strict=True))
    kept = worth_keeping([full])
    assert 1 in kept
    best, chosen = CostCurve(full, largest=32), CostCurve({size: full[size] for size in kept}, largest=32)
    assert all(chosen(rows) <= best(rows) * (1 + TOLERANCE) * (1 + 1e-9) for rows in range(1, 33))


def test_a_compile_measures_and_keeps_the_figures_beside_the_package(tmp_path: Path) -> None:
    path = tmp_path / "m.graphc"
    dims: dict[str, Any] = {"batch": "auto", "length": 3}
    compiled = graphc.compile(POOLED, dims=dims, output=path)
    sizes = [variant.bindings["batch"] for variant in compiled.variants]
    assert sizes[0] == 1
    assert set(sizes) <= set(CANDIDATES)
    assert {shapes[0][0] for shapes in load_calibration(path, compiled) if shapes[0]} == set(sizes)


@pytest.mark.parametrize(
    ("model", "dims", "message"),
    [
        (MIXED, {"batch": "auto", "length": 3}, "not proved to be independent"),
        (POOLED, {"batch": 2, "length": "auto"}, "not proved to be independent"),
        (POOLED, {"batch": "auto", "length": "auto"}, "batch and length are auto"),
    ],
)
def test_dimensions_that_cannot_be_chosen(model: bytes, dims: dict[str, Any], message: str) -> None:
    with pytest.raises(OptionError, match=message):
        graphc.compile(model, dims=dims)
