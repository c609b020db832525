"""Which of the devices here runs a package."""

from __future__ import annotations

from collections.abc import Mapping

from graphc.errors import OptionError
from graphc.package import Code
from graphc.runtime.cpu import choose_isa
from graphc.runtime.engine import Engine
from graphc.runtime.library_engine import LibraryEngine


def choose_engine(code: Mapping[str, Code], *, device: str | None, isa: str | None, threads: int) -> Engine:
    """What runs a package here.

    Args:
        code: Of the package's manifest.
        device: `cpu`; None chooses.
        isa: Instruction set, of those in the package; None chooses.
        threads: That a call may use.

    Raises:
        PackageError: Nothing here runs the package.
        OptionError: The device is unknown, or the package has no code for `isa`.
    """
    if device not in (None, "cpu"):
        raise OptionError(f"unknown device {device!r}; expected 'cpu'")
    return LibraryEngine(choose_isa(code, isa), threads)
