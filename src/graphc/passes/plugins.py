"""Passes, rules and operators of users: from a Python file, or from packages that declare the entry point."""

from __future__ import annotations

import hashlib
import importlib.metadata
import importlib.util
import os
import sys
from pathlib import Path
from types import ModuleType

from graphc.errors import GraphcError, OptionError

ENTRY_POINT_GROUP = "graphc.plugins"
"""Entry point group; each entry names a module that registers what it brings when it is imported."""


def load_plugin(path: str | os.PathLike[str]) -> ModuleType:
    """Runs a Python file, so that the passes, rules and operators it registers are known; a second time does nothing.

    Raises:
        OptionError: There is no such file, or running it failed.
    """
    file = Path(path).resolve()
    if not file.is_file():
        raise OptionError(f"plugin {os.fspath(path)!r} is not a file")
    name = f"graphc_plugin_{file.stem}_{hashlib.sha256(os.fsencode(file)).hexdigest()[:8]}"
    if name in sys.modules:
        return sys.modules[name]
    spec = importlib.util.spec_from_file_location(name, file)
    if spec is None or spec.loader is None:
        raise OptionError(f"plugin {os.fspath(path)!r} is not a Python file", hint="its name must end in .py")
    module = importlib.util.module_from_spec(spec)
    # Dataclasses look their module up by name while the file runs.
    sys.modules[name] = module
    try:
        spec.loader.exec_module(module)
    except Exception as error:
        del sys.modules[name]
        raise _failed(f"plugin {os.fspath(path)!r}", error) from error
    return module


def load_entry_points() -> list[str]:
    """Imports every installed plugin; answers their names.

    Raises:
        OptionError: Importing one failed.
    """
    found = sorted(importlib.metadata.entry_points(group=ENTRY_POINT_GROUP), key=lambda entry: entry.name)
    for entry in found:
        try:
            entry.load()
        except Exception as error:
            raise _failed(f"plugin {entry.name!r} ({entry.value})", error) from error
    return [entry.name for entry in found]


def _failed(what: str, error: Exception) -> OptionError:
    reason = error.message if isinstance(error, GraphcError) else f"{type(error).__name__}: {error}"
    return OptionError(f"{what} failed: {reason}")
