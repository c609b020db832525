"""Launching a step's kernels: parameters packed once for a context, and the addresses in them that move."""

from __future__ import annotations

import ctypes
from collections.abc import Callable, Sequence
from typing import Any

from graphc.package import Location
from graphc.runtime.cuda.code import Call
from graphc.runtime.cuda.driver import call, enumerator, structure

MOVING = ("input", "output", "object", "slot")
"""Places that lie elsewhere from call to call."""


class Launcher:
    """The launches of one step in one context.

    Args:
        calls: Of the step.
        address: Where a place lies now.
        status: Address of the step's status.
        scratch: Address of memory for the kernels' scratch.
        stream: That they run in.
    """

    def __init__(
        self, calls: Sequence[Call], address: Callable[[Location], int], status: int, scratch: int, stream: Any
    ) -> None:
        self._address = address
        self._stream = stream
        self._launches = [_Packed(made, address, status, scratch) for made in calls]

    def __call__(self) -> None:
        """Enqueues them."""
        for packed in self._launches:
            for position, place in packed.moving:
                packed.values[position] = self._address(place)
            made = packed.call
            if made.cluster > 1:
                call("cuLaunchKernelEx", _cluster(made, self._stream), made.function, packed.parameters, 0)
            else:
                call(
                    "cuLaunchKernel",
                    made.function,
                    *made.grid,
                    made.threads,
                    1,
                    1,
                    made.shared,
                    self._stream,
                    packed.parameters,
                    0,
                )


class _Packed:
    """One launch and its parameters as the driver takes them: an array of pointers to values.

    Attributes:
        call: The launch.
        values: Eight bytes each, of which narrower ones are the first: both machines that graphc knows are
            little-endian.
        moving: Which of them are addresses that move, and of what.
        parameters: Address of the array of pointers.
    """

    def __init__(self, made: Call, address: Callable[[Location], int], status: int, scratch: int) -> None:
        self.call = made
        count = len(made.parameters) + 2
        self.values = (ctypes.c_uint64 * count)()
        self.moving: list[tuple[int, Location]] = []
        for position, parameter in enumerate(made.parameters):
            if parameter is None:
                self.values[position] = status
            elif isinstance(parameter, int):
                self.values[position] = parameter & 0xFFFFFFFFFFFFFFFF
            elif parameter.kind in MOVING:
                self.moving.append((position, parameter))
            else:
                self.values[position] = address(parameter)
        self.values[count - 2] = scratch if made.scratch else 0
        first = ctypes.addressof(self.values)
        self._pointers = (ctypes.c_void_p * count)(*range(first, first + 8 * count, 8))
        self.parameters = ctypes.addressof(self._pointers)


def _cluster(made: Call, stream: Any) -> Any:
    """What launches blocks in clusters, which share their memory."""
    config, attribute = structure("CUlaunchConfig"), structure("CUlaunchAttribute")
    config.gridDimX, config.gridDimY, config.gridDimZ = made.grid
    config.blockDimX, config.blockDimY, config.blockDimZ = made.threads, 1, 1
    config.sharedMemBytes, config.hStream = made.shared, stream
    attribute.id = enumerator("CUlaunchAttributeID", "CU_LAUNCH_ATTRIBUTE_CLUSTER_DIMENSION")
    attribute.value.clusterDim.x, attribute.value.clusterDim.y, attribute.value.clusterDim.z = made.cluster, 1, 1
    config.attrs, config.numAttrs = [attribute], 1
    return config
