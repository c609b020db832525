"""What batches cost: the cheapest calls for every number of rows, by exhaustive search too."""

from __future__ import annotations

import itertools
import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from graphc.errors import OptionError
from graphc.runtime.scheduler.costs import Call, CostCurve

LINEAR = CostCurve({n: 0.004 + 0.001 * n for n in range(1, 33)})

latencies = st.dictionaries(st.integers(1, 12), st.floats(0.001, 1.0, allow_nan=False), min_size=1, max_size=4)


def every_sequence(buckets: list[int], rows: int, padding: bool) -> list[tuple[int, ...]]:
    """All calls, largest first, that hold `rows` rows, none of them needless."""
    found = []
    for count in range(1, rows + 1):
        for calls in itertools.combinations_with_replacement(sorted(buckets, reverse=True), count):
            enough = sum(calls) == rows or (padding and sum(calls) > rows and sum(calls) - min(calls) < rows)
            if enough:
                found.append(calls)
    return found


@given(latencies, st.integers(1, 6), st.booleans())
def test_cost_is_that_of_the_best_sequence_of_calls(table: dict[int, float], rows: int, padding: bool) -> None:
    curve = CostCurve(table, padding=padding, largest=12)
    sequences = every_sequence(list(table), rows, padding)
    best = min((sum(table[bucket] for bucket in calls) for calls in sequences), default=math.inf)
    assert curve(rows) == pytest.approx(best)


@given(latencies, st.integers(1, 12))
def test_following_first_calls_costs_what_the_curve_says(table: dict[int, float], rows: int) -> None:
    curve = CostCurve(table, largest=12)
    cost, left = 0.0, rows
    while left:
        call = curve.first_call(left)
        assert 1 <= call.rows <= call.bucket
        assert call.bucket in table
        cost += table[call.bucket]
        left -= call.rows
    assert cost == pytest.approx(curve(rows))


@given(latencies)
def test_one_more_row_never_makes_padded_batches_cheaper(table: dict[int, float]) -> None:
    curve = CostCurve(table, largest=12)
    costs = [curve(rows) for rows in range(13)]
    assert costs == sorted(costs)


def test_padding_goes_to_the_bucket_that_costs_least() -> None:
    curve = CostCurve({1: 1.0, 4: 3.0, 8: 2.5})
    assert curve.first_call(4) == Call(8, 4)
    assert curve.single_call(3) == Call(8, 3)


def test_a_split_is_better_than_much_padding() -> None:
    curve = CostCurve({1: 5.0, 8: 12.0, 32: 36.0})
    assert curve.first_call(9) == Call(8, 8)
    assert curve(9) == 17.0


def test_without_padding_what_no_calls_add_up_to_is_infinite() -> None:
    curve = CostCurve({2: 1.0, 5: 2.0}, padding=False, largest=7)
    assert [curve(rows) for rows in range(8)] == [0.0, math.inf, 1.0, math.inf, 2.0, 2.0, 3.0, 3.0]
    assert curve.single_call(4) is None


def test_capacity_and_bound_are_those_of_the_formula() -> None:
    assert LINEAR.capacity(0.05) == pytest.approx(21 / 0.025)
    assert LINEAR.bound(100, 0.05) == 100
    assert LINEAR.bound(1260, 0.05) == pytest.approx(25 / 0.029)
    assert LINEAR.bound(1e9, 0.05) == pytest.approx(32 / 0.036)
    assert LINEAR.bound(100, 0.001) == 0.0


@pytest.mark.parametrize("table", [{}, {0: 1.0}, {1: 0.0}, {1: -1.0}, {1: math.inf}, {1: math.nan}])
def test_refuses_what_is_no_table_of_latencies(table: dict[int, float]) -> None:
    with pytest.raises(OptionError, match="positive seconds"):
        CostCurve(table)
