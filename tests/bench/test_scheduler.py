"""What the scheduler must show, simulated: the simulator is deterministic, so figures can be asserted."""

from __future__ import annotations

import json
from collections.abc import Callable
from functools import partial
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from bench.scheduler import arrivals
from bench.scheduler.__main__ import main
from bench.scheduler.figures import put, real
from bench.scheduler.hindsight import answered_with_hindsight
from bench.scheduler.policies import UNTUNED, tuned_fifo
from bench.scheduler.real import _under_load
from bench.scheduler.simulate import Outcome, simulate
from bench.scheduler.sweep import ABLATIONS, PROCESSES, mean_and_interval
from graphc.runtime.scheduler.costs import CostCurve
from graphc.runtime.scheduler.jitter import Jitter
from graphc.runtime.scheduler.latency import Latencies
from graphc.runtime.scheduler.policy import Promise
from graphc.runtime.scheduler.work import Assignment, Queue, Refusal, Request, Tenant
from tests.runtime.scheduler.fakes import Fake

COSTS = CostCurve({n: 0.004 + 0.001 * n for n in range(1, 33)})
SLO = 0.05
CAPACITY = COSTS.capacity(SLO)
SECONDS = 20.0


def queues(count: int = 1) -> list[Queue]:
    tenant = Tenant("model")
    return [Queue(number, COSTS, slo=SLO, tenant=tenant) for number in range(count)]


def run(stream: Callable[..., arrivals.Arrivals], load: float, seed: int, count: int = 1) -> Outcome:
    outcome = simulate(Promise(), queues(count), stream(load * CAPACITY, SECONDS, seed), seconds=SECONDS)
    assert outcome.late == 0
    assert outcome.dropped == 0
    assert outcome.good + outcome.refused == outcome.offered
    return outcome


def share_of_bound(outcome: Outcome) -> float:
    """Goodput over what the bound allows for the requests that did come."""
    return outcome.goodput / COSTS.bound(outcome.offered / outcome.seconds, SLO)


@pytest.mark.parametrize(
    ("load", "least"), [(0.3, 0.97), (0.7, 0.97), (0.9, 0.97), (1.0, 0.94), (1.1, 0.94), (1.5, 0.94), (3.0, 0.94)]
)
def test_goodput_is_near_the_bound(load: float, least: float) -> None:
    assert np.mean([share_of_bound(run(arrivals.poisson, load, seed)) for seed in (1, 2)]) >= least


class Learning(Promise):
    """The promise with what the scheduler learns of costs and of how late batches end."""

    def __init__(self, queue: Queue, latencies: Latencies) -> None:
        super().__init__(margin=0.0005)
        self.queue, self.latencies, self.jitter = queue, latencies, Jitter()
        self.queue.tenant.doubt = self.jitter.doubt
        self.began: dict[int, tuple[float, Assignment]] = {}

    def next(self, device: int, now: float) -> Assignment | None:
        if (found := super().next(device, now)) is not None:
            self.began[device] = now, found
        return found

    def finished(self, device: int, now: float) -> None:
        super().finished(device, now)
        began, done = self.began.pop(device)
        self.jitter.observe(now - done.end)
        self.queue.tenant.jitter, self.queue.tenant.doubt = self.jitter.value, self.jitter.doubt
        if self.latencies.observe(done.call.bucket, now - began):
            self.queue.costs = CostCurve(self.latencies.table, choice=self.latencies.choice)
            self.replan()


