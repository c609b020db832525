"""Where tensors live: packs buffers with known live intervals into one arena.

A leaf of pure algorithms over `(start, end, size)` triples; times are half-open integers, sizes are bytes::

    >>> from graphc import memory
    >>> memory.plan([(0, 2, 64), (1, 3, 32), (2, 4, 64)]).offsets
    (0, 64, 0)
"""

from __future__ import annotations

from graphc.memory.bounds import Segment, lower_bound, timeline
from graphc.memory.checker import check
from graphc.memory.planner import Plan, plan

__all__ = ["Plan", "Segment", "check", "lower_bound", "plan", "timeline"]
