"""The pass manager: runs passes in order, verifies after each, and keeps the account of what each one did."""

from __future__ import annotations

import sys
import time
from collections import Counter
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass, field

from graphc.errors import GraphcError, PassError
from graphc.ir import Graph
from graphc.ir.verify import verify
from graphc.ops.base import UnfitNodeError
from graphc.passes.base import Application, Pass, PassContext, Refusal, describe_pass
from graphc.passes.pipeline import parse_pipeline, print_pipeline

ALL = ("all",)
"""Names every pass, where names of passes are asked for."""


@dataclass(frozen=True)
class PassRun:
    """What one pass did.

    Args:
        name: The pass with its options.
        seconds: Time it took, verification left out.
        changes: How many changes it made.
        nodes_before: Nodes of the graph (subgraphs included) before it.
        nodes_after: The same after it.
        applications: Each change that it announced, in order; one of these may stand for many in `changes`.
    """

    name: str
    seconds: float
    changes: int
    nodes_before: int
    nodes_after: int
    applications: tuple[Application, ...]

    @property
    def rewrites(self) -> dict[str, int]:
        """How often each of its rules was applied."""
        return dict(Counter(application.action for application in self.applications))


@dataclass(frozen=True)
class PipelineReport:
    """What a pipeline did: a run for each pass, and everything that was refused, with reasons."""

    runs: tuple[PassRun, ...]
    refusals: tuple[Refusal, ...]

    @property
    def changes(self) -> int:
        """Changes of all passes together."""
        return sum(run.changes for run in self.runs)

    def __str__(self) -> str:
        lines = [f"{'pass':<34}{'changes':>8}{'nodes':>15}{'ms':>10}"]
        for run in self.runs:
            nodes = f"{run.nodes_before} → {run.nodes_after}"
            lines.append(f"{run.name:<34}{run.changes:>8}{nodes:>15}{run.seconds * 1e3:>10.1f}")
            lines.extend(f"  {count:>5} × {rule}" for rule, count in sorted(run.rewrites.items()) if rule != run.name)
        return "\n".join(lines)


class PassObserver:
    """Someone who looks on while passes run, and changes nothing; does nothing until it is derived from."""

    def before_pass(self, pass_: Pass, graph: Graph, context: PassContext) -> None:
        """Called with the graph as `pass_` will be given it."""

    def after_pass(self, pass_: Pass, graph: Graph, context: PassContext, run: PassRun) -> None:
        """Called with the graph as `pass_` left it, and what it did."""


@dataclass
class PassManager:
    """Runs a pipeline over a graph.

    Args:
        passes: The pipeline: passes, or its text.
        verify: Whether the graph is verified before the first and after every pass.
        print_before: Names of passes before which the graph is printed; `ALL` for every one.
        print_after: Names of passes after which it is printed.
        print_on_change: Print after every pass that changed something.
        write: Where printed graphs go; standard error if None.
        observers: Told before and after every pass.
    """

    passes: Sequence[Pass] | str
    verify: bool = True
    print_before: Collection[str] = ()
    print_after: Collection[str] = ()
    print_on_change: bool = False
    write: Callable[[str], object] | None = None
    observers: Sequence[PassObserver] = ()
    pipeline: tuple[Pass, ...] = field(init=False)

    def __post_init__(self) -> None:
        self.pipeline = parse_pipeline(self.passes) if isinstance(self.passes, str) else tuple(self.passes)

    def run(self, graph: Graph, context: PassContext | None = None) -> PipelineReport:
        """Runs every pass on `graph`, in place.

        Raises:
            TypeInferenceError: A node of the model does not fit its operator.
            PassError: A pass failed or broke an invariant. It names the pass and those that ran before it, and its
                `reproducer` is the graph and pipeline in text form from which the failure can be repeated.
        """
        context = context or PassContext()
        runs: list[PassRun] = []
        if self.verify:
            verify(graph)
        for position, pass_ in enumerate(self.pipeline):
            self._print(graph, "before", pass_, self.print_before)
            for observer in self.observers:
                observer.before_pass(pass_, graph, context)
            before = graph.clone() if self.verify else None
            try:
                run = _timed(pass_, graph, context)
                if self.verify:
                    verify(graph)
            except UnfitNodeError:
                raise
            except Exception as error:
                raise _failure(pass_, self.pipeline[:position], before, error) from error
            runs.append(run)
            self._print(graph, "after", pass_, ALL if self.print_on_change and run.changes else self.print_after)
            for observer in self.observers:
                observer.after_pass(pass_, graph, context, run)
        return PipelineReport(tuple(runs), tuple(context.refusals))

    def _print(self, graph: Graph, when: str, pass_: Pass, names: Collection[str]) -> None:
        if pass_.name in names or ALL[0] in names:
            (self.write or sys.stderr.write)(f"// {when} {describe_pass(pass_)}\n{graph}\n")


def run_passes(graph: Graph, passes: Sequence[Pass] | str, context: PassContext | None = None) -> PipelineReport:
    """Runs a pipeline over `graph` in place, verified after every pass; see PassManager."""
    return PassManager(passes).run(graph, context)


def _timed(pass_: Pass, graph: Graph, context: PassContext) -> PassRun:
    nodes_before, known = _count_nodes(graph), len(context.history)
    start = time.perf_counter()
    changes = pass_.run(graph, context)
    seconds = time.perf_counter() - start
    applications = tuple(context.history[known:])
    return PassRun(describe_pass(pass_), seconds, changes, nodes_before, _count_nodes(graph), applications)


def _count_nodes(graph: Graph) -> int:
    return sum(len(inner) for inner in graph.all_graphs())


def _failure(failed: Pass, done: Sequence[Pass], before: Graph | None, error: Exception) -> PassError:
    reason = error.message if isinstance(error, GraphcError) else f"{type(error).__name__}: {error}"
    earlier = f" (after {print_pipeline(done)})" if done else ""
    failure = PassError(
        f"pass {describe_pass(failed)}{earlier}: {reason}",
        nodes=error.nodes if isinstance(error, GraphcError) else (),
        hint="leave the pass out of --passes to go on without it; `graphc bisect` finds the rewrite to blame",
    )
    if before is not None:
        failure.reproducer = f"// passes: {describe_pass(failed)}\n{before}\n"
    return failure
