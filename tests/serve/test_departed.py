"""What was counted of versions that went is kept for a while, and not for ever."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from graphc.serve.departed import MOST, Departed
from graphc.serve.facts import State
from graphc.serve.observer import Changed, Ended
from graphc.serve.request import InferRequest, Timings
from graphc.serve.statistics import StatisticsObserver


@given(st.lists(st.tuples(st.integers(0, 40), st.sampled_from([State.READY, State.UNAVAILABLE])), max_size=200))
def test_who_is_there_is_never_forgotten_and_of_those_who_went_the_first(events: list[tuple[int, State]]) -> None:
    known: set[str] = set()
    departed = Departed(lambda model, version: known.discard(version))
    went: list[str] = []
    for number, state in events:
        version = str(number)
        known.add(version)
        departed.changed(Changed("m", version, state))
        went = [each for each in went if each != version]
        if state is State.UNAVAILABLE:
            went.append(version)
        went = went[-MOST:]
        assert set(went) <= known
        assert len(known) <= 41
    there = {version for version, state in {str(n): s for n, s in events}.items() if state is State.READY}
    assert known == there | set(went)


def test_statistics_of_versions_without_end_take_no_memory_without_end() -> None:
    statistics = StatisticsObserver()
    for number in range(500):
        version = str(number)
        statistics.changed(Changed("m", version, State.READY))
        statistics.ended(Ended(InferRequest("m", {}), version, "refused", Timings(0.1)))
        statistics.changed(Changed("m", version, State.UNAVAILABLE, "unloaded"))
    assert len(statistics._counts) == MOST
    assert statistics.of("m", "499", 0).fail.count == 1
