"""From a graph to kernels: passes, the kernel of each node, and control flow, whose bodies go the same way."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from graphc import memory
from graphc.backends.base import Backend, Kernel
from graphc.compiler.control import ALIGNMENT, Body, Control, bodies_of, close_body, is_control, refusal
from graphc.compiler.options import CompileOptions
from graphc.compiler.tuned import tuned_for
from graphc.errors import BackendError, OptionError
from graphc.ir import GRAPHC_DOMAIN, Dim, Graph, Node
from graphc.ir.symbolic import evaluate
from graphc.ops.compiler_ops import HELD, held_node
from graphc.ops.ill_typed import RAISE
from graphc.passes import PassContext, PassManager, PipelineReport, default_pipeline
from graphc.passes.buffers import BufferPlan, assign_buffers
from graphc.passes.fuse import REGION, dissolve
from graphc.passes.manager import ALL
from graphc.target import AnyTarget, Verdict

_SEARCH_NODES = 20_000
"""Node budget of the complete search for a memory plan: deterministic, about a second."""
_SEARCH_VISITS = 8_000_000
"""Nodes by buffers, which bounds it where there are many: a node visits each."""


@dataclass(frozen=True)
class HostReason:
    """A node that runs on the host, and why."""

    node: Node
    reason: str


@dataclass
class Lowered:
    """The steps of a graph.

    Args:
        kernels: Kernel of each node that has one.
        controls: Each control node that the launcher runs.
        host: Nodes that run on the host. What is left raises an error.
    """

    kernels: dict[Node, Kernel]
    controls: dict[Node, Control]
    host: list[HostReason]


class _On:
    """A backend's answers for one target, as passes ask them."""

    def __init__(self, backend: Backend, target: AnyTarget) -> None:
        self._backend = backend
        self._target = target

    def supports(self, node: Node) -> Verdict:
        return self._backend.supports(node, self._target)


class Lowering:
    """Lowers graphs for one target.

    Args:
        backend: That makes kernels.
        target: Lowered for.
        options: What the compile was told.

    Raises:
        OptionError: A pass to print the graph at is none of the pipeline.
    """

    def __init__(self, backend: Backend, target: AnyTarget, options: CompileOptions) -> None:
        self.backend, self.target, self.options = backend, target, options
        self.capability = _On(backend, target)
        self.chosen = {**self.pass_options, "tuned": tuned_for(target, options)}
        passes = options.passes if options.passes is not None else default_pipeline(options.level, target.kind)
        self.manager = PassManager(
            passes,
            verify=options.verify,
            print_before=options.print_before,
            print_after=options.print_after,
            observers=options.observers,
        )
        _check_printed(self.manager, (*options.print_before, *options.print_after))

    @property
    def pass_options(self) -> Mapping[str, object]:
        """What passes are told of the compile."""
        return {"winograd": self.options.winograd, "precision": self.options.computed_in}

    def optimize(self, graph: Graph) -> PipelineReport:
        """Runs the passes over a graph.

        Raises:
            PassError: A pass failed.
        """
        context = PassContext(target=self.target, capability=self.capability, options=dict(self.pass_options))
        return self.manager.run(graph, context)

    def lower(self, graph: Graph) -> Lowered:
        """The kernel of each node that has one, and the others. A region that no template takes is dissolved.

        Raises:
            BackendError: A node could not be lowered.
        """
        lowered = Lowered({}, {}, [])
        pending = assign_buffers(graph).steps
        done: set[Node] = set()
        while pending:
            refused: list[Node] = []
            for node in pending:
                if not self._lower_node(node, lowered):
                    refused.append(node)
            for region in refused:
                dissolve(graph, region)
            done.update(pending)
            pending = [node for node in assign_buffers(graph).steps if node not in done] if refused else []
        return lowered

    def _lower_node(self, node: Node, lowered: Lowered) -> bool:
        """Finds out what a node becomes; False for a region that no template takes."""
        if self.backend.runs_control and node.is_op(RAISE, GRAPHC_DOMAIN):
            return True
        if (
            node.graph is not None
            and node.graph.bounds
            and any(True for _ in node.subgraphs())
            and not _is_region(node)
        ):
            lowered.host.append(HostReason(node, "its bodies are compiled for bound extents only"))
            return True
        if self.backend.runs_control and is_control(node):
            control = self._lower_control(node)
            if isinstance(control, Control):
                lowered.controls[node] = control
            else:
                lowered.host.append(HostReason(node, control))
            return True
        if node.is_op(HELD, GRAPHC_DOMAIN):
            lowered.host.append(HostReason(held_node(node), "the model declares its shape, which only values tell"))
            return True
        verdict = self.capability.supports(node)
        if not verdict:
            lowered.host.append(HostReason(node, verdict.reason))
            return True
        try:
            lowered.kernels[node] = self.backend.lower(node, self.target, self.chosen)
        except BackendError:
            if not _is_region(node):
                raise
            return False
        return True

    def _lower_control(self, node: Node) -> Control | str:
        """A control node with its bodies lowered, or why it runs on the host."""
        reason = refusal(node)
        if reason is not None:
            return reason
        bodies = []
        for graph in bodies_of(node):
            closed, captured = close_body(graph)
            self.optimize(closed)
            lowered = self.lower(closed)
            if lowered.host:
                first = lowered.host[0]
                return f"its body has {first.node.op}, which runs on the host: {first.reason}"
            buffers = assign_buffers(closed)
            plan, workspaces = plan_arena(buffers, lowered.kernels, lowered.controls, ALIGNMENT)
            body = Body(
                graph=closed,
                kernels=lowered.kernels,
                controls=lowered.controls,
                buffers=buffers,
                plan=plan,
                workspaces=workspaces,
                captured=captured,
            )
            bodies.append(body)
        return Control(node, tuple(bodies))


