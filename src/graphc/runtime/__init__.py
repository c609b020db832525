"""Runs packages: NumPy, ml_dtypes and the package's own library, nothing of the compiler."""

from __future__ import annotations

from graphc.runtime.cpu import machine, thread_count
from graphc.runtime.executable import Executable, load
from graphc.runtime.hook import CompileHook, set_compile_hook
from graphc.runtime.library import NATIVE_SOURCES
from graphc.runtime.profile import Profile, StepTime

__all__ = [
    "NATIVE_SOURCES",
    "CompileHook",
    "Executable",
    "Profile",
    "StepTime",
    "load",
    "machine",
    "set_compile_hook",
    "thread_count",
]
