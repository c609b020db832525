"""The last minute: what is in it is right, what is older is forgotten."""

from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from graphc.serve.departed import MOST
from graphc.serve.facts import State
from graphc.serve.observe.recent import WINDOW, Recent
from graphc.serve.observer import SUCCESS, Changed, Ended
from graphc.serve.request import InferRequest, InferResponse, Timings


def answered(seconds: float, reason: str = SUCCESS) -> Ended:
    request, timings = InferRequest("m", {}), Timings(seconds)
    response = InferResponse("m", "1", {}) if reason == SUCCESS else None
    return Ended(request, "1", reason, timings, response)


class Clock:
    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


@given(st.lists(st.floats(2e-5, 100), min_size=1, max_size=200))
def test_quantiles_are_within_five_per_cent(latencies: list[float]) -> None:
    recent = Recent(Clock())
    for latency in latencies:
        recent.ended(answered(latency))
    found = recent.summary("m", "1").latency
    ordered = sorted(latencies)
    for name, share in (("p50", 0.5), ("p90", 0.9), ("p99", 0.99)):
        assert found[name] == pytest.approx(ordered[math.ceil(share * len(ordered)) - 1], rel=0.05)


def test_seconds_move_through_the_window_and_out() -> None:
    clock = Clock()
    recent = Recent(clock)
    for _ in range(3):
        recent.ended(answered(0.01))
    recent.ended(answered(0.01, "refused"))
    assert sum(recent.summary("m", "1").answered) == 0  # the second is not over
    clock.now += 1
    assert recent.summary("m", "1").answered == [0] * (WINDOW - 1) + [3]
    assert recent.summary("m", "1").outcomes == {"success": 3, "refused": 1}
    clock.now += 59
    assert recent.summary("m", "1").answered == [3] + [0] * (WINDOW - 1)
    clock.now += 1
    assert recent.summary("m", "1").answered == [0] * WINDOW
    assert recent.summary("m", "1").latency == {}
    assert recent.seconds() == WINDOW


def test_memory_is_bounded() -> None:
    clock = Clock()
    recent = Recent(clock)
    for _ in range(10 * WINDOW):
        clock.now += 1
        recent.ended(answered(0.01))
    assert len(recent._seconds["m", "1"]) == WINDOW + 1


def test_of_versions_that_went_the_last_are_remembered() -> None:
    recent = Recent(Clock())
    for number in range(500):
        request, response = InferRequest("m", {}), InferResponse("m", str(number), {})
        recent.changed(Changed("m", str(number), State.READY))
        recent.ended(Ended(request, str(number), SUCCESS, Timings(0.01), response))
        recent.changed(Changed("m", str(number), State.UNAVAILABLE, "unloaded"))
    assert len(recent._seconds) == MOST
    assert recent.summary("m", "499").outcomes == {"success": 1}
