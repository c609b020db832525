"""What one may say about how a model is served."""

from __future__ import annotations

import math
from dataclasses import dataclass

from graphc.errors import OptionError

DEFAULT_QUEUE = 1024
"""Requests that may wait where no deadline limits them."""


@dataclass(frozen=True)
class ModelSettings:
    """How a model is served. `slo_ms` alone is enough; the others are for those who know what they want.

    Args:
        slo_ms: Milliseconds from request to answer. What is accepted is answered within them, and what cannot be is
            refused at once. None promises nothing: requests wait as long as it takes.
        max_batch_size: Rows of a batch at most; the largest compiled if None.
        batch_timeout_micros: Microseconds that a batch may wait on an idle device for others to join. 0, the default,
            gives the most answers on time at every load; a lone caller never waits, whatever it is.
        preferred_batch_sizes: Rows at which a batch that waits starts at once; `max_batch_size` if empty.
        max_queue_size: Requests that may wait; others are refused. None is as many as can be on time, or 1024 without
            `slo_ms`.
        share: Weight of this model: where there is too much to do, models get device time in proportion to it.
        padding: Whether a batch may run in a bucket with more rows than it has.
        failures: Failures in a row after which the model is left alone for a while.
    """

    slo_ms: float | None = None
    max_batch_size: int | None = None
    batch_timeout_micros: int = 0
    preferred_batch_sizes: tuple[int, ...] = ()
    max_queue_size: int | None = None
    share: float = 1.0
    padding: bool = True
    failures: int = 5

    def __post_init__(self) -> None:
        """Refuses what is out of range.

        Raises:
            OptionError: Names the setting.
        """
        if self.slo_ms is not None:
            _check("slo_ms", self.slo_ms, 0.0)
        _check("share", self.share, 0.0)
        object.__setattr__(self, "preferred_batch_sizes", tuple(self.preferred_batch_sizes))
        for name in ("max_batch_size", "max_queue_size", "failures"):
            _check_count(name, getattr(self, name), 1)
        _check_count("batch_timeout_micros", self.batch_timeout_micros, 0)
        for size in self.preferred_batch_sizes:
            _check_count("preferred_batch_sizes", size, 1)

    @property
    def slo(self) -> float:
        """Seconds; infinite where nothing is promised."""
        return math.inf if self.slo_ms is None else self.slo_ms / 1e3

    @property
    def queue_limit(self) -> int | None:
        """Requests that may wait."""
        if self.max_queue_size is None and self.slo_ms is None:
            return DEFAULT_QUEUE
        return self.max_queue_size


def _check(name: str, value: object, above: float) -> None:
    if isinstance(value, bool) or not isinstance(value, int | float) or not above < value < math.inf:
        raise OptionError(f"{name} is {value!r}; expected a number above {above:g}")


def _check_count(name: str, value: object, least: int) -> None:
    if value is not None and (isinstance(value, bool) or not isinstance(value, int) or value < least):
        raise OptionError(f"{name} is {value!r}; expected an integer from {least} on")
