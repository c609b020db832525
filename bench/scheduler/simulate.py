"""A discrete-event simulator of one scheduler: the policy's own code against arrivals, on a clock of its own."""

from __future__ import annotations

import heapq
import itertools
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from typing import Protocol

from graphc.runtime.scheduler.work import Assignment, Queue, Refusal, Request


class Policy(Protocol):
    """What the simulator asks. A policy that wants to be asked again at some time says so with `wake`."""

    def offer(self, request: Request, now: float) -> Refusal | None: ...
    def next(self, device: int, now: float) -> Assignment | None: ...
    def finished(self, device: int, now: float) -> None: ...


@dataclass
class Outcome:
    """What came of a simulation.

    Args:
        seconds: Simulated.
        offered: Requests that came.
        refused: Of them, refused at once.
        dropped: Accepted, but never run.
        late: Answered after their deadline.
        latencies: Of those answered on time, by queue.
        batches: Rows of each batch.
        busy: Seconds that devices worked.
    """

    seconds: float
    offered: int = 0
    refused: int = 0
    dropped: int = 0
    late: int = 0
    latencies: dict[int, list[float]] = field(default_factory=dict)
    batches: list[int] = field(default_factory=list)
    busy: float = 0.0

    @property
    def good(self) -> int:
        """Requests answered on time."""
        return sum(map(len, self.latencies.values()))

    @property
    def goodput(self) -> float:
        """Of them, a second."""
        return self.good / self.seconds


def simulate(
    policy: Policy,
    queues: Sequence[Queue],
    arrivals: Iterable[tuple[float, int]],
    *,
    seconds: float,
    devices: int = 1,
    duration: Callable[[Assignment], float] | None = None,
) -> Outcome:
    """Runs a policy.

    Args:
        policy: With its state fresh.
        queues: By the numbers in `arrivals`; each request's deadline is its queue's `slo`.
        arrivals: What comes when.
        seconds: How long arrivals last; requests still waiting then are run to their end.
        devices: How many there are.
        duration: Seconds that a batch really takes; its cost if None.
    """
    outcome = Outcome(seconds, latencies={number: [] for number in range(len(queues))})
    numbers = {id(queue): number for number, queue in enumerate(queues)}
    stream, order = iter(arrivals), itertools.count()
    events: list[tuple[float, int, int, Assignment | None]] = []
    idle = set(range(devices))
    coming = next(stream, None)
    unanswered = 0
    while coming is not None or events:
        # All that happens at one moment happens before anything starts.
        now = min(events[0][0] if events else float("inf"), coming[0] if coming else float("inf"))
        while coming is not None and coming[0] <= now:
            queue = queues[coming[1]]
            outcome.offered += 1
            if policy.offer(Request(queue, now, now + queue.slo), now) is not None:
                outcome.refused += 1
            else:
                unanswered += 1
            coming = next(stream, None)
        while events and events[0][0] <= now:
            _, _, device, done = heapq.heappop(events)
            if done is None:
                continue
            policy.finished(device, now)
            idle.add(device)
            for request in done.requests:
                unanswered -= 1
                if now > request.deadline + 1e-9:
                    outcome.late += 1
                else:
                    outcome.latencies[numbers[id(request.queue)]].append(now - request.arrival)
        for device in sorted(idle):
            assignment = policy.next(device, now)
            if assignment is None:
                continue
            idle.discard(device)
            outcome.batches.append(assignment.call.rows)
            taken = duration(assignment) if duration else assignment.cost
            outcome.busy += taken
            heapq.heappush(events, (now + taken, next(order), device, assignment))
        wake: float | None = getattr(policy, "wake", None)
        if idle and wake is not None and wake > now:
            heapq.heappush(events, (wake, next(order), -1, None))
    outcome.dropped = unanswered
    return outcome
