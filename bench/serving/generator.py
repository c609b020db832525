"""An open-loop load generator: requests go out when they are due, whether answers come or not.

When each request is due is fixed in advance, and its latency counts from then: a server that stalls for a second
delays all requests of that second, and they all show it (no coordinated omission). Every request ends in a counted
outcome. Bounded in count, in time and in requests in flight.
"""

from __future__ import annotations

import asyncio
import itertools
import math
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

from bench.scheduler.arrivals import poisson
from bench.serving.senders import Sender

QUANTILES = (0.5, 0.9, 0.99, 0.999)
MOST = 1_000_000
"""Requests of one load at most."""


@dataclass(frozen=True)
class Limits:
    """What bounds a load.

    Args:
        timeout: Seconds after which a request counts as unanswered.
        in_flight: Requests sent and not answered; what is due beyond them is counted as `unsent`.
    """

    timeout: float = 10.0
    in_flight: int = 4096


@dataclass
class Tally:
    """What became of the requests of a load.

    Args:
        seconds: That the load took, to the last request's sending.
        outcomes: Requests by what became of them: `ok`, `wrong`, `timeout`, `connection`, `unsent`, or a status.
        latencies: Seconds from when a request was due to its right answer.
        lags: Seconds from when a request was due to when it went out.
        cpu_share: Of one processor, taken by this generator itself.
    """

    seconds: float = 0.0
    outcomes: Counter[str] = field(default_factory=Counter)
    latencies: list[float] = field(default_factory=list)
    lags: list[float] = field(default_factory=list)
    cpu_share: float = 0.0

    def report(self) -> Report:
        """The figures."""
        return Report(
            seconds=self.seconds,
            offered=self.outcomes.total(),
            answered=self.outcomes["ok"],
            rate=self.outcomes["ok"] / self.seconds if self.seconds else 0.0,
            outcomes=dict(sorted(self.outcomes.items())),
            latency=quantiles(self.latencies),
            lag=quantiles(self.lags),
            cpu_share=self.cpu_share,
        )


@dataclass(frozen=True)
class Report:
    """The figures of a load; latencies are of right answers alone, in seconds, by quantile."""

    seconds: float
    offered: int
    answered: int
    rate: float
    outcomes: dict[str, int]
    latency: dict[str, float]
    lag: dict[str, float]
    cpu_share: float


def quantiles(values: Sequence[float]) -> dict[str, float]:
    """Values at the usual quantiles, each one that occurred; empty for none."""
    ordered = sorted(values)
    if not ordered:
        return {}
    found = {f"p{100 * q:g}": ordered[max(0, math.ceil(q * len(ordered)) - 1)] for q in QUANTILES}
    return {**found, "max": ordered[-1]}


async def offer(sender: Sender, due: Sequence[float], limits: Limits = Limits()) -> Tally:
    """Sends requests when they are due, and waits for what became of each.

    Args:
        sender: What sends them.
        due: Seconds from the start, ascending.
        limits: Bounds.
    """
    tally = Tally()
    open_requests: set[asyncio.Task[None]] = set()
    async with sender:
        used = time.process_time()
        start = time.perf_counter() + 0.01
        for number, moment in enumerate(due):
            if (rest := start + moment - time.perf_counter()) > 0:
                await asyncio.sleep(rest)
            elif number % 16 == 0:
                await asyncio.sleep(0)  # late: answers are still to be read
            if len(open_requests) >= limits.in_flight:
                tally.outcomes["unsent"] += 1
                continue
            task = asyncio.create_task(_one(sender, number, start + moment, limits.timeout, tally))
            open_requests.add(task)
            task.add_done_callback(open_requests.discard)
        tally.seconds = time.perf_counter() - start
        if open_requests:
            await asyncio.wait(open_requests)
        tally.cpu_share = (time.process_time() - used) / (time.perf_counter() - start)
    return tally


async def keep_busy(sender: Sender, clients: int, seconds: float, limits: Limits = Limits()) -> Tally:
    """A closed loop: so many clients, each of which sends its next request when it has its answer.

    It finds how many requests a server answers at most. Its latencies say little: a slow server is asked less.
    """
    tally = Tally()
    numbers = itertools.count()
    async with sender:
        used = time.process_time()
        start = time.perf_counter()

        async def client() -> None:
            while (now := time.perf_counter()) < start + seconds and (number := next(numbers)) < MOST:
                await _one(sender, number, now, limits.timeout, tally)

        await asyncio.gather(*(client() for _ in range(clients)))
        tally.seconds = time.perf_counter() - start
        tally.cpu_share = (time.process_time() - used) / tally.seconds
    return tally


async def _one(sender: Sender, number: int, due: float, timeout: float, tally: Tally) -> None:
    tally.lags.append(time.perf_counter() - due)
    try:
        async with asyncio.timeout_at(asyncio.get_running_loop().time() + timeout):
            outcome = await sender.send(number)
    except TimeoutError:
        outcome = "timeout"
    tally.outcomes[outcome] += 1
    if outcome == "ok":
        tally.latencies.append(time.perf_counter() - due)


def constant(rate: float, seconds: float) -> Iterator[float]:
    """One request every 1 / `rate` seconds."""
    return (number / rate for number in range(round(rate * seconds)))


def schedule(kind: str, rate: float, seconds: float, seed: int) -> list[float]:
    """When requests are due, `poisson` or `constant`."""
    times = constant(rate, seconds) if kind == "constant" else (time for time, _ in poisson(rate, seconds, seed))
    return list(itertools.islice(times, MOST))
