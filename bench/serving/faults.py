"""Faults under load: a server that is killed, a version that is damaged, an audit log that is full. Who got what?"""

from __future__ import annotations

import os
import resource
import signal
import tempfile
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from bench.serving.claims import Claim
from bench.serving.models import place, scale
from bench.serving.processes import Running, graphc_server, report, start_load
from graphc.cli.table import table

RATE = 200.0
TOLD = ("connection", "UNAVAILABLE")
"""What a client sees that is told that it gets no answer."""


def measure(quick: bool, progress: Callable[[str], None]) -> dict[str, Any]:
    """All figures: what became of the requests of each fault."""
    seconds = 2.0 if quick else 10.0
    faults: dict[str, tuple[Callable[[Running, Path], None], tuple[str, ...]]] = {
        "killed": (_kill, ()),
        "damaged versions": (_damage, ("--poll-seconds", "0.05")),
        "full audit log": (_fill, ("--audit-log", "{folder}/audit.jsonl")),
    }
    found = {}
    for name, (fault, options) in faults.items():
        progress(name)
        with tempfile.TemporaryDirectory(prefix="graphc-bench-") as work:
            folder = Path(work)
            place(folder / "models", "scale", 1, scale(folder, 2.0))
            filled = [option.format(folder=folder) for option in options]
            with graphc_server(folder / "models", *filled) as running:
                asked = ("--model", "scale", "--kind", "grpc", "--dims", "x=1,16", "--rate", str(RATE))
                load = start_load(running.ready["grpc"], *asked, "--seconds", str(seconds))
                time.sleep(1.0 + seconds / 3)
                fault(running, folder)
                found[name] = report(load)["outcomes"]
    return {"rate": RATE, "seconds": seconds, "outcomes": found}


def _kill(running: Running, folder: Path) -> None:
    os.kill(running.pid, signal.SIGKILL)


def _damage(running: Running, folder: Path) -> None:
    """Packages that are cut short, changed in one byte, or no packages at all."""
    package = (folder / "models/scale/1/model.graphc").read_bytes()
    middle = len(package) // 2
    changed = package[:middle] + bytes([package[middle] ^ 1]) + package[middle + 1 :]
    for number, data in enumerate((package[:middle], changed, b"", b"no package"), 2):
        version = folder / "models" / "scale" / str(number)
        version.mkdir()
        (version / "model.graphc").write_bytes(data)
        time.sleep(0.1)


def _fill(running: Running, folder: Path) -> None:
    """No more room for a second, as the system's limit on a file's size has it."""
    before = resource.prlimit(running.pid, resource.RLIMIT_FSIZE)
    size = (folder / "audit.jsonl").stat().st_size
    resource.prlimit(running.pid, resource.RLIMIT_FSIZE, (size + 100, before[1]))
    time.sleep(0.5)
    resource.prlimit(running.pid, resource.RLIMIT_FSIZE, before)


def summary(results: Mapping[str, Any]) -> str:
    """As a table."""
    rows = [
        (name, " ".join(f"{count} {outcome}" for outcome, count in outcomes.items()))
        for name, outcomes in results["outcomes"].items()
    ]
    return f"{results['rate']:.0f} requests a second\n\n{table(('fault', 'outcomes'), rows)}"


def claims(results: Mapping[str, Any]) -> list[Claim]:
    """What must hold."""
    found = results["outcomes"]
    untold = sum(
        count for outcomes in found.values() for outcome, count in outcomes.items() if outcome not in ("ok", *TOLD)
    )
    damaged = found["damaged versions"]
    lost = sum(damaged.values()) - damaged.get("ok", 0)
    return [
        Claim("wrong answers", sum(outcomes.get("wrong", 0) for outcomes in found.values()), "at most", 0),
        Claim("requests that were neither answered nor told so", untold, "at most", 0),
        Claim("requests that failed beside damaged versions", lost, "at most", 0),
        Claim("requests answered after the log was full", found["full audit log"].get("ok", 0), "at least", 1),
    ]
