"""Results as tables: a row a model, geometric means, what each engine costs."""

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
                f"{result['errors'][against[0]]:.0e}" if against[0] in result["errors"] else "",
                format_seconds(result["compile_seconds"]),
            ]
        )
    groups = _groups(results)
    for group, members in groups.items():
        table.append([f"geometric mean, {group} ({len(members)})", "", *_means(members, against), "", ""])
    real = [member for group, members in groups.items() if group != "small" for member in members]
    if len(groups) > 1 and real:
        table.append([f"geometric mean, all but small ({len(real)})", "", *_means(real, against), "", ""])
        if len(against) > 1:
            least = [over_the_better(member, against) for member in real]
            known = [speedup for speedup in least if speedup is not None]
            mean = f"{geometric_mean(known):.2f}x" if known else ""
            table.append(["the same, over the better peer of each", "", mean, *[""] * (len(against) + 1)])
    return table


def over_the_better(result: Result, against: Sequence[str]) -> float | None:
    """The speedup over the faster of those peers whose answers agree; None where none does."""
    ratios = [result["speedup"][name]["median"] for name in against if agrees(result, name)]
    return min(ratios, default=None)


def _means(members: Sequence[Result], against: Sequence[str]) -> list[str]:
    return [_mean([member for member in members if agrees(member, name)], name) for name in against]


def right(result: Result) -> bool:
    """Whether graphc's answers are those of the first peer that ran the model."""
    return "failure" not in result and next(iter(result["errors"].values())) <= TOLERANCE


def agrees(result: Result, peer: str) -> bool:
    """Whether graphc's answers are the peer's. Where they are not, their times say nothing of each other."""
    return "failure" not in result and result["errors"].get(peer, float("inf")) <= TOLERANCE


def _speedup(result: Result, peer: str) -> str:
    ratio = result["speedup"].get(peer)
    if ratio is None:
        return "cannot run it"
    text = f"{ratio['median']:.2f}x ({ratio['p10']:.2f} to {ratio['p90']:.2f})"
    return text if agrees(result, peer) else f"{text}, answers differ"


def _mean(members: Sequence[Result], peer: str) -> str:
    return f"{geometric_mean([member['speedup'][peer]['median'] for member in members]):.2f}x" if members else ""


def costs(results: Sequence[Result], against: Sequence[str]) -> list[list[str]]:
    """Cells: time to load, memory of a process that serves the model, sizes; no rows if not measured.

    Memory is what loading and running adds to a process that has NumPy and the inputs: resident at the peak. The arena,
    for what graphc computes between inputs and outputs, is part of its memory, and so are pages of the package.
    """
    engines = ["graphc", *against]
    columns = [f"{what}, {engine}" for what in ("load", "memory") for engine in engines]
    table = [["model", *columns, "graphc's arena", "package"]]
    for result in results:
        if "alone" not in result:
            continue
        alone = [result["alone"].get(engine, {}) for engine in engines]
        loads = [format_seconds(one["load_seconds"]) if "load_seconds" in one else "failed" for one in alone]
        memory = [f"{one['memory_bytes'] / 1e6:.0f} MB" if "memory_bytes" in one else "failed" for one in alone]
        sizes = [f"{result[what] / 1e6:.1f} MB" for what in ("arena_bytes", "package_bytes")]
        table.append([result["model"], *loads, *memory, *sizes])
    return table if len(table) > 1 else []


def smaller(results: Sequence[Result], peer: str) -> tuple[int, int]:
    """For how many models a process with graphc holds less memory than one with the peer, and of how many."""
    pairs = [
        (result["alone"]["graphc"]["memory_bytes"], result["alone"][peer]["memory_bytes"])
        for result in results
        if all("memory_bytes" in result.get("alone", {}).get(engine, {}) for engine in ("graphc", peer))
    ]
    return sum(own < other for own, other in pairs), len(pairs)


def as_text(results: Sequence[Result], against: Sequence[str]) -> str:
    """Tables for a terminal."""
    return "\n\n".join(_lined_up(table) for table in (rows(results, against), costs(results, against)) if table)


def _lined_up(table: Sequence[Sequence[str]]) -> str:
    widths = [max(len(row[column]) for row in table) for column in range(len(table[0]))]
    return "\n".join(
        "  ".join(f"{cell:{width}}" for cell, width in zip(row, widths, strict=True)).rstrip() for row in table
    )


def as_markdown(results: Sequence[Result], against: Sequence[str]) -> str:
    """Tables for a document."""
    blocks = []
    for table in (rows(results, against), costs(results, against)):
        if table:
            head, *body = table
            rule = ["---"] * len(head)
            blocks.append("\n".join(f"| {' | '.join(row)} |" for row in [head, rule, *body]))
    return "\n\n".join(blocks)


def _groups(results: Sequence[Result]) -> dict[str, list[Result]]:
    """Results that were measured, by the group of their model."""
    groups: dict[str, list[Result]] = {}
    for result in results:
        if "failure" not in result:
            groups.setdefault(result["group"], []).append(result)
    return groups
