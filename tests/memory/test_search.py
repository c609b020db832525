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
    for _, preorder in islice(preorders(reduced), 8):
        search = CanonicalSearch(reduced, preorder)
        assert search.run(least - 1, Budget(None)) is None
        offsets = search.run(least, Budget(None))
        assert offsets is not None
        assert int((offsets + reduced.size).max()) == least


def test_a_budget_that_ends_is_no_answer() -> None:
    problem = reduce_intervals(parse_intervals([(0, 2, 3), (1, 3, 2), (2, 4, 3)]), 1)
    budget = Budget(2)
    with pytest.raises(BudgetExhausted):
        CanonicalSearch(problem, lambda load: np.arange(3)).run(5, budget)
    assert budget.spent == 2


def test_each_preorder_is_a_permutation_and_comes_again() -> None:
    problem = reduce_intervals(parse_intervals([(i % 7, i % 7 + 1 + i % 5, 1 + i % 11) for i in range(50)]), 1)
    once, again = (
        [(name, preorder(problem.load).tolist()) for name, preorder in islice(preorders(problem), 10)] for _ in range(2)
    )
    assert once == again
    assert len({name for name, _ in once}) == 10
    assert all(sorted(ranks) == list(range(50)) for _, ranks in once)


def test_contention_is_that_of_what_is_still_to_be_placed() -> None:
    problem = reduce_intervals(parse_intervals([(0, 2, 5), (1, 3, 4), (2, 4, 3)]), 1)
    _, preorder = next(preorders(problem))
    assert preorder(problem.load).tolist() == [0, 1, 2]
    assert preorder(np.array([1, 7])).tolist() == [2, 0, 1]
