"""Memory of a GPU, and memory of the host that it reads and writes by itself."""

from __future__ import annotations

import ctypes
import weakref
from typing import Any

import numpy as np

from graphc.runtime.cuda.device import Device
from graphc.runtime.cuda.driver import call
from graphc.runtime.memory import Array, address

ALIGNMENT = 256
"""Bytes to which the driver aligns, and kernels assume, every buffer."""

_PORTABLE = 1
"""`CU_MEMHOSTALLOC_PORTABLE`: pinned for every context."""


def aligned(size: int) -> int:
    """The next multiple of the alignment."""
    return -(-size // ALIGNMENT) * ALIGNMENT


class Block:
    """Bytes of a GPU's memory; freed by `close`, or when nobody holds it.

    Args:
        device: Whose.
        size: Bytes; 0 takes some all the same, so that there is an address.
        what: It is for, for messages.

    Raises:
        OutOfDeviceMemoryError: The GPU has not that much left.
    """

    def __init__(self, device: Device, size: int, what: str) -> None:
        self.device = device
        self.size = max(aligned(size), ALIGNMENT)
        with device:
            self.address = int(device.get(what, self.size, lambda: call("cuMemAlloc", self.size)))
        self.close = weakref.finalize(self, device.free, "cuMemFree", self.address)
        self.close.atexit = False


class Pinned:
    """Bytes of the host's memory that the GPU copies from and to; freed by `close`, or when nobody holds it.

    Attributes:
        bytes: The memory as uint8.
    """

    def __init__(self, device: Device, size: int, what: str) -> None:
        size = max(aligned(size), ALIGNMENT)
        with device:
            self.address = int(device.get(what, size, lambda: call("cuMemHostAlloc", size, _PORTABLE)))
        self.bytes: Array = np.ctypeslib.as_array((ctypes.c_uint8 * size).from_address(self.address))
        self.close = weakref.finalize(self, device.free, "cuMemFreeHost", self.address)
        self.close.atexit = False


def copy(target: int, source: int, nbytes: int, stream: Any) -> None:
    """Enqueues a copy within the GPU's memory; nothing where there is nothing to copy."""
    if nbytes and target != source:
        call("cuMemcpyDtoDAsync", target, source, nbytes, stream)


def upload(device: Device, target: int, source: Array) -> None:
    """Copies contiguous bytes of any memory of the host to the GPU, and waits until they are there."""
    if source.nbytes:
        with device:
            call("cuMemcpyHtoD", target, address(source), source.nbytes)
            # From pageable memory the driver returns as soon as it has read all of it.
            call("cuStreamSynchronize", 0)


def download(device: Device, source: int, shape: tuple[int, ...], dtype: np.dtype[Any]) -> Array:
    """An array of what lies at an address of the GPU; of what was enqueued elsewhere, nothing is waited for."""
    array: Array = np.empty(shape, dtype)
    if array.nbytes:
        with device:
            call("cuMemcpyDtoH", address(array), source, array.nbytes)
    return array
