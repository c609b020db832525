"""Aligned text tables, and numbers as people read them."""

from __future__ import annotations

import unicodedata
from collections.abc import Sequence


def table(head: Sequence[str], rows: Sequence[Sequence[str]], *, left: Sequence[int] = (0,), indent: int = 2) -> str:
    """Columns two spaces apart.

    Args:
        head: A title for each column.
        rows: As many cells each.
        left: Columns aligned to the left; the others, numbers mostly, are aligned to the right.
        indent: Spaces before each line.
    """
    lines = [head, *rows]
    widths = [max(width(line[column]) for line in lines) for column in range(len(head))]
    return "\n".join(
        (" " * indent + "  ".join(_pad(cell, widths[i], i in left) for i, cell in enumerate(line))).rstrip()
        for line in lines
    )


def facts(rows: Sequence[tuple[str, str]]) -> str:
    """Lines of a name and what it is; of several lines with the same name, the first has it."""
    wide = max(len(name) for name, _ in rows)
    lines, last = [], ""
    for name, what in rows:
        lines.append(f"{'' if name == last else name:<{wide}}  {what}".rstrip())
        last = name
    return "\n".join(lines)


def width(text: str) -> int:
    """Columns that `text` takes in a terminal: wide characters take two, combining ones none."""
    return sum(
        0 if unicodedata.combining(char) else 2 if unicodedata.east_asian_width(char) in "WF" else 1 for char in text
    )


def _pad(text: str, to: int, left: bool) -> str:
    space = " " * (to - width(text))
    return text + space if left else space + text


def shorten(text: str, limit: int) -> str:
    """`text`, its middle left out if it is longer than `limit`: both ends of a node's name tell it apart."""
    if len(text) <= limit:
        return text
    head = (limit - 1) // 2
    return f"{text[:head]}…{text[len(text) - (limit - 1 - head) :]}"


def names(items: Sequence[str], *, shown: int = 2, limit: int = 28) -> str:
    """The first of some names, shortened, and how many there are beside them."""
    listed = ", ".join(shorten(item, limit) for item in items[:shown])
    return f"{listed} +{len(items) - shown}" if len(items) > shown else listed


def size(count: float) -> str:
    """Bytes, with three digits and a decimal unit."""
    return f"{_scaled(count, 'B')}"


def quantity(count: float) -> str:
    """A count with three digits and a decimal prefix, e.g. flops; empty for none."""
    return _scaled(count, "").strip() if count else ""


def _scaled(count: float, unit: str) -> str:
    for prefix, scale in (("T", 1e12), ("G", 1e9), ("M", 1e6), ("k", 1e3)):
        if count >= 0.9995 * scale:
            return f"{_three(count / scale)} {prefix}{unit}"
    return f"{count:.0f} {unit}"


def _three(value: float) -> str:
    digits = 2 if value < 9.995 else 1 if value < 99.95 else 0
    return f"{value:.{digits}f}"


def count(number: int, what: str, many: str = "") -> str:
    """`1 step`, `2 steps`."""
    return f"{number} {what if number == 1 else many or what + 's'}"


def percent(part: float, whole: float) -> str:
    """A share with one decimal."""
    return f"{100 * part / whole:.1f}" if whole else ""
