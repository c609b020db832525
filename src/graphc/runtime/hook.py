"""How the runtime asks the compiler for a variant it has not got, without knowing the compiler."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path

from graphc.package import Package
from graphc.runtime.memory import Array

CompileHook = Callable[[Package, Mapping[str, int], Mapping[str, Array]], Path | None]
"""Takes an opened package, a binding of all of its symbols, and values of all of its parameters or of none.

Answers with a package that has that variant; None where the package carries nothing to compile it from.
"""

_hook: CompileHook | None = None


def set_compile_hook(hook: CompileHook | None) -> None:
    """Installs what compiles variants for unseen shapes; None takes it out again."""
    global _hook
    _hook = hook


def compile_hook() -> CompileHook | None:
    """What `set_compile_hook` installed."""
    return _hook
