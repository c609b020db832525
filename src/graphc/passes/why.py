"""Why a rule or pass did what it did to a graph, and why not more: what `graphc why` tells."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Literal

from graphc.errors import OptionError
from graphc.ir import Graph, Node
from graphc.passes.base import PASSES, Application, Explaining, Pass, PassContext, describe_pass
from graphc.passes.manager import PassObserver, PassRun
from graphc.passes.pipeline import parse_pipeline, suggestion
from graphc.passes.rule_pass import RulePass
from graphc.passes.rules import RULE_SETS, Rule, explain

Verdict = Literal["applied", "refused", "unmatched"]


@dataclass(frozen=True)
class Place:
    """A node, in words that outlive it.

    Args:
        node: The node in one line of text form.
        origins: Names of the ONNX nodes it came from.
        labels: Everything that it is called: its name, its origins, its outputs.
    """

    node: str
    origins: tuple[str, ...] = ()
    labels: frozenset[str] = frozenset()

    @staticmethod
    def of(node: Node) -> Place:
        """Of a node of a graph."""
        return Place(node.describe(), node.origins, frozenset(_labels(node)))


@dataclass(frozen=True)
class Answer:
    """What was found about one node.

    Args:
        subject: The rule or pass asked about.
        verdict: `applied`; `refused`, where the pattern matched or the pass considered it; else `unmatched`.
        place: The node.
        reason: Why not, or what was done; empty where a rule was applied.
        others: Further nodes: those that the pattern matched behind the root, or what the reason is about.
        bound: What the pattern's names stood for.
        stopped: The node at which the pattern went no further.
    """

    subject: str
    verdict: Verdict
    place: Place
    reason: str = ""
    others: tuple[Place, ...] = ()
    bound: Mapping[str, str] = field(default_factory=dict)
    stopped: Place | None = None

    def is_about(self, name: str) -> bool:
        """Whether the node, or another of the answer, is called `name`."""
        return any(name in place.labels for place in (self.place, *self.others, self.stopped or self.place))


class Inquiry(PassObserver):
    """Looks on while a pipeline runs, and answers why one rule or pass did what it did.

    A rule is asked about the graph that its pass leaves behind, where it applies no more; a pass that can explain
    itself about the graph that it is given; of others, what they announce is told.

    Args:
        name: A rule, a rule set or a pass.

    Raises:
        OptionError: There is none of that name.
    """

    def __init__(self, name: str) -> None:
        self.name = name
        self.rules = find_rules(name)
        if not self.rules and name not in PASSES:
            known = [*PASSES, *(rule.name for group in RULE_SETS.values() for rule in group)]
            raise OptionError(f"unknown rule or pass {name!r}{suggestion(name, known)}")
        self.passes = {group for group, rules in RULE_SETS.items() if any(rule in self.rules for rule in rules)}
        self.passes = self.passes or {name}
        self.runs = 0
        """How often a pass in question ran."""
        self.known: dict[str, str] = {}
        """What nodes were called before any pass, with their operators."""
        self.history: list[tuple[str, Application]] = []
        """Every change of every pass, with the pass's name."""
        self._settled: list[Answer] = []
        self._open: dict[Graph, list[Answer]] = {}
        self._refusals = 0

    @property
    def answers(self) -> list[Answer]:
        """What was found: what was applied, in order, then what was refused, the nearest misses first."""
        rank = {"applied": 0, "refused": 1, "unmatched": 2}
        latest = [answer for answers in self._open.values() for answer in answers]
        found = {(a.subject, a.verdict, a.place, a.reason): a for a in [*self._settled, *latest]}
        return sorted(found.values(), key=lambda answer: (rank[answer.verdict], -len(answer.bound and answer.others)))

    def about(self, node: str) -> list[Answer]:
        """The answers about nodes called `node`.

        Raises:
            OptionError: No node is or was called that.
        """
        found = [answer for answer in self.answers if answer.is_about(node)]
        if not found and node not in self.known:
            raise OptionError(f"no node is called {node!r}{suggestion(node, self.known)}")
        if not found and len(self.rules) == 1:
            roots = ", ".join(sorted(f"{d}::{n}" if d else n for d, n in self.rules[0].roots))
            reason = f"it starts at {roots}, not at {self.known[node]}"
            return [Answer(self.name, "unmatched", Place(node, labels=frozenset([node])), reason)]
        return found

    def fate(self, node: str) -> list[tuple[str, Application]]:
        """The changes at nodes called `node`, over all passes."""
        return [(name, each) for name, each in self.history if node in each.origins or f"%{node} " in f"{each.node} "]

    def before_pass(self, pass_: Pass, graph: Graph, context: PassContext) -> None:
        """Notes names; asks a pass that can explain itself."""
        if not self.history:
            self.known.update((label, node.op) for node in _nodes(graph) for label in _labels(node))
        self._refusals = len(context.refusals)
        if pass_.name in self.passes and not self.rules and isinstance(pass_, Explaining):
            self._settled += _explained(pass_, graph, context)

    def after_pass(self, pass_: Pass, graph: Graph, context: PassContext, run: PassRun) -> None:
        """Notes what was changed; asks rules about what they left."""
        self.history.extend((pass_.name, application) for application in run.applications)
        if pass_.name not in self.passes:
            return
        self.runs += 1
        if self.rules:
            names = {rule.name for rule in self.rules}
            self._settled += [_applied(each) for each in run.applications if each.action in names]
            # Of one graph, the latest run of the pass has the last word.
            self._open[graph] = [answer for node in _nodes(graph) for answer in self._asked(pass_, node)]
        elif not isinstance(pass_, Explaining):
            self._settled += map(_applied, run.applications)
            self._settled += [
                Answer(refusal.rule, "refused", _described(refusal.node, refusal.origins), refusal.reason)
                for refusal in list(context.refusals)[self._refusals :]
            ]

    def _asked(self, pass_: Pass, node: Node) -> Iterator[Answer]:
        own = {rule.name: rule for rule in pass_.rules()} if isinstance(pass_, RulePass) else {}
        for rule in self.rules:
            if (node.domain, node.op_type) not in rule.roots:
                continue
            if isinstance(pass_, RulePass) and rule.name not in own:
                yield Answer(rule.name, "refused", Place.of(node), f"{describe_pass(pass_)} leaves the rule out")
            else:
                # As the pass has it, with what its options add.
                yield _asked(own.get(rule.name, rule), node)


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
    inquiry, context, copy = Inquiry(name), PassContext(), graph.clone()
    (pass_,) = parse_pipeline(min(inquiry.passes))
    inquiry.before_pass(pass_, copy, context)
    if inquiry.rules:
        run = PassRun(pass_.name, 0.0, 0, 0, 0, ())
    else:
        changes = pass_.run(copy, context)
        run = PassRun(pass_.name, 0.0, changes, 0, 0, tuple(context.history))
    inquiry.after_pass(pass_, copy, context, run)
    return inquiry.answers if node is None else inquiry.about(node)


