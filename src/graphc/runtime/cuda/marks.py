"""Events between the steps of a run: how long each took on the GPU."""

from __future__ import annotations

from typing import Any

from graphc.runtime.cuda.device import Device
from graphc.runtime.cuda.driver import call
from graphc.runtime.memory import Array

_EXTERNAL = 1
"""`CU_EVENT_RECORD_EXTERNAL`: a graph's event that is seen outside of it."""


class Marks:
    """The events of one context: one before the steps, and one after each.

    Args:
        device: That runs the steps.
        stream: Of the context.
    """

    def __init__(self, device: Device, stream: Any) -> None:
        self._device = device
        self._stream = stream
        self._events: dict[int, Any] = {}

    def prepare(self, first: int, last: int) -> None:
        """Makes the events of steps [first, last)."""
        for number in range(first, last + 1):
            if number not in self._events:
                self._events[number] = call("cuEventCreate", 0)

    def record(self, number: int, *, captured: bool) -> None:
        """Enqueues the event before step `number`, which is that after the one before it."""
        if captured:
            call("cuEventRecordWithFlags", self._events[number], self._stream, _EXTERNAL)
        else:
            call("cuEventRecord", self._events[number], self._stream)

    def write(self, stamps: Array, first: int, last: int, start: int) -> None:
        """Writes when steps [first, last) began and ended, when they have run.

        Args:
            stamps: int64[steps, 2], in nanoseconds.
            first: Step.
            last: Step after the last.
            start: When the first of them began.
        """
        for number in range(first, last):
            for column in (0, 1):
                passed = call("cuEventElapsedTime", self._events[first], self._events[number + column])
                stamps[number, column] = start + round(passed * 1e6)

    def close(self) -> None:
        """Frees the events."""
        while self._events:
            self._device.free("cuEventDestroy", self._events.popitem()[1])
