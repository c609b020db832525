"""`graphc calibrate`: how long each variant of a package takes on this machine."""

from __future__ import annotations

import argparse
from functools import partial
from pathlib import Path
from typing import Any

from graphc.cli.common import add_json, add_threads, is_package, positive_number, print_json
from graphc.cli.progress import Progress
from graphc.cli.table import quantity, table
from graphc.cli.values import describe, describe_variant
from graphc.errors import OptionError
from graphc.package import Variant
from graphc.runtime import Executable, Latency, calibrate, load
from graphc.runtime.calibration import save
from graphc.runtime.scheduler.costs import CostCurve
from graphc.testing.compare import format_seconds

DESCRIPTION = """Measure how long each variant of a package takes on this machine, and keep it beside the package.

A scheduler makes its promises from these figures and corrects them while it runs; without them it measures when it
starts. They hold for this processor and this number of threads. Nothing else should run meanwhile."""

EXAMPLES = """
  graphc calibrate model.graphc
  graphc calibrate model.graphc --threads 1 --slo-ms 50    how much traffic can be answered within 50 ms
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Arguments of the command."""
    parser.add_argument("package", metavar="PACKAGE", type=Path, help="a .graphc package")
    parser.add_argument(
        "--slo-ms", type=positive_number, metavar="MS", help="say how many rows a second can be promised within this"
    )
    add_threads(parser)
    add_json(parser)


def run(options: argparse.Namespace) -> int:
    """Measures, keeps and shows."""
    if not is_package(options.package):
        raise OptionError(
            f"{str(options.package)!r} is no package",
            hint="graphc compile makes one; what is measured is kept beside it",
        )
    with Progress() as progress, load(options.package, threads=options.threads) as executable:
        if not executable.variants:
            raise OptionError("no shape is compiled in this package", hint="bind its dimensions: graphc compile --dim")
        found = calibrate(executable, progress=partial(progress, "measuring"))
        path = save(options.package, executable, found)
        rows = [(variant, found[variant.inputs]) for variant in executable.variants if variant.inputs in found]
        promises = _promises(executable, rows, options.slo_ms)
    if options.json:
        print_json(
            {
                "costs": str(path),
                "threads": executable.threads,
                "variants": [
                    {"bindings": dict(variant.bindings), "median": cost.median, "high": cost.high}
                    for variant, cost in rows
                ],
                "rows_per_second": promises,
            }
        )
        return 0
    print(_text(executable, rows))
    for shape, rate in promises.items():
        where = f" at {shape}" if shape else ""
        print(f"\nwithin {options.slo_ms:g} ms: {quantity(rate) or 'no'} rows a second{where}")
    print(f"\nkept in {path}")
    return 0


def _rows(executable: Executable, variant: Variant) -> int:
    batch = executable.manifest.batch
    return variant.bindings[batch.symbol] if batch else 1


def _text(executable: Executable, rows: list[tuple[Variant, Latency]]) -> str:
    cells = []
    for variant, cost in rows:
        count = _rows(executable, variant)
        cells.append(
            (
                describe_variant(executable.manifest, variant),
                format_seconds(cost.median),
                format_seconds(cost.high),
                format_seconds(cost.median / count) if executable.manifest.batch else "",
                quantity(count / cost.median),
            )
        )
    return table(("variant", "median", "95 of 100 within", "a row", "rows a second"), cells)


def _promises(executable: Executable, rows: list[tuple[Variant, Latency]], slo_ms: float | None) -> dict[str, Any]:
    """Rows a second that can be promised, by the dimensions that do not count rows."""
    if slo_ms is None:
        return {}
    tables: dict[str, dict[int, float]] = {}
    batch = executable.manifest.batch
    for variant, cost in rows:
        rest = {name: value for name, value in variant.bindings.items() if batch is None or name != batch.symbol}
        tables.setdefault(describe(rest, {}) if rest else "", {})[_rows(executable, variant)] = cost.high
    return {shape: CostCurve(costs).capacity(slo_ms / 1e3) for shape, costs in tables.items()}
