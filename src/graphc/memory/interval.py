"""What a planning problem is: live intervals with sizes, checked, aligned and reduced to what decides an overlap."""

from __future__ import annotations

import math
import operator
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from graphc.errors import OptionError

# Sums of areas (size by duration) below this fit int64, and so do sums of sizes; above it arrays hold Python ints.
_INT64_SAFE = 2**62


class Interval(NamedTuple):
    """A buffer: live at the times `start <= t < end`, `size` bytes large."""

    start: int
    end: int
    size: int


def parse_intervals(buffers: Iterable[Sequence[int]]) -> tuple[Interval, ...]:
    """Checks `(start, end, size)` triples as they come from a caller.

    Args:
        buffers: Triples of integers; NumPy integers count, booleans and floats do not.

    Returns:
        The same triples as Python ints, in the same order.

    Raises:
        OptionError: Something is not a triple of integers, ends before it starts, or has a negative size.
    """
    try:
        triples = list(buffers)
    except TypeError as error:
        raise OptionError(
            f"buffers must be a sequence of (start, end, size) triples, not {type(buffers).__name__}"
        ) from error
    return tuple(_parse_interval(index, triple) for index, triple in enumerate(triples))


def _parse_interval(index: int, triple: Sequence[int]) -> Interval:
    try:
        start, end, size = triple
    except (TypeError, ValueError) as error:
        raise OptionError(f"buffer {index} must be a (start, end, size) triple, not {triple!r}") from error
    start = parse_int(start, f"start of buffer {index}")
    end = parse_int(end, f"end of buffer {index}")
    size = parse_int(size, f"size of buffer {index}")
    if end < start:
        raise OptionError(f"buffer {index} ends at {end}, before it starts at {start}")
    if size < 0:
        raise OptionError(f"buffer {index} has the negative size {size}")
    return Interval(start, end, size)


def parse_int(value: object, what: str) -> int:
    """Turns an integer-like value into a Python int.

    Args:
        value: An int or a NumPy integer.
        what: How an error message calls the value.

    Returns:
        The value as a Python int.

    Raises:
        OptionError: The value is no integer (booleans and floats are none).
    """
    if isinstance(value, bool | np.bool_):
        raise OptionError(f"{what} must be an integer, not {value!r}")
    try:
        return operator.index(value)  # type: ignore[arg-type]  # the TypeError is what we ask for
    except TypeError as error:
        raise OptionError(f"{what} must be an integer, not {value!r}") from error


def parse_alignment(alignment: object) -> int:
    """Checks an alignment in bytes.

    Args:
        alignment: Any positive integer; a power of two is not required.

    Returns:
        The alignment as a Python int.

    Raises:
        OptionError: It is no integer or not positive.
    """
    value = parse_int(alignment, "alignment")
    if value <= 0:
        raise OptionError(f"alignment must be positive, not {value}")
    return value


