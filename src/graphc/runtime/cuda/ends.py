"""Where a call's inputs and outputs are: on the host, in a GPU's memory, or in a context's own buffers between the two.

Kernels in a graph read and write where they did when it was captured. So a context has buffers of its own, which the
graph copies to from pinned memory, and from. An array in the GPU's memory is copied to or from them too, which is quick
there; but where a call comes with the same arrays as one before it, a graph is captured for just those.
"""

from __future__ import annotations

import math
from collections import OrderedDict
from collections.abc import Sequence
from typing import Any, TypeAlias

import numpy as np

from graphc.package import Location
from graphc.runtime.cuda.array import DeviceArray
from graphc.runtime.cuda.device import Device
from graphc.runtime.cuda.driver import call
from graphc.runtime.cuda.memory import Block, Pinned, aligned, copy
from graphc.runtime.memory import Array

Binding: TypeAlias = tuple[int, ...]
"""For each input, then each output: an address, or one of the numbers below."""

HOST, OWN, ABSENT = -1, 0, -2
"""Copied from or to the host; in the context's buffer; no tensor of numbers, which kernels do not see."""

_SEEN = 64
"""Sets of arrays of calls before that are remembered."""

_NO_TIMING = 2
"""`CU_EVENT_DISABLE_TIMING`."""

Row = tuple[str, tuple[int, ...] | None, np.dtype[Any]]
"""Name, shape and dtype of an input or output."""


