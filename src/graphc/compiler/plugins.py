"""Plugins: Python that registers passes, rules, operators or targets before a compile.

A plugin is a file (`--plugin my_passes.py`), or a module that an installed distribution names under the entry point
group `graphc.plugins`. Importing it is all that is done: what it registers, it registers as graphc's own files do.
"""

from __future__ import annotations

import hashlib
import importlib.util
import sys
from collections.abc import Iterable
from functools import cache
from importlib.metadata import EntryPoint, entry_points
from pathlib import Path

from graphc.errors import GraphcError, OptionError

ENTRY_POINTS = "graphc.plugins"
_loaded: set[str] = set()


def load_plugins(files: Iterable[Path] = ()) -> None:
    """Imports installed plugins, then `files`; each once in a process.

    Raises:
        OptionError: A plugin cannot be read, or raises; names it and the line.
    """
    for entry in installed_plugins():
        if entry.value not in _loaded:
            try:
                entry.load()
            except Exception as error:
                raise _failed(f"plugin {entry.name!r} ({entry.value})", error) from error
            _loaded.add(entry.value)
    for file in files:
        path = file.resolve()
        if str(path) not in _loaded:
            _load_file(path)
            _loaded.add(str(path))


@cache
def installed_plugins() -> tuple[EntryPoint, ...]:
    """What installed distributions name; looked up once in a process, since each distribution is a file to read."""
    return tuple(entry_points(group=ENTRY_POINTS))


def _load_file(path: Path) -> None:
    if not path.is_file():
        raise OptionError(f"there is no plugin file {str(path)!r}")
    name = f"graphc_plugin_{path.stem}_{hashlib.sha256(str(path).encode()).hexdigest()[:8]}"
    spec = importlib.util.spec_from_file_location(name, path)
    if spec is None or spec.loader is None:
        raise OptionError(f"plugin {str(path)!r} is no Python file", hint="its name must end in .py")
    module = importlib.util.module_from_spec(spec)
    # Dataclasses look their module up while it is being run.
    sys.modules[name] = module
    try:
        spec.loader.exec_module(module)
    except Exception as error:
        del sys.modules[name]
        raise _failed(f"plugin {str(path)!r}", error) from error


def _failed(what: str, error: Exception) -> OptionError:
    if isinstance(error, GraphcError):
        return OptionError(f"{what}: {error.message}", hint=error.hint)
    trace, line = error.__traceback__, 0
    while trace is not None:
        line, trace = trace.tb_lineno, trace.tb_next
    return OptionError(f"{what}, line {line}: {type(error).__name__}: {error}", hint="--debug shows the traceback")
