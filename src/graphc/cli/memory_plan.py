"""The memory plan as `inspect` shows it: peak, lower bound, timeline, largest buffers."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

from graphc.cli.table import percent, shorten, size, table
from graphc.cli.timeline import draw_timeline
from graphc.package import ALIGNMENT, BufferPlan

_SHOWN = 10


def memory_line(peak: int, bound: int) -> str:
    """Peak and lower bound in a few words."""
    if peak == bound:
        return f"{size(peak)} for intermediate values, which is the lower bound"
    return f"{size(peak)} for intermediate values, {percent(peak - bound, bound)} % above the lower bound {size(bound)}"


def memory_section(buffers: Sequence[BufferPlan], steps: int, peak: int, bound: int) -> str:
    """The timeline of live bytes, and the largest buffers.

    Args:
        buffers: Everything in the arena.
        steps: How many there are.
        peak: Bytes of the arena.
        bound: The largest sum of live bytes.
    """
    intervals = [(buffer.start, buffer.end, buffer.size) for buffer in buffers]
    lines = [
        f"memory  {memory_line(peak, bound)}",
        "",
        draw_timeline(intervals, steps, alignment=ALIGNMENT),
    ]
    largest = sorted(buffers, key=lambda buffer: (-buffer.size, buffer.start))[:_SHOWN]
    if largest:
        rows = [
            (shorten(b.name, 44), size(b.size), f"{b.start}…{b.end - 1}", f"{b.offset:,}".replace(",", " "))
            for b in largest
        ]
        lines += ["", table((f"buffer ({len(buffers)} in all)", "size", "live in steps", "offset"), rows)]
    return "\n".join(lines)


def memory_json(buffers: Sequence[BufferPlan], peak: int, bound: int) -> dict[str, Any]:
    """The plan as plain data."""
    return {"arena_bytes": peak, "lower_bound_bytes": bound, "buffers": [asdict(buffer) for buffer in buffers]}
