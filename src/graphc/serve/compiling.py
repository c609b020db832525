"""ONNX models of the repository: compiled in a process of their own, and kept."""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import importlib.metadata
import json
import logging
import os
import signal
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from graphc import errors
from graphc.errors import BackendError, GraphcError, RepositoryError, ToolchainError
from graphc.runtime.cpu import processor
from graphc.runtime.folders import cache_folder, tuning_path
from graphc.serve.model_file import CompileFacts
from graphc.serve.repository import Snapshot

_log = logging.getLogger(__name__)

_KEPT = 4
"""Packages of one version's folder that the cache keeps."""
_TOLD_SECONDS = 5.0
_COMPILERS = {"cpu": ("onnx", "apache-tvm"), "cuda": ("onnx", "triton")}
"""What is installed for targets of a kind, by the name of graphc's extra."""
_LAST_WORDS = 2000


async def compiled(name: str, model: Path, files: Snapshot, facts: CompileFacts, cache: Path | None) -> Path:
    """The package of an ONNX model: from the cache, or compiled now, at low priority.

    Cancelling the task ends the process that compiles; nothing half-written stays.

    Args:
        name: Of model and version, for messages.
        model: The ONNX file.
        files: All files of its folder; what they hold decides the package.
        facts: How it is compiled.
        cache: Folder to keep it in; graphc's own if None.

    Raises:
        GraphcError: It does not compile; as `graphc.compile`.
        ToolchainError: The compiler is not installed.
        OptionError: There is no such target.
        DeviceError: It is for GPUs alone, and none is here.
        RepositoryError: A file cannot be read, or the cache cannot be written to.
    """
    folder = cache or cache_folder()
    key = await asyncio.to_thread(_key, model, files, facts)
    group = hashlib.sha256(str(model.parent.resolve()).encode()).hexdigest()[:16]
    path = folder / "served" / f"{group}-{key}.graphc"
    if path.exists():
        with contextlib.suppress(OSError):
            os.utime(path)
        return path
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise RepositoryError(
            f"cannot make the cache folder {str(path.parent)!r}: {error.strerror}",
            hint="set GRAPHC_CACHE to another folder",
        ) from error
    job = {
        "model": str(model),
        "output": str(path),
        "dims": dict(facts.dims),
        "values": dict(facts.values),
        "level": facts.level,
        "winograd": facts.winograd,
        "target": facts.target,
        "precision": facts.precision,
        "cache": str(folder),
    }
    _log.info("compiling %s, which the cache has not", name)
    await _work(name, job)
    await asyncio.to_thread(_keep_newest, path)
    return path


def _key(model: Path, files: Snapshot, facts: CompileFacts) -> str:
    """Hash of all that decides the package's contents."""
    # A server of packages needs nothing of the compiler.
    from graphc.backends.source import source_digest
    from graphc.target import detect_host, parse_targets

    targets = parse_targets(facts.target)
    kinds = sorted({target.name.partition(":")[0] for target in targets})
    if kinds == ["cuda"]:
        # Not after minutes of compiling what cannot run.
        from graphc.runtime.cuda import devices

        devices()
    state = hashlib.sha256()
    try:
        for name, *_ in files:
            with (model.parent / name).open("rb") as file:
                state.update(f"{name}\0{hashlib.file_digest(file, 'sha256').hexdigest()}\0".encode())
        tuned = [path for target in targets if (path := tuning_path(target.isa)).exists()]
        told = [path.read_bytes() for path in tuned]
    except OSError as error:
        raise RepositoryError(f"cannot read {str(error.filename)!r}: {error.strerror}") from error
    here = [detect_host().isa, processor(), *(target.name for target in targets)]
    state.update(json.dumps([vars(facts), here, source_digest(), _versions(kinds)], sort_keys=True).encode())
    for each in told:
        state.update(each)
    return state.hexdigest()


def _versions(kinds: Sequence[str]) -> list[str]:
    """Of what compiles for targets of these kinds."""
    found = []
    for kind in kinds:
        for name in _COMPILERS[kind]:
            try:
                found.append(importlib.metadata.version(name))
            except importlib.metadata.PackageNotFoundError as error:
                raise ToolchainError(
                    f"an ONNX model has to be compiled, and {name} is not installed",
                    hint=f"pip install 'graphc[{kind},serve]', or put a package made by graphc compile into the "
                    "repository",
                ) from error
    return found


def _keep_newest(path: Path) -> None:
    """Removes the oldest packages made of the same folder; who has one open has a copy."""
    with contextlib.suppress(OSError):
        group = path.name.partition("-")[0]
        ages = sorted((each.stat().st_mtime_ns, each) for each in path.parent.glob(f"{group}-*.graphc"))
        for _, old in ages[:-_KEPT]:
            old.unlink(missing_ok=True)
            old.with_name(old.name + ".costs.json").unlink(missing_ok=True)


async def _work(name: str, job: dict[str, Any]) -> None:
    """Has a worker do the job."""
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "graphc.serve.compile_worker"),
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
        # Ctrl-C in a terminal is the server's to handle.
        start_new_session=True,
    )
    try:
        words = asyncio.ensure_future(_last_words(process))
        failure = await _listen(name, process, json.dumps(job).encode())
        status = await process.wait()
        said = await words
    finally:
        if process.returncode is None:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
            await process.wait()
    if failure is not None:
        raise failure
    if status < 0:
        raise BackendError(
            f"compiling {name} was killed by {signal.Signals(-status).name}",
            hint="the machine may have run out of memory" if status == -signal.SIGKILL else None,
        )
    if status:
        raise BackendError(f"compiling {name} failed with exit status {status}: {said}")


async def _listen(name: str, process: asyncio.subprocess.Process, job: bytes) -> GraphcError | None:
    """Hands the job in and hears what comes of it; answers the error that the worker tells of."""
    assert process.stdin is not None and process.stdout is not None
    with contextlib.suppress(BrokenPipeError, ConnectionResetError):
        process.stdin.write(job)
        await process.stdin.drain()
        process.stdin.close()
    clock = asyncio.get_running_loop().time
    told = clock()
    failure: GraphcError | None = None
    async for line in process.stdout:
        message = json.loads(line)
        if "error" in message:
            failure = _error(message["error"])
        elif "progress" in message and clock() - told > _TOLD_SECONDS:
            told = clock()
            what, done, total = message["progress"]
            _log.info("compiling %s: %s, %d of %d", name, what, done, total)
    return failure


async def _last_words(process: asyncio.subprocess.Process) -> str:
    assert process.stderr is not None
    kept = b""
    while chunk := await process.stderr.read(1 << 16):
        kept = (kept + chunk)[-_LAST_WORDS:]
    return kept.decode(errors="replace").strip()


def _error(told: dict[str, Any]) -> GraphcError:
    """The worker's error, of the kind that it was there where that is one with these arguments alone."""
    kind = getattr(errors, told["kind"], GraphcError)
    nodes: Sequence[str] = told["nodes"]
    try:
        found = kind(told["message"], nodes=nodes, hint=told["hint"])
    except TypeError:
        found = GraphcError(told["message"], nodes=nodes, hint=told["hint"])
    assert isinstance(found, GraphcError)
    return found
