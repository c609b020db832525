"""Arrays in a GPU's memory: those that a model leaves there, and those of other libraries that it takes."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np

from graphc.errors import InputError
from graphc.runtime.cuda import dlpack
from graphc.runtime.cuda.device import Device
from graphc.runtime.cuda.driver import call, enumerator
from graphc.runtime.cuda.memory import ALIGNMENT, Block, download
from graphc.runtime.memory import Array
from graphc.runtime.values import DLPACK_CUDA

LEGACY_STREAM = 1
"""The driver's handle of the default stream."""


class DeviceArray:
    """A row-major array in a GPU's memory.

    What a model leaves there is written when the call has returned: any stream may read it. Other libraries take it
    without a copy, by DLPack (`torch.from_dlpack(array)`) or `__cuda_array_interface__` (`cupy.asarray(array)`);
    `numpy()` copies it to the host.

    Attributes:
        address: Of the first element.
        shape: Its extents.
        dtype: Of its elements.
        stream: Handle of the stream that writes it; None where it is written.

    Args:
        device: That has it.
        address: Of the first element.
        shape: Its extents.
        dtype: Of its elements.
        owner: Of the memory.
        stream: That writes it.
    """

    def __init__(
        self,
        device: Device,
        address: int,
        shape: tuple[int, ...],
        dtype: np.dtype[Any],
        owner: Any,
        stream: int | None = None,
    ) -> None:
        self._device = device
        self.address = address
        self.shape = shape
        self.dtype = dtype
        self.stream = stream
        self._owner = owner

    @property
    def device(self) -> str:
        """The GPU: `cuda:0`."""
        return str(self._device)

    @property
    def ndim(self) -> int:
        """How many extents it has."""
        return len(self.shape)

    @property
    def size(self) -> int:
        """Elements."""
        return math.prod(self.shape)

    @property
    def nbytes(self) -> int:
        """Bytes of all elements."""
        return self.size * self.dtype.itemsize

    @property
    def is_aligned(self) -> bool:
        """Whether kernels may read it where it lies."""
        return self.address % ALIGNMENT == 0

    def __repr__(self) -> str:
        return f"<graphc.DeviceArray {self.dtype}{list(self.shape)} on {self.device}>"

    def __len__(self) -> int:
        if not self.shape:
            raise TypeError("an array of rank 0 has no length")
        return self.shape[0]

    def numpy(self) -> Array:
        """A copy on the host."""
        self._wait()
        return download(self._device, self.address, self.shape, self.dtype)

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> Array:
        """NumPy's protocol: a copy on the host."""
        if copy is False:
            raise ValueError("an array in a GPU's memory becomes NumPy's by a copy alone")
        return self.numpy().astype(self.dtype if dtype is None else dtype, copy=False)

    @property
    def __cuda_array_interface__(self) -> dict[str, Any]:
        """https://numba.readthedocs.io/en/stable/cuda/cuda_array_interface.html, version 3."""
        return {
            "shape": self.shape,
            "typestr": self.dtype.str,
            "data": (self.address if self.size else 0, False),
            "strides": None,
            "version": 3,
            "stream": self.stream,
        }

    def __dlpack_device__(self) -> tuple[int, int]:
        """DLPack's protocol: CUDA, and which GPU."""
        return DLPACK_CUDA, self._device.ordinal

    def __dlpack__(
        self,
        *,
        stream: Any = None,
        max_version: tuple[int, int] | None = None,
        dl_device: tuple[int, int] | None = None,
        copy: bool | None = None,
    ) -> Any:
        """DLPack's protocol: a capsule of the array where it lies, when it is written.

        Raises:
            BufferError: A copy or another device is asked for, or DLPack has no such dtype.
        """
        if copy or dl_device not in (None, self.__dlpack_device__()):
            raise BufferError("an array in a GPU's memory is given where it lies, not as a copy")
        self._wait()
        return dlpack.export(self, self.address, self.shape, self.dtype, self._device.ordinal)

    def _wait(self) -> None:
        """Waits for what writes it."""
        if self.stream is not None:
            with self._device:
                call("cuStreamSynchronize", self.stream)

    def as_output(self, name: str, shape: tuple[int, ...], dtype: np.dtype[Any], used: Sequence[Any]) -> DeviceArray:
        """The array as what an output is written to.

        Args:
            name: Of the output.
            shape: Of the output.
            dtype: Of the output.
            used: Inputs and other outputs of the call.

        Raises:
            InputError: It is of another type, or shares memory with one of those.
        """
        if self.shape != shape or self.dtype != dtype:
            raise InputError(
                f"out {name!r}: expected an array {dtype}{list(shape)}, got {self.dtype}{list(self.shape)}"
            )
        end = self.address + self.nbytes
        for other in used:
            if isinstance(other, DeviceArray) and other.address < end and self.address < other.address + other.nbytes:
                raise InputError(f"out {name!r} shares memory with an input or another output")
        return self


