"""Sixteen clients and a model of 5 ms: what the server answers, beside what its scheduler alone does.

Both in two settings: on all processors, with the load beside the server as on a machine of its own; and on those of
servers alone, where (of two) there is one, so that what a request costs the protocol is taken from the model.
"""

from __future__ import annotations

import itertools
import json
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

import graphc
from bench.serving.claims import Claim
from bench.serving.models import CHANNELS, SIDE, lasting, place
from bench.serving.processes import (
    ROOT,
    Running,
    all_processors,
    environment,
    graphc_server,
    load,
    pinned,
    processors,
)
from graphc.cli.table import table
from graphc.runtime import Scheduler
from graphc.testing.compare import format_seconds

CLIENTS = 16
SECONDS = 0.005
PROTOCOLS = {"grpc": "grpc", "http": "binary"}


def measure(quick: bool, progress: Callable[[str], None]) -> dict[str, Any]:
    """All figures, in turns."""
    rounds, seconds = (1, 2.0) if quick else (4, 4.0)
    with tempfile.TemporaryDirectory(prefix="graphc-bench-") as work:
        folder = Path(work)
        progress("compiling")
        package, takes = lasting(folder, SECONDS)
        place(folder / "models", "lasting", 1, package)
        settings = {"all processors": (all_processors(), all_processors()), "servers' processors": processors()}
        found = {}
        for name, cpus in settings.items():
            found[name] = _rounds(folder, package, rounds, seconds, cpus, partial(_prefixed, progress, name))
    return {"model_seconds": takes, "clients": CLIENTS, "settings": found}


def _rounds(
    folder: Path, package: Path, rounds: int, seconds: float, cpus: tuple[str, str], progress: Callable[[str], None]
) -> dict[str, Any]:
    """Figures of one setting: rates, shares, and seconds of processors of an answer."""
    runs: dict[str, list[dict[str, Any]]] = {"scheduler": [], **{kind: [] for kind in PROTOCOLS}}
    for number in range(1, rounds + 1):
        progress(f"round {number} of {rounds}: the scheduler alone")
        runs["scheduler"].append(_alone(package, seconds, cpus[0]))
        with graphc_server(folder / "models", "--threads", "1", cpus=cpus[0]) as running:
            for kind in PROTOCOLS:
                progress(f"round {number} of {rounds}: {kind}")
                runs[kind].append(_served(running, kind, seconds, cpus[1]))
    rates = {kind: [each["rate"] for each in given] for kind, given in runs.items()}
    return {
        "processors": {"server": cpus[0], "load": cpus[1]},
        "rates": rates,
        "shares": {
            kind: statistics.median(ours / alone for ours, alone in zip(rates[kind], rates["scheduler"], strict=True))
            for kind in PROTOCOLS
        },
        "cpu": {
            kind: {part: statistics.median(each["cpu"][part] for each in given) for part in given[0]["cpu"]}
            for kind, given in runs.items()
        },
    }


def _prefixed(progress: Callable[[str], None], name: str, text: str) -> None:
    progress(f"{name}: {text}")


def _served(running: Running, kind: str, seconds: float, cpus: str) -> dict[str, Any]:
    """A server under load: answers a second, and seconds of processors of each, by whose they are."""
    options = ("--model", "lasting", "--kind", PROTOCOLS[kind], "--clients", str(CLIENTS), "--cpus", cpus)
    before = running.thread_seconds()
    found = load(running.ready[kind], *options, "--seconds", str(seconds))
    after = running.thread_seconds()
    if set(found["outcomes"]) != {"ok"}:
        raise RuntimeError(f"not all requests were answered: {found['outcomes']}")
    cpu = {part: (after[part] - before[part]) / found["answered"] for part in after}
    return {"rate": found["rate"], "cpu": {**cpu, "load": found["cpu_share"] / found["rate"]}}


def _alone(package: Path, seconds: float, cpus: str) -> dict[str, Any]:
    """What the scheduler alone answers a second, in a process of its own."""
    command = [sys.executable, "-m", "bench.serving.clients", str(package), str(seconds)]
    found: dict[str, Any] = json.loads(subprocess.check_output(pinned(command, cpus), cwd=ROOT, env=environment()))
    return found


def _bare(package: Path, seconds: float) -> dict[str, Any]:
    """Threads that call the scheduler, each again when it has its answer."""
    numbers = itertools.count()
    x = np.random.default_rng(1).standard_normal((1, CHANNELS, SIDE, SIDE)).astype(np.float32)
    with graphc.load(package, threads=1) as model, Scheduler(model, threads=1) as scheduler:
        end = time.perf_counter() + seconds

        def client() -> None:
            while time.perf_counter() < end:
                scheduler({"x": x})
                next(numbers)

        threads = [threading.Thread(target=client) for _ in range(CLIENTS)]
        start, used = time.perf_counter(), time.process_time()
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        count = next(numbers)
        cpu = {"others": (time.process_time() - used) / count, "front": 0.0, "grpc": 0.0, "load": 0.0}
        return {"rate": count / (time.perf_counter() - start), "cpu": cpu}


def summary(results: Mapping[str, Any]) -> str:
    """As a table."""
    rows = [
        (
            setting if kind == "scheduler" else "",
            kind,
            f"{max(rates):.1f}/s",
            f"{found['shares'][kind]:.1%}" if kind in found["shares"] else "",
            *(format_seconds(found["cpu"][kind][part]) for part in ("others", "front", "grpc", "load")),
        )
        for setting, found in results["settings"].items()
        for kind, rates in found["rates"].items()
    ]
    head = (
        "on",
        "",
        "answers",
        "of the scheduler alone",
        "processor: model",
        "event loop",
        "gRPC's threads",
        "the load",
    )
    return (
        f"a model of {format_seconds(results['model_seconds'])}, {results['clients']} clients; "
        f"time of processors is of one answer\n\n{table(head, rows)}"
    )


def claims(results: Mapping[str, Any]) -> list[Claim]:
    """What must hold."""
    return [
        Claim(f"throughput over {kind}, of the scheduler's alone, on {setting}", share, "at least", 0.9)
        for setting, found in results["settings"].items()
        for kind, share in found["shares"].items()
    ]


if __name__ == "__main__":
    print(json.dumps(_bare(Path(sys.argv[1]), float(sys.argv[2]))))
