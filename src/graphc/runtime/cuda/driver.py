"""The CUDA driver: the one place that imports it, and its errors as ours."""

from __future__ import annotations

import os
from typing import Any

from graphc.errors import DeviceError, ExecutionError, PackageError, ToolchainError

OLDEST = 12040
"""The oldest driver that is taken, as it counts versions: CUDA 12.4 tells what parameters a function has."""

_OUT_OF_MEMORY = 2
_NO_BINARY = (200, 209, 218, 222)
_NO_DEVICE = (100, 101)
_LOST = (214, 700, 702, 704, 709, 710, 714, 715, 716, 717, 718, 719, 720)
"""Errors after which the process can use the GPU no more."""

_api: Any = None
_initialized = False
_forked = False


class OutOfDeviceMemoryError(ExecutionError):
    """The GPU, or the driver for the host's pinned memory, has not the memory asked for."""


def initialize() -> None:
    """Makes the driver ready, once.

    Raises:
        ToolchainError: cuda-bindings is not installed.
        DeviceError: There is no driver or no GPU here, or the driver is too old; or it was in use before a fork.
    """
    global _api, _initialized
    check_fork()
    if _initialized:
        return
    if _api is None:
        try:
            from cuda.bindings import driver
        except ImportError as error:
            raise ToolchainError(
                "running on a GPU needs cuda-bindings, which is not installed", hint="pip install 'graphc[cuda]'"
            ) from error
        _api = driver
    try:
        found = _api.cuInit(0)
    except RuntimeError as error:
        # What cuda-bindings raises where it finds no libcuda.
        raise DeviceError(
            "there is no CUDA driver on this machine (libcuda.so.1 is not found)",
            hint="install NVIDIA's driver; in a container, start it with the GPU (docker run --gpus all)",
        ) from error
    _check("cuInit", found[0])
    if (version := call("cuDriverGetVersion")) < OLDEST:
        raise DeviceError(
            f"the CUDA driver here is of CUDA {_text(version)}; graphc needs {_text(OLDEST)} or newer",
            hint="update NVIDIA's driver",
        )
    _initialized = True


def call(name: str, *arguments: Any) -> Any:
    """What a function of the driver answers: nothing, a value, or several.

    Args:
        name: Of the function.
        arguments: As of cuda-bindings.

    Raises:
        OutOfDeviceMemoryError: So it says.
        DeviceError: There is no device, or the driver has no such function.
        PackageError: Code that the device does not run.
        ExecutionError: Any other error.
    """
    try:
        code, *values = getattr(_api, name)(*arguments)
    except RuntimeError as error:
        raise DeviceError(
            f"the CUDA driver here has no {name}: {error}",
            hint="update NVIDIA's driver, or install the cuda-bindings of its version",
        ) from error
    _check(name, code)
    return values[0] if len(values) == 1 else tuple(values) or None


def attempt(name: str, *arguments: Any) -> Any:
    """Calls what frees something: where the GPU is lost, so is what would have been freed.

    Returns:
        The value, if any; None where the call failed.
    """
    if not usable():
        return None
    code, *values = getattr(_api, name)(*arguments)
    return values[0] if code == 0 and values else None


def parameter_width(function: Any, index: int) -> int | None:
    """Bytes of a parameter of a kernel; None where it has no parameter of this number."""
    code, _, size = _api.cuFuncGetParamInfo(function, index)
    return int(size) if code == 0 else None


def enumerator(kind: str, name: str) -> Any:
    """A value of one of the driver's enumerations."""
    return getattr(getattr(_api, kind), name)


def structure(kind: str) -> Any:
    """A new, empty structure of the driver's."""
    return getattr(_api, kind)()


def check_fork() -> None:
    """Raises DeviceError in a process that was forked from one that had used a GPU."""
    if _forked:
        raise DeviceError(
            "this process was forked from one that uses the GPU, which CUDA does not survive",
            hint="start processes with multiprocessing's 'spawn', or load the model after the fork alone",
        )


def usable() -> bool:
    """Whether the driver may still be called: to free what it gave."""
    return _initialized and not _forked


def _text(version: int) -> str:
    return f"{version // 1000}.{version % 1000 // 10}"


def _check(name: str, code: Any) -> None:
    """Raises for what a function answered, unless all is well."""
    if code == 0:
        return
    number = int(code)
    what = getattr(code, "name", str(number))
    if number == _OUT_OF_MEMORY:
        raise OutOfDeviceMemoryError(f"the GPU is out of memory ({name}: {what})")
    if number in _NO_DEVICE:
        raise DeviceError(f"the CUDA driver finds no GPU ({name}: {what})", hint="nvidia-smi tells what it sees")
    if number in _NO_BINARY:
        raise PackageError(f"the GPU does not run this code ({name}: {what})", hint="compile the model again")
    if number in _LOST:
        raise ExecutionError(
            f"a kernel failed on the GPU ({name}: {what}), and this process can use it no more",
            hint="start the process again; `graphc verify --layers` tells which step is wrong",
        )
    raise ExecutionError(f"the CUDA driver failed ({name}: {what})")


def _mark_fork() -> None:
    global _forked
    _forked = _forked or _initialized


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_mark_fork)
