"""Why a rule does not apply at a node: how far its pattern matched, and what stopped it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace

from graphc.errors import GraphcError
from graphc.ir import Node, Value
from graphc.passes.base import Refusal
from graphc.passes.rules.match import Match, Trace
from graphc.passes.rules.rewriting import Rewrite
from graphc.passes.rules.rule import Rule


@dataclass(frozen=True)
class Explanation:
    """What became of one attempt to apply a rule.

    Args:
        reason: Why it does not apply, in one sentence; None where it does.
        complete: Whether the whole pattern matched, so that it was a condition or the replacement that refused.
        matched: The nodes that were matched, the root first.
        bound: What the pattern's names stood for by then: a value with its type, or an attribute.
        stopped: The node at which the pattern went no further.
    """

    reason: str | None
    complete: bool = False
    matched: tuple[Node, ...] = ()
    bound: Mapping[str, str] = field(default_factory=dict)
    stopped: Node | None = None


def explain(rule: Rule, node: Node) -> Explanation:
    """Why `rule` does not apply at `node`. What its replacement builds on the way is taken back."""
    if (node.domain, node.op_type) not in rule.roots:
        wanted = ", ".join(sorted(f"{d}::{n}" if d else n for d, n in rule.roots))
        return Explanation(f"it starts at {wanted}, not at {node.op}")
    trace = Trace()
    refused: Explanation | None = None
    for match in rule.matches(node, trace):
        refusal = rule.refusal(match) or _attempt(rule, match)
        if refusal is None:
            return _explanation(None, match, complete=True)
        refused = refused or _explanation(refusal.reason, match, complete=True)
    stopped = None if trace.stopped is None else trace.stopped.producer
    return refused or replace(_explanation(trace.reason, trace.match, complete=trace.complete), stopped=stopped)


def _attempt(rule: Rule, match: Match) -> Refusal | None:
    try:
        rewrite = Rewrite.build(rule, match)
    except GraphcError as error:
        return Refusal(error.message)
    if isinstance(rewrite, Refusal):
        return rewrite
    rewrite.discard()
    return None


def _explanation(reason: str | None, match: Match | None, *, complete: bool) -> Explanation:
    if match is None:
        return Explanation(reason)
    bound = {name: _text(value) for name, value in match.values.items() if value is not None}
    bound |= {name: repr(value) for name, value in match.attributes.items() if value is not None}
    return Explanation(reason, complete, tuple(node for _, node in match.nodes), bound)


def _text(value: Value | tuple[Value | None, ...]) -> str:
    if isinstance(value, tuple):
        return ", ".join(f"%{item.name}" for item in value if item is not None) or "nothing"
    tensor = value.constant
    if tensor is not None and tensor.size == 1:
        return f"{tensor.array().reshape(-1)[0]}, {value.type}"
    return f"%{value.name}: {'constant ' if tensor is not None else ''}{value.type}"