@pytest.mark.parametrize(("load", "least"), [(0.5, 0.95), (0.9, 0.72), (1.5, 0.45)])
def test_on_a_machine_slower_and_less_steady_than_when_it_was_calibrated(load: float, least: float) -> None:
    """Calls take 1.4 ms more each, a tenth more or less, and now and then some milliseconds for others."""
    calibrated = {rows: 0.0016 * rows for rows in (1, 2, 4, 8, 16)}
    rng = np.random.default_rng(0)

    def duration(assignment: Assignment) -> float:
        seconds = (calibrated[assignment.call.bucket] + 0.0014) * (1 + abs(rng.normal(0, 0.1)))
        return float(seconds + rng.binomial(5, min(1.0, seconds)) * rng.uniform(0, 0.008))

    latencies = Latencies(calibrated)
    queue = Queue("q", CostCurve(calibrated), slo=0.03)
    come = arrivals.poisson(load * 625, SECONDS, 1)
    outcome = simulate(Learning(queue, latencies), [queue], come, seconds=SECONDS, duration=duration)
    assert outcome.late <= 0.001 * outcome.offered
    assert outcome.good >= least * outcome.offered
    assert np.mean(outcome.batches) > load, "batches grow with the load"


@pytest.mark.parametrize(("load", "least"), [(0.5, 0.97), (0.9, 0.89), (1.2, 0.90), (2.0, 0.94)])
def test_goodput_in_bursts_of_eight(load: float, least: float) -> None:
    assert np.mean([share_of_bound(run(arrivals.bursts, load, seed)) for seed in (1, 2)]) >= least


@pytest.mark.parametrize("load", [0.9, 1.2, 2.0])
def test_interleaved_shapes_keep_four_fifths_of_the_throughput_of_one(load: float) -> None:
    one = np.mean([run(arrivals.poisson, load, seed).goodput for seed in (1, 2, 3)])
    four = np.mean([run(arrivals.interleaved, load, seed, 4).goodput for seed in (1, 2, 3)])
    assert four >= 0.8 * one


@pytest.mark.parametrize("load", [0.5, 0.9, 1.1, 2.0])
@pytest.mark.parametrize("stream", [arrivals.poisson, arrivals.bursts])
def test_no_other_policy_is_ahead(load: float, stream: Callable[..., arrivals.Arrivals]) -> None:
    seconds = 10.0
    come = partial(stream, load * CAPACITY, seconds, 4)
    own = simulate(Promise(), queues(), come(), seconds=seconds).good
    for name, policy in UNTUNED.items():
        other = simulate(policy(32), queues(), come(), seconds=seconds).good
        assert own >= 0.995 * other, name
    tuned, _, _ = tuned_fifo(queues, come, seconds)
    assert own >= 0.98 * tuned.good


@given(
    gaps=st.lists(st.sampled_from((0.0, 0.0, 0.003, 0.01, 0.03)), min_size=1, max_size=7),
    slo=st.sampled_from((0.006, 0.012, 0.02, 0.05)),
)
def test_hindsight_finds_the_best_of_all_schedules(gaps: list[float], slo: float) -> None:
    times = np.cumsum(gaps).tolist()

    def best(first: int, free: float) -> int:
        if first == len(times):
            return 0
        most = best(first + 1, free)
        for rows in range(1, len(times) - first + 1):
            end = max(free, times[first + rows - 1]) + COSTS(rows)
            if end <= times[first] + slo + 1e-12:
                most = max(most, rows + best(first + rows, end))
        return most

    assert answered_with_hindsight(times, COSTS, slo) == best(0, 0.0)


@pytest.mark.parametrize("load", [0.9, 1.0, 1.3])
def test_in_bursts_no_schedule_answers_much_more(load: float) -> None:
    seconds = 2.0
    come = partial(arrivals.bursts, load * CAPACITY, seconds, 1)
    most = answered_with_hindsight([time for time, _ in come()], COSTS, SLO)
    own = simulate(Promise(), queues(), come(), seconds=seconds).good
    assert 0.95 * most <= own <= most


def test_a_day_s_swing_is_followed() -> None:
    outcome = run(arrivals.diurnal, 0.8, 1)
    assert outcome.good >= 0.85 * outcome.offered


