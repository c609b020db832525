"""Every model of the zoo, compiled for GPUs that need not be here: what gets no kernel, what spills, how long it takes.

Each model is compiled twice, with a cache of its own: the first time everything is compiled, the second nothing.
"""

from __future__ import annotations

import tempfile
import time
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from bench.gpu.compiling import look_at
from bench.zoo import load
from graphc.cli.table import size, table
from graphc.compiler import CompileOptions, compile_package
from graphc.errors import GraphcError

Row = dict[str, Any]


def compile_entry(name: str, precision: str, target: str, jobs: int) -> Row:
    """What became of one model, with its dimensions bound; `failure` says why there is no package.

    Args:
        name: Of the zoo.
        precision: As `graphc compile` takes it.
        target: Likewise; several by commas.
        jobs: Processes that compile.
    """
    row: Row = {"name": name, "precision": precision}
    entry = load(name)
    with tempfile.TemporaryDirectory(prefix="graphc-bench-") as folder:
        path = Path(folder) / "model.graphc"
        options = CompileOptions(cache=Path(folder) / "cache", jobs=jobs, precision=precision)
        for kind in ("cold", "warm"):
            start = time.perf_counter()
            try:
                compile_package(entry.path, path, target=target, dims=dict(entry.shapes), options=options)
            except GraphcError as error:
                return {**row, "failure": f"{type(error).__name__}: {error.message}"}
            row[f"{kind} seconds"] = round(time.perf_counter() - start, 2)
        made = look_at(name, path)
        return {
            **row,
            "kernels": made.kernels,
            "templates": list(made.templates),
            "host steps": list(made.host),
            "spilling": made.spilling,
            "bytes": path.stat().st_size,
        }


def as_text(results: Row) -> str:
    """A table of the models, and beneath it what failed, runs on the host or spills."""
    made = [row for row in results["models"] if "failure" not in row]
    rows = [
        (
            row["name"],
            row["precision"],
            f"{row['cold seconds']:.1f} s",
            f"{row['warm seconds']:.1f} s",
            str(row["kernels"]),
            str(len(row["host steps"])),
            str(len(row["spilling"])),
            size(row["bytes"]),
        )
        for row in made
    ]
    head = ("model", "type", "cold", "warm", "kernels", "host steps", "spilling", "package")
    parts = [
        f"{results['target']}, triton {results['triton']}, {results['jobs']} processes",
        table(head, rows, left=(0, 1)),
    ]
    parts += [f"{_title(row)}: {row['failure']}" for row in results["models"] if "failure" in row]
    parts += [f"{_title(row)}: on the host: {_counted(row['host steps'])}" for row in made if row["host steps"]]
    parts += [f"{_title(row)}: spills: {_spilled(row['spilling'])}" for row in made if row["spilling"]]
    return "\n\n".join(parts[:2]) + "".join(f"\n{line}" for line in parts[2:])


def _title(row: Row) -> str:
    return f"{row['name']} {row['precision']}"


def _spilled(functions: Mapping[str, int]) -> str:
    return ", ".join(f"{function} {stack} B" for function, stack in functions.items())


def _counted(steps: Sequence[str]) -> str:
    return "; ".join(f"{count} × {step}" if count > 1 else step for step, count in Counter(steps).items())
