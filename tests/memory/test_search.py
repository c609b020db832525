"""The search says yes with a plan, no when there is none, and nothing when its budget ends."""

from __future__ import annotations

from itertools import islice

import numpy as np
import pytest
from hypothesis import given, settings

from graphc.memory.interval import parse_intervals, reduce_intervals
from graphc.memory.preorder import preorders
from graphc.memory.search import Budget, BudgetExhausted, CanonicalSearch
from tests.memory.strategies import Buffer, smallest_peak, tight_problems


@settings(max_examples=40)
@given(tight_problems())
def test_every_preorder_decides_every_capacity_rightly(problem: list[Buffer]) -> None:
    reduced = reduce_intervals(parse_intervals(problem), 1)
    least = smallest_peak(problem) // reduced.unit
    for _, order in islice(preorders(reduced), 6):
        search = CanonicalSearch(reduced, order)
        assert search.run(least - 1, Budget(None)) is None
        offsets = search.run(least, Budget(None))
        assert offsets is not None
        assert int((offsets + reduced.size).max()) == least


def test_a_budget_that_ends_is_no_answer() -> None:
    problem = reduce_intervals(parse_intervals([(0, 2, 3), (1, 3, 2), (2, 4, 3)]), 1)
    budget = Budget(2)
    with pytest.raises(BudgetExhausted):
        CanonicalSearch(problem, [0, 1, 2]).run(5, budget)
    assert budget.spent == 2


def test_each_preorder_is_a_permutation_and_comes_again() -> None:
    problem = reduce_intervals(parse_intervals([(i % 7, i % 7 + 1 + i % 5, 1 + i % 11) for i in range(50)]), 1)
    once, again = list(islice(preorders(problem), 10)), list(islice(preorders(problem), 10))
    assert once == again
    assert len({name for name, _ in once}) == 10
    assert all(np.array_equal(np.sort(order), np.arange(50)) for _, order in once)
