"""The scheduler: `python -m bench.scheduler` simulates it, `python -m bench.scheduler real` puts it under real load."""

from __future__ import annotations

import argparse
import json
import os
import sys
from pathlib import Path
from typing import Any

from bench.report import machine
from bench.scheduler import figures
from bench.scheduler.plots import gains_plot, policies_plot
from bench.scheduler.sweep import ABLATIONS, HINDSIGHT, LOADS, PROCESSES, PROMISE, TUNED, sweep
from graphc.cli.table import table

ROOT = Path(__file__).resolve().parents[2]
RESULTS = ROOT / "bench" / "results"
ASSETS = ROOT / "docs" / "assets"
DOCS = ROOT / "docs" / "scheduling.md"


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m bench.scheduler", description=__doc__)
    parser.add_argument("what", nargs="?", choices=("simulate", "real"), default="simulate")
    parser.add_argument("--seeds", type=int, default=5, help="simulations of each load (default: %(default)s)")
    parser.add_argument("--seconds", type=float, default=20.0, help="of each, simulated or real (default: %(default)s)")
    parser.add_argument("--quick", action="store_true", help="one short run of each, to see that all works")
    parser.add_argument("--models", default="", help="for `real`, by name with commas between (default: all)")
    parser.add_argument("--plots", type=Path, default=ASSETS, help="folder of the plots (default: docs/assets)")
    parser.add_argument("--output", type=Path, default=RESULTS, help="folder of the figures (default: bench/results)")
    parser.add_argument(
        "--docs",
        type=Path,
        default=None,
        help=f"whose figures to renew (default: {DOCS.relative_to(ROOT)}, if not --quick)",
    )
    options = parser.parse_args(arguments)
    if options.quick:
        options.seeds, options.seconds = 1, 2.0
    elif options.docs is None:
        options.docs = DOCS
    return simulated(options) if options.what == "simulate" else real(options)


def simulated(options: argparse.Namespace) -> int:
    """Sweeps, prints, plots, keeps."""
    rows = sweep(range(1, options.seeds + 1), options.seconds, _progress)
    _progress("")
    for process in PROCESSES:
        print(f"\n{process}: answered on time, as a share of the bound\n")
        print(_shares([row for row in rows if row["process"] == process]))
    late = sum(row["late"] for row in rows if row["policy"] == PROMISE)
    accepted = sum(row["accepted"] for row in rows if row["policy"] == PROMISE)
    print(f"\nof {accepted} requests accepted by {PROMISE}, {late} were late")
    _keep(
        options.output / "scheduler-simulated.json", {"seeds": options.seeds, "seconds": options.seconds, "rows": rows}
    )
    policies_plot(rows, options.plots / "scheduling-policies.png")
    if options.docs:
        figures.put(options.docs, "figures", figures.simulated(rows))
    return 1 if late else 0


def real(options: argparse.Namespace) -> int:
    """Measures, prints, plots, keeps."""
    from bench.scheduler.real import MODELS, measure, summary

    results = []
    for name in options.models.split(",") if options.models else MODELS:
        _progress(name)
        results.append(measure(name, options.seconds, _progress))
    _progress("")
    for result in results:
        print(summary(result))
    _keep(
        options.output / "scheduler-real.json", {"machine": machine(), "seconds": options.seconds, "results": results}
    )
    plot = options.plots / "scheduling-gains.png"
    gains_plot(results, plot)
    if options.docs:
        figures.put(options.docs, "real", figures.real(results, os.path.relpath(plot, options.docs.parent)))
    return 0


def _shares(rows: list[dict[str, Any]]) -> str:
    policies = list(dict.fromkeys(row["policy"] for row in rows if row["policy"] not in ABLATIONS))
    cells = []
    first = [policy for policy in (PROMISE, HINDSIGHT, TUNED) if policy in policies]
    for policy in [*first, *(p for p in policies if p not in first), *ABLATIONS]:
        shares = {row["load"]: f"{row['share_of_bound']:.3f}" for row in rows if row["policy"] == policy}
        cells.append((policy, *(shares.get(load, "") for load in LOADS)))
    return table(("load", *(f"{load:g}" for load in LOADS)), cells)


def _keep(path: Path, data: dict[str, Any]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(rounded(data), separators=(",", ":")) + "\n")
    print(f"written to {path}", file=sys.stderr)


def rounded(data: Any) -> Any:
    """Figures with six digits: more would only make files that nobody can compare."""
    if isinstance(data, dict):
        return {key: rounded(value) for key, value in data.items()}
    if isinstance(data, list | tuple):
        return [rounded(value) for value in data]
    return float(f"{data:.6g}") if isinstance(data, float) else data


def _progress(text: str) -> None:
    print(f"\r\033[K{text}", end="", file=sys.stderr, flush=True)


if __name__ == "__main__":
    sys.exit(main())