class Ends:
    """The inputs and outputs of the calls of one context.

    Args:
        device: That runs them.
        inputs: Of the variant.
        outputs: Of the variant.
        stream: Of the context.
        model: Name of the model, for messages.
    """

    def __init__(self, device: Device, inputs: Sequence[Row], outputs: Sequence[Row], stream: Any, model: str) -> None:
        self._device = device
        self._rows = [*inputs, *outputs]
        self._count = len(inputs)
        self._stream = stream
        self._model = model
        self._sizes = [_size(row) for row in self._rows]
        self._offsets, size = [], 0
        for nbytes in self._sizes:
            self._offsets.append(size)
            size += aligned(nbytes or 0)
        self._own = Block(device, size, f"a call of {model!r} (its inputs and outputs)")
        self._pinned: Pinned | None = None
        self._views: dict[int, Array] = {}
        self._event = call("cuEventCreate", _NO_TIMING)
        self._seen: OrderedDict[Binding, None] = OrderedDict()
        self._addresses = [self._own.address + offset for offset in self._offsets]
        self._arrays: list[Any] = []
        self.binding: Binding = ()

    def is_absent(self, place: Location) -> bool:
        """Whether an input or output is no tensor of numbers, or of a shape that only the call tells."""
        return self._sizes[self._number(place)] is None

    def address(self, place: Location) -> int:
        """Where an input or output, or a part of it, lies in the GPU's memory in this call."""
        return self._addresses[self._number(place)] + place.offset

    def place(self, arrays: Sequence[Any]) -> Binding:
        """Takes the arrays of a call; what has to be copied before the kernels run is enqueued, or laid ready.

        Args:
            arrays: The inputs, then the outputs, as a program takes them.

        Returns:
            Where kernels are to find them, equal for calls that one graph serves.
        """
        self._arrays = list(arrays)
        wanted = tuple(map(self._wanted, arrays, self._sizes))
        binding = wanted
        if max(wanted, default=HOST) > 0:
            if wanted not in self._seen:
                binding = tuple(min(entry, OWN) for entry in wanted)
            self._seen[wanted] = None
            self._seen.move_to_end(wanted)
            if len(self._seen) > _SEEN:
                self._seen.popitem(last=False)
        if binding != self.binding:
            self._bind(binding)
        for number, array in enumerate(arrays[: self._count]):
            if binding[number] == HOST:
                np.copyto(self._views[number], array)
            elif binding[number] != ABSENT:
                self._wait_for(array)
                if binding[number] == OWN:
                    self._copy(self._addresses[number], array.address, number)
        for number in range(self._count, len(arrays)):
            if isinstance(array := arrays[number], DeviceArray):
                self._wait_for(array)
        return binding

    def upload(self) -> None:
        """Enqueues the copies from the host: what a graph begins with."""
        for first, last in self._host_ranges(0, self._count):
            start, nbytes = self._extent(first, last)
            assert self._pinned is not None
            call("cuMemcpyHtoDAsync", self._own.address + start, self._pinned.address + start, nbytes, self._stream)

    def download(self) -> None:
        """Enqueues the copies to the host: what a graph ends with."""
        for first, last in self._host_ranges(self._count, len(self._rows)):
            start, nbytes = self._extent(first, last)
            assert self._pinned is not None
            call("cuMemcpyDtoHAsync", self._pinned.address + start, self._own.address + start, nbytes, self._stream)

    def keep_outputs(self) -> None:
        """Enqueues the copies of outputs from the context's buffers to arrays in the GPU's memory."""
        for number in range(self._count, len(self._rows)):
            if self.binding[number] == OWN:
                self._copy(self._arrays[number].address, self._addresses[number], number)

    def fetch_outputs(self, outputs: Sequence[Any]) -> None:
        """Fills the arrays of the host, when all that was enqueued has run."""
        for number, array in enumerate(outputs, self._count):
            if self.binding[number] == HOST:
                np.copyto(array, self._views[number])

    def forget(self) -> None:
        """Lets go of the call's arrays."""
        self._arrays = []

    def close(self) -> None:
        """Frees the buffers."""
        self._own.close()
        if self._pinned is not None:
            self._pinned.close()
        self._device.free("cuEventDestroy", self._event)

    def _number(self, place: Location) -> int:
        return place.index + (self._count if place.kind == "output" else 0)

    def _wanted(self, array: Any, nbytes: int | None) -> int:
        if nbytes is None:
            return ABSENT
        if not isinstance(array, DeviceArray):
            return HOST
        return array.address if array.is_aligned and nbytes else OWN

    def _bind(self, binding: Binding) -> None:
        for number, entry in enumerate(binding):
            self._addresses[number] = entry if entry > 0 else self._own.address + self._offsets[number]
        if HOST in binding and self._pinned is None:
            self._pinned = Pinned(self._device, self._own.size, f"a call of {self._model!r} (pinned memory)")
            for number, ((_, shape, dtype), nbytes) in enumerate(zip(self._rows, self._sizes, strict=True)):
                if shape is not None and nbytes is not None:
                    start = self._offsets[number]
                    view = self._pinned.bytes[start : start + nbytes].view(dtype).reshape(shape)
                    self._views[number] = view
        self.binding = binding

    def _host_ranges(self, first: int, last: int) -> list[tuple[int, int]]:
        """Inputs or outputs [first, last) that are copied from or to the host, neighbours together."""
        ranges: list[tuple[int, int]] = []
        for number in range(first, last):
            if self.binding[number] != HOST or not self._sizes[number]:
                continue
            if ranges and ranges[-1][1] == number:
                ranges[-1] = ranges[-1][0], number + 1
            else:
                ranges.append((number, number + 1))
        return ranges

    def _extent(self, first: int, last: int) -> tuple[int, int]:
        start = self._offsets[first]
        return start, self._offsets[last - 1] + (self._sizes[last - 1] or 0) - start

    def _copy(self, target: int, source: int, number: int) -> None:
        copy(target, source, self._sizes[number] or 0, self._stream)

    def _wait_for(self, array: DeviceArray) -> None:
        """Orders the call after what writes, or still reads, an array."""
        if array.stream is not None:
            call("cuEventRecord", self._event, array.stream)
            call("cuStreamWaitEvent", self._stream, self._event, 0)


def is_on_device(row: Row) -> bool:
    """Whether an input or output lies in a GPU's memory: it is numbers, of a shape known before the call."""
    return row[1] is not None and not row[2].hasobject


def _size(row: Row) -> int | None:
    """Bytes of an input or output; None where kernels do not see it."""
    _, shape, dtype = row
    return math.prod(shape) * dtype.itemsize if shape is not None and is_on_device(row) else None
