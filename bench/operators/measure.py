"""One operator, both engines in turns; runs in a worker process."""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Any

from bench.operators.cases import CASES
from graphc.errors import GraphcError
from graphc.package import Package
from graphc.testing.benchmark import benchmark


def measured(task: tuple[int, int, int | None]) -> dict[str, Any]:
    """Times of one case, by its number, the rounds and the threads; or why there are none under "failure"."""
    number, rounds, threads = task
    case = CASES[number]
    with tempfile.TemporaryDirectory(prefix="graphc-bench-") as folder:
        path, package = Path(folder, "model.onnx"), Path(folder, "model.graphc")
        path.write_bytes(case.model())
        try:
            found = benchmark(path, case.inputs(), threads=threads, rounds=rounds, package=package)
        except GraphcError as error:
            return {"failure": str(error)}
        facts = found.to_json()
        return {
            "seconds": facts["seconds"],
            "speedup": facts["speedup"],
            "error": found.errors["onnxruntime"],
            "compile_seconds": found.compile_seconds,
            "host_steps": _host_steps(package),
        }


def _host_steps(path: Path) -> int:
    return sum(len(variant.host_steps) for variant in Package(path).manifest.variants)
