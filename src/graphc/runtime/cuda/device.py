"""A GPU of this machine: what it is, its context, and its memory."""

from __future__ import annotations

import contextlib
import threading
import weakref
from collections.abc import Callable, Iterator
from typing import Any

from graphc.errors import DeviceError
from graphc.runtime.cuda import driver
from graphc.runtime.cuda.driver import OutOfDeviceMemoryError, call, enumerator

_lock = threading.Lock()
_open: weakref.WeakValueDictionary[int, Device] = weakref.WeakValueDictionary()
_capture = threading.local()


class Device:
    """A GPU; get one from `open_device`. Holds its primary context, which other libraries of the process share.

    Attributes:
        ordinal: Its number.
        name: As the driver tells it.
        capability: Compute capability: 80, 90.
        memory: Bytes in all.
        shared_bytes: Shared memory that one block may ask for.
        in_flight: Calls of all models that run on it now.
        releases: Calls that have ended.
        changed: Held where these two change; notified where a call ends.
        making: Held where what a call needs is made, so that two do not each take half of what is left.
    """

    def __init__(self, ordinal: int) -> None:
        self.ordinal = ordinal
        handle = call("cuDeviceGet", ordinal)

        def attribute(name: str) -> int:
            return int(
                call("cuDeviceGetAttribute", enumerator("CUdevice_attribute", f"CU_DEVICE_ATTRIBUTE_{name}"), handle)
            )

        self.name: str = call("cuDeviceGetName", 128, handle).split(b"\0")[0].decode(errors="replace").strip()
        self.capability = 10 * attribute("COMPUTE_CAPABILITY_MAJOR") + attribute("COMPUTE_CAPABILITY_MINOR")
        self.shared_bytes = attribute("MAX_SHARED_MEMORY_PER_BLOCK_OPTIN")
        self.memory = int(call("cuDeviceTotalMem", handle))
        self._context = call("cuDevicePrimaryCtxRetain", handle)
        self._reclaimers: weakref.WeakSet[Any] = weakref.WeakSet()
        self.changed = threading.Condition()
        self.in_flight = self.releases = 0
        self.making = threading.Lock()
        weakref.finalize(self, driver.attempt, "cuDevicePrimaryCtxRelease", handle).atexit = False

    def __str__(self) -> str:
        return f"cuda:{self.ordinal}"

    def __enter__(self) -> Device:
        """Makes the context the calling thread's; another library's comes back afterwards."""
        driver.check_fork()
        call("cuCtxPushCurrent", self._context)
        return self

    def __exit__(self, *exception: object) -> None:
        # What went wrong before is what is told.
        driver.attempt("cuCtxPopCurrent")

    @property
    def free_memory(self) -> int:
        """Bytes that nobody has now."""
        with self:
            return int(call("cuMemGetInfo")[0])

    def free(self, function: str, handle: Any) -> None:
        """Frees something by a function of the driver: at once, or after the capture that the calling thread is in.

        What nobody holds any more is freed wherever Python finds that, and would end a capture.
        """
        if (later := getattr(_capture, "later", None)) is not None:
            later.append((self, function, handle))
            return
        driver.attempt("cuCtxPushCurrent", self._context)
        driver.attempt(function, handle)
        driver.attempt("cuCtxPopCurrent")

    def reclaim_from(self, owner: Any) -> None:
        """Has `owner.trim()` called where memory is short, for as long as `owner` is there."""
        with _lock:
            self._reclaimers.add(owner)

    def get(self, what: str, size: int, allocate: Callable[[], Any]) -> Any:
        """Memory; where there is not enough, after everything that no call is using has been freed.

        Args:
            what: It is for.
            size: Bytes.
            allocate: Asks for it.

        Raises:
            OutOfDeviceMemoryError: Not even then; says how much was needed, and how much is free.
        """
        try:
            return allocate()
        except OutOfDeviceMemoryError:
            with _lock:
                owners = list(self._reclaimers)
            for owner in owners:
                owner.trim()
        try:
            return allocate()
        except OutOfDeviceMemoryError as error:
            raise OutOfDeviceMemoryError(
                f"{what} needs {size / 1e6:,.1f} MB on {self} ({self.name}), which has {self.free_memory / 1e6:,.1f} MB"
                f" of {self.memory / 1e6:,.1f} MB left",
                hint="close other models or processes, use smaller shapes or fewer calls at once",
            ) from error


def open_device(ordinal: int) -> Device:
    """The GPU of this number.

    Raises:
        DeviceError: There is none.
        ToolchainError: cuda-bindings is not installed.
    """
    driver.initialize()
    count = call("cuDeviceGetCount")
    if not 0 <= ordinal < count:
        here = ", ".join(f"cuda:{number}" for number in range(count)) or "none"
        raise DeviceError(f"there is no cuda:{ordinal}; the GPUs here are {here}")
    with _lock:
        if (device := _open.get(ordinal)) is None:
            device = _open[ordinal] = Device(ordinal)
        return device


def devices() -> tuple[Device, ...]:
    """The GPUs of this machine.

    Raises:
        DeviceError: The driver is missing, too old, or finds none.
        ToolchainError: cuda-bindings is not installed.
    """
    return tuple(each_device())


def each_device() -> Iterator[Device]:
    """Each of `devices` when it is asked for: a GPU that nobody looks at gets no context."""
    driver.initialize()
    for ordinal in range(call("cuDeviceGetCount")):
        yield open_device(ordinal)


@contextlib.contextmanager
def freeing_later() -> Iterator[None]:
    """The calling thread captures a graph: nothing is freed before the end."""
    _capture.later = []
    try:
        yield
    finally:
        later, _capture.later = _capture.later, None
        for device, function, handle in later:
            device.free(function, handle)
