"""A complete search for a plan within a capacity, over canonical solutions.

After Moffitt, "MiniMalloc: A Lightweight Memory Allocator for Hardware-Accelerated Machine Learning" (ASPLOS 2023).
Any plan can be pushed down until each buffer rests on the ground or on another, and read from the lowest offset up.
So it is enough to place buffers in order of offset, each on the skyline of those placed before. Branches are cut where

- a clique cannot hold what is still to be placed above its floor,
- a buffer could have been put below the one just placed without touching it (the plan is dominated),
- the buffer just tried has nothing above it: another in its place would leave no more room,
- buffers are interchangeable, or an equal skyline over the same buffers has failed before.

Where the unplaced buffers fall apart in time, the parts are solved one by one, each in an order of its own: no failure
of one is blamed on another.
"""

from __future__ import annotations

import time
from collections.abc import Generator
from dataclasses import dataclass
from hashlib import blake2b
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from graphc.memory.interval import Problem
from graphc.memory.preorder import Preorder


class BudgetExhausted(Exception):  # noqa: N818  # control flow between this file and its caller, not an error
    """The search ended before it could say whether a plan exists."""


class Budget:
    """What a search may spend: placements tried, and seconds.

    Args:
        nodes: Most placements to try, or None for no limit.
        deadline: `time.monotonic()` at which to stop, or None.
    """

    def __init__(self, nodes: int | None, deadline: float | None = None) -> None:
        self.nodes = nodes
        self.deadline = deadline
        self.spent = 0

    @property
    def exhausted(self) -> bool:
        """Whether nothing is left to spend."""
        if self.nodes is not None and self.spent >= self.nodes:
            return True
        return self.deadline is not None and time.monotonic() >= self.deadline

    def slice(self, nodes: int) -> Budget:
        """A part of this budget, of at most so many placements."""
        left = nodes if self.nodes is None else min(nodes, self.nodes - self.spent)
        return Budget(left, self.deadline)


class _Ranking(NamedTuple):
    """Ranks of buffers by position, and a fingerprint of them."""

    rank: NDArray[np.int64]
    key: bytes


@dataclass
class _Node:
    """A partial plan of the buffers of one part.

    Attributes:
        floor: Lowest offset each unplaced buffer can have, in units; `_PLACED` for all others.
        load: Sum of unplaced sizes per clique.
        crossing: Number of unplaced buffers live on both sides of each clique's beginning.
        offset: Offset of the buffer placed last: none may go below it.
        ranking: Which of several buffers at one offset comes first.
        latest: Rank of the buffer placed last; -1 where it was ranked otherwise, or there is none.
    """

    floor: NDArray[Any]
    load: NDArray[Any]
    crossing: NDArray[np.int64]
    offset: int
    ranking: _Ranking
    latest: int


# Failures remembered, at some 200 bytes each.
_MOST_FAILURES = 500_000


def _fingerprint(values: NDArray[Any]) -> bytes:
    """128 bits that stand for an array: unlike Python's hash equal in every run, and safe from collisions."""
    raw = values.tobytes() if values.dtype != object else repr(values.tolist()).encode()
    return blake2b(raw, digest_size=16).digest()