def _is_region(node: Node) -> bool:
    return node.is_op(REGION, GRAPHC_DOMAIN)


def _check_printed(manager: PassManager, names: Sequence[str]) -> None:
    known = {*ALL, *(pass_.name for pass_ in manager.pipeline)}
    for name in names:
        if name not in known:
            raise OptionError(f"no pass {name!r} to print the graph at; there are: {', '.join(sorted(known))}")


def plan_arena(
    buffers: BufferPlan,
    kernels: Mapping[Node, Kernel],
    controls: Mapping[Node, Control],
    alignment: int,
    bindings: Mapping[str, int] | None = None,
) -> tuple[memory.Plan, dict[tuple[int, int], int]]:
    """Where everything in the arena lies, and the position in the plan of each workspace; open extents as bound.

    Args:
        buffers: Storage of the values.
        kernels: With their workspaces.
        controls: With theirs.
        alignment: Bytes to which each lies aligned.
        bindings: Values of open extents.

    Raises:
        VerifyError: The planner put two buffers that are live together into one place; an independent check sees it.
    """
    intervals, workspaces = arena_intervals(buffers, kernels, controls)
    bound = [(start, end, evaluate(size, bindings or {})) for start, end, size in intervals]
    nodes = min(_SEARCH_NODES, _SEARCH_VISITS // max(len(bound), 1))
    plan = memory.plan(bound, alignment=alignment, node_budget=nodes)
    memory.check(bound, plan, alignment)
    return plan, workspaces


def arena_intervals(
    buffers: BufferPlan, kernels: Mapping[Node, Kernel], controls: Mapping[Node, Control]
) -> tuple[list[tuple[int, int, Dim]], dict[tuple[int, int], int]]:
    """Everything that needs a place in the arena, and at which position each workspace stands in that list.

    Workspaces are named by step and operand; that of a control node, in which its bodies run, by step and 0.
    """
    intervals = [(storage.start, storage.end, storage.size) for storage in buffers.arena()]
    workspaces: dict[tuple[int, int], int] = {}
    for step, node in enumerate(buffers.steps):
        sizes: dict[int, Dim] = {}
        if node in controls:
            sizes[0] = controls[node].workspace
        elif node in kernels:
            for position, operand in enumerate(kernels[node].operands):
                if operand.kind == "workspace":
                    sizes[position] = operand.size
        for position, size in sizes.items():
            workspaces[step, position] = len(intervals)
            intervals.append((step, step + 1, size))
    return intervals, workspaces
