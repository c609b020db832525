"""The promise: what is accepted is on time, and every request has exactly one end."""

from __future__ import annotations

import math

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from graphc.runtime.scheduler.costs import CostCurve
from graphc.runtime.scheduler.policy import Promise
from graphc.runtime.scheduler.work import Assignment, Queue, Refusal, Request, Tenant

LINEAR = CostCurve({n: 0.004 + 0.001 * n for n in range(1, 33)})
STAIRS = CostCurve({1: 0.005, 8: 0.012, 32: 0.036})
EXACT = CostCurve({1: 0.005, 4: 0.009}, padding=False, largest=8)


class Machine(RuleBasedStateMachine):
    """Requests, cancellations and devices that take exactly, or at most, as long as their batches cost."""

    @initialize(devices=st.integers(1, 3), subset=st.booleans())
    def start(self, devices: int, subset: bool) -> None:
        tenants = [Tenant("a"), Tenant("b", share=2.0, queue_limit=20)]
        # With one device, any; with several, some queue is bound to one of them.
        only = (devices - 1,) if subset and devices == 1 else None
        self.queues = [
            Queue("linear", LINEAR, slo=0.05, tenant=tenants[0], devices=only),
            Queue("stairs", STAIRS, slo=0.08, tenant=tenants[0]),
            Queue("exact", EXACT, slo=0.04, tenant=tenants[1]),
        ]
        self.now = 0.0
        self.policy = Promise(devices)
        self.devices = devices
        self.running: dict[int, tuple[float, Assignment]] = {}
        self.waiting: list[Request] = []
        self.ends: dict[int, str] = {}
        self.keep: list[Request] = []

    def end(self, request: Request, how: str) -> None:
        assert id(request) not in self.ends, f"{self.ends.get(id(request))}, then {how}"
        self.ends[id(request)] = how

    def dispatch(self) -> None:
        for device in range(self.devices):
            if device not in self.running and (found := self.policy.next(device, self.now)) is not None:
                assert found.call.rows == sum(request.rows for request in found.requests)
                assert found.call.rows <= found.call.bucket
                assert all(request.queue is found.queue for request in found.requests)
                self.running[device] = (self.now + found.cost, found)
                for request in found.requests:
                    self.waiting.remove(request)

    def until(self, time: float) -> None:
        """Lets devices work until `time`."""
        while self.running and (first := min(self.running, key=lambda d: self.running[d][0])) is not None:
            finish, done = self.running[first]
            if finish > time:
                break
            self.now = finish
            del self.running[first]
            self.policy.finished(first, self.now)
            for request in done.requests:
                if not request.cancelled:
                    assert self.now <= request.deadline + 1e-6, f"late by {self.now - request.deadline:g} s"
                    self.end(request, "answered")
            self.dispatch()
        self.now = max(self.now, time)

    @rule(
        queue=st.integers(0, 2),
        gap=st.sampled_from([0.0, 0.0001, 0.001, 0.003, 0.02]),
        rows=st.sampled_from([1, 1, 1, 4]),
        slack=st.sampled_from([None, None, 0.02, 0.2, math.inf]),
        priority=st.sampled_from([0, 0, 0, 1, -1]),
        count=st.integers(1, 12),
    )
    def arrive(self, queue: int, gap: float, rows: int, slack: float | None, priority: int, count: int) -> None:
        self.until(self.now + gap)
        chosen = self.queues[queue]
        for _ in range(count):
            request = Request(
                chosen,
                self.now,
                self.now + (chosen.slo if slack is None else slack),
                rows=rows,
                priority=priority,
            )
            self.keep.append(request)
            refusal = self.policy.offer(request, self.now)
            if refusal is None:
                self.waiting.append(request)
            else:
                assert refusal.retry_after >= 0
                self.end(request, "refused")
        self.dispatch()

    @precondition(lambda self: self.waiting)
    @rule(data=st.data())
    def cancel(self, data: st.DataObject) -> None:
        request = data.draw(st.sampled_from(self.waiting))
        first = not request.cancelled
        assert self.policy.cancel(request, self.now) is first
        if first:
            self.end(request, "cancelled")
        if request.batch is None:
            self.waiting.remove(request)

    @rule(gap=st.sampled_from([0.001, 0.01, 0.1]))
    def rest(self, gap: float) -> None:
        self.until(self.now + gap)

    @invariant()
    def counts_agree(self) -> None:
        assert self.policy.waiting == len(self.waiting)
        assert set(map(id, self.policy.requests())) == set(map(id, self.waiting))
        by_tenant = {id(q.tenant): q.tenant for q in self.queues}
        for tenant in by_tenant.values():
            assert tenant.waiting == sum(request.queue.tenant is tenant for request in self.waiting)

    @invariant()
    def nothing_waits_for_an_idle_device(self) -> None:
        assert not self.waiting or len(self.running) == self.devices or any(q.devices for q in self.queues)

    def teardown(self) -> None:
        if hasattr(self, "policy"):
            self.until(self.now + 1e6)
            assert not self.waiting
            assert set(self.ends) == set(map(id, self.keep))


TestMachine = Machine.TestCase
TestMachine.settings = settings(max_examples=60, stateful_step_count=40, deadline=None)


def offer(policy: Promise, queue: Queue, now: float, **arguments: object) -> tuple[Request, Refusal | None]:
    request = Request(queue, now, now + queue.slo, **arguments)  # type: ignore[arg-type]
    return request, policy.offer(request, now)


