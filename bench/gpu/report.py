"""Results as tables, and as a picture of the ratios."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from graphc.testing.compare import format_seconds

Row = dict[str, Any]


def geometric_mean(ratios: Iterable[float]) -> float:
    """Of positive numbers; 0 of none."""
    logs = [math.log(ratio) for ratio in ratios]
    return math.exp(sum(logs) / len(logs)) if logs else 0.0


def as_text(results: Row) -> str:
    """All tables, for a terminal and for Markdown alike."""
    parts = [f"{results['device']}, torch {results['torch']}, triton {results['triton']}"]
    for group in dict.fromkeys(row["group"] for row in results["kernels"] if "seconds" in row):
        rows = [row for row in results["kernels"] if row.get("group") == group and "seconds" in row]
        unit = "gigabytes/s" if group == "memory" else "teraflops"
        lines = [
            (
                row["name"],
                row["precision"],
                *(format_seconds(row["seconds"][engine]["median"]) for engine in ("graphc", "torch")),
                f"{row[f'graphc {unit}']:.0f}",
                f"{row['ratio']:.2f}x{'' if row['right'] else ' WRONG'}",
            )
            for row in rows
        ]
        lines.append(("geometric mean", "", "", "", "", f"{geometric_mean(row['ratio'] for row in rows):.2f}x"))
        parts.append(_table((group, "type", "graphc", "torch", unit, "faster"), lines))
    models = [row for row in results["models"] if "seconds" in row]
    if models:
        peers = list(dict.fromkeys(peer for row in models for peer in row["speedup"]))
        lines = [
            (
                row["name"],
                row["precision"],
                format_seconds(row["seconds"]["graphc"]["median"]) + ("" if row["right"] else " WRONG"),
                *(f"{row['speedup'][peer]['median']:.2f}x" if peer in row["speedup"] else "-" for peer in peers),
            )
            for row in models
        ]
        means = [geometric_mean(r["speedup"][p]["median"] for r in models if p in r["speedup"]) for p in peers]
        lines.append(("geometric mean", "", "", *(f"{mean:.2f}x" for mean in means)))
        parts.append(_table(("model", "type", "graphc", *(f"than {peer}" for peer in peers)), lines))
    failed = [row for row in (*results["kernels"], *results["models"]) if "failure" in row]
    parts += [f"{row['name']} {row['precision']}: {row['failure']}" for row in failed]
    return "\n\n".join(parts)


def _table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    widths = [max(len(row[column]) for row in (head, *rows)) for column in range(len(head))]

    def line(cells: Sequence[str]) -> str:
        padded = (
            cell.ljust(w) if n < 2 else cell.rjust(w) for n, (cell, w) in enumerate(zip(cells, widths, strict=True))
        )
        return f"| {' | '.join(padded)} |"

    rule = "|" + "|".join("-" * (width + 1) + ("-" if number < 2 else ":") for number, width in enumerate(widths)) + "|"
    return "\n".join([line(head), rule, *map(line, rows)])


def write_plot(results: Row, path: Path) -> None:
    """Draws how many times as fast as torch each kernel and model is."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    bars = [(row["name"], row["ratio"]) for row in results["kernels"] if "ratio" in row]
    for row in results["models"]:
        bars += [(f"{row['name']}, {peer}", ratio["median"]) for peer, ratio in row.get("speedup", {}).items()]
    figure, axes = pyplot.subplots(figsize=(8, 0.22 * len(bars) + 1), layout="constrained")
    axes.barh([name for name, _ in bars][::-1], [ratio for _, ratio in bars][::-1], color="#4878a8")
    axes.axvline(1, color="black", linewidth=0.8)
    axes.set_xlabel(f"times as fast on {results['device']}")
    axes.tick_params(axis="y", labelsize=7)
    figure.savefig(path)
    pyplot.close(figure)
