"""Timing engines against each other so that the machine's moods cancel.

Engines run in turns within one process (A B C, B C A, ...), so that a slow spell of the machine falls on all of them,
and what is quoted is the median of the ratios within each round, not a ratio of medians. Before each engine's turn
comes an idle gap: ONNX Runtime's workers were seen to spin for 40 ms of processor time after a call, which would be
charged to the next engine. The first call of a turn is not counted.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass

import numpy as np

from graphc.errors import OptionError


@dataclass(frozen=True)
class Spread:
    """The middle of a sample and how far it spreads: median, 10th and 90th percentile."""

    median: float
    p10: float
    p90: float

    @classmethod
    def of(cls, values: tuple[float, ...]) -> Spread:
        """The spread of at least one value."""
        p10, median, p90 = (float(value) for value in np.quantile(values, (0.1, 0.5, 0.9)))
        return cls(median, p10, p90)

    def to_json(self) -> dict[str, float]:
        """A JSON object with the three numbers."""
        return {"median": self.median, "p10": self.p10, "p90": self.p90}


@dataclass(frozen=True)
class Comparison:
    """What `compare` measured.

    Args:
        seconds: Engine name to its time per call in seconds, one value a round, in the order the engines came.
    """

    seconds: Mapping[str, tuple[float, ...]]

    def time(self, engine: str) -> Spread:
        """Seconds per call of one engine."""
        return Spread.of(self.seconds[engine])

    def speedup(self, engine: str, over: str) -> Spread:
        """How many times as fast `engine` is as `over`, from the ratio within each round; above 1 is faster."""
        pairs = zip(self.seconds[over], self.seconds[engine], strict=True)
        return Spread.of(tuple(theirs / ours for theirs, ours in pairs))

    def to_json(self, of: str) -> dict[str, object]:
        """Times of all engines and the speedups of engine `of` over each other one."""
        others = [name for name in self.seconds if name != of]
        return {
            "rounds": len(self.seconds[of]),
            "seconds": {name: self.time(name).to_json() for name in self.seconds},
            "speedup": {name: self.speedup(of, over=name).to_json() for name in others},
        }

    def table(self, of: str) -> str:
        """The same as text, one line an engine."""
        width = max(len(name) for name in [*self.seconds, "engine"])
        lines = [f"{'engine':{width}}  {'median':>10}  {'p10':>10}  {'p90':>10}  {of} is"]
        for name in self.seconds:
            spread = self.time(name)
            times = "  ".join(f"{format_seconds(value):>10}" for value in (spread.median, spread.p10, spread.p90))
            line = f"{name:{width}}  {times}"
            if name != of:
                ratio = self.speedup(of, over=name)
                line += f"  {ratio.median:.2f}x as fast ({ratio.p10:.2f} to {ratio.p90:.2f})"
            lines.append(line)
        return "\n".join(lines)


def compare(
    engines: Mapping[str, Callable[[], object]],
    *,
    rounds: int = 15,
    block_seconds: float = 0.05,
    gap_seconds: float = 0.06,
    pin: bool = True,
    clock: Callable[[], float] = time.perf_counter,
    sleep: Callable[[float], None] = time.sleep,
    progress: Callable[[int, int], None] | None = None,
) -> Comparison:
    """Time engines in interleaved rounds.

    Args:
        engines: Name to a call of the engine, which returns when its result is there.
        rounds: Measured rounds; one more, unmeasured, comes first.
        block_seconds: About how long one engine's turn takes; at least one call.
        gap_seconds: Idle time before each turn.
        pin: Keep this thread on the first processor it may use. Workers that the engines started before are free.
        clock: Seconds from any origin.
        sleep: Waits that many seconds.
        progress: Told the rounds done and the rounds in all.

    Raises:
        OptionError: No engine, no round, or a negative time.
    """
    if not engines:
        raise OptionError("nothing to compare: no engine was given")
    if rounds < 1 or block_seconds < 0 or gap_seconds < 0:
        raise OptionError(
            f"rounds must be at least 1 and times not negative: rounds={rounds}, "
            f"block_seconds={block_seconds}, gap_seconds={gap_seconds}"
        )
    # Before pinning: a pool that starts at the first call must not inherit the pinned mask.
    calls = {name: _calls_per_block(call, block_seconds, clock) for name, call in engines.items()}
    order = list(engines)
    seconds: dict[str, list[float]] = {name: [] for name in order}
    with _pinned() if pin else nullcontext():
        for index in range(-1, rounds):
            turn = (index + 1) % len(order)
            for name in order[turn:] + order[:turn]:
                call, count = engines[name], calls[name]
                sleep(gap_seconds)
                call()
                start = clock()
                for _ in range(count):
                    call()
                elapsed = (clock() - start) / count
                if index >= 0:
                    seconds[name].append(elapsed)
            if progress is not None and index >= 0:
                progress(index + 1, rounds)
    return Comparison({name: tuple(values) for name, values in seconds.items()})


def _calls_per_block(call: Callable[[], object], block_seconds: float, clock: Callable[[], float]) -> int:
    call()
    start = clock()
    call()
    once = clock() - start
    return max(1, int(block_seconds / max(once, 1e-7)))


@contextmanager
def _pinned() -> Iterator[None]:
    allowed = os.sched_getaffinity(0)
    os.sched_setaffinity(0, {min(allowed)})
    try:
        yield
    finally:
        os.sched_setaffinity(0, allowed)


def format_seconds(seconds: float) -> str:
    """A time with three digits and the unit that suits it."""
    for unit, scale in (("s", 1.0), ("ms", 1e-3)):
        if seconds >= scale:
            return f"{seconds / scale:.3g} {unit}"
    return f"{seconds / 1e-6:.3g} µs"


def geometric_mean(values: list[float]) -> float:
    """The mean of ratios: 2 and 0.5 make 1. Of at least one positive value."""
    return float(np.exp(np.mean(np.log(values))))
