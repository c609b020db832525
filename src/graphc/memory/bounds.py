"""How much memory is live when: the timeline of live bytes, and the lower bound that it sets to every plan."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from itertools import pairwise
from typing import NamedTuple

from graphc.memory.interval import align_up, parse_alignment, parse_intervals


class Segment(NamedTuple):
    """A stretch of time `start <= t < end` in which the same `live_bytes` are live."""

    start: int
    end: int
    live_bytes: int


def timeline(buffers: Iterable[Sequence[int]], *, alignment: int = 1) -> tuple[Segment, ...]:
    """Live bytes over time.

    Args:
        buffers: `(start, end, size)` triples: half-open live intervals, sizes in bytes.
        alignment: Each size counts rounded up to a multiple of this.

    Returns:
        Segments in order of time from the first start to the last end, without holes; neighbours differ in their
        live bytes. Empty where no buffer is ever live.

    Raises:
        OptionError: A buffer or the alignment is malformed.
    """
    alignment = parse_alignment(alignment)
    change: dict[int, int] = {}
    for start, end, size in parse_intervals(buffers):
        if start < end:
            change[start] = change.get(start, 0) + align_up(size, alignment)
            change[end] = change.get(end, 0) - align_up(size, alignment)
    segments: list[Segment] = []
    live = 0
    times = sorted(change)
    for start, end in pairwise(times):
        live += change[start]
        if segments and segments[-1].live_bytes == live:
            segments[-1] = Segment(segments[-1].start, end, live)
        else:
            segments.append(Segment(start, end, live))
    return tuple(segments)


def lower_bound(buffers: Iterable[Sequence[int]], *, alignment: int = 1) -> int:
    """The largest sum of live bytes at any time: no plan of these buffers has a smaller peak.

    Args:
        buffers: `(start, end, size)` triples: half-open live intervals, sizes in bytes.
        alignment: Each size counts rounded up to a multiple of this.

    Returns:
        Bytes.

    Raises:
        OptionError: A buffer or the alignment is malformed.
    """
    return max((segment.live_bytes for segment in timeline(buffers, alignment=alignment)), default=0)
