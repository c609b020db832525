"""Reducing a problem to cliques keeps exactly what decides a plan: who overlaps whom, and how much is live at most."""

from __future__ import annotations

from itertools import pairwise

from hypothesis import given

from graphc.memory.interval import parse_intervals, reduce_intervals
from tests.memory.strategies import Buffer, problems


@given(problems)
def test_cliques_keep_every_overlap(problem: list[Buffer]) -> None:
    reduced = reduce_intervals(parse_intervals(problem), 1)
    for a, i in enumerate(reduced.indices.tolist()):
        assert reduced.first[a] < reduced.last[a] <= reduced.cliques
        for b, j in enumerate(reduced.indices.tolist()):
            overlap = max(problem[i][0], problem[j][0]) < min(problem[i][1], problem[j][1])
            assert overlap == bool(max(reduced.first[a], reduced.first[b]) < min(reduced.last[a], reduced.last[b]))


@given(problems)
def test_no_clique_holds_another(problem: list[Buffer]) -> None:
    reduced = reduce_intervals(parse_intervals(problem), 1)
    cliques = [
        {a for a in range(len(reduced)) if reduced.first[a] <= clique < reduced.last[a]}
        for clique in range(reduced.cliques)
    ]
    for before, after in pairwise(cliques):
        assert not before <= after
        assert not after <= before


@given(problems)
def test_components_part_the_buffers_and_share_no_time(problem: list[Buffer]) -> None:
    reduced = reduce_intervals(parse_intervals(problem), 1)
    parts = reduced.components() if len(reduced) else []
    assert sorted(i for part in parts for i in part.indices.tolist()) == reduced.indices.tolist()
    for part in parts:
        assert part.cliques == int(part.last.max())
        assert int(part.first.min()) == 0
        assert part.load.all()  # no hole in time at which it could be split again
    spans = [
        (min(problem[i][0] for i in ids), max(problem[i][1] for i in ids))
        for ids in (part.indices.tolist() for part in parts)
    ]
    for (_, end), (start, _) in pairwise(spans):
        assert end <= start
