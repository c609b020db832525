"""Code of a package on a GPU: which of it the GPU runs, its modules, and what each step launches."""

from __future__ import annotations

import threading
import weakref
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from graphc.errors import PackageError
from graphc.package import CudaCode, KernelStep, Launch, Location, Package, evaluate
from graphc.package.cuda import Integer, Pointer, Status
from graphc.runtime.cuda import driver
from graphc.runtime.cuda.device import Device
from graphc.runtime.cuda.driver import call, enumerator
from graphc.runtime.cuda.memory import aligned

_STATIC_SHARED = 48 << 10
"""Bytes of shared memory that a function may ask for without saying so before."""

_SPECIFIC = 90
"""From this capability on code is compiled for its architecture alone (`sm_90a`)."""

_HIDDEN = (8, 8)
"""Widths of the two pointers at the end of every function: to scratch memory and to a profiler's."""

_lock = threading.Lock()
_modules: weakref.WeakValueDictionary[tuple[int, str], Module] = weakref.WeakValueDictionary()


def runs_on(architecture: str, capability: int) -> bool:
    """Whether a GPU runs code of an architecture such as `sm_80`: of its own generation, no newer than itself."""
    own = int(architecture.removeprefix("sm_"))
    return own == capability if own >= _SPECIFIC else own // 10 == capability // 10 and own <= capability


def closest(architectures: Iterable[str], capability: int) -> str | None:
    """Of the architectures that a GPU runs, the one nearest to its own; None where there is none."""
    fitting = [name for name in architectures if runs_on(name, capability)]
    return max(fitting, key=lambda name: int(name.removeprefix("sm_")), default=None)


class Module:
    """A cubin loaded on a GPU; get one from `load_module`."""

    def __init__(self, device: Device, cubin: bytes) -> None:
        self._device = device
        with device:
            self._handle = device.get("code of kernels", len(cubin), lambda: call("cuModuleLoadData", cubin))
        weakref.finalize(self, device.free, "cuModuleUnload", self._handle).atexit = False

    def function(self, name: str) -> Any:
        """A function of it, by its name.

        Raises:
            ExecutionError: There is none.
        """
        with self._device:
            return call("cuModuleGetFunction", self._handle, name.encode())


def load_module(device: Device, name: str, package: Package, architecture: str) -> Module:
    """A cubin of a package, loaded once per process and GPU however many packages have it.

    Raises:
        PackageError: It is damaged, or the GPU does not run it.
    """
    with _lock:
        if (module := _modules.get((device.ordinal, name))) is None:
            module = _modules[device.ordinal, name] = Module(device, package.cubin(architecture, name))
        return module


@dataclass(frozen=True)
class Call:
    """One launch of a step, all that is known before a call evaluated.

    Attributes:
        function: The driver's handle.
        grid: Blocks along x, y and z.
        threads: Of a block.
        shared: Bytes of dynamic shared memory.
        cluster: Blocks of a cluster, along x.
        parameters: In the function's order: numbers; places; None for the step's status.
        scratch: Bytes of scratch memory of the whole launch.
    """

    function: Any
    grid: tuple[int, int, int]
    threads: int
    shared: int
    cluster: int
    parameters: tuple[int | Location | None, ...]
    scratch: int


class Code:
    """The kernels of a package for one GPU, their modules loaded.

    Args:
        package: With code of the architecture.
        architecture: That the GPU runs.
        device: The GPU.

    Raises:
        PackageError: The code is damaged, or the GPU does not run it.
    """

    def __init__(self, package: Package, architecture: str, device: Device) -> None:
        self._device = device
        self._kernels: CudaCode = package.cuda(architecture)
        names = sorted({launch.cubin for launch in self._kernels.launches})
        self._modules = {name: load_module(device, name, package, architecture) for name in names}
        self._functions: dict[Launch, Any] = {}

    def calls(self, step: KernelStep) -> tuple[Call, ...]:
        """What a step launches, in order; launches without blocks are left out.

        Raises:
            PackageError: A function is not in its cubin, takes other parameters than the package says, or asks for more
                shared memory than the GPU has.
        """
        dims = {f"d{number}": dim for number, dim in enumerate(step.dims)}
        made = [self._call(launch, step, dims) for launch in self._kernels.kernels[step.symbol].launches]
        return tuple(call for call in made if min(call.grid) > 0)

    def _call(self, launch: Launch, step: KernelStep, dims: Mapping[str, int]) -> Call:
        if launch not in self._functions:
            self._functions[launch] = self._function(launch)
        x, y, z = (evaluate(extent, dims) for extent in launch.grid)
        parameters: list[int | Location | None] = []
        for parameter in launch.parameters:
            match parameter:
                case Pointer():
                    place = step.arguments[parameter.argument]
                    parameters.append(Location(place.kind, place.index, place.offset + parameter.offset))
                case Integer():
                    parameters.append(evaluate(parameter.value, dims))
                case Status():
                    parameters.append(None)
        function = self._functions[launch]
        size = aligned(launch.scratch) * x * y * z if launch.scratch else 0
        return Call(
            function, (x, y, z), launch.threads, launch.shared, launch.cluster, tuple(parameters), aligned(size)
        )

    def _function(self, launch: Launch) -> Any:
        function = self._modules[launch.cubin].function(launch.function)
        widths = [p.bytes if isinstance(p, Integer) else 8 for p in launch.parameters] + list(_HIDDEN)
        found = _widths(function, len(widths) + 1)
        if found != widths:
            raise PackageError(
                f"function {launch.function!r} takes parameters of {found} bytes; the package gives it {widths}",
                hint="the package is damaged; compile the model again",
            )
        if launch.shared > self._device.shared_bytes:
            raise PackageError(
                f"function {launch.function!r} needs {launch.shared} bytes of shared memory; {self._device.name} has"
                f" {self._device.shared_bytes} for a block"
            )
        if launch.shared > _STATIC_SHARED:
            attribute = enumerator("CUfunction_attribute", "CU_FUNC_ATTRIBUTE_MAX_DYNAMIC_SHARED_SIZE_BYTES")
            with self._device:
                call("cuFuncSetAttribute", function, attribute, launch.shared)
        return function


def _widths(function: Any, most: int) -> list[int]:
    """Bytes of each parameter of a function, as its cubin tells; of `most` at most."""
    widths: list[int] = []
    while len(widths) < most and (found := driver.parameter_width(function, len(widths))) is not None:
        widths.append(found)
    return widths
