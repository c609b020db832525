"""The planner: greedy orders first, then the complete search where they leave a gap."""

from __future__ import annotations

import math
import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import islice
from typing import Any

import numpy as np
from numpy.typing import NDArray

from graphc.errors import OptionError
from graphc.memory.greedy import greedy_plans
from graphc.memory.interval import Problem, parse_alignment, parse_int, parse_intervals, reduce_intervals
from graphc.memory.preorder import preorders
from graphc.memory.search import Budget, BudgetExhausted, CanonicalSearch

# The default search may take about as long as this many buffer visits: some three seconds on one core.
_DEFAULT_VISITS = 600_000_000
_VISITS_PER_NODE = 5_000
# Placements of a search's first try, and how much longer each round's tries are than those of the round before.
_FIRST_TRY = 1000
_GROWTH = 4
# Orders that each capacity is tried with in the first round, and how many more join in each later one.
_PREORDERS = 6
_MORE_PREORDERS = 2
# Capacities between the bound and the best plan that a round tries, each halving what is left of the gap.
_BISECTIONS = 2


@dataclass(frozen=True)
class Plan:
    """Where each buffer lies.

    Attributes:
        offsets: Bytes from the arena's beginning, one per buffer, in the caller's order.
        peak: Bytes of the arena: the largest end of any buffer, sizes rounded up to the alignment.
        lower_bound: The largest sum of live bytes at any time, sizes rounded up to the alignment.
        order: Name of the strategy that gave the peak, such as `"size/best-fit"` or `"search/contention-area-cliques"`.
        optimal: Whether no plan has a smaller peak: the bound is met, or the search has ruled smaller ones out.
    """

    offsets: tuple[int, ...]
    peak: int
    lower_bound: int
    order: str
    optimal: bool

    @property
    def gap(self) -> int:
        """Bytes by which the peak exceeds the lower bound."""
        return self.peak - self.lower_bound


