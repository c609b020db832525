"""Sixteen clients and a model of 5 ms: what the server answers, beside what its scheduler alone does."""

from __future__ import annotations

import itertools
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np

import graphc
from bench.serving.claims import Claim
from bench.serving.models import CHANNELS, SIDE, lasting, place
from bench.serving.processes import ROOT, environment, graphc_server, load, pinned, processors
from graphc.cli.table import table
from graphc.runtime import Scheduler
from graphc.testing.compare import format_seconds

CLIENTS = 16
SECONDS = 0.005


def measure(quick: bool, progress: Callable[[str], None]) -> dict[str, Any]:
    """All figures, in turns."""
    rounds, seconds = (1, 2.0) if quick else (4, 4.0)
    with tempfile.TemporaryDirectory(prefix="graphc-bench-") as folder:
        progress("compiling")
        package, takes = lasting(Path(folder), SECONDS)
        place(Path(folder) / "models", "lasting", 1, package)
        rates: dict[str, list[float]] = {"scheduler": [], "grpc": [], "http": []}
        for number in range(rounds):
            progress(f"round {number + 1} of {rounds}: the scheduler alone")
            rates["scheduler"].append(_alone(package, seconds))
            with graphc_server(Path(folder) / "models") as running:
                for kind, protocol in (("grpc", "grpc"), ("http", "binary")):
                    progress(f"round {number + 1} of {rounds}: {kind}")
                    options = ("--model", "lasting", "--kind", protocol, "--clients", str(CLIENTS))
                    found = load(running.ready[kind], *options, "--seconds", str(seconds))
                    if set(found["outcomes"]) != {"ok"}:
                        raise RuntimeError(f"not all requests were answered: {found['outcomes']}")
                    rates[kind].append(found["rate"])
    shares = {
        kind: statistics.median(ours / alone for ours, alone in zip(rates[kind], rates["scheduler"], strict=True))
        for kind in ("grpc", "http")
    }
    return {"model_seconds": takes, "clients": CLIENTS, "rates": rates, "shares": shares}


def _alone(package: Path, seconds: float) -> float:
    """Answers a second of the scheduler alone, in a process on the server's processors."""
    command = [sys.executable, "-m", "bench.serving.clients", str(package), str(seconds)]
    return float(subprocess.check_output(pinned(command, processors()[0]), cwd=ROOT, env=environment()))


def _bare(package: Path, seconds: float) -> float:
    """Threads that call the scheduler, each again when it has its answer."""
    numbers = itertools.count()
    x = np.random.default_rng(1).standard_normal((1, CHANNELS, SIDE, SIDE)).astype(np.float32)
    with graphc.load(package) as model, Scheduler(model) as scheduler:
        end = time.perf_counter() + seconds

        def client() -> None:
            while time.perf_counter() < end:
                scheduler({"x": x})
                next(numbers)

        threads = [threading.Thread(target=client) for _ in range(CLIENTS)]
        start = time.perf_counter()
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        return next(numbers) / (time.perf_counter() - start)


def summary(results: Mapping[str, Any]) -> str:
    """As a table."""
    rows = [
        (name, f"{max(rates):.1f}/s", f"{results['shares'][name]:.1%}" if name in results["shares"] else "")
        for name, rates in results["rates"].items()
    ]
    head = f"a model of {format_seconds(results['model_seconds'])}, {results['clients']} clients"
    return f"{head}\n\n{table(('', 'answers', 'of the scheduler alone'), rows)}"


def claims(results: Mapping[str, Any]) -> list[Claim]:
    """What must hold."""
    return [
        Claim(f"throughput over {kind}, of the scheduler's alone", share, "at least", 0.9)
        for kind, share in results["shares"].items()
    ]


if __name__ == "__main__":
    print(_bare(Path(sys.argv[1]), float(sys.argv[2])))
