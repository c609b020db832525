"""Why a rule or pass did not do something to a node: what `graphc why` prints."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from graphc.errors import OptionError
from graphc.ir import Graph, Node
from graphc.passes.base import PASSES, PassContext
from graphc.passes.pipeline import parse_pipeline, suggestion
from graphc.passes.rules import RULE_SETS, Rule, explain


@dataclass(frozen=True)
class Answer:
    """What was found about one node.

    Args:
        node: The node, in one line of text form.
        origins: Names of the ONNX nodes it came from.
        rule: The rule or pass asked about.
        reason: Why it does not apply; None where it does.
    """

    node: str
    origins: tuple[str, ...]
    rule: str
    reason: str | None


def find_rules(name: str) -> list[Rule]:
    """Every rule called `name`, or every rule of the set called `name`."""
    if name in RULE_SETS:
        return list(RULE_SETS[name])
    return [rule for rules in RULE_SETS.values() for rule in rules if rule.name == name]


def why(graph: Graph, name: str, node: str | None = None) -> list[Answer]:
    """Why the rule or pass called `name` applies or not, at every node of `graph` at which it could.

    Args:
        graph: The graph as it is when the rule or pass comes to it; it is not changed.
        name: A rule, a rule set or a pass.
        node: Only nodes with this name, origin or output; all if None.

    Raises:
        OptionError: There is no such rule or pass, or no such node.
    """
    rules = find_rules(name)
    if not rules and name not in PASSES:
        known = [*PASSES, *(rule.name for group in RULE_SETS.values() for rule in group)]
        raise OptionError(f"unknown rule or pass {name!r}{suggestion(name, known)}")
    wanted = [n for inner in graph.all_graphs() for n in inner.nodes if node is None or _is_called(n, node)]
    if node is not None and not wanted:
        names = [label for inner in graph.all_graphs() for n in inner.nodes for label in _labels(n)]
        raise OptionError(f"no node is called {node!r}{suggestion(node, names)}")
    return list(_of_rules(rules, wanted, named=node is not None) if rules else _of_pass(graph, name, node))


def _of_rules(rules: list[Rule], nodes: list[Node], *, named: bool) -> Iterator[Answer]:
    for node in nodes:
        for rule in rules:
            if (named and len(rules) == 1) or (node.domain, node.op_type) in rule.roots:
                yield Answer(node.describe(), node.origins, rule.name, explain(rule, node).reason)


def _of_pass(graph: Graph, name: str, node: str | None) -> Iterator[Answer]:
    """Runs the pass on a copy and tells what it refused."""
    context = PassContext()
    (pass_,) = parse_pipeline(name)
    pass_.run(graph.clone(), context)
    for refusal in context.refusals:
        if node is None or node in refusal.origins or f"%{node} " in f"{refusal.node} ":
            yield Answer(refusal.node, refusal.origins, refusal.rule, refusal.reason)


def _is_called(node: Node, name: str) -> bool:
    return name in _labels(node)


def _labels(node: Node) -> list[str]:
    return [label for label in (node.name, *node.origins, *(value.name for value in node.outputs)) if label]
