"""Where a call's time goes: per step, as a table, as JSON and as a trace for Perfetto or chrome://tracing."""

from __future__ import annotations

import json
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from graphc.package import HostStep, KernelStep, LoopStep, Variant, atomic_file
from graphc.runtime.memory import Array


@dataclass(frozen=True)
class StepTime:
    """One step's share.

    Attributes:
        index: Its place in the variant.
        label: What it is.
        kind: `kernel` or `host`.
        origins: The ONNX nodes it came from.
        nanoseconds: Median of one run.
        flops: Operations of one run, 0 if unknown.
        bytes: Least traffic of one run, 0 if unknown.
    """

    index: int
    label: str
    kind: str
    origins: tuple[str, ...]
    nanoseconds: int
    flops: int
    bytes: int


@dataclass(frozen=True)
class Profile:
    """Times of the steps of one variant.

    Attributes:
        steps: In order of execution.
        nanoseconds: Median of a whole run, gaps between steps included.
        runs: How many were measured.
        threads: That a call could use.
        timeline: (start, stop) of each step of the median run in nanoseconds from its start.
        device: What ran it: `cpu`, `cuda:0`.
    """

    steps: tuple[StepTime, ...]
    nanoseconds: int
    runs: int
    threads: int
    timeline: tuple[tuple[int, int], ...]
    device: str = "cpu"

    def __str__(self) -> str:
        total = max(self.nanoseconds, 1)
        rows = [("step", "kernel", "µs", "%", "GFLOP/s", "GB/s", "nodes")]
        for step in sorted(self.steps, key=lambda step: -step.nanoseconds):
            time = max(step.nanoseconds, 1)
            rows.append(
                (
                    str(step.index),
                    step.label if step.kind == "kernel" else f"{step.label} (host)",
                    f"{step.nanoseconds / 1e3:.1f}",
                    f"{100 * step.nanoseconds / total:.1f}",
                    f"{step.flops / time:.1f}" if step.flops else "",
                    f"{step.bytes / time:.1f}" if step.bytes else "",
                    _shorten(", ".join(step.origins)),
                )
            )
        between = self.nanoseconds - sum(step.nanoseconds for step in self.steps)
        rows.append(("", "between steps", f"{between / 1e3:.1f}", f"{100 * between / total:.1f}", "", "", ""))
        widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
        left = (1, 6)
        lines = [
            "  ".join(
                cell.ljust(width) if column in left else cell.rjust(width)
                for column, (cell, width) in enumerate(zip(row, widths, strict=True))
            ).rstrip()
            for row in rows
        ]
        head = f"{self.nanoseconds / 1e3:.1f} µs a run (median of {self.runs}), {len(self.steps)} steps, "
        threads = f"{self.threads} thread{'' if self.threads == 1 else 's'}"
        return "\n".join([head + (threads if self.device == "cpu" else self.device), *lines])

    def to_json(self) -> dict[str, Any]:
        """The same as plain data."""
        return {
            "nanoseconds": self.nanoseconds,
            "runs": self.runs,
            "threads": self.threads,
            "device": self.device,
            "steps": [{**vars(step), "origins": list(step.origins)} for step in self.steps],
        }

    def write_trace(self, path: str | os.PathLike[str]) -> None:
        """Writes the median run in the Trace Event Format, for https://ui.perfetto.dev or chrome://tracing."""
        events = [
            {
                "name": step.label,
                "cat": step.kind,
                "ph": "X",
                "ts": start / 1e3,
                "dur": (stop - start) / 1e3,
                "pid": 1,
                "tid": 1,
                "args": {"step": step.index, "nodes": list(step.origins), "flops": step.flops, "bytes": step.bytes},
            }
            for step, (start, stop) in zip(self.steps, self.timeline, strict=True)
        ]
        with atomic_file(Path(path)) as file:
            file.write(json.dumps({"traceEvents": events, "displayTimeUnit": "ns"}, indent=1).encode())


def _shorten(text: str, limit: int = 60) -> str:
    return text if len(text) <= limit else text[: limit - 1] + "…"


def summarize(variant: Variant, stamps: Array, spans: Array, threads: int, device: str) -> Profile:
    """A profile from what was measured.

    Args:
        variant: That ran.
        stamps: int64[runs, steps, 2]: start and stop of each step in nanoseconds.
        spans: int64[runs, 2]: start and stop of each run.
        threads: That a call could use.
        device: What ran it.
    """
    durations = stamps[:, :, 1] - stamps[:, :, 0]
    totals = spans[:, 1] - spans[:, 0]
    typical = int(np.argsort(totals)[len(totals) // 2])
    medians = np.median(durations, axis=0).astype(np.int64) if len(variant.steps) else np.zeros(0, np.int64)
    rows = []
    for index, (step, time) in enumerate(zip(variant.steps, medians.tolist(), strict=True)):
        host = isinstance(step, HostStep)
        flops, size = (step.flops, step.bytes) if isinstance(step, KernelStep | LoopStep) else (0, 0)
        name = step.op_type if isinstance(step, HostStep) else step.symbol if isinstance(step, KernelStep) else ""
        rows.append(StepTime(index, step.label or name, "host" if host else "kernel", step.origins, time, flops, size))
    timeline = (stamps[typical] - spans[typical, 0]).tolist()
    return Profile(
        tuple(rows),
        int(np.median(totals)),
        len(totals),
        threads,
        tuple((start, stop) for start, stop in timeline),
        device,
    )
