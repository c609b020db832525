"""Delta debugging: a small part of a list that still has a property.

Zeller and Hildebrandt, "Simplifying and Isolating Failure-Inducing Input", IEEE TSE 28(2), 2002.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TypeVar

Item = TypeVar("Item")


def ddmin(items: Sequence[Item], holds: Callable[[list[Item]], bool]) -> list[Item]:
    """A sublist that has a property, from which no single item can be left out (1-minimal).

    Halves are tried alone first, then ever smaller chunks, alone and left out: where the cause is one item, that takes
    about 2 log2(n) questions.

    Args:
        items: All of them together have the property.
        holds: Whether some of them have; asked in their order, never for all or none.
    """
    kept, chunks = list(items), 2
    while len(kept) >= 2:
        size = -(-len(kept) // chunks)
        parts = [kept[start : start + size] for start in range(0, len(kept), size)]
        alone = next((part for part in parts if holds(part)), None)
        if alone is not None:
            kept, chunks = alone, 2
            continue
        # Two chunks are each other's rest.
        starts = range(0, len(kept), size) if len(parts) > 2 else ()
        rest = next((r for r in (kept[:start] + kept[start + size :] for start in starts) if holds(r)), None)
        if rest is not None:
            kept, chunks = rest, max(len(parts) - 1, 2)
        elif size == 1:
            break
        else:
            chunks = min(2 * len(parts), len(kept))
    return kept
