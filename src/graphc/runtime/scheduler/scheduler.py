"""The scheduler: the policy with a clock, threads that run what it says, and futures that bring the answers."""

from __future__ import annotations

import asyncio
import math
import threading
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from time import perf_counter
from types import TracebackType
from typing import Any

from graphc.errors import (
    CircuitOpenError,
    DeadlineError,
    ExecutionError,
    OptionError,
    SchedulerClosedError,
)
from graphc.runtime.calibration import Calibration, Runnable
from graphc.runtime.executable import Inputs
from graphc.runtime.scheduler.answers import answer, refused
from graphc.runtime.scheduler.costs import Call
from graphc.runtime.scheduler.devices import Device, core_sets, given_sets
from graphc.runtime.scheduler.model import ModelQueue, Prepared, ServedModel
from graphc.runtime.scheduler.policy import Promise
from graphc.runtime.scheduler.reply import Outputs, Reply, Stages
from graphc.runtime.scheduler.serving import serve_models
from graphc.runtime.scheduler.settings import ModelSettings
from graphc.runtime.scheduler.statistics import BatchReport, ModelStatistics, Observer, Statistics
from graphc.runtime.scheduler.work import Assignment, Refusal, Request

MARGIN = 0.0005
"""Seconds between the planned end of a batch and a deadline in it: to wake a thread and to hand out answers."""


@dataclass(slots=True)
class _Ticket:
    """What a request carries: its inputs and where its answer goes."""

    prepared: Prepared
    future: Reply
    expires: bool


