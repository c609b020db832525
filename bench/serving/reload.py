"""Two hundred new versions under load: what fails, how much later answers come, and what memory stays behind."""

from __future__ import annotations

import shutil
import statistics
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any
from urllib.error import HTTPError
from urllib.request import urlopen

from bench.serving.claims import Claim
from bench.serving.models import place, scale
from bench.serving.processes import Running, graphc_server, report, start_load
from graphc.cli.table import table
from graphc.testing.compare import format_seconds

RELOADS = 200
EVERY = 0.25
"""Seconds from one to the next."""
RATE = 200.0
KEPT = 2
"""Versions that lie in the repository at a time."""


def measure(quick: bool, progress: Callable[[str], None]) -> dict[str, Any]:
    """All figures: with reloads and without, in turns, and memory after each reload."""
    # An allocator takes a while to have seen all sizes.
    reloads, turns, warm = (8, 1, 8) if quick else (RELOADS, 4, 200)
    seconds = reloads * EVERY / turns
    reports: dict[str, list[dict[str, Any]]] = {"steady": [], "reloading": []}
    with tempfile.TemporaryDirectory(prefix="graphc-bench-") as folder:
        progress("compiling")
        versions = Versions(Path(folder) / "models", scale(Path(folder), 2.0))
        versions.put()
        with graphc_server(versions.repository, "--poll-seconds", "0.02") as running:
            progress("warming up")
            for _ in range(warm):
                versions.replace(running)
            versions.memory.clear()
            for number in range(turns):
                for name, given in reports.items():
                    progress(f"turn {number + 1} of {turns}: {name}")
                    options = ("--model", "scale", "--kind", "grpc", "--dims", "x=1,16", "--rate", str(RATE))
                    process = start_load(running.ready["grpc"], *options, "--seconds", str(seconds))
                    time.sleep(1.0)  # until it has started
                    end = time.monotonic() + seconds
                    for _ in range(reloads // turns if name == "reloading" else 0):
                        began = time.monotonic()
                        versions.replace(running)
                        time.sleep(max(0.0, began + EVERY - time.monotonic()))
                    time.sleep(max(0.0, end - time.monotonic()))
                    given.append(report(process))
    outcomes = {name: dict(_all(given)) for name, given in reports.items()}
    p99 = {name: [each["latency"]["p99"] for each in given] for name, given in reports.items()}
    ratios = [with_ / without for with_, without in zip(p99["reloading"], p99["steady"], strict=True)]
    return {
        "reloads": len(versions.memory),
        "rate": RATE,
        "outcomes": outcomes,
        "p99": p99,
        "p99_ratio": statistics.median(ratios),
        "reload_seconds": statistics.median(versions.seconds),
        "memory": versions.memory,
        "bytes_per_reload": slope(versions.memory),
    }


class Versions:
    """New versions of one model, one after the other.

    Args:
        repository: Where they are put.
        package: What each is.
    """

    def __init__(self, repository: Path, package: Path) -> None:
        self.repository = repository
        self.package = package
        self.number = 0
        self.seconds: list[float] = []
        self.memory: list[int] = []

    def put(self) -> None:
        """Puts a new one into the repository, and tidies up."""
        self.number += 1
        place(self.repository, "scale", self.number, self.package)
        if self.number > KEPT:
            shutil.rmtree(self.repository / "scale" / str(self.number - KEPT))

    def replace(self, running: Running) -> None:
        """Puts a new one there, waits until it serves, and notes the server's memory.

        Raises:
            RuntimeError: It does not come within 20 s.
        """
        start = time.monotonic()
        self.put()
        while not self._serves(running):
            if time.monotonic() > start + 20:
                raise RuntimeError(f"version {self.number} does not come:\n{running.log.read_text()[-2000:]}")
            time.sleep(0.005)
        self.seconds.append(time.monotonic() - start)
        self.memory.append(running.memory())

    def _serves(self, running: Running) -> bool:
        try:
            urlopen(f"{running.ready['http']}/v2/models/scale/versions/{self.number}/ready", timeout=10).close()
        except HTTPError as error:
            error.close()
            return False
        return True


def slope(values: list[int]) -> float:
    """Growth from one value to the next, by Theil and Sen's estimator: no single step decides it."""
    pairs = [(later - earlier) / (j - i) for i, earlier in enumerate(values) for j, later in enumerate(values) if i < j]
    return statistics.median(pairs) if pairs else 0.0


def _all(reports: list[dict[str, Any]]) -> Counter[str]:
    return sum((Counter(each["outcomes"]) for each in reports), Counter())


def summary(results: Mapping[str, Any]) -> str:
    """As a table."""
    rows = [
        (
            name,
            " ".join(f"{count} {outcome}" for outcome, count in results["outcomes"][name].items()),
            format_seconds(statistics.median(results["p99"][name])),
        )
        for name in results["outcomes"]
    ]
    load = f"{results['reloads']} reloads, {results['rate']:.0f} requests a second"
    return (
        f"{load}, a reload is seen after {format_seconds(results['reload_seconds'])}\n\n"
        f"{table(('', 'outcomes', 'p99'), rows)}\n\n"
        f"{results['memory'][0] / 1e6:.1f} MB after the first, {results['memory'][-1] / 1e6:.1f} MB after the last"
    )


def claims(results: Mapping[str, Any]) -> list[Claim]:
    """What must hold."""
    outcomes = results["outcomes"]["reloading"]
    growth = results["bytes_per_reload"] * results["reloads"] / results["memory"][0]
    return [
        Claim("requests that failed during reloads", sum(outcomes.values()) - outcomes.get("ok", 0), "at most", 0),
        Claim("P99 during reloads, over steady", results["p99_ratio"], "at most", 1.2, "x"),
        Claim(f"memory that {results['reloads']} reloads leave behind", 100 * growth, "at most", 1.0, " %"),
    ]
