"""Results as a table: a row an operator, geometric means of families, the slowest at the end of the ranking."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from graphc.testing.benchmark import TOLERANCE
from graphc.testing.compare import format_seconds, geometric_mean

Result = dict[str, Any]


def rows(results: Sequence[Result]) -> list[list[str]]:
    """Cells: the case, graphc's time, ONNX Runtime's, the speedup with its spread, and what there is to say."""
    table = [["operator", "graphc", "onnxruntime", "speedup", "remarks"]]
    for family in dict.fromkeys(result["family"] for result in results):
        members = [result for result in results if result["family"] == family]
        table += [_row(member) for member in members]
        ratios = [speedup for member in members if (speedup := speedup_of(member)) is not None]
        if ratios:
            mean = f"{geometric_mean(ratios):.2f}x"
            table.append([f"geometric mean, {family} ({len(ratios)})", "", "", mean, f"least {min(ratios):.2f}x"])
    known = [speedup for result in results if (speedup := speedup_of(result)) is not None]
    if known:
        slower = sum(ratio < 1 for ratio in known)
        mean = f"{geometric_mean(known):.2f}x"
        table.append([f"geometric mean, all ({len(known)})", "", "", mean, f"slower: {slower}"])
    return table


def speedup_of(result: Result) -> float | None:
    """How many times as fast as ONNX Runtime, whose answer it shares; None where that says nothing."""
    if "failure" in result or result["error"] > TOLERANCE:
        return None
    return float(result["speedup"]["onnxruntime"]["median"])


def _row(result: Result) -> list[str]:
    if "failure" in result:
        return [result["name"], "", "", "", str(result["failure"]).splitlines()[0]]
    ours, theirs = (result["seconds"][engine]["median"] for engine in ("graphc", "onnxruntime"))
    ratio = result["speedup"]["onnxruntime"]
    remarks = [f"{result['host_steps']} on the host"] if result["host_steps"] else []
    if result["error"] > TOLERANCE:
        remarks.append(f"DIFFERS by {result['error']:.0e}")
    speedup = f"{ratio['median']:.2f}x ({ratio['p10']:.2f} to {ratio['p90']:.2f})"
    return [result["name"], format_seconds(ours), format_seconds(theirs), speedup, ", ".join(remarks)]


def as_text(results: Sequence[Result]) -> str:
    """The table, its columns aligned."""
    table = rows(results)
    widths = [max(len(row[column]) for row in table) for column in range(len(table[0]))]
    return "\n".join("  ".join(f"{cell:{w}}" for cell, w in zip(row, widths, strict=True)).rstrip() for row in table)
