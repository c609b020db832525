"""Random models one after another, each in a process that may crash; what fails is made small and kept."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from graphc.ops.base import Array
from graphc.testing.fuzzing import corpus
from graphc.testing.fuzzing.coverage import Coverage
from graphc.testing.fuzzing.models import ModelTask, RandomModel, random_model
from graphc.testing.fuzzing.trial import Reached, check_backends, try_model, try_task
from graphc.testing.fuzzing.wishes import Wish, every_wish, wishes_of
from graphc.testing.hostile.campaign import signature
from graphc.testing.isolation import Isolation, Outcome
from graphc.testing.outcomes import Outcomes

SECONDS = 60.0
"""Processor time that one model may take."""


@dataclass(frozen=True)
class Failure:
    """A model on which something was wrong, made small.

    Args:
        seed: Of the model as it was drawn.
        status: `raised`, `crashed` or `timeout`.
        detail: The difference, the exception, the signal or the limit.
        model: The small model's bytes; empty where drawing it is what fails.
        feeds: Its inputs by name.
        operators: Of its nodes.
        times: How many models failed in the same way.
        path: Where it was kept.
    """

    seed: int
    status: str
    detail: str
    model: bytes
    feeds: dict[str, Array]
    operators: tuple[str, ...]
    times: int = 1
    path: Path | None = None


@dataclass
class FuzzReport(Outcomes):
    """What a campaign did.

    Args:
        coverage: What it reached.
        failures: What was wrong, each kind once.
    """

    coverage: Coverage
    failures: list[Failure] = field(default_factory=list)

    def to_json(self) -> dict[str, Any]:
        """All of it as a JSON object."""
        return {
            **self.counts(),
            "coverage": self.coverage.to_json(),
            "failures": [
                {
                    "seed": failure.seed,
                    "status": failure.status,
                    "detail": failure.detail,
                    "operators": list(failure.operators),
                    "times": failure.times,
                    "file": None if failure.path is None else str(failure.path),
                }
                for failure in self.failures
            ],
        }


def fuzz_models(
    *,
    seed: int = 0,
    seconds: float | None = None,
    count: int | None = None,
    max_nodes: int = 6,
    backends: Sequence[str] = ("cpu", "reference"),
    wishes: Sequence[Wish] | None = None,
    workers: int = 2,
    keep: Path | None = None,
    progress: Callable[[str, int, int], None] = lambda what, done, total: None,
    trial: Callable[[ModelTask], Reached] = try_task,
) -> FuzzReport:
    """Tries random models.

    Args:
        seed: Of the first; the next ones count up. A seed with the same wishes is the same model.
        seconds: How long to go on; as long as `count` says if None.
        count: How many to try; no limit if None.
        max_nodes: Most random nodes of a model beside the pieces for its wishes.
        backends: What is held against the models' NumPy meaning.
        wishes: What is to be reached; everything if None.
        workers: Processes at once.
        keep: Folder for models that fail, with their inputs.
        progress: Told how far the work is.
        trial: What is done with each; a function of a module.

    Raises:
        OptionError: A backend is unknown.
    """
    check_backends(backends)
    among = every_wish() if wishes is None else tuple(wishes)
    report = FuzzReport(Coverage(among))
    start = time.monotonic()

    def tasks() -> Iterator[tuple[ModelTask, ModelTask]]:
        number = seed
        while (count is None or number < seed + count) and (seconds is None or time.monotonic() < start + seconds):
            task = ModelTask(number, wishes_of(number, among), max_nodes, tuple(backends))
            yield task, task
            number += 1

    with Isolation(trial, workers, SECONDS) as pool, Isolation(trial, 1, SECONDS) as lens:
        for task, outcome in pool.run(tasks()):
            if outcome.status == "done":
                report.outcomes[outcome.value.verdict] += 1
                report.coverage.add(outcome.value)
            else:
                report.outcomes[outcome.status] += 1
                _note(report, _smallest(lens, task, outcome), keep)
            if count is not None:
                progress(_told(report), report.tried, count)
            elif seconds is not None:
                progress(_told(report), min(int(time.monotonic() - start), int(seconds)), int(seconds))
    return report


def _told(report: FuzzReport) -> str:
    reached = sum(report.coverage.tally(kind)[0] for kind in ("rule", "operator"))
    return f"{report.tried} models, {reached} of {len(report.coverage.wishes)} reached"


def _smallest(lens: Isolation, task: ModelTask, outcome: Outcome) -> tuple[ModelTask, Outcome]:
    """The task cut down while it fails in the same way: to one wish, to no other nodes, to one node's outputs."""
    kind = signature(outcome)

    def first(candidates: Iterator[ModelTask]) -> bool:
        nonlocal task, outcome
        for candidate, found in lens.run((candidate, candidate) for candidate in candidates):
            if found.status != "done" and signature(found) == kind:
                task, outcome = candidate, found
                return True
        return False

    if not first(replace(task, wishes=(wish,), max_nodes=0) for wish in task.wishes):
        first(replace(task, wishes=(), max_nodes=task.max_nodes) for _ in range(1))
    nodes = 4 * (task.max_nodes + len(task.wishes)) + 16
    first(replace(task, cut=cut) for cut in range(nodes))
    return task, outcome


def _note(report: FuzzReport, smallest: tuple[ModelTask, Outcome], folder: Path | None) -> None:
    task, outcome = smallest
    made = _drawn(task)
    model = b"" if made is None else made.proto.SerializeToString()
    operators = () if made is None else tuple(sorted({node.op for node in made.graph.nodes} - {"Constant"}))
    for index, known in enumerate(report.failures):
        if (known.status, known.operators) == (outcome.status, operators) and made is not None:
            report.failures[index] = replace(known, times=known.times + 1)
            return
    feeds = {} if made is None else made.feeds
    path = None
    if folder is not None and made is not None:
        name = "-".join(operator.replace("::", "_").lower() for operator in operators[:3]) or outcome.status
        path = corpus.keep(folder, name, model, feeds)
    report.failures.append(Failure(task.seed, outcome.status, outcome.detail, model, feeds, operators, path=path))


def _drawn(task: ModelTask) -> RandomModel | None:
    """The model of a task that failed; None where drawing it is what failed."""
    try:
        return random_model(task)
    except Exception:  # told as the failure's detail; here it only says that there is no model to show
        return None


def replay(
    paths: Sequence[Path], *, backends: Sequence[str] = ("cpu", "reference"), workers: int = 1
) -> Iterator[tuple[Path, Outcome]]:
    """Tries models that were kept again.

    Args:
        paths: Models with their inputs beside them, or folders of such.
        backends: What they are tried on.
        workers: Processes at once.

    Yields:
        Each model's path with what became of it: `done` where all agree.

    Raises:
        ModelError: A path is no model with inputs.
        OptionError: A backend is unknown.
    """
    check_backends(backends)
    found = corpus.entries(paths)
    with Isolation(try_kept, workers, SECONDS) as pool:
        yield from pool.run((path, (path, tuple(backends))) for path in found)


def try_kept(task: tuple[Path, tuple[str, ...]]) -> Reached:
    """Tries one kept model; for a process of its own."""
    path, backends = task
    return try_model(*corpus.load(path), backends)
