"""How far batches end after the time that was planned for them."""

from __future__ import annotations

import bisect
import math
from collections import deque

WINDOW = 1024
"""Batches that count."""

_EXCEEDED = 1000
"""Batches of which one may end later than is reserved for; of fewer than a tenth of so many none."""


class Jitter:
    """How late the latest batches were, against the plan that their requests were accepted by.

    Machines are disturbed, by interrupts, other threads and processes, and no table of latencies says how much of that
    a plan of several calls has to bear. What plans have borne does, whatever the reasons are: with the reserve that
    would have sufficed for 999 of 1000 batches, one of 1000 is late. (Elsewhere this is called split conformal
    prediction: Vovk et al., Algorithmic Learning in a Random World, 2005.)

    Attributes:
        value: Seconds by which batches may end later than planned.
        doubt: The same as a share of the time planned, for as long as little was seen: nothing is known of batches that
            were not run, and one from n of them is off by its share of 1 / √n.
    """

    def __init__(self) -> None:
        self._recent: deque[float] = deque()
        self._sorted: list[float] = []
        self.value = 0.0
        self.doubt = 1.0

    def observe(self, late: float) -> None:
        """Takes in a batch that ended `late` seconds after the planned time; before it where that is negative."""
        self._recent.append(late)
        bisect.insort(self._sorted, late)
        if len(self._recent) > WINDOW:
            del self._sorted[bisect.bisect_left(self._sorted, self._recent.popleft())]
        count = len(self._sorted)
        self.value = max(0.0, self._sorted[count - 1 - (count + _EXCEEDED * 9 // 10) // _EXCEEDED])
        self.doubt = 1.0 / math.sqrt(1 + count)