def _asked(rule: Rule, node: Node) -> Answer:
    found = explain(rule, node)
    verdict: Verdict = "applied" if found.reason is None else "refused" if found.complete else "unmatched"
    others = tuple(map(Place.of, found.matched[1:]))
    stopped = None if found.stopped is None else Place.of(found.stopped)
    return Answer(rule.name, verdict, Place.of(node), found.reason or "", others, found.bound, stopped)


def _explained(pass_: Explaining, graph: Graph, context: PassContext) -> Iterator[Answer]:
    for finding in pass_.explain(graph, context):
        verdict: Verdict = "applied" if finding.done else "refused"
        yield Answer(pass_.name, verdict, Place.of(finding.node), finding.text, tuple(map(Place.of, finding.others)))


def _applied(application: Application) -> Answer:
    return Answer(application.action, "applied", _described(application.node, application.origins))


def _described(node: str, origins: tuple[str, ...]) -> Place:
    """Of a node that is known by its line of text alone."""
    outputs, _, _ = node.partition(" = ")
    return Place(node, origins, frozenset([*origins, *(name.removeprefix("%") for name in outputs.split(", "))]))


def _nodes(graph: Graph) -> Iterator[Node]:
    return (node for inner in graph.all_graphs() for node in inner.nodes if not node.is_op("Constant"))


def _labels(node: Node) -> list[str]:
    return [label for label in (node.name, *node.origins, *(value.name for value in node.outputs)) if label]
