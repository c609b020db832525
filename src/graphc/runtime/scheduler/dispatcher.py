"""Accepting and running: the policy with a clock, and threads that run what it says."""

from __future__ import annotations

import threading
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import partial
from time import perf_counter

from graphc.errors import CircuitOpenError, DeadlineError, ExecutionError, SchedulerClosedError
from graphc.runtime.scheduler.answers import answer, refused
from graphc.runtime.scheduler.costs import Call
from graphc.runtime.scheduler.devices import Device
from graphc.runtime.scheduler.model import ModelQueue, Prepared, ServedModel
from graphc.runtime.scheduler.policy import Promise
from graphc.runtime.scheduler.reply import Outputs, Reply, Stages
from graphc.runtime.scheduler.statistics import BatchReport, Observer
from graphc.runtime.scheduler.work import Assignment, Refusal, Request

QUICK = 0.0001
"""Seconds up to which a call is not worth another thread's while: handing it over and back costs half of that."""


@dataclass(slots=True)
class Ticket:
    """What a request carries: its inputs and where its answer goes.

    Args:
        prepared: The inputs.
        future: Where the answer goes.
        expires: Whether the request has a limit of its own, after which nobody wants the answer.
    """

    prepared: Prepared
    future: Reply
    expires: bool


class ModelLeftError(SchedulerClosedError):
    """A model that was being asked has been removed or replaced meanwhile."""


