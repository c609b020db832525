"""A package's shared library in this process: loaded from memory, its kernels found, its threads shared.

A library is loaded once per process, however many executables use it, and goes with the last of them; but the one whose
pool of threads serves the process stays, since they run in it.
"""

from __future__ import annotations

import ctypes
import hashlib
import os
import sys
import tempfile
import threading
import weakref
from _ctypes import dlclose
from itertools import count
from pathlib import Path

from graphc.errors import PackageError
from graphc.runtime import abi

NATIVE_SOURCES = sorted((Path(__file__).parent / "native").glob("*.[ch]"))
_lock = threading.Lock()
_loaded: weakref.WeakValueDictionary[str, Library] = weakref.WeakValueDictionary()
_paths: set[str] = set()
_kept: list[Library] = []
_pool: ctypes.c_void_p | None = None


class Library:
    """A loaded `model.so`; get one from `load_library`. Whatever runs its code holds it.

    Attributes:
        run: The launcher: takes the address of a `Call`, answers 0 or failed step and status.
        shortcut: Address of the C function that `graphc.runtime.shortcut` makes Python functions of.
    """

    def __init__(self, code: bytes, name: str) -> None:
        self._name = name
        self._handle, path = _dlopen(code, name)
        # At the end of the process its threads may still run in it.
        weakref.finalize(self, _dlclose, self._handle._handle, path).atexit = False
        try:
            version = self._handle.graphc_abi
            self._use_pool = self._handle.graphc_use_pool
            self._workers = self._handle.graphc_workers
            self.run = self._handle.graphc_run
            self.shortcut = ctypes.cast(self._handle.graphc_shortcut, ctypes.c_void_p).value or 0
        except AttributeError as error:
            raise PackageError(f"{name} has no launcher: {error}", hint="compile the model again") from error
        if (found := version()) != abi.VERSION:
            raise PackageError(
                f"{name} has launcher version {found}; this graphc calls version {abi.VERSION}",
                hint="compile the model again with this version of graphc",
            )
        self.run.restype = ctypes.c_int64
        self._use_pool.restype = ctypes.c_void_p
        self._use_pool.argtypes = [ctypes.c_void_p]

    def use_pool(self, pool: ctypes.c_void_p | None) -> ctypes.c_void_p:
        """Makes it run parallel loops on `pool`, or on its own where that is None or of another version."""
        return ctypes.c_void_p(self._use_pool(pool))

    def kernel(self, symbol: str) -> int:
        """The address of a kernel.

        Raises:
            PackageError: The library has no such symbol.
        """
        try:
            address = ctypes.cast(getattr(self._handle, symbol), ctypes.c_void_p).value
        except AttributeError as error:
            raise PackageError(f"{self._name} has no kernel {symbol!r}", hint="compile the model again") from error
        assert address is not None
        return address

    @property
    def workers(self) -> int:
        """Worker threads that the process's pool has started so far."""
        return int(self._workers())


def load_library(code: bytes, name: str) -> Library:
    """The library with these bytes; `name` is for messages.

    Raises:
        PackageError: It cannot be loaded here, or is not a package's library.
    """
    global _pool
    key = hashlib.sha256(code).hexdigest()
    with _lock:
        library = _loaded.get(key)
        if library is None:
            library = Library(code, name)
            used = library.use_pool(_pool)
            if _pool is None or used.value != _pool.value:
                _kept.append(library)
            _pool = _pool or used
            _loaded[key] = library
        return library


def _dlclose(handle: int, path: str) -> None:
    dlclose(handle)
    _paths.discard(path)


def _dlopen(code: bytes, name: str) -> tuple[ctypes.CDLL, str]:
    """The library and the path that it was loaded by."""
    try:
        if (descriptor := _memory_file(code)) is not None:
            try:
                # The dynamic linker knows a library by its path, and descriptors are reused: a load needs a new path.
                path = next(path for n in count() if (path := f"/proc/self/fd/{'./' * n}{descriptor}") not in _paths)
                library = ctypes.CDLL(path)
                _paths.add(path)
                return library, path
            finally:
                os.close(descriptor)
        with tempfile.TemporaryDirectory(prefix="graphc-") as folder:
            file = Path(folder, "model.so")
            file.write_bytes(code)
            return ctypes.CDLL(str(file)), str(file)
    except OSError as error:
        older = "GLIBC_" in str(error)
        raise PackageError(
            f"{name} cannot be loaded on this machine: {error}",
            hint="link for an older C library where you compile: pip install ziglang and set "
            "CC='python -m ziglang cc -target x86_64-linux-gnu.2.17'"
            if older
            else None,
        ) from error


def _memory_file(code: bytes) -> int | None:
    """A descriptor of an anonymous file with these bytes; None where the system has none to give."""
    if sys.platform != "linux" or not Path("/proc/self/fd").is_dir():
        return None
    try:
        descriptor = os.memfd_create("graphc", os.MFD_CLOEXEC)
    except OSError:
        return None
    with os.fdopen(os.dup(descriptor), "wb") as file:
        file.write(code)
    return descriptor