def test_a_lone_request_starts_at_once() -> None:
    policy, queue = Promise(), Queue("q", LINEAR, slo=0.05)
    request, refusal = offer(policy, queue, 1.0)
    assert refusal is None
    assert policy.next(0, 1.0) == Assignment(queue, LINEAR.first_call(1), (request,), 0.005)
    assert policy.next(0, 1.0) is None


def test_what_cannot_be_on_time_is_refused_with_when_to_come_back() -> None:
    policy, queue = Promise(), Queue("q", LINEAR, slo=0.05)
    offer(policy, queue, 0.0)
    policy.next(0, 0.0)
    accepted = sum(offer(policy, queue, 0.0)[1] is None for _ in range(60))
    assert 32 <= accepted <= 37, "a full batch after the one that runs; a second could end in time with 5 more rows"
    _, refusal = offer(policy, queue, 0.0)
    assert refusal is not None
    assert refusal.reason == "deadline"
    assert 0 < refusal.retry_after < 0.05
    now = 0.005
    policy.finished(0, now)
    while (found := policy.next(0, now)) is not None and now < refusal.retry_after:
        now += found.cost
        policy.finished(0, now)
    assert offer(policy, queue, max(now, refusal.retry_after))[1] is None


def test_a_deadline_shorter_than_the_model_takes_is_refused_at_once() -> None:
    policy, queue = Promise(), Queue("q", LINEAR, slo=0.004)
    assert offer(policy, queue, 0.0)[1] is not None
    assert policy.next(0, 0.0) is None


def test_a_margin_is_kept() -> None:
    policy, queue = Promise(margin=0.001), Queue("q", CostCurve({1: 0.01}), slo=0.0105)
    assert offer(policy, queue, 0.0)[1] is not None
    assert offer(Promise(margin=0.0004), queue, 0.0)[1] is None


def test_without_deadlines_all_is_accepted_up_to_the_limit() -> None:
    queue = Queue("q", LINEAR, tenant=Tenant("t", queue_limit=100))
    policy = Promise()
    refusals = [offer(policy, queue, 0.0)[1] for _ in range(103)]
    assert [refusal and refusal.reason for refusal in refusals] == [None] * 100 + ["queue_full"] * 3
    assert refusals[-1] is not None
    assert refusals[-1].retry_after == pytest.approx(3 * LINEAR(32) + LINEAR(4))


def test_requests_of_a_queue_start_in_their_order() -> None:
    policy, queue = Promise(), Queue("q", LINEAR)
    requests = [offer(policy, queue, 0.0)[0] for _ in range(70)]
    started: list[Request] = []
    while (found := policy.next(0, 0.0)) is not None:
        started += found.requests
    assert started == requests


def test_priority_starts_first() -> None:
    policy = Promise()
    queues = [Queue(name, CostCurve({1: 0.01}), slo=0.1) for name in "ab"]
    low = [offer(policy, queues[0], 0.0)[0] for _ in range(3)]
    high, refusal = offer(policy, queues[1], 0.0, priority=1)
    assert refusal is None
    order = []
    while (found := policy.next(0, 0.0)) is not None:
        order += found.requests
    assert order == [high, *low]


def test_priority_makes_nobody_late() -> None:
    policy = Promise()
    queues = [Queue("a", CostCurve({1: 0.03}), slo=0.035), Queue("b", CostCurve({1: 0.03}), slo=0.1)]
    first, _ = offer(policy, queues[0], 0.0)
    _, refusal = offer(policy, queues[1], 0.0, priority=1)
    assert refusal is None
    found = policy.next(0, 0.0)
    assert found is not None
    assert found.requests == (first,)


def test_a_cancelled_request_leaves_room() -> None:
    policy, queue = Promise(), Queue("q", CostCurve({1: 0.02}), slo=0.05)
    requests = [offer(policy, queue, 0.0)[0] for _ in range(2)]
    assert offer(policy, queue, 0.0)[1] is not None
    assert policy.cancel(requests[0], 0.0)
    assert not policy.cancel(requests[0], 0.0)
    assert offer(policy, queue, 0.0)[1] is None


def test_costs_that_changed_are_planned_with() -> None:
    policy, queue = Promise(), Queue("q", CostCurve({1: 0.02}), slo=0.05)
    offer(policy, queue, 0.0)
    queue.costs = CostCurve({1: 0.005})
    policy.replan()
    assert sum(offer(policy, queue, 0.0)[1] is None for _ in range(20)) == 9


def test_low_priority_without_a_deadline_is_not_starved() -> None:
    """Every 10 ms a request of high priority comes, each takes 10 ms: the low one gets its turn all the same."""
    policy = Promise()
    queues = [Queue(name, CostCurve({1: 0.01})) for name in "ab"]
    low, _ = offer(policy, queues[0], 0.0)
    started: list[Request] = []
    for turn in range(400):
        now = turn * 0.01
        offer(policy, queues[1], now, priority=1)
        policy.finished(0, now)
        found = policy.next(0, now)
        assert found is not None
        started += found.requests
        if low in started:
            break
    assert low in started
    assert 1.0 <= now <= 3.0, "a level of priority is worth a second"


def test_a_device_that_is_overdue_is_promised_no_more_than_it_may_keep() -> None:
    policy, queue = Promise(), Queue("q", LINEAR, slo=0.05)
    offer(policy, queue, 0.0)
    assert policy.next(0, 0.0) is not None
    assert offer(policy, queue, 0.006)[1] is None, "a little late"
    refusal = offer(policy, queue, 0.2)[1]
    assert refusal is not None, "it may hang"
    policy.finished(0, 0.21)
    assert policy.next(0, 0.21) is not None
    policy.finished(0, 0.22)
    assert offer(policy, queue, 0.22)[1] is None
