"""One variant for one target: a graph through the passes, its nodes lowered to kernels, its memory planned."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from graphc.backends.base import Backend
from graphc.compiler.control import Schedule
from graphc.compiler.declared import hold_declared
from graphc.compiler.limits import refuse_huge_arena, refuse_huge_tensors
from graphc.compiler.lowering import HostReason, Lowering, arena_intervals, plan_arena
from graphc.compiler.options import CompileOptions
from graphc.compiler.values import Array
from graphc.errors import UnsupportedError
from graphc.ir import Dim, Graph
from graphc.ir.symbolic import evaluate
from graphc.passes import PipelineReport
from graphc.passes.buffers import assign_buffers
from graphc.target import AnyTarget


@dataclass(kw_only=True)
class Program(Schedule):
    """What one variant will do on one target.

    Args:
        bindings: Value of each of the model's symbols; of an open program, usual ones, by the names in its graph.
        target: What it was lowered for.
        host: Nodes that run on the host.
        report: What the passes did.
        values: Of the parameters that it is for; of others, any will do.
    """

    bindings: Mapping[str, int]
    target: AnyTarget
    host: tuple[HostReason, ...]
    report: PipelineReport
    values: Mapping[str, Array] = field(default_factory=dict)

    @property
    def intervals(self) -> list[tuple[int, int, int]]:
        """(start, end, bytes) of everything in the arena, in the plan's order; of an open program, at its bindings."""
        return [(start, end, evaluate(size, self.bindings)) for start, end, size in self.open_intervals()]

    def open_intervals(self) -> list[tuple[int, int, Dim]]:
        """The same over the symbols of an open program."""
        return arena_intervals(self.buffers, self.kernels, self.controls)[0]

    @property
    def is_open(self) -> bool:
        """Whether it runs for any values of the symbols that its graph bounds."""
        return bool(self.graph.bounds)


def build_program(
    graph: Graph,
    bindings: Mapping[str, int],
    target: AnyTarget,
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
    hold_declared(graph)
    lowering = Lowering(backend, target, options)
    report = lowering.optimize(graph)
    lowered = lowering.lower(graph)
    host = tuple(lowered.host)
    buffers = assign_buffers(graph)
    if host and options.require_compiled:
        lines = "\n".join(f"  {', '.join(h.node.origins) or h.node.op}: {h.reason}" for h in host[:20])
        more = f"\n  and {len(host) - 20} more" if len(host) > 20 else ""
        raise UnsupportedError(
            f"{len(host)} nodes have no compiled form:\n{lines}{more}",
            hint="leave out --require-compiled to run them on the host",
        )
    plan, workspaces = plan_arena(buffers, lowered.kernels, lowered.controls, target.alignment, bindings)
    refuse_huge_arena(plan)
    return Program(
        graph=graph,
        kernels=lowered.kernels,
        controls=lowered.controls,
        buffers=buffers,
        plan=plan,
        workspaces=workspaces,
        bindings=dict(bindings),
        target=target,
        host=host,
        report=report,
        values=values or {},
    )
