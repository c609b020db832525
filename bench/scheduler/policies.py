"""Other policies, to compare with: what servers do today, and first-in-first-out tuned by hand."""

from __future__ import annotations

import itertools
from collections import deque
from collections.abc import Callable, Iterable

from bench.scheduler.simulate import Outcome, Policy, simulate
from graphc.runtime.scheduler.work import Assignment, Queue, Refusal, Request


class Fifo:
    """One line for all; an idle device takes the requests at its head that have the same shape.

    Args:
        size: Rows of a batch at most.
        limit: Requests that may wait; others are refused.
    """

    def __init__(self, size: int, limit: int | None = None) -> None:
        self.size = size
        self.limit = limit
        self.line: deque[Request] = deque()

    def offer(self, request: Request, now: float) -> Refusal | None:
        if self.limit is not None and len(self.line) >= self.limit:
            return Refusal("queue_full", 0.0)
        self.line.append(request)
        return None

    def next(self, device: int, now: float) -> Assignment | None:
        return self._start(self._head())

    def finished(self, device: int, now: float) -> None:
        """Nothing to note."""

    def _head(self) -> list[Request]:
        """The requests at the head that can run together."""
        if not self.line:
            return []
        shape = self.line[0].queue
        same = itertools.takewhile(lambda request: request.queue is shape, self.line)
        return list(itertools.islice(same, self.size))

    def _start(self, batch: list[Request]) -> Assignment | None:
        if not batch:
            return None
        for request in batch:
            self.line.remove(request)
        return assignment(batch)


class FixedDelay(Fifo):
    """A batch starts when it is full, when its oldest request has waited `delay` seconds, or at an unequal shape.

    This is the rule of Triton's dynamic batcher, and of most others.
    """

    def __init__(self, size: int, delay: float, limit: int | None = None) -> None:
        super().__init__(size, limit)
        self.delay = delay
        self.wake: float | None = None

    def next(self, device: int, now: float) -> Assignment | None:
        self.wake = None
        batch = self._head()
        closed = len(batch) == self.size or len(batch) < len(self.line)
        if batch and not closed and now < (due := batch[0].arrival + self.delay):
            self.wake = due
            return None
        return self._start(batch)


class EarliestDeadline(Fifo):
    """Everything is accepted; the most urgent request goes first, with others of its shape; what is late is dropped."""

    def _head(self) -> list[Request]:
        if not self.line:
            return []
        shape = min(self.line, key=lambda request: request.deadline).queue
        same = sorted((r for r in self.line if r.queue is shape), key=lambda request: request.deadline)
        return same[: self.size]

    def next(self, device: int, now: float) -> Assignment | None:
        self.line = deque(request for request in self.line if request.deadline > now)
        return self._start(self._head())


class Aimd(Fifo):
    """Clipper's rule (Crankshaw et al., NSDI 2017): the batch grows by one while answers are on time, else by 0.9."""

    def __init__(self) -> None:
        super().__init__(1)
        self._size = 1.0
        self._running: dict[int, list[Request]] = {}

    def next(self, device: int, now: float) -> Assignment | None:
        self.size = max(1, int(self._size))
        batch = self._head()
        if batch:
            self.size = min(self.size, batch[0].queue.costs.largest)
            batch = batch[: self.size]
            self._running[device] = batch
        return self._start(batch)

    def finished(self, device: int, now: float) -> None:
        batch = self._running.pop(device)
        if any(now > request.deadline for request in batch):
            self._size = max(1.0, self._size * 0.9)
        elif len(batch) == self.size:
            self._size += 1


def assignment(batch: list[Request]) -> Assignment:
    """A batch of one shape, in the cheapest call that holds it."""
    queue = batch[0].queue
    call = queue.costs.single_call(len(batch))
    assert call is not None
    return Assignment(queue, call, tuple(batch), queue.costs.latencies[call.bucket])


def tuned_fifo(
    queues: Callable[[], list[Queue]], arrivals: Callable[[], Iterable[tuple[float, int]]], seconds: float
) -> tuple[Outcome, int, int]:
    """First-in-first-out at its best for one load: every batch size and limit of a grid is tried on that very load."""
    best: tuple[Outcome, int, int] | None = None
    largest = queues()[0].costs.largest
    for size in sorted({largest // 4, largest // 2, 5 * largest // 8, 3 * largest // 4, largest}):
        for limit in (size // 2, 3 * size // 4, size, 5 * size // 4, 3 * size // 2, 2 * size):
            if limit < 1:
                continue
            outcome = simulate(Fifo(size, limit), queues(), arrivals(), seconds=seconds)
            if best is None or outcome.good > best[0].good:
                best = outcome, size, limit
    assert best is not None
    return best


UNTUNED: dict[str, Callable[[int], Policy]] = {
    "fixed delay 5 ms": lambda size: FixedDelay(size, 0.005),
    "fixed delay 20 ms": lambda size: FixedDelay(size, 0.020),
    "earliest deadline": lambda size: EarliestDeadline(size),
    "AIMD": lambda size: Aimd(),
    "first in, first out": lambda size: Fifo(size),
}
"""What one gets without tuning, by name, given the largest batch."""
