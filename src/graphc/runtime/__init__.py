"""Runs packages: NumPy, ml_dtypes and the package's own library, nothing of the compiler."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from graphc.runtime.calibration import Calibration, Latency, calibrate
from graphc.runtime.cpu import machine, thread_count
from graphc.runtime.executable import Executable, load
from graphc.runtime.hook import CompileHook, set_compile_hook
from graphc.runtime.library import NATIVE_SOURCES
from graphc.runtime.profile import Profile, StepTime

if TYPE_CHECKING:
    from graphc.runtime.scheduler import ModelSettings, Observer, Scheduler

__all__ = [
    "NATIVE_SOURCES",
    "Calibration",
    "CompileHook",
    "Executable",
    "Latency",
    "ModelSettings",
    "Observer",
    "Profile",
    "Scheduler",
    "StepTime",
    "calibrate",
    "load",
    "machine",
    "set_compile_hook",
    "thread_count",
]


def __getattr__(name: str) -> Any:
    # asyncio takes as long to import as all the rest: only who schedules pays for it.
    if name in ("ModelSettings", "Observer", "Scheduler"):
        from graphc.runtime import scheduler

        return getattr(scheduler, name)
    raise AttributeError(f"module 'graphc.runtime' has no attribute {name!r}")