def test_what_ends_early_makes_nobody_late() -> None:
    rng = np.random.default_rng(0)
    outcome = simulate(
        Promise(2),
        queues(3),
        arrivals.poisson(2 * CAPACITY, SECONDS, 5, 3),
        seconds=SECONDS,
        devices=2,
        duration=lambda assignment: assignment.cost * rng.uniform(0.6, 1.0),
    )
    assert outcome.late <= 0.001 * outcome.good
    assert outcome.dropped == 0


def test_several_devices_serve_several_times_as_much() -> None:
    one = run(arrivals.poisson, 1.2, 1).goodput
    three = simulate(Promise(3), queues(), arrivals.poisson(3.6 * CAPACITY, 5.0, 1), seconds=5.0, devices=3)
    assert three.late == 0
    assert three.goodput >= 2.9 * one


def shares(weights: tuple[float, float], loads: tuple[float, float]) -> tuple[Outcome, list[float]]:
    """Two models beside each other; goodput of each as a share of what it offered."""
    pair = [Queue(n, COSTS, slo=SLO, tenant=Tenant(n, share=weight)) for n, weight in enumerate(weights)]
    streams = [arrivals.poisson(load * CAPACITY, SECONDS, 7 + n) for n, load in enumerate(loads)]
    merged = sorted((time, n) for n, stream in enumerate(streams) for time, _ in stream)
    offered = [sum(n == which for _, n in merged) for which in (0, 1)]
    outcome = simulate(Promise(), pair, merged, seconds=SECONDS)
    assert outcome.late == 0
    return outcome, [len(outcome.latencies[n]) / offered[n] for n in (0, 1)]


def test_a_flood_does_not_starve_another_model() -> None:
    _, served = shares((1.0, 1.0), (4.0, 0.2))
    assert served[1] >= 0.9


def test_equal_shares_under_equal_floods() -> None:
    outcome, _ = shares((1.0, 1.0), (3.0, 3.0))
    assert len(outcome.latencies[0]) == pytest.approx(len(outcome.latencies[1]), rel=0.1)


def test_a_rare_shape_is_not_starved() -> None:
    pair = queues(2)
    come = sorted(
        [(t, 0) for t, _ in arrivals.poisson(3 * CAPACITY, SECONDS, 1)]
        + [(t, 1) for t, _ in arrivals.poisson(20, SECONDS, 2)]
    )
    rare = sum(n == 1 for _, n in come)
    outcome = simulate(Promise(), pair, come, seconds=SECONDS)
    assert len(outcome.latencies[1]) >= 0.8 * rare


def test_the_simulator_is_deterministic() -> None:
    first, second = (run(arrivals.bursts, 1.1, 3) for _ in range(2))
    assert first == second


def test_lone_requests_take_as_long_as_the_model() -> None:
    outcome = simulate(Promise(), queues(), [(float(n), 0) for n in range(5)], seconds=5.0)
    assert outcome.latencies[0] == pytest.approx([0.005] * 5)


def test_arrivals_have_the_rate_asked_for() -> None:
    for stream in (arrivals.poisson, arrivals.bursts, arrivals.diurnal, arrivals.interleaved):
        times = [time for time, _ in stream(500.0, 40.0, 1)]
        assert times == sorted(times)
        assert len(times) == pytest.approx(20_000, rel=0.05)


def test_the_request_of_a_simulation_has_its_queue_s_deadline() -> None:
    seen: list[Request] = []

    class Watch(Promise):
        def offer(self, request: Request, now: float) -> Refusal | None:
            seen.append(request)
            return super().offer(request, now)

    simulate(Watch(), queues(), [(1.0, 0)], seconds=2.0)
    assert seen[0].deadline == 1.0 + SLO


def test_the_interval_of_equal_values_is_nothing() -> None:
    assert mean_and_interval([2.0, 2.0, 2.0]) == (2.0, 0.0)
    mean, half = mean_and_interval([1.0, 2.0, 3.0])
    assert mean == 2.0
    assert half == pytest.approx(4.30 / np.sqrt(3))


