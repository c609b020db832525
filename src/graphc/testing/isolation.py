"""Work in processes of its own: a crash or a hang is an answer about that work, and the rest goes on."""

from __future__ import annotations

import contextlib
import faulthandler
import multiprocessing
import os
import resource
import signal
import sys
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from multiprocessing.connection import Connection, wait
from multiprocessing.process import BaseProcess
from pathlib import Path
from types import TracebackType
from typing import Any, Literal, TypeAlias

from graphc.errors import OptionError

Status: TypeAlias = Literal["done", "raised", "crashed", "timeout"]

CLOCK_FACTOR = 6
"""How many times its limit of processor time a task may take by the clock: other work slows it, waiting ends it."""
_SHOWN_CHARACTERS = 800
_TICK_SECONDS = 0.1


@dataclass(frozen=True)
class Outcome:
    """What became of one task.

    Args:
        status: `done`, `raised` (an exception of Python), `crashed` (the process died) or `timeout`.
        value: What the function returned, where it did.
        detail: The exception, the signal, or the limit, with what the process wrote before a crash.
        seconds: Time by the clock.
    """

    status: Status
    value: Any = None
    detail: str = ""
    seconds: float = 0.0


@dataclass
class _Worker:
    process: BaseProcess
    pipe: Connection
    log: Path
    key: Any = None
    busy: bool = False
    started: float = 0.0
    processor: float = 0.0


@dataclass
class Isolation:
    """Processes that run one function on many tasks, each with limits. A context manager; leaving it ends them.

    Args:
        function: Of a module, called as `function(task)` in a worker; tasks and answers are pickled.
        workers: Processes at once.
        seconds: Processor time that one task may take, and a sixth of what it may take by the clock.
        memory: Bytes of address space that a task may add to what its process had when it was ready; no limit if None.
        prepare: Called once in each worker before its first task, e.g. to import what all tasks need; not limited.
    """

    function: Callable[[Any], Any]
    workers: int = 2
    seconds: float = 60.0
    memory: int | None = None
    prepare: Callable[[], None] | None = None
    _folder: tempfile.TemporaryDirectory[str] | None = field(default=None, init=False)
    _pool: list[_Worker] = field(default_factory=list, init=False)
    _made: int = field(default=0, init=False)

    def __post_init__(self) -> None:
        """Refuses limits that make no sense.

        Raises:
            OptionError: No worker, or no time.
        """
        if self.workers < 1 or self.seconds <= 0:
            raise OptionError(f"workers={self.workers} and seconds={self.seconds}; both must be positive")

    def __enter__(self) -> Isolation:
        self._folder = tempfile.TemporaryDirectory(prefix="graphc-workers-")
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for worker in self._pool:
            _end(worker)
        self._pool.clear()
        if self._folder is not None:
            self._folder.cleanup()

    def run(self, tasks: Iterable[tuple[Any, Any]]) -> Iterator[tuple[Any, Outcome]]:
        """Outcomes of tasks as they come in, by the tasks' keys.

        Args:
            tasks: A key and a task each; taken one by one as workers become free.
        """
        for stale in (worker for worker in self._pool if worker.busy):  # with a task of a run that was given up
            self._replace(stale)
            stale.busy = False
        left = iter(tasks)
        exhausted = False
        while True:
            while not exhausted and (worker := self._idle()) is not None:
                try:
                    key, task = next(left)
                except StopIteration:
                    exhausted = True
                else:
                    self._give(worker, key, task)
            busy = [worker for worker in self._pool if worker.busy]
            if not busy:
                return
            ready = wait([worker.pipe for worker in busy], timeout=_TICK_SECONDS)
            for worker in busy:
                outcome = self._receive(worker) if worker.pipe in ready else self._overdue(worker)
                if outcome is not None:
                    worker.busy = False
                    yield worker.key, outcome

    def _idle(self) -> _Worker | None:
        free = next((worker for worker in self._pool if not worker.busy), None)
        if free is None and len(self._pool) < self.workers:
            free = self._start()
            self._pool.append(free)
        return free

    def _start(self) -> _Worker:
        assert self._folder is not None, "an Isolation is used in a with statement"
        context = multiprocessing.get_context("spawn")
        ours, theirs = context.Pipe()
        log = Path(self._folder.name) / f"{self._made}.log"
        self._made += 1
        process = context.Process(
            target=_serve, args=(theirs, self.function, self.prepare, self.memory, str(log)), daemon=True
        )
        process.start()
        theirs.close()
        return _Worker(process, ours, log)

    def _give(self, worker: _Worker, key: Any, task: Any) -> None:
        worker.key, worker.busy, worker.started, worker.processor = key, True, 0.0, 0.0
        with contextlib.suppress(OSError):  # a worker that died between two tasks shows when its answer is awaited
            worker.pipe.send(task)

    def _receive(self, worker: _Worker) -> Outcome | None:
        """The outcome of a worker's task; None where it has only told that it begins."""
        try:
            message = worker.pipe.recv()
        except (EOFError, OSError):
            worker.process.join()
            outcome = Outcome("crashed", detail=_last_words(worker), seconds=_since(worker))
            self._replace(worker)
            return outcome
        if message is None:
            worker.started, worker.processor = time.monotonic(), _processor_seconds(worker.process.pid)
            return None
        status, value = message
        return Outcome(status, value if status == "done" else None, "" if status == "done" else value, _since(worker))

    def _overdue(self, worker: _Worker) -> Outcome | None:
        if not worker.started:
            return None
        spent, passed = _processor_seconds(worker.process.pid) - worker.processor, _since(worker)
        if spent <= self.seconds and passed <= CLOCK_FACTOR * self.seconds:
            return None
        detail = f"stopped after {spent:.1f} s of processor time, {passed:.1f} s by the clock"
        self._replace(worker)
        return Outcome("timeout", detail=detail, seconds=passed)

    def _replace(self, worker: _Worker) -> None:
        _end(worker)
        fresh = self._start()
        worker.process, worker.pipe, worker.log = fresh.process, fresh.pipe, fresh.log


