"""What runs packages on a CPU: their shared libraries, with a number of threads."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np

from graphc.errors import PackageError
from graphc.package import Package, Variant
from graphc.runtime.arenas import Arenas
from graphc.runtime.cpu import processor
from graphc.runtime.engine import Engine, Unit
from graphc.runtime.host import load_evaluator
from graphc.runtime.library import load_library
from graphc.runtime.library_program import LibraryProgram, OpenProgram
from graphc.runtime.memory import Array, allocate
from graphc.runtime.program import Program
from graphc.runtime.values import refuse_gpu


class LibraryEngine(Engine):
    """Runs the code of one instruction set on this machine's processors.

    Args:
        isa: Of those that this machine has.
        threads: That one call may use.
    """

    device = "cpu"

    def __init__(self, isa: str, threads: int) -> None:
        self._isa = isa
        self._threads = threads

    @property
    def isa(self) -> str:
        """Whose code it takes from packages."""
        return self._isa

    @property
    def threads(self) -> int:
        """That one call may use."""
        return self._threads

    @property
    def processor(self) -> str:
        """The name of this machine's processor."""
        return processor()

    def with_threads(self, threads: int) -> LibraryEngine:
        """The same with another number of threads."""
        return LibraryEngine(self.isa, threads)

    def load(self, package: Package) -> Unit:
        """Loads the package's library.

        Raises:
            PackageError: It has none for this instruction set, or it cannot be loaded.
        """
        return _Unit(package, self)

    def adopt(self, value: Any, place: str) -> None:
        """Nothing: a CPU reads no memory of GPUs, which is an error."""
        refuse_gpu(value, place)

    def room(self, size: int) -> Array:
        """Bytes of this machine's memory."""
        return allocate(size)

    def window(self, room: Any, shape: tuple[int, ...], dtype: np.dtype[Any]) -> Array:
        """A view of them."""
        view: Array = room[: math.prod(shape) * dtype.itemsize].view(dtype).reshape(shape)
        return view


class _Unit(Unit):
    """A package's library with its kernels."""

    def __init__(self, package: Package, engine: LibraryEngine) -> None:
        if engine.isa not in package.manifest.code:
            raise PackageError(f"{str(package.path)!r} has no code for {engine.isa}")
        name = f"{package.path.name}:{package.manifest.code[engine.isa].member}"
        self._package = package
        self.library = load_library(package.code(engine.isa), name)
        self._threads = engine.threads
        self._arenas = Arenas()

    @property
    def shared_memory(self) -> int:
        """Bytes of arenas that programs of open variants share."""
        return self._arenas.size

    def program(self, variant: Variant) -> Program[Any]:
        """A variant with its kernels found."""
        return LibraryProgram(
            self._package.manifest,
            variant,
            self.library,
            self._package.weights,
            threads=self._threads,
            evaluate=load_evaluator() if variant.host_steps else None,
            keyed=bool(self._package.manifest.parameters),
        )

    def opened(self, instantiated: Callable[[], Variant]) -> Program[Any]:
        """A binding of an open variant, its arenas borrowed from those of all bindings."""
        manifest, weights = self._package.manifest, self._package.weights
        return OpenProgram(manifest, instantiated, self.library, weights, self._arenas, threads=self._threads)

    def trim(self) -> None:
        """Frees the arenas that no call is using."""
        self._arenas.trim()

    def close(self) -> None:
        """Nothing that does not go by itself: the library is the process's, the weights are the file's."""
        self.trim()
