"""Results as a table: a row a model, a geometric mean a group."""

from __future__ import annotations

import os
import platform
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from graphc.testing.benchmark import TOLERANCE
from graphc.testing.compare import format_seconds, geometric_mean

Result = dict[str, Any]


def machine() -> dict[str, object]:
    """What the figures were taken on."""
    cpuinfo = Path("/proc/cpuinfo")
    lines = cpuinfo.read_text().splitlines() if cpuinfo.exists() else []
    model = next((line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")), "unknown")
    return {"cpu": model, "processors": len(os.sched_getaffinity(0)), "python": platform.python_version()}


def rows(results: Sequence[Result], against: Sequence[str]) -> list[list[str]]:
    """Cells: the model, graphc's time, the speedup over each peer, the error against the first, the compile time."""
    table = [["model", "graphc", *(f"over {name}" for name in against), "error", "compile"]]
    for result in results:
        if "failure" in result:
            reason = str(result["failure"]).splitlines()[0]
            table.append([result["model"], "failed", *([""] * len(against)), reason, ""])
            continue
        table.append(
            [
                result["model"],
                format_seconds(result["seconds"]["graphc"]["median"]),
                *(_speedup(result, name) for name in against),
                f"{result['errors'][against[0]]:.0e}" if against else "",
                format_seconds(result["compile_seconds"]),
            ]
        )
    for group, members in _groups(results).items():
        means = [_mean([member for member in members if agrees(member, name)], name) for name in against]
        table.append([f"geometric mean, {group} ({len(members)})", "", *means, "", ""])
    return table


def agrees(result: Result, peer: str) -> bool:
    """Whether graphc's answers are the peer's. Where they are not, their times say nothing of each other."""
    return "failure" not in result and bool(result["errors"][peer] <= TOLERANCE)


def _speedup(result: Result, peer: str) -> str:
    ratio = result["speedup"][peer]
    text = f"{ratio['median']:.2f}x ({ratio['p10']:.2f} to {ratio['p90']:.2f})"
    return text if agrees(result, peer) else f"{text}, answers differ"


def _mean(members: Sequence[Result], peer: str) -> str:
    return f"{geometric_mean([member['speedup'][peer]['median'] for member in members]):.2f}x" if members else ""


def as_text(results: Sequence[Result], against: Sequence[str]) -> str:
    """A table for a terminal."""
    table = rows(results, against)
    widths = [max(len(row[column]) for row in table) for column in range(len(table[0]))]
    return "\n".join(
        "  ".join(f"{cell:{width}}" for cell, width in zip(row, widths, strict=True)).rstrip() for row in table
    )


def as_markdown(results: Sequence[Result], against: Sequence[str]) -> str:
    """A table for a document."""
    head, *body = rows(results, against)
    rule = ["---"] * len(head)
    return "\n".join(f"| {' | '.join(row)} |" for row in [head, rule, *body])


def _groups(results: Sequence[Result]) -> dict[str, list[Result]]:
    """Results that were measured, by the group of their model."""
    groups: dict[str, list[Result]] = {}
    for result in results:
        if "failure" not in result:
            groups.setdefault(result["group"], []).append(result)
    return groups
