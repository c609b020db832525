"""Arenas that calls of different shapes share: one for each call in flight, as large as the largest needed one."""

from __future__ import annotations

from graphc.runtime.memory import Array, allocate

EMPTY = allocate(0)


class Arenas:
    """Memory lent to one call at a time. Safe from many threads: lists take and give one element at once.

    Attributes:
        size: Bytes of all arenas, lent or not.
    """

    def __init__(self) -> None:
        self.size = 0
        self._free: list[Array] = []

    def take(self, size: int) -> Array:
        """An arena of at least so many bytes; a free one that is too small makes room for it."""
        try:
            arena = self._free.pop()
        except IndexError:
            arena = EMPTY
        if arena.nbytes >= size:
            return arena
        made = allocate(size)
        self.size += made.nbytes - arena.nbytes
        return made

    def give(self, arena: Array) -> None:
        """Takes an arena back."""
        if arena.nbytes:
            self._free.append(arena)

    def trim(self) -> None:
        """Frees the arenas that are not lent."""
        while self._free:
            try:
                self.size -= self._free.pop().nbytes
            except IndexError:
                return
