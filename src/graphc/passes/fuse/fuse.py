"""The pass: groups are formed, then each becomes a region."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import ClassVar

from graphc.ir import Graph
from graphc.passes.base import Finding, PassContext, register_pass
from graphc.passes.fuse.grouping import Grouping
from graphc.passes.fuse.reasons import findings
from graphc.passes.fuse.region import make_region


@register_pass
@dataclass(frozen=True)
class Fuse:
    """Groups compiled nodes into `graphc::Region` nodes.

    Before: typed graph, layouts assigned. After: every group of more than one node is a Region whose closed body
    computes the same values; nodes that have no compiled form, views and constants stay as they are.

    Args:
        max_nodes: Most nodes of a region, so that kernels stay small enough to compile quickly.
        max_inputs: Most inputs of a region: each is a pointer that a kernel keeps in a register.
        moves: Whether products of matrices take what moves or widens their operands, and what follows a reshape of
            their results. Kernels of GPUs do, those of CPUs do not.
    """

    name: ClassVar[str] = "fuse"
    max_nodes: int = 24
    max_inputs: int = 16
    moves: bool = False

    def run(self, graph: Graph, context: PassContext) -> int:
        """Groups, then replaces each group by its region; answers how many regions were made."""
        plan = self._grouping(graph, context)
        groups = [group for group in plan.groups() if len(group.nodes) > 1]
        made = 0
        for group in groups:
            origins = dict.fromkeys(origin for node in group.nodes for origin in node.origins)
            if context.permit(self.name, group.nodes[-1], origins):
                make_region(graph, group)
                made += 1
        if made:
            graph.topological_sort()
        return made

    def explain(self, graph: Graph, context: PassContext) -> Iterator[Finding]:
        """The regions that would be made, and why nodes beside each other would not be in one."""
        return findings(self._grouping(graph, context))

    def _grouping(self, graph: Graph, context: PassContext) -> Grouping:
        return Grouping(graph, context, max_nodes=self.max_nodes, max_inputs=self.max_inputs, moves=self.moves)