def _since(worker: _Worker) -> float:
    return time.monotonic() - worker.started if worker.started else 0.0


def _end(worker: _Worker) -> None:
    worker.process.kill()
    worker.process.join()
    worker.pipe.close()


def _last_words(worker: _Worker) -> str:
    code = worker.process.exitcode or 0
    how = signal.Signals(-code).name if code < 0 else f"exit status {code}"
    text = worker.log.read_text(errors="replace")[:_SHOWN_CHARACTERS].strip() if worker.log.exists() else ""
    return f"{how}: {text}" if text else how


def _processor_seconds(pid: int | None) -> float:
    """Processor time of a process so far, all its threads together; 0 where the system does not tell."""
    try:
        # The name of the program, in parentheses, may hold spaces.
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return 0.0
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def _serve(
    pipe: Connection,
    function: Callable[[Any], Any],
    prepare: Callable[[], None] | None,
    memory: int | None,
    log: str,
) -> None:
    """The life of a worker."""
    # Ctrl-C is the parent's to handle; a crash leaves words, and no core file.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    descriptor = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_APPEND, 0o600)
    for stream in (1, 2):
        os.dup2(descriptor, stream)
    faulthandler.enable(all_threads=False)
    if prepare is not None:
        prepare()
    limits = None if memory is None else (_address_space() + memory, resource.getrlimit(resource.RLIMIT_AS)[1])
    while True:
        try:
            task = pipe.recv()
        except EOFError:
            return
        os.ftruncate(descriptor, 0)
        pipe.send(None)
        if limits is not None:
            resource.setrlimit(resource.RLIMIT_AS, limits)
        try:
            answer: tuple[Status, Any] = ("done", function(task))
        except BaseException as error:  # whatever a library raises is an answer about the task
            answer = ("raised", _told(error))
        if limits is not None:
            resource.setrlimit(resource.RLIMIT_AS, (limits[1], limits[1]))
        pipe.send(answer)


def _address_space() -> int:
    return int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()


def _told(error: BaseException) -> str:
    """An exception with the place that it came from."""
    trace = error.__traceback__
    while trace is not None and trace.tb_next is not None:
        trace = trace.tb_next
    place = f" at {Path(trace.tb_frame.f_code.co_filename).name}:{trace.tb_lineno}" if trace is not None else ""
    return f"{type(error).__name__}{place}: {error}"


def default_workers() -> int:
    """One worker for each processor that this process may use."""
    return len(os.sched_getaffinity(0)) if sys.platform == "linux" else os.cpu_count() or 1