def plan(
    buffers: Iterable[Sequence[int]],
    *,
    alignment: int = 1,
    time_limit: float | None = None,
    node_budget: int | None = None,
    capacity: int = 0,
) -> Plan:
    """Gives each buffer an offset such that no two that are live together overlap, with a small peak.

    Several greedy orders run until one meets the lower bound. Where none does, a complete search follows until it has
    met the bound, has ruled out all smaller peaks, or has spent its budget. Without `time_limit` the plan depends on
    the arguments alone: the same on every machine and in every run.

    Args:
        buffers: `(start, end, size)` triples: live at the times `start <= t < end`, sizes in bytes.
        alignment: Bytes that every offset is a multiple of.
        time_limit: Seconds after which no further strategy starts and the search stops; the first greedy order runs
            whatever the limit. None for no clock at all.
        node_budget: Most placements that the search tries; 0 for greedy orders only. None for a default that takes
            a few seconds at most, or for no such limit where `time_limit` is given.
        capacity: Bytes that are good enough: the first plan that fits ends the work, even above the lower bound. No
            plan is refused for being larger.

    Returns:
        The best plan found. Buffers of size zero and those never live (`start == end`) lie at offset 0.

    Raises:
        OptionError: A buffer, the alignment or a limit is malformed.
    """
    alignment = parse_alignment(alignment)
    intervals = parse_intervals(buffers)
    deadline = _deadline(time_limit)
    if node_budget is not None and parse_int(node_budget, "node_budget") < 0:
        raise OptionError(f"node_budget must not be negative, not {node_budget}")
    capacity = parse_int(capacity, "capacity")
    problem = reduce_intervals(intervals, alignment)
    offsets = [0] * len(intervals)
    bound = problem.lower_bound
    if not len(problem):
        return Plan(tuple(offsets), 0, 0, "none", True)

    goal = max(bound, capacity // problem.unit)
    parts = [_Part.greedy(part, goal, deadline) for part in problem.components()]
    if node_budget is None and time_limit is None:
        node_budget = _default_budget(problem)
    budget = Budget(node_budget, deadline)
    # A part's gap is hidden under a larger one of another part, so the largest is worked on first.
    for part in sorted(parts, key=lambda part: -part.peak):
        part.improve(max(goal, *(other.proven for other in parts)), budget)

    for part in parts:
        for index, offset in zip(part.problem.indices.tolist(), part.offsets.tolist(), strict=True):
            offsets[index] = offset * problem.unit
    highest = max(parts, key=lambda part: part.peak)
    return Plan(
        offsets=tuple(offsets),
        peak=highest.peak * problem.unit,
        lower_bound=bound * problem.unit,
        order=highest.strategy,
        optimal=highest.peak == max(part.proven for part in parts),
    )


def _deadline(time_limit: float | None) -> float | None:
    if time_limit is None:
        return None
    if isinstance(time_limit, bool) or not isinstance(time_limit, int | float | np.number):
        raise OptionError(f"time_limit must be a number of seconds, not {time_limit!r}")
    if not 0 <= time_limit < math.inf:
        raise OptionError(f"time_limit must be finite and not negative, not {time_limit!r}")
    return time.monotonic() + float(time_limit)


def _default_budget(problem: Problem) -> int:
    """Placements for a search of a few seconds: a larger problem visits more buffers per placement."""
    live_pairs = int((problem.last - problem.first).sum())
    return _DEFAULT_VISITS // (_VISITS_PER_NODE + live_pairs + 8 * len(problem))


@dataclass
class _Part:
    """The best plan so far of buffers that overlap no others in time.

    Attributes:
        problem: The buffers.
        offsets: In units, by position.
        peak: In units.
        strategy: What made it.
        proven: No plan of this part is lower than this, in units.
    """

    problem: Problem
    offsets: NDArray[Any]
    peak: int
    strategy: str
    proven: int

    @classmethod
    def greedy(cls, problem: Problem, goal: int, deadline: float | None) -> _Part:
        """The best of the greedy plans; the first that does not exceed the goal ends the trials."""
        best: _Part | None = None
        for strategy, offsets in greedy_plans(problem):
            if offsets is not None:
                peak = int((offsets + problem.size).max())
                best = cls(problem, offsets, peak, strategy, problem.lower_bound)
            assert best is not None  # the first strategy has no peak to stay below
            if best.peak <= goal or (deadline is not None and time.monotonic() >= deadline):
                break
        assert best is not None
        return best

    def improve(self, goal: int, budget: Budget) -> None:
        """Searches for a plan no higher than the goal, or else as low as the budget allows.

        From round to round tries get longer and more orders are tried. A round asks for the smallest peak not yet
        ruled out and, while that stays open, for peaks ever nearer to the best plan's.
        """
        orders = preorders(self.problem)
        searches: dict[str, CanonicalSearch] = {}
        tries = _FIRST_TRY
        while self.peak > max(goal, self.proven) and not budget.exhausted:
            for name, order in islice(orders, _MORE_PREORDERS if searches else _PREORDERS):
                searches[name] = CanonicalSearch(self.problem, order)
            capacity = max(goal, self.proven)
            for _ in range(1 + _BISECTIONS):
                self._attempt(searches, capacity, tries, budget)
                capacity = max((capacity + self.peak) // 2, goal, self.proven)
                if capacity >= self.peak:
                    break
            tries *= _GROWTH

    def _attempt(self, searches: dict[str, CanonicalSearch], capacity: int, tries: int, budget: Budget) -> None:
        """Asks each search for a plan within the capacity, until one answers yes or no."""
        for name, search in searches.items():
            trial = budget.slice(tries)
            try:
                offsets = search.run(capacity, trial)
            except BudgetExhausted:
                continue
            finally:
                budget.spent += trial.spent
            if offsets is None:
                self.proven = capacity + 1
            else:
                self.offsets, self.strategy = offsets, f"search/{name}"
                self.peak = int((offsets + self.problem.size).max())
            return
