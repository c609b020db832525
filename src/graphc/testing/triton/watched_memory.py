"""Buffers whose every access is looked at. Runs in the interpreter's process; NumPy alone."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

CANARY = 0xCD
ALIGNMENT = 256

_GAP = 1 << 20
"""Bytes between buffers: an index that is a little wrong meets no other buffer. Untouched memory costs nothing."""

_NOBODY = -1


class AccessError(Exception):
    """A kernel touched what it must not."""


class WatchedMemory:
    """Buffers in one allocation, canaries around each, and who wrote what in the launch that runs.

    Args:
        contents: The buffers' bytes.
        names: What to call them.
        races: Whether programs must keep to bytes that no other program of the launch has written.
        shared: Buffers that several programs may write at will.
    """

    def __init__(
        self, contents: Sequence[bytes], names: Sequence[str], *, races: bool, shared: frozenset[int] = frozenset()
    ) -> None:
        self.names, self._races, self._shared = list(names), races, shared
        self._sizes = [len(content) for content in contents]
        offsets, end = [], _GAP
        for size in self._sizes:
            offsets.append(end)
            end = -(-(end + size + _GAP) // ALIGNMENT) * ALIGNMENT
        self._raw: np.ndarray[Any, Any] = np.empty(end + ALIGNMENT, np.uint8)
        base = -self._raw.ctypes.data % ALIGNMENT
        self._places = [base + offset for offset in offsets]
        for place, content in zip(self._places, contents, strict=True):
            self._raw[place - ALIGNMENT : place + len(content) + ALIGNMENT] = CANARY
            self._raw[place : place + len(content)] = np.frombuffer(content, np.uint8)
        self._starts = np.array([self.address(number) for number in range(len(contents))], np.uint64)
        self._ends = self._starts + np.array(self._sizes, np.uint64)
        self._writers: dict[int, np.ndarray[Any, Any]] = {}
        self.program = 0

    def address(self, number: int) -> int:
        """Where a buffer begins."""
        return int(self._raw.ctypes.data) + self._places[number]

    def read(self, number: int) -> bytes:
        """What a buffer holds."""
        place = self._places[number]
        return self._raw[place : place + self._sizes[number]].tobytes()

    def begin_launch(self) -> None:
        """Forgets who wrote what: a launch sees what those before it wrote."""
        self._writers.clear()

    def check_canaries(self) -> None:
        """Looks at the bytes around the buffers.

        Raises:
            AccessError: They are not as they were.
        """
        for number, place in enumerate(self._places):
            end = place + self._sizes[number]
            for part in (self._raw[place - ALIGNMENT : place], self._raw[end : end + ALIGNMENT]):
                if (part != CANARY).any():
                    raise AccessError(f"bytes beside {self.names[number]} are overwritten")

    def load(self, addresses: np.ndarray[Any, Any], mask: np.ndarray[Any, Any] | None, size: int) -> None:
        """Looks at a load of elements of `size` bytes.

        Raises:
            AccessError: Some element is outside, misaligned, or written by another program.
        """
        for number, places in self._located("loads", addresses, mask, size):
            writers = self._writers.get(number)
            if writers is not None:
                self._refuse_foreign("reads", number, places, writers[places])

    def store(self, addresses: np.ndarray[Any, Any], mask: np.ndarray[Any, Any] | None, size: int, values: Any) -> None:
        """Looks at a store of `values`, which has not been done yet.

        Raises:
            AccessError: Some element is outside, misaligned, or another program wrote something else there.
        """
        located = self._located("stores", addresses, mask, size)
        if not self._races:
            return
        data = np.broadcast_to(np.asarray(values), addresses.shape)
        for number, places in located:
            if number in self._shared:
                continue
            if number not in self._writers:
                self._writers[number] = np.full(self._sizes[number], _NOBODY, np.int64)
            writers = self._writers[number]
            foreign = (writers[places] != _NOBODY) & (writers[places] != self.program)
            if foreign.any():
                base = self._places[number]
                new = _chosen(data, mask).view(np.uint8).reshape(-1, size)
                inside = self._inside(addresses, mask, number)
                old = self._raw[base + places[:, None] + np.arange(size)]
                different = foreign & (old != new[inside]).any(axis=1)
                if different.any():
                    self._refuse_foreign("overwrites", number, places[different], writers[places[different]])
            for byte in range(size):
                writers[places + byte] = self.program

    def update(self, addresses: np.ndarray[Any, Any], mask: np.ndarray[Any, Any] | None, size: int) -> None:
        """Looks at an atomic operation.

        Raises:
            AccessError: Some element is outside or misaligned.
        """
        self._located("updates", addresses, mask, size)

    def _located(
        self, verb: str, addresses: np.ndarray[Any, Any], mask: np.ndarray[Any, Any] | None, size: int
    ) -> list[tuple[int, np.ndarray[Any, Any]]]:
        """Each buffer met, and the offsets in it, in the order of the addresses."""
        used = _chosen(addresses, mask)
        if not used.size:
            return []
        which = np.searchsorted(self._starts, used, side="right").astype(np.int64) - 1
        inside = (which >= 0) & (used + np.uint64(size) <= self._ends[np.maximum(which, 0)])
        if not inside.all():
            self._refuse_outside(verb, int(used[~inside][0]), int((~inside).sum()), size)
        if (used % np.uint64(size)).any():
            wrong = int(used[used % np.uint64(size) != 0][0])
            number = int(np.searchsorted(self._starts, wrong, side="right")) - 1
            raise AccessError(
                f"{verb} {size} bytes at {self.names[number]} + {wrong - self.address(number)}, "
                f"which is no multiple of {size}"
            )
        numbers = np.unique(which)
        if len(numbers) == 1:
            return [(int(numbers[0]), (used - self._starts[numbers[0]]).astype(np.int64))]
        return [(int(number), (used[which == number] - self._starts[number]).astype(np.int64)) for number in numbers]

    def _inside(
        self, addresses: np.ndarray[Any, Any], mask: np.ndarray[Any, Any] | None, number: int
    ) -> np.ndarray[Any, Any]:
        used = _chosen(addresses, mask)
        found: np.ndarray[Any, Any] = (used >= self._starts[number]) & (used < self._ends[number])
        return found

    def _refuse_outside(self, verb: str, address: int, count: int, size: int) -> None:
        nearest = min(
            range(len(self._sizes)),
            key=lambda n: max(self.address(n) - address, address - (self.address(n) + self._sizes[n]), 0),
        )
        offset = address - self.address(nearest)
        raise AccessError(
            f"{verb} {size} bytes at {self.names[nearest]} + {offset}, which has {self._sizes[nearest]} bytes"
            f" ({count} such elements)"
        )

    def _refuse_foreign(
        self, verb: str, number: int, places: np.ndarray[Any, Any], writers: np.ndarray[Any, Any]
    ) -> None:
        foreign = (writers != _NOBODY) & (writers != self.program)
        if foreign.any():
            raise AccessError(
                f"{verb} {self.names[number]} + {int(places[foreign][0])}, which program {int(writers[foreign][0])} "
                "of the same launch has written"
            )


def _chosen(values: np.ndarray[Any, Any], mask: np.ndarray[Any, Any] | None) -> np.ndarray[Any, Any]:
    """Values where the mask is set, in one row."""
    if mask is None:
        return np.ascontiguousarray(values).reshape(-1)
    return np.ascontiguousarray(values[np.broadcast_to(mask, values.shape)])
