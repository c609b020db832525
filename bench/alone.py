"""One engine alone in a process: what it costs to hold a model, and its pace when nothing else shares the machine.

`python -m bench.alone ENGINE MODEL INPUTS.npz THREADS DIMS-AS-JSON` prints a JSON object. graphc gets a package, the
others the ONNX file: what each of them loads where a model is served. Nothing else is imported.
"""

from __future__ import annotations

import json
import statistics
import sys
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np

import graphc
from graphc.testing.engines import peer

_SECONDS = 1.0
"""How long the pace is measured."""
_LEAST_CALLS = 5


def main(engine: str, model: str, inputs: str, threads: str, dims: str) -> int:
    with np.load(inputs) as file:
        feeds = dict(file)
    before = resident_peak()
    start = time.perf_counter()
    run = _load(engine, Path(model), feeds, int(threads), json.loads(dims))
    loaded = time.perf_counter() - start
    run()
    first = time.perf_counter() - start
    seconds = _pace(run)
    result = {
        "load_seconds": loaded,
        "first_answer_seconds": first,
        "seconds": seconds,
        "memory_bytes": resident_peak() - before,
    }
    print(json.dumps(result))
    return 0


def _load(
    engine: str, model: Path, feeds: dict[str, Any], threads: int, dims: Mapping[str, int]
) -> Callable[[], object]:
    if engine == "graphc":
        executable = graphc.load(model, threads=threads)
        return lambda: executable(feeds)
    return peer(engine, model, feeds, threads=threads, dims=dims).run


def _pace(run: Callable[[], object]) -> float:
    """The median of a call's seconds."""
    times: list[float] = []
    end = time.perf_counter() + _SECONDS
    while len(times) < _LEAST_CALLS or time.perf_counter() < end:
        start = time.perf_counter()
        run()
        times.append(time.perf_counter() - start)
    return statistics.median(times)


def resident_peak() -> int:
    """The most memory that this process has held so far, in bytes: what Linux calls VmHWM."""
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith("VmHWM:"):
            return int(line.split()[1]) * 1024
    raise OSError("this system does not tell a process's peak memory")


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