class Dispatcher:
    """Accepts requests as its policy says, and runs them on the devices, each of which has a thread.

    Args:
        devices: What runs batches, one at a time each.
        margin: Seconds between the planned end of a batch and the earliest deadline in it.
        observers: Told of everything that happens.
    """

    def __init__(self, devices: Sequence[Device], margin: float, observers: Sequence[Observer]) -> None:
        self._devices = devices
        self._policy = Promise(len(devices), margin=margin)
        self._observers = observers
        self._lock = threading.Lock()
        self._left = threading.Condition(self._lock)
        self._idle = set(range(len(devices)))
        self._bells = [threading.Condition(self._lock) for _ in devices]
        self._closed = False
        self._threads = [
            threading.Thread(target=self._work, args=(number, device), name=f"graphc-device-{number}", daemon=True)
            for number, device in enumerate(devices)
        ]
        for thread in self._threads:
            thread.start()

    def check_open(self) -> None:
        """Makes sure that requests are taken.

        Raises:
            SchedulerClosedError: It is closed.
        """
        if self._closed:
            raise SchedulerClosedError("the scheduler is closed")

    def submit(self, prepared: Prepared, timeout: float | None, priority: int, *, quick: bool = False) -> Reply:
        """Accepts a request, to be run by a device's thread.

        Args:
            prepared: The request.
            timeout: Seconds that it has; those of its queue if None.
            priority: Higher goes first.
            quick: Run it in this thread after all where a device is idle and it takes no longer than `QUICK`.

        Raises:
            RefusedError: It was not accepted.
            SchedulerClosedError: The scheduler is closed, or its model is served no more.
        """
        take = quick and prepared.queue.costs(prepared.rows) <= QUICK
        assigned, request, ticket = self._accept(prepared, timeout, priority, take=take, alone=True)
        if assigned is not None:
            self._run_and_pass_on(*assigned)
        else:
            ticket.future.withdraw = partial(self._withdraw, request)
        return ticket.future

    def run(self, prepared: Prepared, timeout: float | None, priority: int) -> Outputs:
        """Answers a request; where a device is idle, in this very thread.

        Args:
            prepared: As of `submit`.
            timeout: As of `submit`.
            priority: As of `submit`.

        Raises:
            As `submit`, and what the request's future would.
        """
        assigned, _, ticket = self._accept(prepared, timeout, priority, take=True)
        if assigned is not None:
            self._run_and_pass_on(*assigned)
        return ticket.future.result()

    def _run_and_pass_on(self, device: int, found: Assignment) -> None:
        """Runs a batch in a caller's thread; what waits after it is the device's own thread's."""
        self._run(device, found)
        with self._lock:
            if self._policy.waiting or self._closed:
                self._bells[device].notify()

    def dismiss(self, served: ServedModel, timeout: float | None) -> bool:
        """Accepts nothing further for a model, answers what it has, and forgets it.

        Args:
            served: The model.
            timeout: Seconds after which what still waits fails; what runs ends as usual.

        Returns:
            Whether all was answered.
        """
        with self._lock:
            served.leaving = True
            whole = self._left.wait_for(lambda: not served.unanswered, timeout)
            waiting = [request for request in self._policy.requests() if request.queue.tenant is served.tenant]
            dropped = self._cancel(waiting)
        _fail(dropped, f"{served.name} was removed before the request was run")
        with self._lock:
            self._left.wait_for(lambda: not served.unanswered)
            self._policy.forget(served.tenant)
        return whole

    def close(self, *, drain: bool) -> None:
        """Accepts nothing more and ends the threads; what runs now is answered.

        Args:
            drain: Whether what waits is answered too; otherwise it fails.
        """
        with self._lock:
            self._closed = True
            dropped = [] if drain else self._cancel(self._policy.requests())
            for bell in self._bells:
                bell.notify_all()
        _fail(dropped, "the scheduler was closed before the request was run")
        for thread in self._threads:
            if thread is not threading.current_thread():
                thread.join()

    # ---------------------------------------------------------------- requests

    def _accept(
        self, prepared: Prepared, timeout: float | None, priority: int, *, take: bool, alone: bool = False
    ) -> tuple[tuple[int, Assignment] | None, Request, Ticket]:
        """Offers a request to the policy.

        With `take`, an idle device's next batch is the caller's to run; with `alone`, only if it is nobody else's.
        """
        queue = prepared.queue
        model = queue.model
        now = perf_counter()
        limit = queue.slo if timeout is None else min(queue.slo, timeout)
        ticket = Ticket(prepared, Reply(), timeout is not None)
        request = Request(queue, now, now + limit, rows=prepared.rows, priority=priority, payload=ticket)
        refusal, waited, assigned = self._offer(model, request, now, take, alone)
        if waited:
            self._tell_refused(model, "circuit_open")
            raise CircuitOpenError(
                f"{model.name} failed {model.settings.failures} times in a row and is left alone for a while",
                retry_after=waited,
            )
        if refusal is not None:
            self._tell_refused(model, refusal.reason)
            raise refused(model, refusal, limit)
        for observer in self._observers:
            observer.accepted(model.name)
        return assigned, request, ticket

    def _offer(
        self, model: ServedModel, request: Request, now: float, take: bool, alone: bool
    ) -> tuple[Refusal | None, float, tuple[int, Assignment] | None]:
        with self._lock:
            self.check_open()
            if model.leaving:
                raise ModelLeftError(f"{model.name} is served no more")
            if waited := model.breaker.wait(now):
                return None, waited, None
            refusal = self._policy.offer(request, now)
            if refusal is not None:
                model.breaker.abandoned()
                return refusal, 0.0, None
            for device in self._idle:
                # A device that is bound to processors is its own thread's.
                own = take and self._devices[device].cores is None and not (alone and self._policy.waiting > 1)
                if own and (found := self._policy.next(device, now)) is not None:
                    self._idle.discard(device)
                    return None, 0.0, (device, found)
                # It waits for company, or for another device: that is for the device's own thread to watch.
                self._bells[device].notify()
            return None, 0.0, None

    def _withdraw(self, request: Request) -> None:
        """A future was cancelled: its request leaves the plan."""
        queue = request.queue
        assert isinstance(queue, ModelQueue)
        with self._lock:
            withdrawn = self._policy.cancel(request, perf_counter())
            if withdrawn:
                queue.model.breaker.abandoned()
                if queue.model.leaving:
                    self._left.notify_all()
        if withdrawn:
            for observer in self._observers:
                observer.cancelled(queue.model.name)

    def _tell_refused(self, model: ServedModel, reason: str) -> None:
        for observer in self._observers:
            observer.refused(model.name, reason)

    # ---------------------------------------------------------------- devices

    def _work(self, number: int, device: Device) -> None:
        """What a device's thread does: runs the batches that the policy has for it."""
        device.bind()
        bell = self._bells[number]
        while True:
            with self._lock:
                found: Assignment | None = None
                while found is None:
                    timeout: float | None = None
                    if number in self._idle:
                        now = perf_counter()
                        found = self._policy.next(number, now)
                        if found is not None:
                            self._idle.discard(number)
                            break
                        if self._policy.wake is not None:
                            timeout = max(0.0, self._policy.wake - now)
                    if self._closed and not self._policy.waiting:
                        return
                    bell.wait(timeout)
            self._run(number, found)

    def _run(self, device: int, found: Assignment) -> None:
        queue = found.queue
        assert isinstance(queue, ModelQueue)
        started = perf_counter()
        live = [request for request in found.requests if self._starts(request, started)]
        call = found.call
        if len(live) < len(found.requests):
            call = queue.costs.single_call(sum(request.rows for request in live)) or call
        answers: list[Outputs | BaseException] = []
        stages = Stages(rows=call.rows, bucket=call.bucket)
        seconds = 0.0
        try:
            if live:
                began = perf_counter()
                parts = [request.payload.prepared for request in live]
                answers = answer(queue.model, device, parts, call, stages)
                seconds = perf_counter() - began
        except BaseException as error:
            # Ctrl-C in a caller's thread: it is that caller's, but the batch has other requests too.
            answers = [ExecutionError(f"the batch was interrupted: {type(error).__name__}")] * len(live)
            raise
        finally:
            errors = sum([isinstance(given, BaseException) for given in answers])
            try:
                # Observers first: whoever has an answer finds it counted.
                if live:
                    self._report(queue, live, call, started, perf_counter(), seconds, errors, stages)
            finally:
                # The device first: whoever waits for another answer where it is told of this one needs it.
                with self._lock:
                    self._policy.finished(device, perf_counter())
                    self._idle.add(device)
                try:
                    for request, given in zip(live, answers, strict=True):
                        ticket: Ticket = request.payload
                        ticket.future.stages = stages.waited(started - request.arrival)
                        if isinstance(given, BaseException):
                            ticket.future.set_exception(given)
                        else:
                            ticket.future.set_result(given)
                finally:
                    # What handing out takes is part of what a batch costs: its thread takes the next one after it.
                    ended = perf_counter()
                    with self._lock:
                        self._learn(found, live, errors, call, ended - started, ended)

    def _learn(
        self,
        found: Assignment,
        live: list[Request],
        errors: int,
        call: Call,
        seconds: float,
        now: float,
    ) -> None:
        """Learns from a batch that is answered; the lock is held."""
        queue = found.queue
        assert isinstance(queue, ModelQueue)
        if not live:
            queue.model.breaker.abandoned()
        elif errors == len(live):
            queue.model.breaker.failed(now)
        else:
            queue.model.breaker.succeeded()
            queue.model.ended(now - found.end)
            if not errors and queue.learn(call.bucket, seconds):
                self._policy.replan()
        if queue.model.leaving:
            self._left.notify_all()
        if self._closed:
            for bell in self._bells:
                bell.notify_all()

    def _starts(self, request: Request, now: float) -> bool:
        """Whether a request is still to be run: not cancelled, and not beyond a limit of its own."""
        ticket: Ticket = request.payload
        if request.cancelled or not ticket.future.set_running_or_notify_cancel():
            return False
        if ticket.expires and now > request.deadline:
            ticket.future.set_exception(DeadlineError("the request's timeout_ms were over before it was run"))
            return False
        return True

    def _report(
        self,
        queue: ModelQueue,
        live: list[Request],
        call: Call,
        started: float,
        ended: float,
        seconds: float,
        errors: int,
        stages: Stages,
    ) -> None:
        report = BatchReport(
            bucket=call.bucket,
            rows=call.rows,
            waits=tuple([started - request.arrival for request in live]),
            latencies=tuple([ended - request.arrival for request in live]),
            seconds=seconds,
            late=sum([ended > request.deadline for request in live]),
            failed=errors,
            stages=stages,
        )
        for observer in self._observers:
            observer.finished(queue.model.name, report)

    def _cancel(self, requests: Iterable[Request]) -> list[Request]:
        """Takes requests out of the plan; answers those that had not started. The lock is held."""
        now = perf_counter()
        return [request for request in list(requests) if self._policy.cancel(request, now)]


def _fail(requests: Iterable[Request], why: str) -> None:
    for request in requests:
        ticket: Ticket = request.payload
        if ticket.future.set_running_or_notify_cancel():
            ticket.future.set_exception(SchedulerClosedError(why))
