"""The life of a worker: questions in, answers out, and an end with its parent. Runs in the worker alone."""

from __future__ import annotations

import hashlib
import importlib.util
import os
import queue
import shutil
import signal
import sys
import threading
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any, NoReturn

from graphc.backends.triton import wire

FOLDER = Path(os.environ.get("GRAPHC_WORKER_FOLDER", "."))
"""The worker's own folder, removed when it ends."""

_ERROR_CHARACTERS = 4000


def serve(handle: Callable[[dict[str, Any], list[bytes]], wire.Message]) -> None:
    """Answers questions until the parent ends or has none for long.

    Args:
        handle: The answer to a question. What it raises is the answer `{"error": ...}`.
    """
    # Libraries print to standard output, which is the pipe: they get the log instead.
    answers = os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)
    questions: queue.SimpleQueue[wire.Message] = queue.SimpleQueue()
    threading.Thread(target=_listen, args=(questions,), daemon=True).start()
    idle = float(os.environ.get("GRAPHC_WORKER_IDLE", "300"))
    while True:
        try:
            header, blobs = questions.get(timeout=idle)
        except queue.Empty:
            _end()
        if "ready" in header:
            answer: wire.Message = ({}, [])
        else:
            os.ftruncate(2, 0)
            try:
                answer = handle(header, blobs)
            except Exception as error:  # whatever a library raises is an answer about the question
                answer = ({"error": describe(error)}, [])
        for piece in wire.pack(*answer):
            answers.write(piece)
        answers.flush()


def _listen(questions: queue.SimpleQueue[wire.Message]) -> None:
    """Reads questions; the end of the pipe is the end of the parent."""
    stream = sys.stdin.buffer

    def read(count: int) -> bytes:
        data = stream.read(count)
        if len(data) < count:
            raise EOFError
        return data

    try:
        while True:
            questions.put(wire.unpack(read))
    except (EOFError, OSError):
        _end()


def _end() -> NoReturn:
    """Ends this process and those that it has started, and removes its files."""
    shutil.rmtree(FOLDER, ignore_errors=True)
    os.killpg(os.getpid(), signal.SIGKILL)
    raise SystemExit


def load_function(text: str, name: str) -> Any:
    """A function of a module's text. Triton reads the source of what it compiles from a file.

    Raises:
        AttributeError: The text defines no such function.
    """
    digest = hashlib.sha256(text.encode()).hexdigest()
    module_name = f"kernel_{digest[:24]}"
    if module_name not in sys.modules:
        path = FOLDER / f"{module_name}.py"
        path.write_text(text)
        spec = importlib.util.spec_from_file_location(module_name, path)
        assert spec is not None and spec.loader is not None
        module = importlib.util.module_from_spec(spec)
        sys.modules[module_name] = module
        try:
            spec.loader.exec_module(module)
        except BaseException:
            del sys.modules[module_name]
            raise
    return getattr(sys.modules[module_name], name)


def describe(error: BaseException) -> str:
    """An error with the line of the kernel that it came from, where that is known."""
    first = error
    while first.__cause__ is not None:
        first = first.__cause__
    # The interpreter wraps what it meets; a compile's errors show the source themselves.
    text = str(first if str(error) == repr(first) else error).strip().replace(str(FOLDER) + os.sep, "")
    place = ""
    for frame in traceback.extract_tb(first.__traceback__):
        if Path(frame.filename).parent == FOLDER:
            place = f" at line {frame.lineno}: {frame.line}"
    return f"{type(first).__name__}: {text}{place}"[:_ERROR_CHARACTERS]
