"""Figures as tables of the documentation, put between the markers that stand there for them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from bench.scheduler.sweep import HINDSIGHT, PROMISE, TUNED
from graphc.testing.compare import format_seconds

_LOADS = (0.5, 0.9, 1.0, 1.1, 1.5, 3.0)

_POLICIES = {
    PROMISE: PROMISE,
    HINDSIGHT: f"*{HINDSIGHT}*",
    TUNED: TUNED,
    "earliest deadline": "earliest deadline first",
    "fixed delay 5 ms": "fixed delay (5 ms) and size",
}
"""Those that the documentation shows, by what it calls them."""

_PROCESSES = ("independent requests", "bursts of 8", "a day's swing")


def put(path: Path, marker: str, text: str) -> None:
    """Replaces what stands between `<!-- marker -->` and `<!-- /marker -->` in a file.

    Raises:
        ValueError: The markers are not there.
    """
    begin, end = f"<!-- {marker} -->", f"<!-- /{marker} -->"
    old = path.read_text()
    before, found, rest = old.partition(begin)
    _, closed, after = rest.partition(end)
    if not found or not closed:
        raise ValueError(f"{path} has no place for figures: {begin} ... {end}")
    path.write_text(f"{before}{begin}\n{text}\n{end}{after}")


def simulated(rows: Sequence[Mapping[str, Any]]) -> str:
    """Goodput as a share of the bound, by process and policy."""
    shares = {(row["process"], row["policy"], row["load"]): row["share_of_bound"] for row in rows}
    lines = [
        _line("on time, of the bound, at load", *(f"{load:g}" for load in _LOADS)),
        "|---" * (1 + len(_LOADS)) + "|",
    ]
    for process in _PROCESSES:
        lines.append(_line(f"**{process}**", *([""] * len(_LOADS))))
        for policy, name in _POLICIES.items():
            cells = [f"{shares[key]:.1%}" if (key := (process, policy, load)) in shares else "" for load in _LOADS]
            if any(cells):
                lines.append(_line(name, *(cell.replace("%", " %") for cell in cells)))
    return "\n".join(lines)


def real(results: Sequence[Mapping[str, Any]], plot: str) -> str:
    """What each model's load showed, and the plot of what batches gain.

    Args:
        results: Of `bench.scheduler.real.measure`.
        plot: Path of the plot, from the documentation's folder.
    """
    loads = [row["load"] for row in results[0]["loads"]]
    head = ("model", "promised", *(f"late at {load:g}" for load in loads), "overhead", "alone", "singly", "in batches")
    lines = [_line(*head), "|---" * len(head) + "|"]
    for result in results:
        overhead, batching = result["overhead"], result["batching"]
        lines.append(
            _line(
                result["model"],
                format_seconds(result["slo"]),
                *(f"{row['late']} of {row['accepted']}" for row in result["loads"]),
                format_seconds(max(overhead.values())),
                f"{result['lone']['ratio'] - 1:+.1%}".replace("%", " %"),
                f"{batching['without']:.0f}/s",
                f"{batching['with']:.0f}/s, {batching['gain']:.2f}×",
            )
        )
    return "\n".join([f"![Answers a second in batches, over those of single requests]({plot})", "", *lines])


def _line(*cells: str) -> str:
    return "| " + " | ".join(cells) + " |"
