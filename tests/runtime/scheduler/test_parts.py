"""The small parts: the breaker, what is learnt of latencies, devices and where models go."""

from __future__ import annotations

import os

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from graphc.errors import OptionError
from graphc.runtime.scheduler.breaker import Breaker
from graphc.runtime.scheduler.costs import CostCurve
from graphc.runtime.scheduler.devices import core_sets, place
from graphc.runtime.scheduler.jitter import WINDOW as RESERVED
from graphc.runtime.scheduler.jitter import Jitter
from graphc.runtime.scheduler.latency import WINDOW, Latencies


def test_the_breaker_opens_after_failures_in_a_row_and_lets_one_through() -> None:
    breaker = Breaker(3, cooldown=1.0, longest=3.0)
    for _ in range(2):
        breaker.failed(0.0)
    breaker.succeeded()
    for _ in range(2):
        breaker.failed(0.0)
    assert breaker.wait(0.0) == 0.0
    breaker.failed(10.0)
    assert breaker.wait(10.25) == 0.75
    assert breaker.wait(11.0) == 0.0, "the trial"
    assert breaker.wait(11.0) > 0.0, "one only"
    breaker.failed(11.5)
    assert breaker.wait(12.5) == 1.0, "twice as long"
    assert breaker.wait(13.5) == 0.0
    breaker.abandoned()
    assert breaker.wait(13.5) == 0.0, "the trial never ran"
    breaker.failed(14.0)
    assert breaker.wait(14.0) == 3.0, "never longer than that"
    assert breaker.wait(17.0) == 0.0
    breaker.succeeded()
    assert breaker.wait(17.0) == breaker.wait(17.0) == 0.0


def test_estimates_follow_what_is_seen_both_ways() -> None:
    latencies = Latencies({1: 0.01})
    for _ in range(WINDOW + 1):
        latencies.observe(1, 0.02)
    assert latencies.table[1] == 0.02
    for _ in range(WINDOW + 1):
        latencies.observe(1, 0.005)
    assert latencies.table[1] == 0.005


def test_an_estimate_is_what_calls_typically_need_and_forgives_a_single_hiccup() -> None:
    rng = np.random.default_rng(0)
    latencies = Latencies({1: 0.01})
    for seconds in rng.uniform(0.008, 0.012, 200):
        latencies.observe(1, float(seconds))
    assert 0.0105 < latencies.table[1] < 0.0115
    latencies.observe(1, 1.0)
    assert latencies.table[1] < 0.0115


def test_buckets_that_were_not_used_drift_with_the_others() -> None:
    latencies = Latencies({1: 0.01, 8: 0.04})
    for _ in range(WINDOW):
        latencies.observe(1, 0.015)
    assert latencies.table[8] == pytest.approx(0.06)


def test_a_machine_that_becomes_slow_is_known_after_a_few_calls() -> None:
    latencies = Latencies({1: 0.01, 8: 0.04, 32: 0.1})
    for _ in range(6):
        latencies.observe(8, 0.08)
    assert latencies.table[8] == 0.08
    assert latencies.table[1] == pytest.approx(0.02)
    assert latencies.table[32] == pytest.approx(0.2)


def test_a_bucket_that_was_not_used_of_late_is_tried_though_it_cannot_be_promised() -> None:
    """Calls that each lose as much to others: of larger ones there are fewer."""
    latencies = Latencies({1: 0.01, 8: 0.08})
    for _ in range(WINDOW):
        latencies.observe(1, 0.02)
    assert latencies.choice == {1: 0.02, 8: 0.08}
    curve = CostCurve(latencies.table, choice=latencies.choice)
    assert [call.bucket for call in curve.calls(8)] == [8]
    assert curve(8) == latencies.table[8] == pytest.approx(0.16), "until it is known to be better"
    for _ in range(4):
        assert latencies.choice[8] == 0.08, "of few calls all may have been unlucky"
        latencies.observe(8, 0.17)
    assert latencies.choice[8] == 0.17
    assert [call.bucket for call in CostCurve(latencies.table, choice=latencies.choice).calls(8)] == [1] * 8
    for _ in range(3):
        for _ in range(1600):  # 32 s
            latencies.observe(1, 0.02)
        assert latencies.choice[8] == 0.17, "it is not tried again for as long as 200 such calls take"
        for _ in range(108):  # 2 s more
            latencies.observe(1, 0.02)
        assert latencies.choice[8] == 0.08
        latencies.observe(8, 0.17)


