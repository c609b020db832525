"""The timeline counts live bytes at every time, and its highest point is the lower bound."""

from __future__ import annotations

from itertools import pairwise

from hypothesis import given

from graphc import memory
from tests.memory.strategies import Buffer, alignments, problems


def test_the_timeline_of_three_buffers() -> None:
    assert memory.timeline([(0, 2, 64), (1, 3, 32), (5, 6, 10)]) == (
        memory.Segment(0, 1, 64),
        memory.Segment(1, 2, 96),
        memory.Segment(2, 3, 32),
        memory.Segment(3, 5, 0),
        memory.Segment(5, 6, 10),
    )


def test_sizes_count_rounded_up_to_the_alignment() -> None:
    assert memory.timeline([(0, 1, 65)], alignment=64) == (memory.Segment(0, 1, 128),)


@given(problems, alignments)
def test_the_timeline_is_the_sum_of_live_sizes(problem: list[Buffer], alignment: int) -> None:
    segments = memory.timeline(problem, alignment=alignment)
    for time in range(30):
        live = sum(-(-size // alignment) * alignment for start, end, size in problem if start <= time < end)
        assert sum(s.live_bytes for s in segments if s.start <= time < s.end) == live
    for before, after in pairwise(segments):
        assert before.end == after.start
        assert before.live_bytes != after.live_bytes
    assert memory.lower_bound(problem, alignment=alignment) == max((s.live_bytes for s in segments), default=0)
