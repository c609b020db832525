"""The ONNX backend suite on graphc, each case in a process that may crash or hang, and on ONNX Runtime beside it."""

from __future__ import annotations

import fnmatch
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

from graphc.errors import OptionError
from graphc.testing.conformance.cases import EXPANDED, Case, load_cases
from graphc.testing.conformance.exclusions import EXCLUDED
from graphc.testing.conformance.judge import Judgement, Task, judge
from graphc.testing.conformance.summary import PeerResult, Result, Standing, Summary
from graphc.testing.isolation import Isolation, Outcome

SECONDS = 60.0
"""Processor time that one case may take."""


def choose(patterns: Iterable[str] = (), kinds: Sequence[str] = ()) -> dict[str, Case]:
    """Cases by name.

    Args:
        patterns: Shell patterns or parts of names; all cases if there are none.
        kinds: Kinds of cases; all if there are none.

    Raises:
        OptionError: A pattern fits no case.
    """
    cases = load_cases(*kinds)
    wanted = list(patterns)
    for pattern in wanted:
        if not any(_fits(name, pattern) for name in cases):
            raise OptionError(f"no case of the suite is called {pattern!r}", hint="for example node/test_abs or 'abs'")
    return {n: case for n, case in cases.items() if not wanted or any(_fits(n, pattern) for pattern in wanted)}


def _fits(name: str, pattern: str) -> bool:
    return pattern in name or fnmatch.fnmatch(name, pattern)


def run_suite(
    cases: Mapping[str, Case],
    *,
    backend: str = "tvm",
    options: Mapping[str, Any] | None = None,
    against: Sequence[str] = (),
    workers: int = 2,
    seconds: float = SECONDS,
    progress: Callable[[str, int, int], None] = lambda what, done, total: None,
) -> Summary:
    """Runs cases and sums up.

    Args:
        cases: What to run.
        backend: A backend of graphc.
        options: Options of `graphc.compile`, e.g. the target.
        against: `("onnxruntime",)` to run ONNX Runtime on the same cases.
        workers: Processes at once.
        seconds: Processor time that a case may take.
        progress: Told how far the work is.

    Raises:
        OptionError: An engine is unknown.
    """
    if unknown := [name for name in against if name != "onnxruntime"]:
        raise OptionError(f"no engine {unknown[0]!r} to compare with", hint="there is: onnxruntime")
    engines = [backend, *against]
    tasks = [
        ((engine, name), Task(case, engine, options or {} if engine == backend else {}))
        for name, case in cases.items()
        for engine in engines
    ]
    operators = {name: operator_of(case) for name, case in cases.items()}
    results: list[Result] = []
    peer: dict[str, PeerResult] = {}
    with Isolation(judge, workers=workers, seconds=seconds) as isolation:
        for done, ((engine, name), outcome) in enumerate(isolation.run(tasks)):
            progress("running cases", done + 1, len(tasks))
            if engine == backend:
                results.append(_result(name, operators[name], outcome))
            else:
                peer[name] = _peer_result(name, outcome)
    return Summary(sorted(results, key=lambda result: result.name), dict(sorted(peer.items())))


def _result(name: str, operator: str, outcome: Outcome) -> Result:
    judged = outcome.value if outcome.status == "done" else Judgement(outcome.detail)
    failure = "" if judged.passed else outcome.status if outcome.status in ("crashed", "timeout") else "wrong"
    reason = EXCLUDED.get(name, "")
    standing: Standing
    if reason and failure == "wrong":
        standing, problem, failure = "excluded", reason, ""
    elif reason or failure:
        # An excluded case that crashes fails too: a crash is no way to miss numbers that nobody can know.
        standing, problem = "failed", judged.problem or f"passes, though it is excluded: {reason}"
    else:
        standing, problem = "host" if judged.host else "compiled", ""
    return Result(name, operator, standing, problem, failure, judged.host, judged.special, round(outcome.seconds, 3))


def _peer_result(name: str, outcome: Outcome) -> PeerResult:
    if outcome.status in ("crashed", "timeout"):
        return PeerResult(name, outcome.status, outcome.detail)
    if outcome.status == "raised":
        return PeerResult(name, "failed", outcome.detail)
    judged: Judgement = outcome.value
    return PeerResult(name, "passed" if judged.passed else "failed", judged.problem)


def operator_of(case: Case) -> str:
    """The operator that a case is about, or its kind in parentheses where it is about a whole model."""
    nodes = [node for node in case.proto().graph.node if node.op_type != "Constant"]
    if case.is_expanded:
        whole = load_cases(case.kind).get(case.name.partition(EXPANDED)[0])
        return operator_of(whole) if whole is not None else f"({case.kind})"
    named = {f"{node.domain}::{node.op_type}" if node.domain not in ("", "ai.onnx") else node.op_type for node in nodes}
    return named.pop() if len(named) == 1 else f"({case.kind})"