def new_array(device: Device, shape: tuple[int, ...], dtype: np.dtype[Any], name: str) -> DeviceArray:
    """An array of unwritten memory, for an output called `name`.

    Raises:
        OutOfDeviceMemoryError: The GPU has not the memory.
    """
    block = Block(device, math.prod(shape) * dtype.itemsize, f"output {name!r}")
    return DeviceArray(device, block.address, shape, dtype, block)


def adopt(device: Device, value: Any, place: str) -> DeviceArray | None:
    """An array of another library where it lies; None where it is not in a GPU's memory.

    Args:
        device: That is to read it.
        value: The array.
        place: Which input or output it is, for messages.

    Raises:
        InputError: Another GPU has it, it is not row-major, or of a type without a name.
    """
    if isinstance(value, DeviceArray):
        _check_device(device, value._device.ordinal, place)
        return value
    if hasattr(value, "__dlpack_device__"):
        kind, ordinal = value.__dlpack_device__()
        if kind != DLPACK_CUDA:
            return None
        _check_device(device, ordinal, place)
        return _from_dlpack(device, value, place)
    return _from_interface(device, value, place) if hasattr(value, "__cuda_array_interface__") else None


def _from_dlpack(device: Device, value: Any, place: str) -> DeviceArray:
    try:
        # The producer makes the default stream wait for what writes the array.
        found = dlpack.Imported(value.__dlpack__(stream=LEGACY_STREAM))
    except (BufferError, RuntimeError, TypeError, ValueError) as error:
        raise InputError(f"{place}: {type(value).__name__} cannot be read as an array: {error}") from error
    strides = None if found.strides is None else tuple(stride * found.dtype.itemsize for stride in found.strides)
    _check_strides(found.shape, strides, found.dtype, place)
    return DeviceArray(device, found.address, found.shape, found.dtype, found, LEGACY_STREAM)


def _from_interface(device: Device, value: Any, place: str) -> DeviceArray:
    try:
        facts = value.__cuda_array_interface__
        shape, dtype = tuple(facts["shape"]), np.dtype(facts["typestr"])
        address, strides, stream = facts["data"][0] or 0, facts.get("strides"), facts.get("stream")
    except (KeyError, TypeError, IndexError) as error:
        raise InputError(f"{place}: {type(value).__name__} cannot be read as an array: {error}") from error
    if not dtype.isnative:
        raise InputError(f"{place}: its bytes are in another order than this machine's ({dtype.str})")
    _check_strides(shape, strides, dtype, place)
    if address:
        attribute = enumerator("CUpointer_attribute", "CU_POINTER_ATTRIBUTE_DEVICE_ORDINAL")
        _check_device(device, call("cuPointerGetAttribute", attribute, address), place)
    return DeviceArray(device, address, shape, dtype, value, stream)


def _check_device(device: Device, ordinal: int, place: str) -> None:
    if ordinal != device.ordinal:
        raise InputError(
            f"{place} lies in the memory of cuda:{ordinal}; the model runs on {device}",
            hint=f"copy it there, or load the model with device='cuda:{ordinal}'",
        )


def _check_strides(shape: tuple[int, ...], strides: Any, dtype: np.dtype[Any], place: str) -> None:
    """Raises InputError unless elements lie row by row."""
    expected = dtype.itemsize
    for extent, stride in zip(reversed(shape), reversed(strides or ()), strict=False):
        if extent > 1 and stride != expected and 0 not in shape:
            raise InputError(
                f"{place}: its elements do not lie row by row in the GPU's memory",
                hint="make it contiguous first (torch: tensor.contiguous(); CuPy: cupy.ascontiguousarray)",
            )
        expected *= extent
