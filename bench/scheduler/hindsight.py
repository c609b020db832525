"""What one who knows all arrivals could answer: how far a policy is from any schedule whatever, not from a formula.

The bound G(λ) takes arrivals to be spread as well as can be; those of bursts are not. A schedule made with hindsight
is found by dynamic programming over the requests in their order: where all are promised the same, an exchange of two
never helps, so a batch takes consecutive requests, and what it does not take of earlier ones is refused. Of the
schedules that have dealt with the first n requests, one is kept for each number of answers: that whose device is free
soonest; and of these the best few. So the figure is reached by a schedule, and may be a little below the best one.
"""

from __future__ import annotations

import bisect
from collections.abc import Sequence

from graphc.runtime.scheduler.costs import CostCurve

_KEPT = 16
"""Schedules kept for each number of requests dealt with; 12 and 40 differ by less than a thousandth."""

_BURSTS = 4
"""Bursts that may be refused at a time: enough up to twice the capacity."""


def answered_with_hindsight(times: Sequence[float], costs: CostCurve, slo: float) -> int:
    """Requests that can be answered on time by one device.

    Args:
        times: Arrivals, ascending, seconds; each is one row.
        costs: Of batches.
        slo: Seconds from a request's arrival to its deadline.
    """
    count = len(times)
    ends = [n for n in range(1, count + 1) if n == count or times[n] > times[n - 1]]
    # By number of requests dealt with: (when the device is free, requests answered).
    found: list[list[tuple[float, int]]] = [[] for _ in range(count + 1)]
    found[0] = [(0.0, 0)]
    best = 0
    for done in range(count):
        schedules, found[done] = _best(found[done]), []
        burst = bisect.bisect_right(ends, done)
        oldest = {*range(done, ends[burst]), *ends[burst : burst + _BURSTS]} - {count} if schedules else set()
        for free, answered in schedules:
            for first in oldest:
                for start, rows in _batches(times, ends, costs, slo, first, free):
                    found[first + rows].append((start + costs(rows), answered + rows))
                    best = max(best, answered + rows)
    return best


def _best(schedules: list[tuple[float, int]]) -> list[tuple[float, int]]:
    """Those that no other beats in both: the last few, which have answered most."""
    kept: list[tuple[float, int]] = []
    for free, answered in sorted(schedules, key=lambda schedule: (schedule[0], -schedule[1])):
        if not kept or answered > kept[-1][1]:
            kept.append((free, answered))
    return kept[-_KEPT:]


def _batches(
    times: Sequence[float], ends: Sequence[int], costs: CostCurve, slo: float, first: int, free: float
) -> list[tuple[float, int]]:
    """When a batch whose oldest request is `first` may start, and with how many rows: at once, or as others come."""
    deadline = times[first] + slo + 1e-12
    start, found = max(free, times[first]), []
    while start + costs(1) <= deadline:
        come = bisect.bisect_right(times, start)
        rows = min(costs.largest, come - first)
        while start + costs(rows) > deadline:
            rows -= 1
        last = bisect.bisect_right(ends, first + rows)
        sizes = {rows, *(end - first for end in ends[max(0, last - 2) : last] if end > first)}
        found += [(start, size) for size in sizes]
        if come == len(times) or come - first >= costs.largest:
            break
        start = times[come]
    return found
