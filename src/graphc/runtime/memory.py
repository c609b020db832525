"""Blocks of memory for arenas, and the addresses of arrays."""

from __future__ import annotations

import ctypes
import mmap
import sys
from typing import Any

import numpy as np

from graphc.errors import ExecutionError

ALIGNMENT = 64
_HUGE_PAGE = 2 << 20
CONTIGUOUS = 0x0001
"""`array.flags.num` of what can be put into a batch as it is: NPY_ARRAY_C_CONTIGUOUS."""
READY = CONTIGUOUS | 0x0100
"""`array.flags.num` of what kernels can read as it is: NPY_ARRAY_ALIGNED as well."""

Array = np.ndarray[Any, Any]


def allocate(size: int) -> np.ndarray[Any, np.dtype[np.uint8]]:
    """Zeroed bytes aligned to 64; blocks of megabytes are aligned to, and advised to use, huge pages.

    Raises:
        ExecutionError: The machine has not that much memory.
    """
    try:
        return _allocate(size)
    except (MemoryError, OSError) as error:
        raise ExecutionError(
            f"a call of this model needs {size / 1e9:,.1f} GB for its values, and the machine has not that much left",
            hint="use smaller shapes, or fewer calls at once",
        ) from error


def _allocate(size: int) -> np.ndarray[Any, np.dtype[np.uint8]]:
    alignment = _HUGE_PAGE if size >= _HUGE_PAGE else ALIGNMENT
    if alignment == ALIGNMENT:
        block: np.ndarray[Any, np.dtype[np.uint8]] = np.zeros(size + alignment, np.uint8)
    else:
        pages = mmap.mmap(-1, size + alignment)
        if hasattr(mmap, "MADV_HUGEPAGE"):
            pages.madvise(mmap.MADV_HUGEPAGE)
        block = np.frombuffer(pages, np.uint8)
    start = -address(block) % alignment
    return block[start : start + size]


def address(array: Array) -> int:
    """Where its first element lies."""
    return int(array.ctypes.data)


def _data_offset() -> int:
    """Where an array object holds its data pointer, in bytes from the object; 0 where that is not known.

    NumPy's C API fixes the pointer as the first field after the object's head (`PyArrayObject_fields`). The launcher
    reads it there: asking an array for its address from Python takes longer than running a small model.
    """
    if sys.implementation.name != "cpython":
        return 0
    offset = object.__basicsize__
    probes = (np.arange(7), np.zeros((3, 5), np.float32)[1:])
    read = [ctypes.c_void_p.from_address(id(probe) + offset).value for probe in probes]
    return offset if read == [address(probe) for probe in probes] else 0


DATA_OFFSET = _data_offset()
array_handle = id if DATA_OFFSET else address
"""What the launcher takes for an array: the object (its data pointer at DATA_OFFSET), or the data pointer itself."""