def test_nothing_is_padded_because_small_calls_were_disturbed() -> None:
    latencies = Latencies({1: 0.01, 2: 0.015})
    for _ in range(8):
        latencies.observe(2, 0.015)
        latencies.observe(1, 0.04)
    curve = CostCurve(latencies.table, choice=latencies.choice)
    assert [call.bucket for call in curve.calls(1)] == [1]
    assert [call.bucket for call in curve.calls(2)] == [2]


def test_the_reserve_would_have_sufficed_for_all_but_one_in_a_thousand() -> None:
    rng = np.random.default_rng(0)
    jitter = Jitter()
    assert jitter.doubt == 1.0, "of what was never run nothing is known"
    jitter.observe(-0.1)
    assert jitter.value == 0.0
    late = rng.exponential(0.001, 4 * RESERVED)
    for number, seconds in enumerate(late):
        jitter.observe(float(seconds))
        if number == 50:
            assert jitter.value == late[:51].max()
    assert np.count_nonzero(late[-RESERVED:] > jitter.value) == 1
    assert jitter.doubt < 0.04
    jitter.observe(60.0)
    assert jitter.value <= late.max(), "a machine that hung once is not taken to hang again"


def test_small_changes_are_not_told() -> None:
    latencies = Latencies({1: 0.01})
    assert not any(latencies.observe(1, 0.0101) for _ in range(WINDOW))
    assert any(latencies.observe(1, 0.011) for _ in range(WINDOW))


@given(st.lists(st.floats(1e-5, 1.0), min_size=1, max_size=150))
def test_an_estimate_is_within_what_was_seen(times: list[float]) -> None:
    latencies = Latencies({1: 0.5, 2: 0.9})
    for seconds in times:
        latencies.observe(1, seconds)
    assert min(*times, 0.5) <= latencies.table[1] * 1.021
    assert latencies.table[1] <= max(*times, 0.5) * 1.021


def test_one_device_is_the_whole_machine_and_is_not_bound() -> None:
    (device,) = core_sets(1)
    assert device.cores is None
    assert core_sets(1, threads=1)[0].threads == 1


def test_processors_are_dealt_out() -> None:
    count = len(os.sched_getaffinity(0))
    devices = core_sets(count)
    if count > 1:
        assert sorted(core for device in devices for core in device.cores or ()) == sorted(os.sched_getaffinity(0))
        assert {device.threads for device in devices} == {1}


@given(
    st.dictionaries(st.sampled_from("abcd"), st.tuples(st.integers(0, 50), st.integers(1, 50)), min_size=1),
    st.integers(1, 4),
    st.integers(0, 600),
)
def test_placement_fits_and_gives_everyone_a_device(
    needs: dict[str, tuple[int, int]], devices: int, limit: int
) -> None:
    least = sum(once + each for once, each in needs.values())
    if least > limit:
        with pytest.raises(OptionError, match="need"):
            place(needs, devices, limit)
        return
    placed = place(needs, devices, limit)
    assert all(len(set(chosen)) == len(chosen) >= 1 for chosen in placed.values())
    assert all(0 <= device < devices for chosen in placed.values() for device in chosen)
    used = sum(needs[name][0] + needs[name][1] * len(chosen) for name, chosen in placed.items())
    assert used <= limit
    spare = [each for name, (_, each) in needs.items() if len(placed[name]) < devices]
    assert all(used + each > limit for each in spare), "memory that would do for another instance is used"


def test_without_a_limit_every_device_runs_every_model() -> None:
    assert place({"a": (10**12, 10**12)}, 3, None) == {"a": (0, 1, 2)}
