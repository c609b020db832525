"""Which requests are accepted, in which batches they run, and when: the promise.

Pure: no clock, no threads. Times are seconds on any clock, handed in by whoever asks, so that the scheduler and the
simulator run this very code.

**The promise.** All accepted requests stand in a plan: batches in the order in which they will start. A request is
accepted only where the plan with it still ends every batch before the earliest deadline in it; otherwise it is refused
at once, with the time after which the plan has room. So, as far as the costs are right, what is accepted is on time.
They are what calls typically need; how far batches ended after their planned time is reserved for.

**Room for those to come.** A batch collects requests until it starts, and each makes it longer. A request that comes
long before its batch could start would, by its early deadline, keep that batch short. So a new batch is opened only if
its first request is on time with the growth that is to be expected of all batches until they start. This is what
reaches the bound G(λ) of `CostCurve.bound`: in overload, batches are full of requests that came lately.

**Nothing waits.** A device that is idle takes the first batch of the plan as it is: a lone request is never delayed,
and under load batches grow by themselves while the devices are busy.

**Shares.** Under overload, whoever has had more than its share of late (of device time, by weight), or has a lower
priority, leaves room in the plan for one batch of each that asks and has had less.

Sources: the bound and the batch sizes follow Nexus (Shen et al., SOSP 2019), planning with measured times Clockwork
(Gujarati et al., OSDI 2020), deferring to the end of the window Symphony (Chen et al., 2023).
"""

from __future__ import annotations

import math
from collections.abc import Iterator

from graphc.runtime.scheduler.work import Assignment, Batch, Queue, Refusal, Request, Tenant, first_step

_ROUNDING = 1e-9
"""Seconds: what sums of times may be off."""

_CANDIDATES = 4
"""Batches of its own queue that a request tries to join."""

_CAUTION = 0.7
"""Deviations by which expected growth is lessened."""


