"""Checks a plan against its buffers, sharing no code with the planner: a defect there cannot hide itself here."""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Sequence
from typing import Protocol

from graphc.errors import VerifyError


class PlanLike(Protocol):
    """What the checker looks at."""

    @property
    def offsets(self) -> Sequence[int]:
        """Bytes from the arena's beginning, one per buffer."""

    @property
    def peak(self) -> int:
        """Bytes of the arena."""

    @property
    def lower_bound(self) -> int:
        """Bytes that no plan can do without."""


def check(buffers: Sequence[Sequence[int]], plan: PlanLike, alignment: int = 1) -> None:
    """Proves that a plan keeps apart all buffers that are live together.

    Sweeps over time with the live ranges sorted by offset; a buffer that starts may touch neither of its neighbours.

    Args:
        buffers: The `(start, end, size)` triples the plan was made from.
        plan: What `graphc.memory.plan` answered, or anything with `offsets`, `peak` and `lower_bound`.
        alignment: Bytes that every offset must be a multiple of.

    Raises:
        VerifyError: Two buffers overlap in time and space (both are named), an offset is missing, misaligned,
            negative or beyond the peak, or the peak is below the lower bound.
    """
    if len(plan.offsets) != len(buffers):
        raise VerifyError(f"the plan has {len(plan.offsets)} offsets for {len(buffers)} buffers")
    if plan.peak < plan.lower_bound:
        raise VerifyError(f"the plan's peak {plan.peak} is below its lower bound {plan.lower_bound}")

    def named(index: int) -> str:
        start, end, size = buffers[index]
        offset = plan.offsets[index]
        return f"buffer {index} (times {start}..{end}, bytes {offset}..{offset + size})"

    starts: list[tuple[int, int]] = []
    ends: list[tuple[int, int]] = []
    for index, ((start, end, size), offset) in enumerate(zip(buffers, plan.offsets, strict=True)):
        if offset < 0 or offset % alignment:
            raise VerifyError(f"{named(index)} is not at a multiple of {alignment}")
        if start >= end or size == 0:
            continue
        if offset + size > plan.peak:
            raise VerifyError(f"{named(index)} ends above the plan's peak {plan.peak}")
        starts.append((start, index))
        ends.append((end, index))

    starts.sort()
    ends.sort()
    live: list[tuple[int, int]] = []
    ended = 0
    for start, index in starts:
        while ends[ended][0] <= start:
            gone = ends[ended][1]
            del live[bisect_left(live, (plan.offsets[gone], gone))]
            ended += 1
        offset = plan.offsets[index]
        place = bisect_left(live, (offset, index))
        for neighbour in live[max(place - 1, 0) : place + 1]:
            low, high = sorted((neighbour, (offset, index)))
            if low[0] + buffers[low[1]][2] > high[0]:
                raise VerifyError(f"{named(low[1])} and {named(high[1])} overlap")
        live.insert(place, (offset, index))
