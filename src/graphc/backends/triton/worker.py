"""Processes that do one kind of work, started when first asked and kept: Triton is slow to start and may crash.

The process that compiles never imports Triton, and one that interprets kernels cannot compile them, so each is a
process of its own. A worker ends with its parent, however that ends, and leaves no files.
"""

from __future__ import annotations

import contextlib
import os
import select
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time
import weakref
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import IO, Any

from graphc.backends.triton import wire
from graphc.errors import BackendError

IDLE_SECONDS = 300.0
"""After so long without work a worker ends by itself."""

_LAST_WORDS = 1500
_FOREIGN = ("TRITON_", "MLIR_", "LLVM_", "NVPTX_", "PTXAS_", "DISABLE_", "USE_IR_LOC", "GRAPHC_WORKER_")
"""Variables of the user's environment that would change what a compile answers."""


class WorkerError(BackendError):
    """A worker died or took too long; what it was doing is not known to be at fault."""


class Worker:
    """One process.

    Args:
        module: What it runs, `python -m module`.
        environment: Variables set in it.

    Raises:
        WorkerError: It could not be started.
    """

    def __init__(self, module: str, environment: Mapping[str, str]) -> None:
        try:
            self.folder = Path(tempfile.mkdtemp(prefix="graphc-worker-"))
            with contextlib.ExitStack() as undone:
                undone.callback(shutil.rmtree, self.folder, ignore_errors=True)
                self._lines = undone.enter_context((self.folder / "stderr").open("a+b"))
                self.process = self._start(module, environment)
                undone.pop_all()
        except OSError as error:
            raise WorkerError(f"no worker process could be started: {error}") from error
        self._finalizer = weakref.finalize(self, _end, self.process, self._lines, self.folder)

    def _start(self, module: str, environment: Mapping[str, str]) -> subprocess.Popen[bytes]:
        kept = {name: value for name, value in os.environ.items() if not name.startswith(_FOREIGN)}
        own = {
            # What this process can import, the worker can.
            "PYTHONPATH": os.pathsep.join(path or os.getcwd() for path in sys.path),
            "PYTHONHASHSEED": "0",
            "PYTHONDONTWRITEBYTECODE": "1",
            "TMPDIR": str(self.folder),
            "TRITON_HOME": str(self.folder),
            "TRITON_CACHE_DIR": str(self.folder / "cache"),
            "GRAPHC_WORKER_FOLDER": str(self.folder),
            "GRAPHC_WORKER_IDLE": str(IDLE_SECONDS),
        }
        # A session of its own: Ctrl-C is the parent's to handle, and what the worker started ends with it.
        return subprocess.Popen(
            (sys.executable, "-m", module),
            bufsize=0,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._lines,
            env={**kept, **own, **environment},
            start_new_session=True,
        )

    def ask(self, header: Mapping[str, Any], blobs: Sequence[bytes] = (), *, seconds: float) -> wire.Message:
        """What the worker answers.

        Raises:
            WorkerError: It died, or gave no answer in time. It is of no more use.
        """
        deadline = time.monotonic() + seconds
        assert self.process.stdin is not None and self.process.stdout is not None
        answers = self.process.stdout.fileno()
        # `select` takes none of the descriptors above 1023 that a busy server has.
        ready = select.poll()
        ready.register(answers, select.POLLIN)

        def read(count: int) -> bytes:
            parts = []
            while count:
                if not ready.poll(max(0.0, deadline - time.monotonic()) * 1000):
                    raise WorkerError(f"no answer after {seconds:g} seconds")
                part = os.read(answers, min(count, 1 << 20))
                if not part:
                    raise EOFError
                parts.append(part)
                count -= len(part)
            return b"".join(parts)

        try:
            for piece in wire.pack(header, blobs):
                _write(self.process.stdin, piece)
            return wire.unpack(read)
        except (EOFError, BrokenPipeError, ConnectionResetError) as error:
            raise WorkerError(f"its worker process died: {self._last_words()}") from error
        except BaseException:
            # Interrupted or late: an answer may still come, to no question.
            self.close()
            raise

    @property
    def is_alive(self) -> bool:
        """Whether it can be asked."""
        return self.process.poll() is None

    def close(self) -> None:
        """Ends the process, what it has started, and its files."""
        self._finalizer()

    def forget(self) -> None:
        """Lets go of it without ending it: after a fork, it is the parent's."""
        self._finalizer.detach()
        for stream in (self.process.stdin, self.process.stdout):
            if stream is not None:
                stream.close()
        self.process.returncode = 0

    def _last_words(self) -> str:
        code = self.process.wait()
        how = signal.Signals(-code).name if code < 0 else f"exit status {code}"
        with contextlib.suppress(OSError):
            self._lines.seek(0)
            text = self._lines.read()[-_LAST_WORDS:].decode(errors="replace").strip()
            return f"{how}: {text}" if text else how
        return how


def _write(stream: IO[bytes], data: bytes) -> None:
    left = memoryview(data)
    while left:
        written = stream.write(left)
        left = left[written or 0 :]


def _end(process: subprocess.Popen[bytes], lines: IO[bytes], folder: Path) -> None:
    if process.poll() is None:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()
    for stream in (process.stdin, process.stdout, lines):
        if stream is not None:
            with contextlib.suppress(OSError):
                stream.close()
    shutil.rmtree(folder, ignore_errors=True)


class WorkerPool:
    """Workers of one kind, as many as are asked at once.

    Args:
        module: What they run.
        environment: Variables set in them.
        seconds: The longest that one answer may take.
    """

    def __init__(self, module: str, environment: Mapping[str, str], seconds: float) -> None:
        self.module, self.environment, self.seconds = module, dict(environment), seconds
        self._idle: list[Worker] = []
        self._all: weakref.WeakSet[Worker] = weakref.WeakSet()
        self._lock = threading.Lock()
        _POOLS.add(self)

    def ask(self, header: Mapping[str, Any], blobs: Sequence[bytes] = ()) -> wire.Message:
        """What a worker answers; one is started where all are busy.

        Raises:
            WorkerError: The worker died, gave no answer in time, or could not be started. The next question goes to
                another.
        """
        with self._worker() as worker:
            return worker.ask(header, blobs, seconds=self.seconds)

    @contextlib.contextmanager
    def _worker(self) -> Iterator[Worker]:
        worker = self._take()
        if worker is None:
            worker = Worker(self.module, self.environment)
            self._all.add(worker)
        try:
            yield worker
        finally:
            if worker.is_alive:
                with self._lock:
                    self._idle.append(worker)
            else:
                worker.close()

    def _take(self) -> Worker | None:
        """A worker that waits and can be asked."""
        while True:
            with self._lock:
                if not self._idle:
                    return None
                worker = self._idle.pop()
            # One that ended for want of work may do so just now: it must say that it is there.
            with contextlib.suppress(WorkerError):
                worker.ask({"ready": True}, seconds=self.seconds)
                return worker
            worker.close()

    def close(self) -> None:
        """Ends the workers that wait."""
        with self._lock:
            idle, self._idle = self._idle, []
        for worker in idle:
            worker.close()

    def forget(self) -> None:
        """Lets go of all workers, in a process that was forked: they are its parent's."""
        self._lock = threading.Lock()
        for worker in list(self._all):
            worker.forget()
        self._idle = []


_POOLS: weakref.WeakSet[WorkerPool] = weakref.WeakSet()


def _forget_all() -> None:
    for pool in list(_POOLS):
        pool.forget()


os.register_at_fork(after_in_child=_forget_all)
