"""The words by which kernels say that they found a bad index in their data, read back with a call's outputs."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from graphc.errors import ExecutionError
from graphc.package import KernelStep, Variant
from graphc.runtime.cuda.device import Device
from graphc.runtime.cuda.driver import call
from graphc.runtime.cuda.memory import Block, Pinned

_SPACING = 16
"""Bytes from word to word: what kernels may assume of every pointer."""


class Status:
    """The status words of one context: an int32 for each step whose kernels have one.

    Args:
        device: That writes them.
        variant: Of the steps.
        words: Number of each step's word.
        stream: Of the context.
    """

    def __init__(self, device: Device, variant: Variant, words: Mapping[KernelStep, int], stream: Any) -> None:
        self._variant = variant
        self._words = words
        self._stream = stream
        self._size = _SPACING * len(words)
        if words:
            self._block = Block(device, self._size, "the status of a call")
            self._pinned = Pinned(device, self._size, "the status of a call (pinned memory)")
            self._found = self._pinned.bytes[: self._size].view(np.int32)[:: _SPACING // 4]

    def address(self, step: KernelStep) -> int:
        """Where the step's word lies; 0 where it has none."""
        return self._block.address + _SPACING * self._words[step] if step in self._words else 0

    def clear(self) -> None:
        """Enqueues that all is well."""
        if self._words:
            call("cuMemsetD8Async", self._block.address, 0, self._size, self._stream)

    def download(self) -> None:
        """Enqueues that the words are copied to the host."""
        if self._words:
            call("cuMemcpyDtoHAsync", self._pinned.address, self._block.address, self._size, self._stream)

    def check(self) -> None:
        """Looks at the words, when they have been copied.

        Raises:
            ExecutionError: A kernel found something wrong; names the first step that did.
        """
        if not self._words or not self._found.any():
            return
        number = int(np.flatnonzero(self._found)[0])
        step = next(step for step, word in self._words.items() if word == number)
        name = step.label or step.symbol
        where = f"{name}, a step of a body,"
        if step in self._variant.steps:
            where = f"step {self._variant.steps.index(step)} ({name})"
        raise ExecutionError(f"{where} failed with status {self._found[number]}", nodes=step.origins)

    def close(self) -> None:
        """Frees the words."""
        if self._words:
            self._block.close()
            self._pinned.close()
