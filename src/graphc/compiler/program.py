"""One variant for one target: a graph through the passes, its nodes lowered to kernels, its memory planned."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from graphc import memory
from graphc.backends.base import Backend, Kernel
from graphc.compiler.limits import refuse_huge_arena, refuse_huge_tensors
from graphc.compiler.options import CompileOptions
from graphc.compiler.tuned import tuned_for
from graphc.compiler.values import Array
from graphc.errors import BackendError, OptionError, UnsupportedError
from graphc.ir import GRAPHC_DOMAIN, Graph, Node
from graphc.passes import PassContext, PassManager, PipelineReport, default_pipeline
from graphc.passes.buffers import BufferPlan, assign_buffers
from graphc.passes.fuse import REGION, dissolve
from graphc.passes.manager import ALL
from graphc.target import Target, Verdict

ALIGNMENT = 64
_SEARCH_NODES = 20_000
"""Node budget of the complete search for a memory plan: deterministic, well under a second."""


@dataclass(frozen=True)
class HostReason:
    """A node that runs on the host, and why."""

    node: Node
    reason: str


@dataclass
class Program:
    """What one variant will do on one target.

    Args:
        graph: The graph after all passes; its nodes are in step order.
        bindings: Value of each of the model's symbols.
        target: What it was lowered for.
        kernels: Kernel of each node that has one.
        host: Nodes that run on the host.
        buffers: Storage of each value.
        plan: Where the arena's buffers lie: first one per storage of `buffers.arena()`, then one per workspace.
        workspaces: Step and operand of each workspace.
        report: What the passes did.
        values: Of the parameters that it is for; of others, any will do.
    """

    graph: Graph
    bindings: Mapping[str, int]
    target: Target
    kernels: Mapping[Node, Kernel]
    host: tuple[HostReason, ...]
    buffers: BufferPlan
    plan: memory.Plan
    workspaces: Mapping[tuple[int, int], int]
    report: PipelineReport
    values: Mapping[str, Array] = field(default_factory=dict)

    @property
    def intervals(self) -> list[tuple[int, int, int]]:
        """(start, end, bytes) of everything in the arena, in the plan's order."""
        return arena_intervals(self.buffers, self.kernels)[0]


class _On:
    """A backend's answers for one target, as passes ask them."""

    def __init__(self, backend: Backend, target: Target) -> None:
        self._backend = backend
        self._target = target

    def supports(self, node: Node) -> Verdict:
        return self._backend.supports(node, self._target)


def build_program(
    graph: Graph,
    bindings: Mapping[str, int],
    target: Target,
    backend: Backend,
    options: CompileOptions,
    values: Mapping[str, Array] | None = None,
) -> Program:
    """Runs the passes over `graph` (changed in place) and lowers what they leave.

    Args:
        graph: With symbols and values bound.
        bindings: What its symbols were bound to.
        target: Lowered for.
        backend: That lowers.
        options: What the compile was told.
        values: What its inputs were bound to.

    Raises:
        PassError: A pass failed.
        UnsupportedError: A tensor, or all of them at once, are larger than any machine's memory.
        UnsupportedError: A node must run on the host though `require_compiled` forbids it.
        BackendError: A region could not be lowered.
    """
    refuse_huge_tensors(graph)
    capability = _On(backend, target)
    context = PassContext(target=target, capability=capability, options={"winograd": options.winograd})
    passes = options.passes if options.passes is not None else default_pipeline(options.level, "cpu")
    manager = PassManager(
        passes, verify=options.verify, print_before=options.print_before, print_after=options.print_after
    )
    _check_printed(manager, (*options.print_before, *options.print_after))
    report = manager.run(graph, context)
    kernels, host = _lower(graph, capability, backend, target, options)
    buffers = assign_buffers(graph)
    if host and options.require_compiled:
        lines = "\n".join(f"  {', '.join(h.node.origins) or h.node.op}: {h.reason}" for h in host[:20])
        more = f"\n  and {len(host) - 20} more" if len(host) > 20 else ""
        raise UnsupportedError(
            f"{len(host)} nodes have no compiled form:\n{lines}{more}",
            hint="leave out --require-compiled to run them on the host",
        )
    intervals, workspaces = arena_intervals(buffers, kernels)
    plan = memory.plan(intervals, alignment=ALIGNMENT, node_budget=_SEARCH_NODES)
    refuse_huge_arena(plan)
    return Program(graph, dict(bindings), target, kernels, tuple(host), buffers, plan, workspaces, report, values or {})


def _lower(
    graph: Graph, capability: _On, backend: Backend, target: Target, options: CompileOptions
) -> tuple[dict[Node, Kernel], list[HostReason]]:
    """The kernel of each node that has one, and the others with reasons. A region that none takes is dissolved."""
    kernels: dict[Node, Kernel] = {}
    host: list[HostReason] = []
    chosen = {"winograd": options.winograd, "tuned": tuned_for(target, options)}
    pending = assign_buffers(graph).steps
    while pending:
        refused: list[Node] = []
        for node in pending:
            verdict = capability.supports(node)
            if not verdict:
                host.append(HostReason(node, verdict.reason))
                continue
            try:
                kernels[node] = backend.lower(node, target, chosen)
            except BackendError:
                if not node.is_op(REGION, GRAPHC_DOMAIN):
                    raise
                refused.append(node)
        for region in refused:
            dissolve(graph, region)
        done = {*kernels, *(reason.node for reason in host)}
        pending = [node for node in assign_buffers(graph).steps if node not in done] if refused else []
    return kernels, host


def _check_printed(manager: PassManager, names: Sequence[str]) -> None:
    known = {*ALL, *(pass_.name for pass_ in manager.pipeline)}
    for name in names:
        if name not in known:
            raise OptionError(f"no pass {name!r} to print the graph at; there are: {', '.join(sorted(known))}")


def arena_intervals(
    buffers: BufferPlan, kernels: Mapping[Node, Kernel]
) -> tuple[list[tuple[int, int, int]], dict[tuple[int, int], int]]:
    """Everything that needs a place in the arena, and at which position each workspace stands in that list."""
    intervals = [(storage.start, storage.end, storage.size) for storage in buffers.arena()]
    workspaces: dict[tuple[int, int], int] = {}
    for step, node in enumerate(buffers.steps):
        kernel = kernels.get(node)
        if kernel is None:
            continue
        for position, operand in enumerate(kernel.operands):
            if operand.kind == "workspace":
                assert isinstance(operand.size, int)
                workspaces[step, position] = len(intervals)
                intervals.append((step, step + 1, operand.size))
    return intervals, workspaces
