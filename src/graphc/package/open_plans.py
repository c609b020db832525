"""Memory plans of an open variant, each for a neighbourhood of bindings, so that few new bindings wait for one."""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from graphc import memory
from graphc.package.expression import evaluate

if TYPE_CHECKING:
    from graphc.package.open import OpenVariant

_KEPT = 64
"""Plans of one variant that are kept."""

_SPARE = 1.25
"""How much larger than the least that a binding needs its arena may be, for the sake of its neighbours."""
_SMALL = 1 << 20
"""Bytes of an arena of which nobody asks how much is spare."""
_STEP, _BITS = 16, 4
"""Extents of one neighbourhood end at a multiple of so many, or are equal in their leading bits."""


class Plans:
    """The plans of one open variant, made when they are first needed. Safe from many threads.

    A binding gets the plan of the next round extents above its own, if each of its buffers fits in that plan's and the
    arena is hardly larger; else one of its own. So the plan follows from the binding alone, whatever was asked before.

    Args:
        variant: Whose buffers they place.
        alignment: Bytes to which each buffer is aligned.
    """

    def __init__(self, variant: OpenVariant, alignment: int) -> None:
        self._variant = variant
        self._alignment = alignment
        self._free = variant.free
        self._kept: dict[tuple[int, ...], tuple[list[int], memory.Plan]] = {}

    def plan(self, bindings: Mapping[str, int], sizes: Sequence[int]) -> memory.Plan:
        """Where the buffers lie, of these sizes at these bindings."""
        key = tuple([self._round(name, bindings[name]) for name in self._free])
        roomy = {**bindings, **dict(zip(self._free, key, strict=True))}
        if all(roomy[name] == bindings[name] for name in self._free):
            return self._made(key, sizes)[1]
        if (kept := self._kept.get(key)) is None:
            roomy |= {name: evaluate(extent, roomy) for name, extent in self._variant.equal.items()}
            kept = self._made(key, [evaluate(buffer.size, roomy) for buffer in self._variant.buffers])
        above, plan = kept
        least = self._least(sizes)
        if plan.peak > max(_SMALL, _SPARE * least) or any(map(int.__gt__, sizes, above)):
            return self._exact(sizes)
        return dataclasses.replace(plan, lower_bound=least, optimal=False)

    def _round(self, name: str, extent: int) -> int:
        step = max(_STEP, 1 << max(0, extent.bit_length() - _BITS))
        above = -(-extent // step) * step
        maximum = self._variant.ranges[name].maximum
        return above if maximum is None else min(above, maximum)

    def _made(self, key: tuple[int, ...], sizes: Sequence[int]) -> tuple[list[int], memory.Plan]:
        if (kept := self._kept.get(key)) is None:
            kept = self._kept[key] = list(sizes), self._exact(sizes)
            for old in list(self._kept)[:-_KEPT]:
                self._kept.pop(old, None)
        return kept

    def _exact(self, sizes: Sequence[int]) -> memory.Plan:
        buffers = zip(self._variant.buffers, sizes, strict=True)
        # Without a search, and with the first of the greedy orders: what a call waits for is kept short.
        return memory.plan(
            [(buffer.start, buffer.end, size) for buffer, size in buffers],
            alignment=self._alignment,
            time_limit=0,
            node_budget=0,
        )

    def _least(self, sizes: Sequence[int]) -> int:
        """The largest sum of live bytes."""
        change = [0] * (len(self._variant.steps) + 2)
        for buffer, size in zip(self._variant.buffers, sizes, strict=True):
            if buffer.start < buffer.end:
                size += -size % self._alignment
                change[buffer.start] += size
                change[buffer.end] -= size
        return max(itertools.accumulate(change))
