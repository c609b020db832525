"""Memory as a picture in characters: bytes live at each step."""

from __future__ import annotations

from collections.abc import Sequence

from graphc.cli.table import size
from graphc.memory.bounds import timeline

_EIGHTHS = " ▁▂▃▄▅▆▇█"


def draw_timeline(
    buffers: Sequence[tuple[int, int, int]], steps: int, *, alignment: int, width: int = 72, height: int = 8
) -> str:
    """Bytes live over the steps, as a bar chart.

    Args:
        buffers: (start, end, bytes) triples.
        steps: How many steps there are.
        alignment: Sizes count rounded up to this.
        width: Columns of the chart at most; several steps share a column where there are more, by their maximum.
        height: Lines of the chart.
    """
    live = [0] * max(steps, 1)
    for start, end, held in timeline(buffers, alignment=alignment):
        for step in range(max(start, 0), min(end, len(live))):
            live[step] = max(live[step], held)
    columns = _columns(live, width)
    peak = max(columns)
    if not peak:
        return "  no memory is live between steps"
    label = size(peak)
    lines = []
    for row in range(height, 0, -1):
        cells = "".join(_EIGHTHS[_filled(value, peak, row, height)] for value in columns)
        margin = label if row == height else ""
        lines.append(f"  {margin:>{len(label)}} {'┤' if row == height else '│'}{cells}".rstrip())
    last = str(steps - 1)
    space = max(len(columns) - len(last) - 1, 0)
    lines.append(f"  {'0':>{len(label)}} └{'─' * len(columns)}")
    lines.append(f"  {'':>{len(label)}}  0{' ' * space}{last if steps > 1 else ''}  step")
    return "\n".join(lines)


def _columns(live: Sequence[int], width: int) -> list[int]:
    """The largest value in each of at most `width` stretches; each step several columns wide where there are few."""
    if len(live) > width:
        return [
            max(live[len(live) * i // width : max(len(live) * (i + 1) // width, len(live) * i // width + 1)])
            for i in range(width)
        ]
    repeat = max(1, min(4, width // len(live)))
    return [value for value in live for _ in range(repeat)]


def _filled(value: int, peak: int, row: int, height: int) -> int:
    """Eighths of a cell in line `row` (from 1, at the bottom) that a bar of `value` fills."""
    eighths = -(-value * height * 8 // peak)
    return max(0, min(8, eighths - (row - 1) * 8))
