"""The seam between an executable and what runs it: a CPU, or a GPU."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Protocol

import numpy as np

from graphc.package import Package, Variant
from graphc.runtime.program import Program


class Unit(Protocol):
    """A package whose code is loaded."""

    def program(self, variant: Variant) -> Program[Any]:
        """A variant of the package made ready to run.

        Raises:
            PackageError: Its kernels are not in the code.
        """

    def opened(self, instantiated: Callable[[], Variant]) -> Program[Any]:
        """One binding of an open variant, of which there may be many, made ready to run.

        Args:
            instantiated: Makes the variant of the binding; may be called again when asked what ran.
        """

    @property
    def shared_memory(self) -> int:
        """Bytes of arenas that programs of open variants share."""

    def trim(self) -> None:
        """Frees what no call is using."""

    def close(self) -> None:
        """Frees all that no call is using, weights included."""


class Engine(Protocol):
    """What runs the variants of one instruction set."""

    @property
    def isa(self) -> str:
        """The instruction set, or a GPU's architecture: whose code it takes from packages."""

    @property
    def device(self) -> str:
        """As users name it: `cpu`, `cuda:0`."""

    @property
    def processor(self) -> str:
        """What figures of calls are kept by: the name of the processor."""

    @property
    def threads(self) -> int:
        """That one call may use."""

    def with_threads(self, threads: int) -> Engine:
        """The same with another number of threads."""

    def load(self, package: Package) -> Unit:
        """Loads a package's code.

        Raises:
            PackageError: It has none for this, or it does not run here.
        """

    def adopt(self, value: Any, place: str) -> Any:
        """An array in the memory of a GPU as programs take it; None where `value` is no such array.

        Args:
            value: What a caller gave.
            place: Which input or output it is, for messages.

        Raises:
            InputError: It lies where this cannot read it.
        """

    def room(self, size: int) -> Any:
        """Bytes that outputs are written to, over and over: something with `nbytes`."""

    def window(self, room: Any, shape: tuple[int, ...], dtype: np.dtype[Any]) -> Any:
        """An array at the beginning of what `room` gave, for `out` of a call."""