class Promise:
    """The policy of this module.

    Args:
        devices: How many there are; they are alike.
        margin: Seconds between the planned end of a batch and the earliest deadline in it: what waking the threads
            that wait for answers takes.
    """

    def __init__(self, devices: int = 1, *, margin: float = 0.0) -> None:
        self.margin = margin
        self._free = [0.0] * devices
        self._running: dict[int, Assignment] = {}
        self.wake: float | None = None
        self._plan: list[Batch] = []
        self._queues: dict[int, Queue] = {}

    @property
    def waiting(self) -> int:
        """Requests accepted that have not started."""
        return sum(len(batch.members) for batch in self._plan)

    def requests(self) -> Iterator[Request]:
        """Those that wait, in the order in which they will start."""
        for batch in self._plan:
            yield from batch.members

    def offer(self, request: Request, now: float) -> Refusal | None:
        """Accepts a request (None), or says why not.

        Args:
            request: Whose rows are at most what its queue's curve reaches to.
            now: The time.
        """
        queue = request.queue
        self._queues.setdefault(id(queue), queue)
        queue.arrived(request, now)
        tenant = queue.tenant
        if tenant.queue_limit is not None and tenant.waiting >= tenant.queue_limit:
            return Refusal("queue_full", max(0.0, self._drained(now) - now))
        if not self._join(request, now) and (refusal := self._open(request, now)) is not None:
            return refusal
        self._note_ends(now)
        tenant.waiting += 1
        queue.unanswered += 1
        return None

    def next(self, device: int, now: float) -> Assignment | None:
        """The batch that an idle device is to start now, or None where nothing waits that it could run.

        Where something waits for others to join it, `wake` is when to ask again.
        """
        self.wake = None
        plan = self._plan
        batch = next((b for b in plan if b.queue.devices is None or device in b.queue.devices), None)
        if batch is None or self._holds(batch, now):
            return None
        step = first_step(batch.queue.costs, batch.members)
        assert step is not None, "what no call can hold is not accepted"
        call, count = step
        taken = batch.members[:count]
        # Whatever it waited for company was not planned.
        end = now + batch.cost if batch.queue.hold else batch.end
        del batch.members[:count]
        if batch.members:
            batch.update()
            end -= batch.cost
        else:
            plan.remove(batch)
        for request in taken:
            request.batch = None
            batch.queue.tenant.waiting -= 1
        cost = batch.queue.costs.latencies[call.bucket]
        self._free[device] = now + cost
        batch.queue.used.add(cost, now)
        batch.queue.tenant.used.add(cost, now)
        found = self._running[device] = Assignment(batch.queue, call, tuple(taken), cost, end)
        return found

    def finished(self, device: int, now: float) -> None:
        """A device has ended its batch."""
        self._free[device] = now
        if (done := self._running.pop(device, None)) is not None:
            done.queue.unanswered -= len(done.requests)

    def cancel(self, request: Request, now: float) -> bool:
        """Takes a waiting request out; False where it has started or was taken out before.

        Where a shorter batch would upset the plan, its rows stay in it and are answered to nobody.
        """
        batch = request.batch
        if batch is None or request.cancelled:
            return False
        request.cancelled = True
        before = (list(batch.members), batch.rows, batch.deadline, batch.key, batch.cost)
        batch.members.remove(request)
        if not batch.members:
            position = self._plan.index(batch)
            del self._plan[position]
            if self._is_late(now):
                self._plan.insert(position, batch)
                batch.members = before[0]
                return True
        else:
            batch.update()
            if self._is_late(now):
                batch.members, batch.rows, batch.deadline, batch.key, batch.cost = before
                return True
        request.batch = None
        request.queue.tenant.waiting -= 1
        request.queue.unanswered -= 1
        return True

    def forget(self, tenant: Tenant) -> None:
        """Lets go of a tenant of whom nothing waits or runs."""
        self._queues = {key: queue for key, queue in self._queues.items() if queue.tenant is not tenant}

    def replan(self) -> None:
        """Takes over what has been measured: costs of the batches that wait."""
        for batch in self._plan:
            batch.cost = batch.cost_of(batch.members, batch.rows)

    # ---------------------------------------------------------------- the plan

    def _holds(self, batch: Batch, now: float) -> bool:
        """Whether a batch waits for others to join, as its queue asks for: never for longer than all stay on time."""
        queue = batch.queue
        if not queue.hold or len(self._plan) > 1 or batch.rows >= queue.full or not queue.expects_company(now):
            return False
        latest = batch.deadline - self._reserve(queue.tenant, batch.cost) - batch.cost
        due = min(min(request.arrival for request in batch.members) + queue.hold, latest)
        if now >= due - _ROUNDING:
            return False
        self.wake = due
        return True

    def _join(self, request: Request, now: float) -> bool:
        """Puts a request into a batch of its queue that is not full, if all stay on time."""
        tried = 0
        for position, batch in enumerate(self._plan):
            if batch.queue is not request.queue or batch.rows + request.rows > batch.queue.costs.largest:
                continue
            before = (batch.rows, batch.deadline, batch.key, batch.cost)
            tightens = request.deadline < batch.deadline - _ROUNDING
            batch.members.append(request)
            batch.rows += request.rows
            batch.deadline = min(batch.deadline, request.deadline)
            batch.key = min(batch.key, request.key)
            batch.cost = batch.cost_of(batch.members, batch.rows)
            if not self._is_late(now) and not (tightens and self._outgrown(position, now) > _ROUNDING):
                request.batch = batch
                if batch.key < before[2]:
                    self._move_forward(position, now)
                return True
            batch.members.pop()
            batch.rows, batch.deadline, batch.key, batch.cost = before
            tried += 1
            if tried == _CANDIDATES:
                break
        return False

    def _move_forward(self, position: int, now: float) -> None:
        """Puts a batch that has become more urgent where it belongs, unless that makes another late."""
        batch = self._plan.pop(position)
        self._insert(batch)
        if self._is_late(now):
            self._plan.remove(batch)
            self._plan.insert(position, batch)

    def _open(self, request: Request, now: float) -> Refusal | None:
        """Puts a request into a batch of its own, if all stay on time."""
        batch = Batch(request.queue)
        batch.members.append(request)
        batch.update()
        position = self._insert(batch)
        if self._is_late(now) and request.priority:
            self._plan.remove(batch)
            batch.key = request.plain_key
            position = self._insert(batch)
        late = self._is_late(now)
        excess = self._outgrown(position, now) if request.deadline < math.inf else 0.0
        reason = "deadline"
        if not late and excess <= _ROUNDING:
            excess = self._room_wanted(request, now)
            reason = "share"
            if excess <= _ROUNDING:
                request.batch = batch
                return None
        del self._plan[position]
        if late:
            end = self._drained(now) + batch.cost
            excess = max(excess, end + self._reserve(request.queue.tenant, end - now) - request.deadline)
        return Refusal(reason, max(excess, _ROUNDING))

    def _insert(self, batch: Batch) -> int:
        plan, position = self._plan, len(self._plan)
        while position and plan[position - 1].key > batch.key:
            position -= 1
        plan.insert(position, batch)
        return position

    def _timeline(self, now: float) -> list[float]:
        """When each device is free."""
        return [self._ready(device, now) for device in range(len(self._free))]

    def _ready(self, device: int, now: float) -> float:
        """When a device is free; one that is late is taken to need as long again as it is late already."""
        planned = self._free[device]
        if planned >= now:
            return planned
        return now + (now - planned) if device in self._running else now

    def _reserve(self, tenant: Tenant, seconds: float) -> float:
        """Seconds by which what is planned to end in `seconds` may end later, and its answers be handed out."""
        if len(self._plan) == 1 and not self._running:
            # Of what never runs nothing is learnt: an idle device is given all that typically is on time.
            return self.margin
        # On a machine that is so disturbed that nothing can be promised, half of the time is what is left to plan with.
        return self.margin + min(max(tenant.jitter, tenant.doubt * seconds), seconds)

    def _note_ends(self, now: float) -> None:
        """Notes when each batch is planned to end: what has been accepted rests on that."""
        free = self._timeline(now)
        for batch in self._plan:
            batch.end = self._place(batch, free)

    def _is_late(self, now: float) -> bool:
        """Whether some batch of the plan may end after its deadline."""
        free = self._timeline(now)
        alike = len(free) == 1
        for batch in self._plan:
            if alike:
                free[0] = end = free[0] + batch.cost
            else:
                end = self._place(batch, free)
            if end + self._reserve(batch.queue.tenant, end - now) - _ROUNDING > batch.deadline:
                return True
        return False

    @staticmethod
    def _place(batch: Batch, free: list[float]) -> float:
        """Takes the time of a batch from the devices that are `free` first; answers when it ends."""
        if len(free) == 1:
            free[0] += batch.cost
            return free[0]
        end = 0.0
        for cost in batch.steps():
            device = _earliest(free, batch.queue.devices)
            free[device] += cost
            end = max(end, free[device])
        return end

    def _outgrown(self, position: int, now: float) -> float:
        """Seconds by which the batch at `position` would be late if those up to it grew as requests came of late.

        Growth is taken a little below its mean, by its deviation: where requests come in bursts, room kept for some
        that may not come costs more than a batch that is a little short.
        """
        free = self._timeline(now)
        end = deadline = variance = 0.0
        own = self._plan[position].queue
        for batch in self._plan[: position + 1]:
            device = _earliest(free, batch.queue.devices)
            queue = batch.queue
            growth = queue.arrivals.rate(now) * (free[device] - now)
            if queue.tenant is not own.tenant and own.precedes(queue, now):
                growth = 0.0
            rows = min(queue.costs.largest, batch.rows + round(growth))
            longer = max(0.0, queue.costs(rows) - batch.cost)
            if rows > batch.rows:
                variance += queue.dispersion.value * longer * longer / (rows - batch.rows)
            end = self._place(batch, free) + longer
            free[device] += longer
            deadline = batch.deadline
        return end - _CAUTION * math.sqrt(variance) + self._reserve(own.tenant, end - now) - deadline

    def _room_wanted(self, request: Request, now: float) -> float:
        """Seconds that the plan, with `request` in it, is too long for one batch of each queue that has had less."""
        if len(self._queues) == 1 or request.deadline == math.inf:
            return 0.0
        planned = {id(batch.queue) for batch in self._plan}
        claims = [
            q
            for q in self._queues.values()
            if id(q) not in planned and q.is_active(now) and q.precedes(request.queue, now)
        ]
        if not claims:
            return 0.0
        end, wanted = self._drained(now), 0.0
        for queue in claims:
            rows = max(1, min(queue.costs.largest, int(queue.arrivals.rate(now) * (end - now))))
            end += queue.costs(rows) / len(self._free)
            wanted = max(wanted, end + self._reserve(queue.tenant, end - now) - now - queue.slo)
        return wanted

    def _drained(self, now: float) -> float:
        """When the first device would be idle if nothing else came."""
        free = self._timeline(now)
        for batch in self._plan:
            self._place(batch, free)
        return min(free)


def _earliest(free: list[float], devices: tuple[int, ...] | None) -> int:
    if len(free) == 1:
        return 0
    return min(range(len(free)) if devices is None else devices, key=free.__getitem__)
