"""A model as the scheduler sees it: which requests can share a call, and how a call is made of them."""

from __future__ import annotations

import threading
from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass
from time import perf_counter
from typing import Any

from graphc.errors import InputError, OptionError
from graphc.package import BatchAxes
from graphc.runtime.calibration import Calibration, Latency, Runnable, can_sample, measure, sample_inputs
from graphc.runtime.memory import CONTIGUOUS
from graphc.runtime.scheduler.breaker import Breaker
from graphc.runtime.scheduler.costs import Call, CostCurve
from graphc.runtime.scheduler.jitter import Jitter
from graphc.runtime.scheduler.latency import Latencies
from graphc.runtime.scheduler.reply import Stages
from graphc.runtime.scheduler.settings import ModelSettings
from graphc.runtime.scheduler.stage import Stage
from graphc.runtime.scheduler.work import Queue, Tenant
from graphc.runtime.signature import Signature

_VIEW = 1 << 16
"""Bytes of an output from which a request gets a view of its batch's array: below, a copy costs less than keeping the
whole batch in memory for as long as somebody holds one row."""


@dataclass(frozen=True)
class Prepared:
    """A request's inputs, checked.

    Args:
        queue: Where it belongs.
        rows: That it has.
        arrays: In the model's order.
    """

    queue: ModelQueue
    rows: int
    arrays: list[Any]


class ModelQueue(Queue):
    """A queue that learns what its batches cost.

    Args:
        model: Whose it is.
        name: The shape that its requests share.
        latencies: Of its buckets.
        largest: Rows of a batch at most.
        shares: Whether its requests share batches; otherwise each is a batch of its own, counted as one row.
    """

    def __init__(self, model: ServedModel, name: Hashable, latencies: Latencies, largest: int, *, shares: bool) -> None:
        self.model = model
        self.shares = shares
        self.latencies = latencies
        self._largest = largest
        super().__init__(name, self._curve(), slo=model.settings.slo, tenant=model.tenant, devices=model.devices)
        self.hold = model.settings.batch_timeout_micros / 1e6
        self.full = min(model.settings.preferred_batch_sizes, default=largest)

    def _curve(self) -> CostCurve:
        latencies = self.latencies
        padding = self.model.settings.padding
        return CostCurve(latencies.table, padding=padding, largest=self._largest, choice=latencies.choice)

    def learn(self, bucket: int, seconds: float) -> bool:
        """Takes in how long a call took, its answers handed out; answers whether costs have changed."""
        if not self.latencies.observe(bucket, seconds):
            return False
        self.costs = self._curve()
        return True


