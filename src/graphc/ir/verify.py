"""The verifier: a table of named checks of the IR's invariants, from the most basic to those that build on them.

The manager runs it after every pass in tests, so a check costs time proportional to the graph.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from types import MappingProxyType

from graphc.errors import OptionError, VerifyError
from graphc.ir.check import Check, Problem
from graphc.ir.graph import Graph
from graphc.ir.layout_checks import ANY_OPERATOR, LAYOUT_CHECKS, LayoutRule, register_layout_rule, row_major_only
from graphc.ir.structure_checks import STRUCTURE_CHECKS
from graphc.ir.type_checks import TYPE_CHECKS, InferNode, inference_check

_MOST_SHOWN = 5

_TABLE: dict[str, Check] = {check.name: check for check in (*STRUCTURE_CHECKS, *TYPE_CHECKS, *LAYOUT_CHECKS)}

CHECKS: Mapping[str, Check] = MappingProxyType(_TABLE)
"""Every check by its name, in the order in which they run."""


def register_check(check: Check) -> Check:
    """Adds a check at the end of the table, in place of any of the same name; answers it."""
    _TABLE.pop(check.name, None)
    _TABLE[check.name] = check
    return check


def find_problems(graph: Graph, *, skip: Collection[str] = ()) -> tuple[Check, list[Problem]] | None:
    """The first check that finds problems, and these; None where all hold. Later checks rely on it, so none is run.

    Args:
        graph: What to check, everything nested in it included.
        skip: Names of checks to leave out.

    Raises:
        OptionError: `skip` names no check.
    """
    unknown = set(skip) - CHECKS.keys()
    if unknown:
        raise OptionError(f"no check is called {sorted(unknown)[0]!r}; known: {', '.join(CHECKS)}")
    for check in CHECKS.values():
        if check.name not in skip:
            problems = list(check.run(graph))
            if problems:
                return check, problems
    return None


def verify(graph: Graph, *, skip: Collection[str] = ()) -> None:
    """Raises where a graph breaks an invariant of the IR.

    Args:
        graph: What to check, everything nested in it included.
        skip: Names of checks to leave out, e.g. `types` before inference.

    Raises:
        VerifyError: An invariant does not hold; the error shows the nodes with their neighbours.
        OptionError: `skip` names no check.
    """
    found = find_problems(graph, skip=skip)
    if found is None:
        return
    check, problems = found
    lines = [f"graph {graph.name} fails check '{check.name}' ({check.description}):"]
    lines += [f"{problem}" for problem in problems[:_MOST_SHOWN]]
    if len(problems) > _MOST_SHOWN:
        lines.append(f"... and {len(problems) - _MOST_SHOWN} more problems")
    nodes = [problem.node for problem in problems[:_MOST_SHOWN] if problem.node is not None]
    names = dict.fromkeys(name for node in nodes for name in (node.origins or (node.name,)) if name)
    raise VerifyError("\n".join(lines), nodes=tuple(names))


__all__ = [
    "ANY_OPERATOR",
    "CHECKS",
    "Check",
    "InferNode",
    "LayoutRule",
    "Problem",
    "find_problems",
    "inference_check",
    "register_check",
    "register_layout_rule",
    "row_major_only",
    "verify",
]
