"""The scheduler: which models are served, and the ways to ask."""

from __future__ import annotations

import asyncio
import math
import threading
from collections.abc import Callable, Mapping, Sequence
from types import TracebackType
from typing import Any, TypeVar

from graphc.errors import OptionError
from graphc.runtime.calibration import Calibration, Runnable
from graphc.runtime.executable import Inputs
from graphc.runtime.scheduler.devices import core_sets, given_devices
from graphc.runtime.scheduler.dispatcher import Dispatcher, ModelLeftError
from graphc.runtime.scheduler.model import Prepared, ServedModel
from graphc.runtime.scheduler.reply import Outputs, Reply
from graphc.runtime.scheduler.serving import serve_models
from graphc.runtime.scheduler.settings import ModelSettings
from graphc.runtime.scheduler.statistics import ModelStatistics, Observer, Statistics

Answer = TypeVar("Answer")

MARGIN = 0.0005
"""Seconds between the planned end of a batch and a deadline in it: to wake the threads that wait for answers."""


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
        devices: How many batches run at once, each on processors of its own; or the processors of each device; or GPUs,
            `["cuda:0"]`, each as often as it is to run batches at once.
        threads: Of a call; the processors of its device if None.
        memory_limit: Bytes of weights and intermediate values, on each GPU if GPUs run the models; these run on fewer
            devices where it asks for that.
        calibration: Latencies by model; by default what `graphc calibrate` left beside the package. What is missing is
            measured now.
        observer: Told of everything that happens; see `Observer`.
        margin_ms: Kept between the planned end of a batch and the earliest deadline in it.
        options: Fields of `ModelSettings`, in place of `settings`.

    Raises:
        OptionError: A setting is out of range, or the models do not fit in the memory.
        DeviceError: A GPU is not here.
        PackageError: A model has no code for the GPU.
    """

    def __init__(
        self,
        models: Runnable | Mapping[str, Runnable],
        settings: ModelSettings | Mapping[str, ModelSettings] | None = None,
        *,
        devices: int | Sequence[Sequence[int] | str] = 1,
        threads: int | None = None,
        memory_limit: int | None = None,
        calibration: Mapping[str, Calibration] | None = None,
        observer: Observer | None = None,
        margin_ms: float = MARGIN * 1e3,
        **options: Any,
    ) -> None:
        self.devices = core_sets(devices, threads) if isinstance(devices, int) else given_devices(devices, threads)
        width = self.devices[0].threads if (threads is not None or len(self.devices) > 1) else None
        self._width, self._limit = width, memory_limit
        self._gpus = [device.gpu for device in self.devices]
        self._models = serve_models(
            models, settings, options, gpus=self._gpus, threads=width, limit=memory_limit, known=calibration
        )
        self._leaving: list[ServedModel] = []
        self._models_lock = threading.Lock()
        self._statistics = Statistics()
        observers = [self._statistics, *([observer] if observer is not None else [])]
        self._dispatcher = Dispatcher(self.devices, margin_ms / 1e3, observers)

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
        with self._models_lock:
            present = [*self._models.values(), *self._leaving]
        made = serve_models(
            {name: model},
            settings,
            {},
            gpus=self._gpus,
            threads=self._width if threads is None else width,
            limit=self._limit,
            used=sum(served.memory for served in present),
            devices=self._least_used(instances, present),
            known=None if calibration is None else {name: calibration},
        )[name]
        self._dispatcher.check_open()
        with self._models_lock:
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
        with self._models_lock:
            self._models = {name: other for name, other in self._models.items() if other is not served}
            # Its memory is taken for as long as it answers.
            self._leaving = [*(other for other in self._leaving if other is not served), served]
        whole = self._dispatcher.dismiss(served, timeout)
        with self._models_lock:
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
        seconds = _seconds(timeout_ms)
        return self._ask(inputs, model, lambda prepared: self._dispatcher.run(prepared, seconds, priority))

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
        seconds = _seconds(timeout_ms)
        return self._ask(inputs, model, lambda prepared: self._dispatcher.submit(prepared, seconds, priority))

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
        reply = await self.hand_in(inputs, model=model, timeout_ms=timeout_ms, priority=priority)
        return await reply.answer()

    async def hand_in(
        self,
        inputs: Inputs,
        *,
        model: str | ServedModel | None = None,
        timeout_ms: float | None = None,
        priority: int = 0,
    ) -> Reply:
        """As `submit`, without blocking the event loop for longer than it takes to wake another thread.

        A model that is quicker than that runs here and now, where a device is idle; its reply is done at once.

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
        try:
            return self._dispatcher.submit(prepared, _seconds(timeout_ms), priority, quick=True)
        except ModelLeftError:
            if isinstance(model, ServedModel):
                raise
        # By its name, its successor is asked.
        return await self.hand_in(inputs, model=model, timeout_ms=timeout_ms, priority=priority)

    def close(self, *, drain: bool = True) -> None:
        """Accepts nothing more and ends the threads; what runs now is answered.

        Args:
            drain: Whether what waits is answered too; otherwise it fails with `SchedulerClosedError`.
        """
        self._dispatcher.close(drain=drain)

    def __enter__(self) -> Scheduler:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close(drain=error is None)

    def _ask(self, inputs: Inputs, model: str | ServedModel | None, hand_in: Callable[[Prepared], Answer]) -> Answer:
        """Hands a request in; where its model has been replaced meanwhile, to the one that has its name now."""
        while True:
            served = self._model(model)
            arrays = served.collect(inputs)
            try:
                return hand_in(served.find(arrays) or served.meet(arrays))
            except ModelLeftError:
                if isinstance(model, ServedModel):
                    raise

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


def _seconds(timeout_ms: float | None) -> float | None:
    if timeout_ms is None:
        return None
    if not 0 < timeout_ms < math.inf:
        raise OptionError(f"timeout_ms is {timeout_ms!r}; expected a positive number")
    return timeout_ms / 1e3
