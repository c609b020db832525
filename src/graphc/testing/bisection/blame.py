"""From a wrong answer to the pass, the rule and the rewrite, or the kernel, that caused it; then the smallest model."""

from __future__ import annotations

import dataclasses
import difflib
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeAlias

import onnx

from graphc.passes.base import Application
from graphc.testing.bisection.case import Case
from graphc.testing.bisection.finding import Finding
from graphc.testing.bisection.passes import Applied, LimitedCase
from graphc.testing.bisection.runner import Runner
from graphc.testing.bisection.search import first_bad
from graphc.testing.reduction import Reduced, reduce

Progress: TypeAlias = Callable[[str, int, int], None]

_DIFF_LINES = 60
_MOST_REWRITES = 1 << 20
"""Of a pass that does not come back; there are no larger graphs."""
_HANG_SECONDS = 10.0


@dataclass(frozen=True)
class Culprit:
    """The one rewrite that makes right into wrong.

    Args:
        number: Its number among the rewrites of its pass, from 1.
        total: How many the pass makes.
        rule: The rule, or the pass where it has none.
        node: The node at which it happened, as it was before.
        origins: ONNX nodes behind that node.
        difference: The graph before and after it, line by line.
    """

    number: int
    total: int
    rule: str
    node: str
    origins: tuple[str, ...]
    difference: str


@dataclass(frozen=True)
class Blame:
    """What a bisection came to.

    Args:
        finding: The first stage that goes wrong, on the model given.
        culprit: The rewrite, where a pass is to blame that asks before each.
        reduced: The smallest model found that goes wrong the same way; None where it was not asked for.
    """

    finding: Finding
    culprit: Culprit | None = None
    reduced: Reduced | None = None


def bisect(
    case: Case,
    *,
    isolate: bool = True,
    seconds: float = 60.0,
    small: bool = True,
    attempts: int = 1000,
    budget: float | None = None,
    progress: Progress = lambda what, done, total: None,
) -> Blame:
    """Finds out what makes a model's answer wrong, or its compile or run fail.

    Args:
        case: The model, inputs, and how it is compiled and judged.
        isolate: Whether each attempt has a process with limits, so that crashes and hangs are found like the rest.
        seconds: Processor time of one attempt.
        small: Whether the smallest model that still shows it is looked for.
        attempts: Models tried for that at most.
        budget: Time by the clock, in seconds, after which no smaller model is tried.
        progress: Told what is going on, how much is done, and how much there is at most.

    Returns:
        What is to blame. Its finding is not `bad` where all is well.

    Raises:
        OptionError: The setup names a pass, a target or a plugin that does not exist.
        InputError: The inputs do not fit the model.
        ExecutionError: The case cannot be looked at.
    """
    with Runner(isolate=isolate, seconds=seconds) as runner:
        progress("looking at the model", 0, 1)
        finding = runner.examine(case)
        if not finding.is_bad:
            return Blame(finding)
        culprit = _culprit(case, finding, runner, progress) if finding.stage == "pass" else None
        if not small:
            return Blame(finding, culprit)
        if finding.status == "hang":
            # Each attempt that still hangs costs all that it may.
            runner.limit(min(seconds, _HANG_SECONDS))
        reduced = _reduced(case, finding, culprit, runner, attempts=attempts, seconds=budget, progress=progress)
        return Blame(finding, culprit, reduced)


def _reduced(
    case: Case,
    finding: Finding,
    culprit: Culprit | None,
    runner: Runner,
    *,
    attempts: int,
    seconds: float | None,
    progress: Progress,
) -> Reduced:
    """The smallest model found on which the same stage fails, by the same rule where there is one."""
    stage = "passes" if finding.stage in ("meaning", "pass") else "run"
    narrow = dataclasses.replace(case, stage=stage)
    rule = culprit.rule if culprit is not None else None

    def fails(model: onnx.ModelProto, inputs: Mapping[str, Any]) -> bool:
        found = runner.examine(narrow.on(model.SerializeToString(), inputs))
        return found.is_like(finding) and (rule is None or not found.actions or rule in found.actions)

    hints = culprit.origins if culprit is not None else finding.origins
    source = case.model if isinstance(case.model, bytes) else Path(case.model)
    return reduce(source, fails, case.inputs, attempts=attempts, seconds=seconds, hints=hints, progress=progress)


def _culprit(case: Case, finding: Finding, runner: Runner, progress: Progress) -> Culprit | None:
    """The rewrite of a pass to blame; None where the pass does not ask, so that no limit stops it."""
    applied: dict[int, Applied] = {}
    total = sum(finding.actions.values())
    if finding.status in ("crash", "hang"):
        # Its history is lost with its process: a limit that is high enough changes nothing.
        total = 1

    def apply(limit: int) -> Applied:
        if limit not in applied:
            progress("bisecting rewrites", len(applied), total.bit_length() + 1)
            applied[limit] = runner.apply(LimitedCase(case, finding.position, limit))
        return applied[limit]

    def is_bad(limit: int) -> bool:
        return apply(limit).finding.is_bad

    if not total or is_bad(0):
        return None
    while not is_bad(total):
        if not finding.actions and total < _MOST_REWRITES:
            total *= 2
        else:
            return None
    number = first_bad(0, total, is_bad)
    before, after = apply(number - 1), apply(number)
    guilty = after.rewrites[-1] if after.rewrites else Application(finding.name, "")
    return Culprit(number, total, guilty.action, guilty.node, guilty.origins, _difference(before.text, after.text))


def _difference(before: str, after: str) -> str:
    lines = list(difflib.unified_diff(before.splitlines(), after.splitlines(), "before", "after", lineterm="", n=1))
    if len(lines) > _DIFF_LINES:
        lines = [*lines[:_DIFF_LINES], f"... and {len(lines) - _DIFF_LINES} more lines"]
    return "\n".join(lines)
