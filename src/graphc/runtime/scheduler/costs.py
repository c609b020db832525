"""What a batch of some rows costs, and in which calls it is best made."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

from graphc.errors import OptionError


@dataclass(frozen=True)
class Call:
    """One call of the model.

    Args:
        bucket: Rows that the compiled program takes.
        rows: Rows of them that are requests'; the others are padding.
    """

    bucket: int
    rows: int


class CostCurve:
    """Seconds that n rows take on an idle device, for every n up to the largest batch.

    The n rows are made in one call of the cheapest bucket that holds them (where padding is allowed), or in several
    calls where that is cheaper: a curve has no steps that a split would not avoid, so that what one more row costs can
    be read off it.

    Args:
        latencies: Seconds of a call, by bucket.
        padding: Whether a call may have fewer rows than its bucket.
        largest: Rows of the largest batch; the largest bucket if None.
        choice: Seconds by bucket that decide in which calls rows are made; `latencies` if None.

    Raises:
        OptionError: No bucket, or latencies that are no positive numbers.
    """

    def __init__(
        self,
        latencies: Mapping[int, float],
        *,
        padding: bool = True,
        largest: int | None = None,
        choice: Mapping[int, float] | None = None,
    ) -> None:
        if not latencies or any(not (bucket >= 1 and 0 < cost < float("inf")) for bucket, cost in latencies.items()):
            raise OptionError(f"latencies {dict(latencies)!r}: expected positive seconds for each batch size")
        self.latencies = dict(sorted(latencies.items()))
        self.padding = padding
        self.largest = largest or max(latencies)
        self._cost, self._first = _best_calls(list(self.latencies), choice or self.latencies, padding, self.largest)
        if choice:
            self._cost = [0.0]
            for rows, call in enumerate(self._first[1:], 1):
                rest = self._cost[rows - call.rows] if call.rows else math.inf
                self._cost.append(rest + self.latencies.get(call.bucket, 0.0))

    def __call__(self, rows: int) -> float:
        """Seconds of `rows` rows; infinite where no calls add up to them."""
        return self._cost[rows]

    def first_call(self, rows: int) -> Call:
        """The call to begin with when `rows` rows are to be made."""
        return self._first[rows]

    def calls(self, rows: int) -> tuple[Call, ...]:
        """The calls that `rows` rows are made in, in order."""
        found = []
        while rows:
            found.append(self._first[rows])
            rows -= self._first[rows].rows
        return tuple(found)

    def single_call(self, rows: int) -> Call | None:
        """The cheapest call that takes `rows` rows at once, or None."""
        fitting = [bucket for bucket in self.latencies if bucket == rows or (self.padding and bucket > rows)]
        return Call(min(fitting, key=self.latencies.__getitem__), rows) if fitting else None

    def capacity(self, slo: float) -> float:
        """Rows a second that a stream of requests can have, each within `slo` seconds: b/l(b), where 2 l(b) ≤ slo."""
        return max((n / self._cost[n] for n in range(1, self.largest + 1) if 2 * self._cost[n] <= slo), default=0.0)

    def bound(self, rate: float, slo: float) -> float:
        """No scheduler answers more rows a second within `slo` seconds from one device.

        A batch of b, collected while the batch before it runs or for as long as b requests take to come, is on time
        where l(b) + min(l(b), b / rate) ≤ slo: G(rate) = min(rate, max b / l(b)).
        """
        best = max(
            (
                n / cost
                for n in range(1, self.largest + 1)
                if (cost := self._cost[n]) + min(cost, n / rate) <= slo * (1 + 1e-12)
            ),
            default=0.0,
        )
        return min(rate, best)


def _best_calls(
    buckets: list[int], latencies: Mapping[int, float], padding: bool, largest: int
) -> tuple[list[float], list[Call]]:
    """Least seconds for 0 to `largest` rows and the first call of each, by dynamic programming over the first call."""
    cost, first = [0.0], [Call(0, 0)]
    for rows in range(1, largest + 1):
        best, bucket, taken = math.inf, 0, 0
        for number in buckets:
            if number > rows and not padding:
                break
            some = min(number, rows)
            seconds = latencies[number] + cost[rows - some]
            # Of equal costs the fullest call: it answers most requests first.
            if seconds < best or (seconds == best and some > taken):
                best, bucket, taken = seconds, number, some
        cost.append(best)
        first.append(Call(bucket, taken))
    return cost, first