def align_up(size: int, alignment: int) -> int:
    """Rounds `size` up to a multiple of `alignment`, both in bytes."""
    return -(-size // alignment) * alignment


@dataclass(frozen=True)
class Problem:
    """A planning problem reduced to its essence; every array has one element per buffer that takes room.

    Time is counted in maximal cliques: sets of buffers that are live together and that no later time extends. Two
    buffers overlap in time exactly when their clique ranges `[first, last)` overlap, and the largest sum of live sizes
    is reached at a clique. Sizes are counted in `unit` bytes, the greatest common divisor of all aligned sizes.

    Attributes:
        indices: Positions of these buffers in the caller's sequence.
        first: First clique of each buffer.
        last: One past the last clique of each buffer.
        size: Aligned size of each buffer in units; int64, or Python ints where sums might not fit.
        duration: How long each buffer lives in the caller's time; of the same dtype as `size`.
        unit: Bytes in one unit.
        cliques: Number of cliques.
    """

    indices: NDArray[np.int64]
    first: NDArray[np.int64]
    last: NDArray[np.int64]
    size: NDArray[Any]
    duration: NDArray[Any]
    unit: int
    cliques: int

    def __len__(self) -> int:
        return len(self.indices)

    @cached_property
    def load(self) -> NDArray[Any]:
        """Sum of live sizes in each clique, in units."""
        change = np.zeros(self.cliques + 1, dtype=self.size.dtype)
        np.add.at(change, self.first, self.size)
        np.subtract.at(change, self.last, self.size)
        return np.add.accumulate(change)[:-1]

    @cached_property
    def contention(self) -> NDArray[Any]:
        """The largest load among each buffer's cliques, in units."""
        return self.contention_of(self.load)

    def contention_of(self, load: NDArray[Any]) -> NDArray[Any]:
        """The largest of some loads, one for each clique, among each buffer's cliques."""
        ranges = np.column_stack((self.first, self.last)).ravel()
        most: NDArray[Any] = np.maximum.reduceat(np.append(load, load[:1]), ranges)[::2]
        return most

    @cached_property
    def lower_bound(self) -> int:
        """The largest load, in units: no plan needs less."""
        return int(self.load.max()) if self.cliques else 0

    def components(self) -> list[Problem]:
        """Splits the problem where no buffer is live on both sides: the parts can be planned apart."""
        crossing = np.zeros(self.cliques + 1, dtype=np.int64)
        np.add.at(crossing, self.first + 1, 1)
        np.subtract.at(crossing, self.last, 1)
        cuts = np.flatnonzero(np.add.accumulate(crossing)[: self.cliques] == 0)
        part_of = np.searchsorted(cuts, self.first, side="right")
        bounds = [*cuts.tolist(), self.cliques]
        parts = []
        order = np.argsort(part_of, kind="stable")
        splits = np.flatnonzero(np.diff(part_of[order])) + 1
        for members in np.split(order, splits):
            begin = bounds[int(part_of[members[0]]) - 1]
            end = bounds[int(part_of[members[0]])]
            parts.append(
                Problem(
                    indices=self.indices[members],
                    first=self.first[members] - begin,
                    last=self.last[members] - begin,
                    size=self.size[members],
                    duration=self.duration[members],
                    unit=self.unit,
                    cliques=end - begin,
                )
            )
        return parts


def reduce_intervals(intervals: Sequence[Interval], alignment: int) -> Problem:
    """Builds the reduced problem of a checked sequence of intervals.

    Buffers of size zero and buffers that are never live are left out.

    Args:
        intervals: What `parse_intervals` answered.
        alignment: Bytes that every offset must be a multiple of.

    Returns:
        The problem, in cliques and units.
    """
    kept = [i for i, interval in enumerate(intervals) if interval.start < interval.end and interval.size > 0]
    # At equal times ends come first: intervals are half open.
    events = [(intervals[i].end, 0, position) for position, i in enumerate(kept)]
    events += [(intervals[i].start, 1, position) for position, i in enumerate(kept)]
    events.sort()
    first = np.zeros(len(kept), dtype=np.int64)
    last = np.zeros(len(kept), dtype=np.int64)
    clique = 0
    grew = False
    for _, is_start, position in events:
        if is_start:
            first[position] = clique
            grew = True
        else:
            # The first end after a start completes a clique; further ends only shrink it.
            clique += grew
            grew = False
            last[position] = clique
    sizes = [align_up(intervals[i].size, alignment) for i in kept]
    unit = math.gcd(*sizes) if sizes else alignment
    units = [size // unit for size in sizes]
    durations = [intervals[i].end - intervals[i].start for i in kept]
    # Areas count each buffer by its cliques or by its time.
    longest = max(clique + 1, *durations) if kept else 0
    dtype = np.int64 if sum(units) * longest < _INT64_SAFE else object
    return Problem(
        indices=np.array(kept, dtype=np.int64),
        first=first,
        last=last,
        size=np.array(units, dtype=dtype),
        duration=np.array(durations, dtype=dtype),
        unit=unit,
        cliques=clique,
    )
