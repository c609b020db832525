"""What runs packages on a GPU."""

from __future__ import annotations

import threading
import weakref
from collections.abc import Callable
from typing import Any

import numpy as np

from graphc.errors import PackageError
from graphc.package import Package, Variant
from graphc.runtime.cuda.array import DeviceArray, adopt, new_array
from graphc.runtime.cuda.code import Code
from graphc.runtime.cuda.device import Device
from graphc.runtime.cuda.program import CudaProgram
from graphc.runtime.cuda.weights import Weights, load_weights
from graphc.runtime.engine import Engine, Unit
from graphc.runtime.host import load_evaluator
from graphc.runtime.program import Program


class CudaEngine(Engine):
    """Runs the code of one architecture on a GPU.

    Args:
        device: The GPU.
        architecture: Whose code it takes: one that the GPU runs.
        threads: Of the CPU, for messages and figures alone.
    """

    def __init__(self, device: Device, architecture: str, threads: int) -> None:
        self._device = device
        self._architecture = architecture
        self._threads = threads

    @property
    def isa(self) -> str:
        """The architecture whose code it takes from packages."""
        return self._architecture

    @property
    def device(self) -> str:
        """As users name it: `cuda:0`."""
        return str(self._device)

    @property
    def processor(self) -> str:
        """The name of the GPU."""
        return self._device.name

    @property
    def threads(self) -> int:
        """Of the CPU, on which a call runs next to nothing."""
        return self._threads

    def with_threads(self, threads: int) -> CudaEngine:
        """The same with another number of threads."""
        return CudaEngine(self._device, self._architecture, threads)

    def load(self, package: Package) -> Unit:
        """Loads a package's modules and uploads its weights, where that has not been done in this process.

        Raises:
            PackageError: It has no code for the architecture, or it is damaged.
            OutOfDeviceMemoryError: The GPU has not the memory for the weights.
        """
        return _Unit(package, self._architecture, self._device)

    def adopt(self, value: Any, place: str) -> DeviceArray | None:
        """An array in this GPU's memory as it is; None where `value` is in the host's."""
        return adopt(self._device, value, place)

    def room(self, size: int) -> DeviceArray:
        """Bytes of the GPU's memory."""
        return new_array(self._device, (size,), np.dtype(np.uint8), "kept between calls")

    def window(self, room: DeviceArray, shape: tuple[int, ...], dtype: np.dtype[Any]) -> DeviceArray:
        """An array at the beginning of them."""
        return DeviceArray(self._device, room.address, shape, dtype, room)


class _Unit(Unit):
    """A package with its code and weights on a GPU."""

    def __init__(self, package: Package, architecture: str, device: Device) -> None:
        if architecture not in package.manifest.code:
            raise PackageError(f"{str(package.path)!r} has no code for {architecture}")
        self._package = package
        self._device = device
        self._code: Code | None = Code(package, architecture, device)
        self._weights: Weights | None = load_weights(package, architecture, device)
        self._programs: weakref.WeakSet[CudaProgram] = weakref.WeakSet()
        self._lock = threading.Lock()
        device.reclaim_from(self)
        # An executable that is dropped without being closed: its programs and their contexts hold each other.
        weakref.finalize(self, _close_all, self._programs).atexit = False

    @property
    def shared_memory(self) -> int:
        """Bytes of the arenas of open variants' bindings."""
        return sum(p.arenas * p.arena_size for p in self._listed() if p.opened)

    def program(self, variant: Variant) -> Program[Any]:
        """A variant with its kernels found."""
        return self._make(variant, opened=False)

    def opened(self, instantiated: Callable[[], Variant]) -> Program[Any]:
        """A binding of an open variant. Graphs have arenas of their own: bindings share none."""
        return self._make(instantiated(), opened=True)

    def _make(self, variant: Variant, *, opened: bool) -> CudaProgram:
        assert self._code is not None and self._weights is not None, "the model is not closed"
        evaluate = load_evaluator() if variant.host_steps else None
        manifest, weights = self._package.manifest, self._package.weights
        program = CudaProgram(
            manifest, variant, self._device, self._code, self._weights, weights, evaluate=evaluate, opened=opened
        )
        with self._lock:
            self._programs.add(program)
        return program

    def trim(self) -> None:
        """Frees the contexts that no call is using."""
        for program in self._listed():
            program.trim()

    def close(self) -> None:
        """Frees contexts, those in use when their calls end; code and weights go with the last of them."""
        _close_all(self._programs)
        self._code = self._weights = None

    def _listed(self) -> list[CudaProgram]:
        with self._lock:
            return list(self._programs)


def _close_all(programs: weakref.WeakSet[CudaProgram]) -> None:
    for program in list(programs):
        program.close()
