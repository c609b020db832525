"""The process that compiles a model for the server: `python -m graphc.serve.compile_worker`.

Reads one job as JSON from standard input, and writes lines of JSON to standard output: `{"progress": [what, done,
total]}` as it goes, then `{"done": true}` or `{"error": {"kind", "message", "hint", "nodes"}}`. It runs at low
priority, so that a server beside it keeps its promises, and what it takes is gone when it ends.
"""

from __future__ import annotations

import contextlib
import json
import os
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any, TextIO

from graphc.errors import GraphcError, OptionError

_NICE = 10


def main() -> int:
    """Does the job; answers the exit status."""
    # What libraries print must not get between the lines of the protocol.
    out = os.fdopen(os.dup(1), "w", buffering=1)
    os.dup2(2, 1)
    with contextlib.suppress(OSError):
        os.nice(_NICE)
    try:
        _compile(json.load(sys.stdin), out)
    except GraphcError as error:
        kind = type(error).__name__
        _say(out, error={"kind": kind, "message": error.message, "hint": error.hint, "nodes": list(error.nodes)})
        return 1
    _say(out, done=True)
    return 0


def _say(out: TextIO, **message: Any) -> None:
    out.write(json.dumps(message) + "\n")


def _compile(job: Mapping[str, Any], out: TextIO) -> None:
    from graphc.compiler import CompileOptions, compile_package

    def progress(what: str, done: int, total: int) -> None:
        _say(out, progress=[what, done, total])

    options = CompileOptions(
        level=job["level"],
        winograd=job["winograd"],
        precision=job["precision"],
        cache=Path(job["cache"]),
        jobs=len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1,
        progress=progress,
    )
    dims = job["dims"] or _open_dims(Path(job["model"]))
    target, values = job["target"], job["values"] or None
    compile_package(job["model"], job["output"], target=target, dims=dims, values=values, options=options)


def _open_dims(model: Path) -> dict[str, Any]:
    """What to compile a model for that nothing is said of: one open dimension is taken to count rows.

    Raises:
        OptionError: Several are open, and only its owner knows what comes.
    """
    from graphc.compiler.assembly import input_symbols
    from graphc.frontend import read_model

    imported = read_model(model)
    names = [imported.dim_names.get(name, name) for name in input_symbols(imported.graph)]
    if len(names) > 1:
        extents = ", ".join(f"{name} = 1" for name in names)
        raise OptionError(
            f"{model.name} has the open dimensions {', '.join(names)}",
            hint=f"say in model.toml which extents come: [compile] dims = {{{extents}}}",
        )
    return dict.fromkeys(names, "auto")


if __name__ == "__main__":
    sys.exit(main())