class ServedModel:
    """An executable, its settings and its queues.

    Args:
        name: Of the model.
        executables: What runs, by the number of each device that runs it; called from several threads at once where it
            is the same for several.
        settings: How it is served.
        calibration: Latencies known beforehand; what is missing is measured now.
        devices: Numbers of the devices that run it; all if None.
        memory: Bytes of its weights and intermediate values, on all its devices.

    Raises:
        OptionError: `max_batch_size` is less than the smallest batch compiled.
    """

    def __init__(
        self,
        name: str,
        executables: Mapping[int, Runnable],
        settings: ModelSettings,
        calibration: Calibration,
        devices: tuple[int, ...] | None = None,
        memory: int = 0,
    ) -> None:
        self.name = name
        self._executables = dict(executables)
        self.executable = executable = next(iter(executables.values()))
        self.settings = settings
        self.devices = devices
        self.memory = memory
        self.tenant = Tenant(name, share=settings.share, queue_limit=settings.queue_limit)
        self.breaker = Breaker(settings.failures)
        self._jitter = Jitter()
        self.tenant.doubt = self._jitter.doubt
        self.batch = executable.manifest.batch
        self.leaving = False
        # A batch is made of copies, which are aligned whatever they are of; the executable sees to a request alone.
        self._signature = Signature(executable.manifest, needs=CONTIGUOUS)
        self._outputs = [spec.name for spec in executable.manifest.outputs]
        self._queues: dict[Hashable, ModelQueue] = {}
        self._stages: list[Stage] = []
        self._lock = threading.Lock()
        self._add_queues(calibration)

    @property
    def queues(self) -> tuple[ModelQueue, ...]:
        """One for each shape."""
        return tuple(self._queues.values())

    @property
    def calibration(self) -> Calibration:
        """What calls of each variant are taken to need now."""
        known = {}
        for variant in self.executable.variants:
            key: Hashable = variant.inputs
            rows = 1
            if self.batch is not None and None not in variant.inputs:
                key, rows = _without_rows(variant.inputs, self.batch), _rows_of(variant.inputs, self.batch)
            queue = self._queues.get(key)
            if queue is not None and (seconds := queue.latencies.table.get(rows)) is not None:
                known[variant.inputs] = Latency(seconds, seconds)
        return known

    def ended(self, late: float) -> None:
        """Takes in by how many seconds a batch ended later than planned."""
        self._jitter.observe(late)
        self.tenant.jitter, self.tenant.doubt = self._jitter.value, self._jitter.doubt

    def collect(self, inputs: Any) -> list[Any]:
        """A request's inputs in the model's order.

        Raises:
            InputError: They do not fit the model.
        """
        return self._signature.collect(inputs)

    def find(self, arrays: list[Any]) -> Prepared | None:
        """The queue of collected inputs; None for a shape that is to be met first.

        Raises:
            InputError: They have more rows than the largest batch, or disagree about them.
        """
        shapes = self._signature.shapes(arrays)
        batch = self.batch
        if batch is not None:
            rows = arrays[0].shape[batch.inputs[0]]
            queue = self._queues.get(_without_rows(shapes, batch))
            if queue is not None:
                if any(array.shape[axis] != rows for array, axis in zip(arrays, batch.inputs, strict=True)):
                    self._signature.check_shapes(arrays)
                self._check_rows(rows, queue)
                return Prepared(queue, rows, arrays)
        queue = self._queues.get(shapes)
        return None if queue is None else Prepared(queue, 1, arrays)

    def meet(self, arrays: list[Any]) -> Prepared:
        """Makes a queue for a shape that no program was compiled for beforehand: its requests run alone.

        The executable compiles it now, if it can, and it is measured, so that the next ones can be promised something.

        Raises:
            InputError: It has no program for this shape and cannot compile one.
        """
        shapes = self._signature.shapes(arrays)
        seconds = measure(self.executable, arrays).high
        made = ModelQueue(self, shapes, Latencies({1: seconds}), 1, shares=False)
        with self._lock:
            return Prepared(self._queues.setdefault(shapes, made), 1, arrays)

    def _check_rows(self, rows: int, queue: ModelQueue) -> None:
        if 1 <= rows <= queue.costs.largest and queue.costs.single_call(rows) is not None:
            return
        batch = self.batch
        assert batch is not None
        sizes = ", ".join(map(str, queue.costs.latencies))
        raise InputError(
            f"{batch.symbol} is {rows}; a request to this scheduler has 1 to {queue.costs.largest} rows",
            hint=f"send them as several requests, or compile larger batches (--dim {batch.symbol}={sizes},{rows})",
        )

    @property
    def unanswered(self) -> int:
        """Requests accepted that have no answer yet; told reliably where the scheduler's lock is held."""
        return sum(queue.unanswered for queue in self.queues)

    def run(self, device: int, parts: Sequence[Prepared], call: Call, stages: Stages) -> list[dict[str, Any]]:
        """Makes one call for several requests; answers each one's outputs.

        Args:
            device: Whose thread this is.
            parts: Of one queue.
            call: The bucket; rows of the requests fill it, or it is padded.
            stages: Told where the time goes.
        """
        executable, first = self._executables[device], parts[0]
        began = perf_counter()
        if self.batch is None or not first.queue.shares or (len(parts) == 1 and first.rows == call.bucket):
            found = [executable(first.arrays)]
            stages.infer += perf_counter() - began
            return found
        rows = sum(part.rows for part in parts)
        stage = self._stages.pop() if self._stages else Stage()
        inputs = [
            stage.join(number, [part.arrays[number] for part in parts], axis, call.bucket - rows)
            for number, axis in enumerate(self.batch.inputs)
        ]
        joined = perf_counter()
        outputs = executable(inputs)
        ran = perf_counter()
        answers: list[dict[str, Any]] = []
        start = 0
        for part in parts:
            answers.append(
                {
                    name: _rows(outputs[name], axis, start, start + part.rows)
                    for name, axis in zip(self._outputs, self.batch.outputs, strict=True)
                }
            )
            start += part.rows
        if not stage.is_part_of(outputs.values()):
            self._stages.append(stage)
        stages.input += joined - began
        stages.infer += ran - joined
        stages.output += perf_counter() - ran
        return answers

    def _add_queues(self, calibration: Calibration) -> None:
        """A queue for each shape that the package has programs for."""
        buckets: dict[Hashable, dict[int, float]] = {}
        for variant in self.executable.variants:
            shapes = variant.inputs
            if self.executable.manifest.parameters or not can_sample(self.executable.manifest, variant):
                continue
            known = calibration.get(shapes)
            seconds = (known or measure(self.executable, sample_inputs(self.executable.manifest, variant))).high
            if self.batch is None:
                buckets.setdefault(shapes, {})[1] = seconds
            else:
                rows = _rows_of(shapes, self.batch)
                buckets.setdefault(_without_rows(shapes, self.batch), {})[rows] = seconds
        limit = self.settings.max_batch_size if self.batch is not None else None
        for name, table in buckets.items():
            allowed = {rows: seconds for rows, seconds in table.items() if rows >= 1 and (not limit or rows <= limit)}
            if not allowed:
                have = ", ".join(map(str, sorted(table)))
                raise OptionError(f"max_batch_size is {limit}, and the batches compiled have {have} rows")
            self._queues[name] = ModelQueue(self, name, Latencies(allowed), max(allowed), shares=self.batch is not None)


def _without_rows(shapes: Sequence[Any], batch: BatchAxes) -> Hashable:
    """The shapes that requests of one queue share."""
    return tuple([shape[:axis] + shape[axis + 1 :] for shape, axis in zip(shapes, batch.inputs, strict=True)])


def _rows_of(shapes: Sequence[Any], batch: BatchAxes) -> int:
    rows: int = shapes[0][batch.inputs[0]]
    return rows


def _rows(array: Any, axis: int, start: int, stop: int) -> Any:
    part = array[(slice(None),) * axis + (slice(start, stop),)]
    return part if part.nbytes >= _VIEW and part.flags.c_contiguous else part.copy()
