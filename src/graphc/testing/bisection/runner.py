"""Looking at cases in a process of their own, so that a crash or a hang is a finding like any other."""

from __future__ import annotations

import dataclasses
import tempfile
from collections.abc import Callable
from pathlib import Path
from types import TracebackType
from typing import Any, TypeVar

from graphc.errors import ExecutionError
from graphc.testing.bisection.case import Case
from graphc.testing.bisection.examine import examine
from graphc.testing.bisection.finding import Finding, read_crumbs
from graphc.testing.bisection.passes import Applied, LimitedCase, apply_limited
from graphc.testing.isolation import Isolation, Outcome

Task = TypeVar("Task")

_STATUS = {"crashed": "crash", "timeout": "hang"}


def _prepare() -> None:
    """Imports what every case needs, so that no case is charged for it."""
    import graphc.backends.tvm.backend  # noqa: F401


def _perform(task: tuple[Callable[[Any], Any], Any]) -> Any:
    function, argument = task
    return function(argument)


class Runner:
    """Looks at cases. A context manager.

    Args:
        isolate: Whether in another process; else here, where a crash or a hang is the caller's.
        seconds: Processor time that a case may take.
    """

    def __init__(self, *, isolate: bool = True, seconds: float = 60.0) -> None:
        self._isolate = isolate
        self._seconds = seconds
        self._pool: Isolation | None = None
        self._folder: tempfile.TemporaryDirectory[str] | None = None

    def __enter__(self) -> Runner:
        if self._isolate:
            self._folder = tempfile.TemporaryDirectory(prefix="graphc-bisect-")
            self._pool = Isolation(_perform, 1, self._seconds, prepare=_prepare).__enter__()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._pool is not None:
            self._pool.__exit__(kind, error, trace)
        if self._folder is not None:
            self._folder.cleanup()

    def limit(self, seconds: float) -> None:
        """Gives later cases another processor time."""
        self._seconds = seconds
        if self._pool is not None:
            self._pool.seconds = seconds

    def examine(self, case: Case) -> Finding:
        """What a case comes to.

        Raises:
            ExecutionError: Looking at it fails for a reason that is not the compiler's.
        """
        outcome, crumbs = self._run(examine, case)
        if isinstance(outcome, Finding):
            return outcome
        found = read_crumbs(crumbs, _STATUS[outcome.status], outcome.detail)
        if found.stage == "run" and not case.stepwise:
            # The same again, step by step: the last step begun is the one that does not come back.
            stepwise = self.examine(dataclasses.replace(case, stepwise=True))
            return stepwise if stepwise.is_bad else found
        return found

    def apply(self, task: LimitedCase) -> Applied:
        """What a pass makes of a case's graph under a limit.

        Raises:
            ExecutionError: Looking at it fails for a reason that is not the compiler's.
        """
        outcome, _ = self._run(apply_limited, task)
        if isinstance(outcome, Applied):
            return outcome
        return Applied(Finding(_STATUS[outcome.status], "pass", detail=outcome.detail), (), "")

    def _run(self, function: Callable[[Any], Any], task: Any) -> tuple[Any, Path]:
        """The function's answer, or the outcome of a process that gave none; and the file that says how far it came."""
        if self._pool is None or self._folder is None:
            return function(task), Path()
        crumbs = Path(self._folder.name) / "crumbs.json"
        crumbs.unlink(missing_ok=True)
        if isinstance(task, Case):
            task = dataclasses.replace(task, crumbs=str(crumbs))
        (_, outcome), *_ = self._pool.run([(None, (function, task))])
        return _answer(outcome), crumbs


def _answer(outcome: Outcome) -> Any:
    if outcome.status == "done":
        return outcome.value
    if outcome.status == "raised":
        raise ExecutionError(f"the case cannot be looked at: {outcome.detail}")
    return outcome
