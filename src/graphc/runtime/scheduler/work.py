"""What is scheduled: requests, the queues that they stand in, whose they are, and the batches that they run in."""

from __future__ import annotations

import bisect
import itertools
import math
from collections.abc import Hashable, Sequence
from dataclasses import dataclass, field
from typing import Any

from graphc.runtime.scheduler.costs import Call, CostCurve
from graphc.runtime.scheduler.demand import Decaying, Dispersion

_PATIENCE = 1.0
"""Seconds after which a request without a deadline is as urgent as one whose deadline is now."""

_URGENCY = 1.0
"""Seconds by which one level of priority moves a request to the front."""

_MEMORY = 4.0
"""How many of its own deadlines a queue's arrival rate remembers."""

_SHARE_MEMORY = 1.0
"""Seconds over which shares are balanced."""

_ACTIVE = 8.0
"""Longest gaps between arrivals, in deadlines, after which a queue counts as one that nobody uses."""


class Request:
    """One request: some rows of one queue.

    Args:
        queue: Its queue.
        arrival: When it came.
        deadline: When its answer is due; infinite where nothing is promised.
        rows: Rows that it has.
        priority: Higher goes first.
        payload: Whatever the caller needs to answer it.
    """

    __slots__ = ("arrival", "batch", "cancelled", "deadline", "key", "payload", "priority", "queue", "rows")

    def __init__(
        self,
        queue: Queue,
        arrival: float,
        deadline: float = math.inf,
        *,
        rows: int = 1,
        priority: int = 0,
        payload: Any = None,
    ) -> None:
        self.queue = queue
        self.arrival = arrival
        self.deadline = deadline
        self.rows = rows
        self.priority = priority
        self.payload = payload
        self.key = min(deadline, arrival + _PATIENCE) - _URGENCY * priority
        self.batch: Batch | None = None
        self.cancelled = False

    @property
    def plain_key(self) -> float:
        """How urgent it would be without its priority."""
        return min(self.deadline, self.arrival + _PATIENCE)


class Queue:
    """Requests that can share a batch: of one model, of one shape.

    Args:
        name: What tells it from others.
        costs: What its batches cost; may be replaced as more is measured.
        slo: Usual time from arrival to deadline, seconds.
        tenant: Whoever shares the devices with others, e.g. the model.
        devices: Numbers of the devices that can run it; all if None.

    Attributes:
        hold: Seconds that a batch may wait on an idle device for others to join.
        full: Rows at which it waits no longer.
    """

    def __init__(
        self,
        name: Hashable,
        costs: CostCurve,
        *,
        slo: float = math.inf,
        tenant: Tenant | None = None,
        devices: Sequence[int] | None = None,
    ) -> None:
        self.name = name
        self.costs = costs
        self.slo = slo
        self.tenant = tenant or Tenant(name)
        self.devices = None if devices is None else tuple(devices)
        self.arrivals = Decaying(_MEMORY * min(slo, _PATIENCE))
        self.dispersion = Dispersion(min(slo, _PATIENCE) / 2)
        self.used = Decaying(_SHARE_MEMORY)
        self.last_arrival = -math.inf
        self.priority = 0
        self.unanswered = 0
        self.company = Decaying(_SHARE_MEMORY)
        self.hold = 0.0
        self.full = costs.largest

    def is_active(self, now: float) -> bool:
        """Whether somebody uses it."""
        return now - self.last_arrival <= _ACTIVE * min(self.slo, _PATIENCE)

    def arrived(self, request: Request, now: float) -> None:
        """Counts a request, accepted or not."""
        self.arrivals.add(request.rows, now)
        self.dispersion.add(request.rows, now)
        self.last_arrival = now
        self.priority = request.priority
        if self.unanswered:
            self.company.add(1.0, now)

    def expects_company(self, now: float) -> bool:
        """Whether another request is to be expected within `hold`: a lone caller has none, however often it calls."""
        return self.company.rate(now) * self.hold >= 1.0

    def precedes(self, other: Queue, now: float) -> bool:
        """Whether `other` has to leave room for this one: of lower priority, or had more of its share."""
        if self.priority != other.priority:
            return self.priority > other.priority
        if self.tenant is not other.tenant:
            mine, others = self.tenant, other.tenant
            return mine.used.total(now) / mine.share < others.used.total(now) / others.share
        return self.used.total(now) < other.used.total(now)


