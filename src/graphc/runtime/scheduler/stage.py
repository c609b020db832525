"""Where the rows of several requests become the inputs of one call."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np

from graphc.runtime.memory import allocate


class Stage:
    """Memory for the inputs of a call, used for one call after another.

    New memory for each batch would be taken from the system each time, which costs more than the rows' way into it.
    """

    def __init__(self) -> None:
        self._rooms: dict[int, Any] = {}

    def join(self, number: int, arrays: Sequence[Any], axis: int, padding: int) -> Any:
        """One contiguous array of all rows; it holds until the next one for this input.

        Args:
            number: Of the input.
            arrays: Of one dtype; alike but for their rows.
            axis: That counts rows.
            padding: Rows to add. They repeat the first one: values that the model is sure to take.
        """
        if padding:
            row = np.take(arrays[0], [0], axis=axis)
            arrays = [*arrays, *([row] * padding)]
        if len(arrays) == 1:
            return arrays[0]
        first = arrays[0]
        if first.dtype.hasobject:
            return np.concatenate(arrays, axis=axis)
        shape = list(first.shape)
        shape[axis] = sum(array.shape[axis] for array in arrays)
        size = math.prod(shape) * first.dtype.itemsize
        room = self._rooms.get(number)
        if room is None or room.nbytes < size:
            room = self._rooms[number] = allocate(size)
        return np.concatenate(arrays, axis=axis, out=room[:size].view(first.dtype).reshape(shape))

    def is_part_of(self, outputs: Iterable[Any]) -> bool:
        """Whether an output lies in this memory: it is a caller's then."""
        return any(
            np.may_share_memory(room, output)
            for output in outputs
            if isinstance(output, np.ndarray)
            for room in self._rooms.values()
        )
