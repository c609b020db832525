"""Goodput over load, for every arrival process and policy: simulated, with several seeds."""

from __future__ import annotations

import math
import statistics
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

from bench.scheduler import arrivals
from bench.scheduler.hindsight import answered_with_hindsight
from bench.scheduler.policies import UNTUNED, tuned_fifo
from bench.scheduler.simulate import Outcome, Policy, simulate
from graphc.runtime.scheduler.costs import CostCurve
from graphc.runtime.scheduler.policy import Promise
from graphc.runtime.scheduler.work import Queue, Tenant

COSTS = CostCurve({rows: 0.004 + 0.001 * rows for rows in range(1, 33)})
SLO = 0.05
LOADS = (0.3, 0.5, 0.7, 0.8, 0.9, 1.0, 1.1, 1.3, 1.5, 2.0, 3.0)
PROMISE = "graphc"
TUNED = "first in, first out, tuned for each load"
HINDSIGHT = "with hindsight"

_HINDSIGHT_SECONDS = 6.0

_STUDENT = {2: 12.71, 3: 4.30, 4: 3.18, 5: 2.78, 6: 2.57, 7: 2.45, 8: 2.36, 9: 2.31, 10: 2.26}
"""97.5 % quantiles of Student's t, by the number of samples."""


@dataclass(frozen=True)
class Process:
    """An arrival process.

    Args:
        stream: Rate, seconds and seed to arrivals.
        queues: Shapes that requests have.
        swing: By how much of itself the rate rises and falls.
        hindsight: Loads for which the schedule of one who knows all arrivals is searched for, to compare with.
    """

    stream: Callable[[float, float, int], Iterable[tuple[float, int]]]
    queues: int = 1
    swing: float = 0.0
    hindsight: tuple[float, ...] = ()

    def bound(self, rate: float) -> float:
        """What one device can answer a second at most; over a day, the mean of what it can at each hour."""
        hours = [rate * (1 - self.swing * math.cos(2 * math.pi * hour / 48)) for hour in range(48)]
        return statistics.mean(COSTS.bound(now, SLO) for now in hours)


PROCESSES = {
    "independent requests": Process(arrivals.poisson),
    "bursts of 8": Process(arrivals.bursts, hindsight=(0.9, 1.0, 1.1, 1.5)),
    "four interleaved shapes": Process(partial(arrivals.interleaved, queues=4), 4),
    "a day's swing": Process(arrivals.diurnal, swing=0.8),
}


class WithoutRoom(Promise):
    """The promise without room for those to come: whatever still fits is accepted."""

    def _outgrown(self, position: int, now: float) -> float:
        return -math.inf


class Waiting(Promise):
    """The promise, but an idle device waits for batches to fill.

    Args:
        seconds: From a batch's first request.
    """

    def __init__(self, seconds: float) -> None:
        super().__init__()
        self.seconds = seconds

    def offer(self, request: Any, now: float) -> Any:
        request.queue.hold = self.seconds
        return super().offer(request, now)


ABLATIONS: dict[str, Callable[[], Policy]] = {
    "without room for those to come": WithoutRoom,
    "waiting 5 ms": lambda: Waiting(0.005),
    "waiting 10 ms": lambda: Waiting(0.010),
    "waiting 20 ms": lambda: Waiting(0.020),
}


def queues(count: int) -> list[Queue]:
    """Of one model."""
    tenant = Tenant("model")
    return [Queue(number, COSTS, slo=SLO, tenant=tenant) for number in range(count)]


def mean_and_interval(values: Sequence[float]) -> tuple[float, float]:
    """Mean, and half the width of its 95 % confidence interval."""
    if len(values) < 2:
        return values[0], 0.0
    spread = statistics.stdev(values) / math.sqrt(len(values))
    return statistics.mean(values), _STUDENT.get(len(values), 2.0) * spread


def sweep(
    seeds: Sequence[int], seconds: float, progress: Callable[[str], None] = lambda text: None
) -> list[dict[str, Any]]:
    """A row for each process, load and policy: goodput, its interval, its share of the bound, requests late."""
    rows: list[dict[str, Any]] = []
    for name, process in PROCESSES.items():
        for load in LOADS:
            progress(f"{name}, load {load}")
            rate = load * COSTS.capacity(SLO)

            def come(seed: int, process: Process = process, rate: float = rate) -> Iterable[tuple[float, int]]:
                return process.stream(rate, seconds, seed)

            policies: dict[str, Callable[[], Policy]] = {PROMISE: Promise, **ABLATIONS}
            policies |= {other: partial(make, COSTS.largest) for other, make in UNTUNED.items()}
            for policy, make in policies.items():
                outcomes = [simulate(make(), queues(process.queues), come(seed), seconds=seconds) for seed in seeds]
                rows.append({"process": name, "load": load, "policy": policy, **_figures(process, outcomes)})
            if load in process.hindsight:
                rows.append(
                    {"process": name, "load": load, "policy": HINDSIGHT, **_hindsight(process, come, seeds, seconds)}
                )
            best, size, limit = tuned_fifo(partial(queues, process.queues), partial(come, seeds[0]), seconds)
            rows.append(
                {
                    "process": name,
                    "load": load,
                    "policy": TUNED,
                    **_figures(process, [best]),
                    "size": size,
                    "limit": limit,
                }
            )
    return rows


def _hindsight(
    process: Process, come: Callable[[int], Iterable[tuple[float, int]]], seeds: Sequence[int], seconds: float
) -> dict[str, Any]:
    """Goodput of schedules made with hindsight. They are searched for in the first seconds: it takes long."""
    seconds = min(seconds, _HINDSIGHT_SECONDS)
    offered = [[time for time, _ in come(seed) if time < seconds] for seed in seeds]
    goodputs = [answered_with_hindsight(times, COSTS, SLO) / seconds for times in offered]
    goodput, interval = mean_and_interval(goodputs)
    bound = statistics.mean(process.bound(len(times) / seconds) for times in offered)
    return {"goodput": goodput, "interval": interval, "bound": bound, "share_of_bound": goodput / bound}


def _figures(process: Process, outcomes: Sequence[Outcome]) -> dict[str, Any]:
    goodput, interval = mean_and_interval([outcome.goodput for outcome in outcomes])
    bound = statistics.mean(process.bound(outcome.offered / outcome.seconds) for outcome in outcomes)
    answered = sum(outcome.offered - outcome.refused for outcome in outcomes)
    batches = [rows for outcome in outcomes for rows in outcome.batches]
    return {
        "goodput": goodput,
        "interval": interval,
        "bound": bound,
        "share_of_bound": goodput / bound,
        "late": sum(outcome.late for outcome in outcomes),
        "accepted": answered,
        "mean_batch": statistics.mean(batches) if batches else 0.0,
        "busy": statistics.mean(outcome.busy / outcome.seconds for outcome in outcomes),
    }
