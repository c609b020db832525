"""Hypothesis strategies of planning problems, and a brute-force planner to compare with."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import permutations

from hypothesis import strategies as st

Buffer = tuple[int, int, int]


@st.composite
def buffers(draw: st.DrawFn, max_time: int = 12, max_size: int = 40) -> Buffer:
    """One `(start, end, size)` triple; empty intervals and zero sizes included."""
    start = draw(st.integers(0, max_time))
    return start, start + draw(st.integers(0, max_time)), draw(st.integers(0, max_size))


problems = st.lists(buffers(), max_size=40)
small_problems = st.lists(buffers(max_time=5, max_size=8), max_size=6)


@st.composite
def tight_problems(draw: st.DrawFn) -> list[Buffer]:
    """Up to seven buffers of which the short ones fill every hole: without room to spare, many plans do not fit."""
    times, capacity = draw(st.integers(2, 4)), draw(st.integers(3, 7))
    problem: list[Buffer] = []
    for _ in range(3):
        start = draw(st.integers(0, times - 1))
        end = draw(st.integers(start + 1, times))
        room = capacity - max(sum(z for s, e, z in problem if s <= t < e) for t in range(start, end))
        if room:
            problem.append((start, end, draw(st.integers(1, room))))
    for t in range(times):
        room = capacity - sum(size for start, end, size in problem if start <= t < end)
        if room:
            problem.append((t, t + 1, room))
    return problem


alignments = st.sampled_from([1, 2, 3, 16, 64])


def smallest_peak(problem: Sequence[Buffer]) -> int:
    """The least peak of any plan, by trying all orders of placement: some order gives it, each buffer as low as it goes
    on top of those before."""
    takes_room = [(start, end, size) for start, end, size in problem if start < end and size > 0]
    best = sum(size for _, _, size in takes_room)
    for order in permutations(takes_room):
        placed: list[tuple[int, int, int]] = []
        for start, end, size in order:
            base = max((top for s, e, top in placed if s < end and start < e), default=0)
            placed.append((start, end, base + size))
        best = min(best, max((top for _, _, top in placed), default=0))
    return best