class CanonicalSearch:
    """Depth-first search for plans within a capacity.

    Args:
        problem: The problem; best a single component.
        preorder: Among buffers at the same offset the first in this order is tried first.
    """

    def __init__(self, problem: Problem, preorder: Preorder) -> None:
        self.preorder = preorder
        self.first = problem.first
        self.last = problem.last
        self.size = problem.size
        self.offsets = np.zeros_like(self.size)
        self.cliques = problem.cliques
        self.placed = int(problem.size.sum()) + 1  # larger than any offset
        self.twin_before = self._twins()
        # Buffers by clique, flattened, for one `reduceat` over all cliques.
        members = [np.flatnonzero((self.first <= clique) & (clique < self.last)) for clique in range(problem.cliques)]
        self.members = np.concatenate(members)
        self.clique_begin = np.cumsum([0, *(len(m) for m in members[:-1])])
        self.root_load = problem.load

    def _twins(self) -> NDArray[np.int64]:
        """For each buffer the one before it with equal times and size, or itself."""
        seen: dict[tuple[int, int, int], int] = {}
        twins = np.arange(len(self.size))
        for i, key in enumerate(zip(self.first.tolist(), self.last.tolist(), self.size.tolist(), strict=True)):
            twins[i] = seen.get(key, i)
            seen[key] = i
        return twins

    def run(self, capacity: int, budget: Budget) -> NDArray[Any] | None:
        """Searches.

        Args:
            capacity: Units that must be enough.
            budget: What may be spent.

        Returns:
            Offsets in units by position in the problem, or None where no plan fits the capacity.

        Raises:
            BudgetExhausted: The budget ended first.
        """
        self.capacity = capacity
        self.budget = budget
        # Where each failed skyline was entered: offset and rank of the buffer placed last, the earliest of them.
        self.failed: dict[tuple[bytes, bytes], tuple[int, int]] = {}
        crossing = np.zeros(self.cliques + 1, dtype=np.int64)
        np.add.at(crossing, self.first + 1, 1)
        np.subtract.at(crossing, self.last, 1)
        floor = np.zeros_like(self.size)
        root = _Node(floor, self.root_load, np.add.accumulate(crossing), 0, self._ranked(self.root_load), -1)
        # Recursion by generators on a stack of our own: depth is the number of buffers, beyond Python's limit.
        stack = [self._solve(root)]
        answer: bool | None = None
        while stack:
            try:
                child = stack[-1].send(answer)
            except StopIteration as done:
                stack.pop()
                answer = done.value
            else:
                stack.append(self._solve(child))
                answer = None
        if not answer:
            return None
        return self.offsets.copy()

    def _ranked(self, load: NDArray[Any]) -> _Ranking:
        rank = self.preorder(load)
        return _Ranking(rank, _fingerprint(rank))

    def _solve(self, node: _Node) -> Generator[_Node, bool | None, bool]:
        floor = node.floor
        unplaced = floor < self.placed
        if not unplaced.any():
            return True
        raised = np.maximum(floor, node.offset)
        busy = node.load > 0
        clique_floor = np.minimum.reduceat(raised[self.members], self.clique_begin)
        if ((clique_floor + node.load)[busy] > self.capacity).any():
            return False
        key = (_fingerprint(floor), node.ranking.key)
        state = (node.offset, node.latest)
        if key in self.failed and self.failed[key] <= state:
            return False
        parts = self._parts(node, unplaced)
        if len(parts) > 1:
            for part in parts:
                if not (yield part):
                    return False
            return True
        # A buffer at or above the top that another could have here leaves room for that other one: dominated.
        ceiling = min(int((raised + self.size).min()), self.capacity - int(node.load.max()) + 1)
        open_ = (floor >= node.offset) & (floor < ceiling)
        candidates = np.flatnonzero(open_)
        rank = node.ranking.rank
        candidates = candidates[rank[candidates].argsort()]
        candidates = candidates[floor[candidates].argsort(kind="stable")]
        for candidate in candidates.tolist():
            offset = int(floor[candidate])
            if offset == node.offset and rank[candidate] < node.latest:
                continue
            twin = self.twin_before[candidate]
            if twin != candidate and unplaced[twin]:
                continue
            if (yield self._placed(node, candidate, offset)):
                return True
            if not (unplaced & (self.first < self.last[candidate]) & (self.last > self.first[candidate])).sum() > 1:
                break
        if len(self.failed) < _MOST_FAILURES:
            self.failed[key] = min(state, self.failed.get(key, state))
        return False

    def _placed(self, node: _Node, buffer: int, offset: int) -> _Node:
        """The node after one more placement."""
        if self.budget.exhausted:
            raise BudgetExhausted
        self.budget.spent += 1
        self.offsets[buffer] = offset
        first, last, size = self.first[buffer], self.last[buffer], self.size[buffer]
        floor = node.floor.copy()
        touched = (self.first < last) & (self.last > first)
        np.maximum(floor, offset + size, out=floor, where=touched)
        floor[buffer] = self.placed
        load = node.load.copy()
        load[first:last] -= size
        crossing = node.crossing.copy()
        crossing[first + 1 : last] -= 1
        return _Node(floor, load, crossing, offset, node.ranking, int(node.ranking.rank[buffer]))

    def _parts(self, node: _Node, unplaced: NDArray[np.bool_]) -> list[_Node]:
        """Splits a node where no unplaced buffer crosses; the part with the fewest buffers comes first."""
        positions = np.flatnonzero(unplaced)
        low = int(self.first[positions].min())
        high = int(self.last[positions].max())
        cuts = np.flatnonzero(node.crossing[low + 1 : high] == 0) + low + 1
        if not cuts.size:
            return [node]
        part_of = np.searchsorted(cuts, self.first[positions], side="right")
        bounds = [low, *cuts.tolist(), high]
        parts = []
        for part in np.unique(part_of).tolist():
            members = positions[part_of == part]
            floor = np.full_like(node.floor, self.placed)
            floor[members] = node.floor[members]
            load = np.zeros_like(node.load)
            load[bounds[part] : bounds[part + 1]] = node.load[bounds[part] : bounds[part + 1]]
            parts.append((len(members), _Node(floor, load, node.crossing, node.offset, self._ranked(load), -1)))
        return [part for _, part in sorted(parts, key=lambda pair: pair[0])]
