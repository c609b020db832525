"""Imports of what not every installation has: where it is missing, the error says what to install."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

from graphc.errors import ToolchainError


@contextlib.contextmanager
def installed() -> Iterator[None]:
    """Around imports of the compiler and of testing tools.

    Raises:
        ToolchainError: A module that they need is not installed.
    """
    try:
        yield
    except ModuleNotFoundError as error:
        if (error.name or "").startswith("graphc"):
            raise
        extra = "testing" if error.name == "hypothesis" else "cpu"
        raise ToolchainError(
            f"this command needs the module {error.name!r}, which is not installed",
            hint=f"pip install 'graphc[{extra}]'",
        ) from error
