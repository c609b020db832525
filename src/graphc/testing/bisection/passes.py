"""The passes of a case, each judged by the graph behind it: which of them, and which of its rewrites."""

from __future__ import annotations

import dataclasses
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from graphc.compiler import load_plugins
from graphc.compiler.lowering import Lowering
from graphc.compiler.targets import backends_for, targets_of
from graphc.errors import GraphcError, OptionError
from graphc.frontend import import_model
from graphc.ir import Graph
from graphc.ir.verify import verify
from graphc.ops.base import UnfitNodeError
from graphc.passes.base import Application, Pass, PassContext, describe_pass
from graphc.testing.bisection.case import Case, Setup
from graphc.testing.bisection.finding import Crumbs, Finding, told
from graphc.testing.bisection.meaning import expected_outputs, judge_graph
from graphc.testing.bisection.search import first_bad
from graphc.testing.verification import Tolerance


@dataclass(frozen=True)
class Applied:
    """What a pass did under a limit on its rewrites.

    Args:
        finding: What became of the graph.
        rewrites: Every rewrite that was permitted, in order.
        text: The graph afterwards.
    """

    finding: Finding
    rewrites: tuple[Application, ...]
    text: str


@dataclass(frozen=True)
class LimitedCase:
    """A case of which one pass is allowed so many rewrites, and no pass follows.

    Args:
        case: The case.
        position: Of the pass in the pipeline.
        limit: Rewrites that it may make.
    """

    case: Case
    position: int
    limit: int | None


def apply_limited(task: LimitedCase) -> Applied:
    """Runs the passes before a pass, then the pass with its limit, and judges the graph in NumPy."""
    case = task.case
    load_plugins(Path(plugin) for plugin in case.setup.plugins)
    graph = import_model(case.source, dims=case.dims)
    expected = expected_outputs(case, graph)
    tolerance = case.setup.tolerance_for(graph)
    lowering = _lowering(case.setup)
    context = _context(lowering)
    for pass_ in lowering.manager.pipeline[: task.position]:
        pass_.run(graph, context)
    last = lowering.manager.pipeline[task.position]
    limited = _context(lowering)
    limited.limit = task.limit
    finding = _run_pass(last, task.position, graph, limited)
    finding = finding or judge_graph(graph, case, expected, tolerance) or Finding("right")
    return Applied(finding, tuple(limited.history), str(graph))


def _lowering(setup: Setup) -> Lowering:
    target = targets_of(setup.target)[0]
    return Lowering(backends_for([target])[target.kind], target, setup.options())


def _context(lowering: Lowering) -> PassContext:
    return PassContext(
        lowering.target, dict(lowering.pass_options), capability=lowering.capability, keep_refusals=False
    )


def _run_pass(pass_: Pass, position: int, graph: Graph, context: PassContext) -> Finding | None:
    """Runs and verifies one pass; what is wrong with it, as far as it shows without running the graph."""
    known = context.applied
    try:
        pass_.run(graph, context)
        verify(graph)
    except (UnfitNodeError, OptionError) as error:
        return Finding("unfit", "pass", describe_pass(pass_), told(error), error.nodes, position)
    except Exception as error:  # whatever a pass raises is what is looked for
        nodes = error.nodes if isinstance(error, GraphcError) else ()
        return Finding("error", "pass", describe_pass(pass_), told(error), nodes, position, _actions(context, known))
    return None


def _actions(context: PassContext, known: int) -> Counter[str]:
    """How often each rule was applied since the history had so many entries."""
    return Counter(application.action for application in context.history[known:])


def examine_passes(
    case: Case, graph: Graph, expected: Mapping[str, Any], tolerance: Tolerance, tell: Crumbs
) -> Finding | None:
    """Runs the pipeline over a graph; the pass that breaks it, or behind which it means something else."""
    lowering = _lowering(case.setup)
    context = _context(lowering)
    pipeline = lowering.manager.pipeline
    behind: list[Graph] = []
    actions: list[Counter[str]] = []
    for position, pass_ in enumerate(pipeline):
        tell("pass", describe_pass(pass_), position=position)
        known = context.applied
        finding = _run_pass(pass_, position, graph, context)
        actions.append(_actions(context, known))
        behind.append(graph.clone())
        if finding is not None:
            # A graph that was wrong before may be why it fails.
            behind.pop()
            earlier = _first_wrong(case, behind, pipeline, actions, expected, tolerance)
            return earlier or finding
    tell("evaluate")
    return _first_wrong(case, behind, pipeline, actions, expected, tolerance)


def _first_wrong(
    case: Case,
    behind: Sequence[Graph],
    pipeline: Sequence[Pass],
    actions: Sequence[Mapping[str, int]],
    expected: Mapping[str, Any],
    tolerance: Tolerance,
) -> Finding | None:
    """The pass behind which the graph means something else, None where the last one means the same."""
    if not behind:
        return None
    judged: dict[int, Finding | None] = {}

    def judge(number: int) -> Finding | None:
        if number not in judged:
            judged[number] = judge_graph(behind[number], case, expected, tolerance)
        return judged[number]

    if judge(len(behind) - 1) is None:
        return None
    position = first_bad(-1, len(behind) - 1, lambda number: judge(number) is not None)
    found = judge(position)
    assert found is not None, "what was found bad is known"
    return dataclasses.replace(
        found, name=describe_pass(pipeline[position]), position=position, actions=dict(actions[position])
    )