class Tenant:
    """A sharer of the devices.

    Args:
        name: What tells it from others.
        share: Its weight: under overload tenants get device time in proportion to it.
        queue_limit: Requests that may wait; None is as many as can be on time.

    Attributes:
        jitter: Seconds to reserve for batches that end later than planned: `Jitter.value`.
        doubt: The same as a share of the time planned: `Jitter.doubt`.
    """

    def __init__(self, name: Hashable, *, share: float = 1.0, queue_limit: int | None = None) -> None:
        self.name = name
        self.share = share
        self.queue_limit = queue_limit
        self.waiting = 0
        self.used = Decaying(_SHARE_MEMORY)
        self.jitter = self.doubt = 0.0


@dataclass(frozen=True)
class Refusal:
    """Why a request was not accepted.

    Args:
        reason: `deadline` (it would have been late), `share` (others that had less come first) or `queue_full`.
        retry_after: Seconds after which the same request would be accepted if nothing else came.
    """

    reason: str
    retry_after: float


@dataclass(frozen=True)
class Assignment:
    """What a device is to do.

    Args:
        queue: Whose batch it is.
        call: Bucket and rows.
        requests: Whose rows they are, in order.
        cost: Seconds that it is expected to take.
        end: When it was planned to end as its last request, or the last before them, was accepted.
    """

    queue: Queue
    call: Call
    requests: tuple[Request, ...]
    cost: float
    end: float = field(default=math.nan, compare=False)


class Batch:
    """Requests that will run together, and what is due when."""

    __slots__ = ("cost", "deadline", "end", "key", "members", "queue", "rows")

    def __init__(self, queue: Queue) -> None:
        self.queue = queue
        self.members: list[Request] = []
        self.rows = 0
        self.deadline = math.inf
        self.key = math.inf
        self.cost = 0.0
        self.end = math.inf

    def update(self) -> None:
        """Derives what depends on the members."""
        self.rows = sum([request.rows for request in self.members])
        self.deadline = min([request.deadline for request in self.members])
        self.key = min([request.key for request in self.members])
        self.cost = self.cost_of(self.members, self.rows)

    def cost_of(self, members: Sequence[Request], rows: int) -> float:
        """Seconds that `members`, of `rows` rows, take in the calls that `first_step` makes of them."""
        return self.queue.costs(rows) if rows == len(members) else sum(_steps(self.queue.costs, members))

    def steps(self) -> list[float]:
        """Seconds of each of its calls, which several devices can share."""
        costs = self.queue.costs
        if self.rows == len(self.members):
            return [costs.latencies[call.bucket] for call in costs.calls(self.rows)]
        return _steps(costs, self.members)


def _steps(costs: CostCurve, members: Sequence[Request]) -> list[float]:
    """Seconds of each call; infinite for a request that no call holds."""
    found, start = [], 0
    while start < len(members):
        step = first_step(costs, members[start:])
        if step is None:
            return [math.inf]
        found.append(costs.latencies[step[0].bucket])
        start += step[1]
    return found


def first_step(costs: CostCurve, members: Sequence[Request]) -> tuple[Call, int] | None:
    """The call to begin with, and how many of `members` it takes: a request's rows stay together.

    None where no bucket can take the first.
    """
    rows = sum([request.rows for request in members])
    call = costs.first_call(rows)
    if rows == len(members):
        return call, call.rows
    sizes = list(itertools.accumulate(request.rows for request in members))
    for count in range(max(1, bisect.bisect_right(sizes, call.rows)), 0, -1):
        if (single := costs.single_call(sizes[count - 1])) is not None:
            return single, count
    return None