def test_the_bound_of_a_day_is_the_mean_of_its_hours() -> None:
    rate = 0.9 * CAPACITY
    assert PROCESSES["independent requests"].bound(rate) == pytest.approx(rate)
    assert 0.7 * rate < PROCESSES["a day's swing"].bound(rate) < rate


def test_waiting_and_leaving_no_room_are_no_better() -> None:
    come = [list(arrivals.bursts(1.0 * CAPACITY, SECONDS, seed)) for seed in (1, 2)]
    own = sum(simulate(Promise(), queues(), stream, seconds=SECONDS).good for stream in come)
    for name, make in ABLATIONS.items():
        assert own >= sum(simulate(make(), queues(), stream, seconds=SECONDS).good for stream in come), name


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_the_command_prints_plots_and_keeps(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    docs = tmp_path / "docs.md"
    docs.write_text("Before.\n<!-- figures -->\nold\n<!-- /figures -->\nAfter.\n")
    assert main(["--quick", "--plots", str(tmp_path), "--output", str(tmp_path), "--docs", str(docs)]) == 0
    assert "0 were late" in capsys.readouterr().out
    before, _, table = docs.read_text().partition("<!-- figures -->\n")
    assert before == "Before.\n"
    assert table.startswith("| on time, of the bound, at load | 0.5 | 0.9 | 1 | 1.1 | 1.5 | 3 |\n|---|")
    assert "| graphc | 100.0 % |" in table
    assert "old" not in table
    assert table.endswith("|\n<!-- /figures -->\nAfter.\n")
    assert (tmp_path / "scheduling-policies.png").stat().st_size > 10_000
    rows = json.loads((tmp_path / "scheduler-simulated.json").read_text())["rows"]
    assert {row["process"] for row in rows} == set(PROCESSES)


def test_a_document_without_a_place_for_figures_is_left_as_it_is(tmp_path: Path) -> None:
    docs = tmp_path / "docs.md"
    docs.write_text("<!-- real -->")
    with pytest.raises(ValueError, match="no place for figures"):
        put(docs, "real", "table")
    assert docs.read_text() == "<!-- real -->"


def test_real_load_comes_from_another_process_and_is_told_with_what_calls_took() -> None:
    fake = Fake(seconds=lambda rows: 0.002 + 0.001 * rows)
    found = fake.calibration["fake"]
    loads = [{"load": load, **_under_load(fake, found, 2.0, load * 100, 1.0)} for load in (0.5, 1.5)]
    for row in loads:
        assert 0.6 * row["rate"] < row["offered"] < 1.5 * row["rate"]
        assert row["accepted"] == row["offered"], "there is time for all"
        assert sum(row["batches"].values()) * row["mean_batch"] == pytest.approx(row["accepted"])
        assert row["slowdown"] > 0.9
        assert 0 < row["front"] < row["running"] + 1
    batching = {"with": 150.0, "without": 100.0, "gain": 1.5}
    figures = {"lone": {"ratio": 1.02}, "overhead": {"alone": 4e-5, "batched": 5e-5}, "batching": batching}
    table = real([{"model": "fake", "slo": 2.0, "loads": loads, **figures}], "plot.png")
    assert "](plot.png)" in table
    late = [f"{row['late']} of {row['accepted']}" for row in loads]
    assert f"| fake | 2 s | {late[0]} | {late[1]} | 50 µs | +2.0 % | 100/s | 150/s, 1.50× |" in table


@pytest.mark.parametrize("hold", [0.002, 0.01, 0.045, 1.0])
@pytest.mark.parametrize("count", [1, 3])
def test_waiting_for_company_makes_nobody_late(hold: float, count: int) -> None:
    chosen = queues(count)
    for queue in chosen:
        queue.hold = hold
    come = arrivals.poisson(0.6 * CAPACITY, 5.0, 2, count)
    outcome = simulate(Promise(), chosen, come, seconds=5.0)
    assert outcome.late == outcome.dropped == 0
    assert outcome.good + outcome.refused == outcome.offered