class Scheduler:
    """Answers requests from any threads and from asyncio, in batches, within a latency that it promises.

        with Scheduler(graphc.load("model.graphc"), slo_ms=50) as scheduler:
            outputs = scheduler({"x": image})                # from any thread
            future = scheduler.submit({"x": image})          # a concurrent.futures.Future
            outputs = await scheduler.infer({"x": image})    # from asyncio

    What is accepted is answered within `slo_ms`; what could not be is refused at once with a `RefusedError` that says
    when to come back. Requests may have any of the shapes that the model was compiled for; those of one shape share
    batches where the compiler proved that rows are independent (`manifest.batch`).

    Args:
        models: An executable, or several by name; an empty dict where all come later, by `add`.
        settings: How they are served: for all, or by name.
        devices: How many batches run at once, each on processors of its own; or the processors of each device.
        threads: Of a call; the processors of its device if None.
        memory_limit: Bytes of weights and intermediate values; models run on fewer devices where it asks for that.
        calibration: Latencies by model; by default what `graphc calibrate` left beside the package. What is missing is
            measured now.
        observer: Told of everything that happens; see `Observer`.
        margin_ms: Kept between the planned end of a batch and the earliest deadline in it.
        options: Fields of `ModelSettings`, in place of `settings`.

    Raises:
        OptionError: A setting is out of range, or the models do not fit in the memory.
    """

    def __init__(
        self,
        models: Runnable | Mapping[str, Runnable],
        settings: ModelSettings | Mapping[str, ModelSettings] | None = None,
        *,
        devices: int | Sequence[Sequence[int]] = 1,
        threads: int | None = None,
        memory_limit: int | None = None,
        calibration: Mapping[str, Calibration] | None = None,
        observer: Observer | None = None,
        margin_ms: float = MARGIN * 1e3,
        **options: Any,
    ) -> None:
        self.devices = core_sets(devices, threads) if isinstance(devices, int) else given_sets(devices, threads)
        width = self.devices[0].threads if (threads is not None or len(self.devices) > 1) else None
        self._width, self._limit = width, memory_limit
        self._models = serve_models(
            models, settings, options, count=len(self.devices), threads=width, limit=memory_limit, known=calibration
        )
        self._leaving: list[ServedModel] = []
        self._policy = Promise(len(self.devices), margin=margin_ms / 1e3)
        self._statistics = Statistics()
        self._observers: list[Observer] = [self._statistics, *([observer] if observer is not None else [])]
        self._lock = threading.Lock()
        self._idle = set(range(len(self.devices)))
        self._left = threading.Condition(self._lock)
        self._bells = [threading.Condition(self._lock) for _ in self.devices]
        self._closed = False
        self._threads = [
            threading.Thread(target=self._work, args=(number, device), name=f"graphc-device-{number}", daemon=True)
            for number, device in enumerate(self.devices)
        ]
        for thread in self._threads:
            thread.start()

    @property
    def models(self) -> tuple[str, ...]:
        """Names of what is served."""
        return tuple(self._models)

    def add(
        self,
        name: str,
        model: Runnable,
        settings: ModelSettings | None = None,
        *,
        calibration: Calibration | None = None,
        instances: int | None = None,
        threads: int | None = None,
    ) -> ServedModel:
        """Serves one more model, from now on; under a name that is taken, in place of the other.

        What it costs is measured first, in this thread, where that is not known. Requests for a model that is replaced
        are answered by it; it stays until it is removed.

        Args:
            name: Of the model.
            model: What runs.
            settings: How it is served.
            calibration: Its latencies, as of the scheduler.
            instances: Devices that may run it, at most; all of them if None.
            threads: Of a call; as many as a device has at most, and those of the scheduler if None.

        Returns:
            What `model=` of a request and `remove` take in place of the name.

        Raises:
            OptionError: It does not fit in the memory beside the others, or into its settings.
            SchedulerClosedError: The scheduler is closed.
        """
        width = self.devices[0].threads if threads is None else min(threads, self.devices[0].threads)
        with self._lock:
            present = [*self._models.values(), *self._leaving]
        made = serve_models(
            {name: model},
            settings,
            {},
            count=len(self.devices),
            threads=self._width if threads is None else width,
            limit=self._limit,
            used=sum(served.memory for served in present),
            devices=self._least_used(instances, present),
            known=None if calibration is None else {name: calibration},
        )[name]
        with self._lock:
            if self._closed:
                raise SchedulerClosedError("the scheduler is closed")
            if (replaced := self._models.get(name)) is not None:
                self._leaving.append(replaced)
            self._models = {**self._models, name: made}
        return made

    def _least_used(self, instances: int | None, present: list[ServedModel]) -> tuple[int, ...]:
        """As many devices as asked for, those that fewest models run on."""
        everywhere = range(len(self.devices))
        load = [sum(served.devices is None or n in served.devices for served in present) for n in everywhere]
        return tuple(sorted(sorted(everywhere, key=load.__getitem__)[: instances or len(self.devices)]))

    def remove(self, model: str | ServedModel, *, timeout: float | None = None) -> bool:
        """Serves a model no more: accepts nothing further for it, answers what it has, and lets go of it.

        Args:
            model: Its name, or what `add` returned.
            timeout: Seconds after which what still waits fails with `SchedulerClosedError`; what runs ends as usual.

        Returns:
            Whether all was answered.

        Raises:
            OptionError: There is no such model.
        """
        served = self._model(model)
        with self._lock:
            served.leaving = True
            self._models = {name: other for name, other in self._models.items() if other is not served}
            whole = self._left.wait_for(lambda: not served.unanswered, timeout)
            waiting = [request for request in self._policy.requests() if request.queue.tenant is served.tenant]
            dropped = [request for request in waiting if self._policy.cancel(request, perf_counter())]
        self._drop(dropped, f"{served.name} was removed before the request was run")
        with self._lock:
            self._left.wait_for(lambda: not served.unanswered)
            self._policy.forget(served.tenant)
            self._leaving = [other for other in self._leaving if other is not served]
            if served.name not in self._models:
                self._statistics.forget(served.name)
        return whole

    def statistics(self, model: str | None = None) -> ModelStatistics:
        """A model's counts since the scheduler was made.

        Raises:
            OptionError: There are several models, and none is named; or none has this name.
        """
        return self._statistics.of(self._model(model).name)

    def latencies(self, model: str | ServedModel | None = None) -> dict[Any, dict[int, float]]:
        """Seconds that batches are taken to need now: by shape without rows, then by bucket."""
        return {queue.name: queue.latencies.table for queue in self._model(model).queues}

    def __call__(
        self,
        inputs: Inputs,
        *,
        model: str | ServedModel | None = None,
        timeout_ms: float | None = None,
        priority: int = 0,
    ) -> Outputs:
        """Answers one request; where a device is idle, in this very thread.

        Args:
            inputs: As of `Executable.__call__`; one row or several.
            model: Which; needed where there are several.
            timeout_ms: Its own limit, where that is less than the model's `slo_ms`.
            priority: Higher goes first.

        Raises:
            RefusedError: It was not accepted; `retry_after` says when to come back.
            InputError: The inputs do not fit the model.
            DeadlineError: `timeout_ms` were over before it was run.
            ExecutionError: A step of the model failed.
            SchedulerClosedError: The scheduler is closed.
        """
        served = self._model(model)
        arrays = served.collect(inputs)
        prepared = served.find(arrays) or served.meet(arrays)
        device, request = self._accept(prepared, timeout_ms, priority, take=True)
        if device is not None:
            self._run_and_pass_on(*device)
        ticket: _Ticket = request.payload
        return ticket.future.result()

    def submit(
        self,
        inputs: Inputs,
        *,
        model: str | ServedModel | None = None,
        timeout_ms: float | None = None,
        priority: int = 0,
    ) -> Reply:
        """Hands in one request; the future's `cancel` takes it back for as long as it has not started.

        Args:
            inputs: As of a call; not to be changed until the future is done.
            model: As of a call.
            timeout_ms: As of a call.
            priority: As of a call.

        Raises:
            RefusedError: It was not accepted.
            InputError: The inputs do not fit the model.
            SchedulerClosedError: The scheduler is closed.
        """
        served = self._model(model)
        arrays = served.collect(inputs)
        return self._submit(served.find(arrays) or served.meet(arrays), timeout_ms, priority)

    async def infer(
        self,
        inputs: Inputs,
        *,
        model: str | ServedModel | None = None,
        timeout_ms: float | None = None,
        priority: int = 0,
    ) -> Outputs:
        """Answers one request without blocking the event loop; cancelling the task takes the request back.

        Args:
            inputs: As of a call.
            model: As of a call.
            timeout_ms: As of a call.
            priority: As of a call.

        Raises:
            As a call.
        """
        return await asyncio.wrap_future(
            await self.hand_in(inputs, model=model, timeout_ms=timeout_ms, priority=priority)
        )

    async def hand_in(
        self,
        inputs: Inputs,
        *,
        model: str | ServedModel | None = None,
        timeout_ms: float | None = None,
        priority: int = 0,
    ) -> Reply:
        """As `submit`, without blocking the event loop.

        Args:
            inputs: As of `submit`.
            model: As of a call.
            timeout_ms: As of a call.
            priority: As of a call.

        Raises:
            As `submit`.
        """
        served = self._model(model)
        arrays = served.collect(inputs)
        # A shape that comes for the first time may have to be compiled: not in the event loop.
        prepared = served.find(arrays)
        if prepared is None:
            prepared = await asyncio.to_thread(served.meet, arrays)
        return self._submit(prepared, timeout_ms, priority)

    def close(self, *, drain: bool = True) -> None:
        """Accepts nothing more and ends the threads; what runs now is answered.

        Args:
            drain: Whether what waits is answered too; otherwise it fails with `SchedulerClosedError`.
        """
        with self._lock:
            self._closed = True
            waiting = [] if drain else list(self._policy.requests())
            dropped = [request for request in waiting if self._policy.cancel(request, perf_counter())]
            for bell in self._bells:
                bell.notify_all()
        self._drop(dropped, "the scheduler was closed before the request was run")
        for thread in self._threads:
            if thread is not threading.current_thread():
                thread.join()

    @staticmethod
    def _drop(requests: list[Request], why: str) -> None:
        for request in requests:
            ticket: _Ticket = request.payload
            if ticket.future.set_running_or_notify_cancel():
                ticket.future.set_exception(SchedulerClosedError(why))

    def __enter__(self) -> Scheduler:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close(drain=error is None)

    # ---------------------------------------------------------------- requests

    def _model(self, name: str | ServedModel | None) -> ServedModel:
        if isinstance(name, ServedModel):
            return name
        models = self._models
        if name is None and len(models) == 1:
            return next(iter(models.values()))
        found = models.get(name or "")
        if found is None:
            raise OptionError(
                f"there is no model {name!r}" if name else "several models are served: say which, with model=",
                hint=f"there are: {', '.join(models)}" if models else "there is none",
            )
        return found

    def _submit(self, prepared: Prepared, timeout_ms: float | None, priority: int) -> Reply:
        _, request = self._accept(prepared, timeout_ms, priority, take=False)
        ticket: _Ticket = request.payload
        ticket.future.add_done_callback(lambda future: self._withdraw(request) if future.cancelled() else None)
        return ticket.future

    def _accept(
        self, prepared: Prepared, timeout_ms: float | None, priority: int, *, take: bool
    ) -> tuple[tuple[int, Assignment] | None, Request]:
        """Offers a request to the policy. With `take`, an idle device's next batch is the caller's to run."""
        if timeout_ms is not None and not 0 < timeout_ms < math.inf:
            raise OptionError(f"timeout_ms is {timeout_ms!r}; expected a positive number")
        queue = prepared.queue
        model = queue.model
        now = perf_counter()
        limit = queue.slo if timeout_ms is None else min(queue.slo, timeout_ms / 1e3)
        ticket = _Ticket(prepared, Reply(), timeout_ms is not None)
        request = Request(queue, now, now + limit, rows=prepared.rows, priority=priority, payload=ticket)
        refusal, waited, assigned = self._offer(model, request, now, take)
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
        return assigned, request

    def _offer(
        self, model: ServedModel, request: Request, now: float, take: bool
    ) -> tuple[Refusal | None, float, tuple[int, Assignment] | None]:
        with self._lock:
            if self._closed:
                raise SchedulerClosedError("the scheduler is closed")
            if model.leaving:
                raise SchedulerClosedError(f"{model.name} is served no more")
            if waited := model.breaker.wait(now):
                return None, waited, None
            refusal = self._policy.offer(request, now)
            if refusal is not None:
                model.breaker.abandoned()
                return refusal, 0.0, None
            for device in self._idle:
                # A device that is bound to processors is its own thread's.
                own = take and self.devices[device].cores is None
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

    def _run_and_pass_on(self, device: int, found: Assignment) -> None:
        """Runs a batch in a caller's thread; what waits after it is the device's own thread's."""
        self._run(device, found)
        with self._lock:
            if self._policy.waiting or self._closed:
                self._bells[device].notify()

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
                answers = answer(queue.model, [request.payload.prepared for request in live], call, stages)
                seconds = perf_counter() - began
        except BaseException as error:
            # Ctrl-C in a caller's thread: it is that caller's, but the batch has other requests too.
            answers = [ExecutionError(f"the batch was interrupted: {type(error).__name__}")] * len(live)
            raise
        finally:
            ended = perf_counter()
            errors = sum(isinstance(given, BaseException) for given in answers)
            with self._lock:
                self._end(device, queue, live, errors, call, ended - started, ended)
            for request, given in zip(live, answers, strict=True):
                ticket: _Ticket = request.payload
                ticket.future.stages = replace(stages, queue=started - request.arrival)
                if isinstance(given, BaseException):
                    ticket.future.set_exception(given)
                else:
                    ticket.future.set_result(given)
            if live:
                self._report(queue, live, call, started, ended, seconds, errors, stages)

    def _end(
        self,
        device: int,
        queue: ModelQueue,
        live: list[Request],
        errors: int,
        call: Call,
        seconds: float,
        now: float,
    ) -> None:
        """Gives a device back and learns from its batch; the lock is held."""
        self._policy.finished(device, now)
        self._idle.add(device)
        if not live:
            queue.model.breaker.abandoned()
        elif errors == len(live):
            queue.model.breaker.failed(now)
        else:
            queue.model.breaker.succeeded()
            if not errors and queue.learn(call.bucket, seconds):
                self._policy.replan()
        if queue.model.leaving:
            self._left.notify_all()
        if self._closed:
            for bell in self._bells:
                bell.notify_all()

    def _starts(self, request: Request, now: float) -> bool:
        """Whether a request is still to be run: not cancelled, and not beyond a limit of its own."""
        ticket: _Ticket = request.payload
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
            late=sum(ended > request.deadline for request in live),
            failed=errors,
            stages=stages,
        )
        for observer in self._observers:
            observer.finished(queue.model.name, report)
