"""Applying rules until none applies: a worklist of nodes, rules indexed by what they match, no rescanning.

After a rewrite, only nodes at which a rule could newly match are looked at again: the nodes made, and the consumers of
every value whose producer or use count changed, as far downstream as patterns reach.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Sequence

from graphc.errors import PassError
from graphc.ir import Graph, Node
from graphc.passes.base import PassContext, Refusal
from graphc.passes.edit import erase_unused
from graphc.passes.rules.index import RuleIndex
from graphc.passes.rules.match import Match
from graphc.passes.rules.rewriting import Rewrite
from graphc.passes.rules.rule import Rule
from graphc.passes.rules.siblings import root_nodes

MAX_REWRITES_PER_NODE = 50
"""Rewrites allowed per node of the graph (and 1000 more) before rules are said to run in a circle."""


def rewrite(graph: Graph, rules: Iterable[Rule], context: PassContext | None = None) -> int:
    """Applies `rules` to `graph` and its subgraphs up to a fixed point; answers how many rewrites were made.

    Types must have been inferred. Afterwards no rule applies anywhere (unless `context.limit` stopped it), new values
    are typed, new nodes carry the origins of the nodes they replace, and replaced nodes that nothing reads are gone.

    Raises:
        PassError: A rule built something ill-typed, changed a type, or the rules run in a circle.
    """
    driver = _Driver(tuple(rules), context or PassContext())
    for inner in list(graph.all_graphs()):
        driver.enqueue_all(inner)
    return driver.run(limit=1000 + MAX_REWRITES_PER_NODE * sum(len(inner) for inner in graph.all_graphs()))


class _Driver:
    def __init__(self, rules: Sequence[Rule], context: PassContext) -> None:
        self.context = context
        self.index = RuleIndex(rules)
        self.queue: deque[Node] = deque()
        self.queued: set[Node] = set()

    def enqueue(self, node: Node) -> None:
        if node not in self.queued and self.index.at(node):
            self.queued.add(node)
            self.queue.append(node)

    def enqueue_all(self, graph: Graph) -> None:
        for node in graph.nodes:
            self.enqueue(node)

    def enqueue_downstream(self, readers: Iterable[Node]) -> None:
        """Queues every node at which a pattern could reach an operand of one of `readers`."""
        front = dict.fromkeys(readers)
        seen = set(front)
        for _ in range(self.index.deepest):
            following: dict[Node, None] = {}
            for node in front:
                self.enqueue(node)
                if self.index.is_inside(node):
                    following.update((reader, None) for value in node.outputs for reader in value.consumers)
            front = {node: None for node in following if node not in seen}
            seen.update(front)

    def run(self, limit: int) -> int:
        count = 0
        while self.queue and not self.context.is_spent:
            node = self.queue.popleft()
            self.queued.discard(node)
            if node.graph is None:
                continue
            for rule in self.index.at(node):
                if self.try_rule(rule, node):
                    count += 1
                    break
            if count > limit:
                turns = ", ".join(dict.fromkeys(each.action for each in self.context.history[-100:]))
                raise PassError(
                    f"rules run in a circle: {count} rewrites, the latest {self.context.history[-1]}",
                    nodes=node.origins,
                    hint=f"what one builds, one matches again: {turns}; a condition has to refuse it",
                )
        return count

    def try_rule(self, rule: Rule, node: Node) -> bool:
        for match in rule.matches(node):
            refusal = rule.refusal(match) or self.apply(rule, match)
            if refusal is None:
                return True
            self.context.refused(rule.name, node, refusal.reason)
        return False

    def apply(self, rule: Rule, match: Match) -> Refusal | None:
        rewrite = Rewrite.build(rule, match)
        if isinstance(rewrite, Refusal):
            return rewrite
        if not self.context.permit(rule.name, match.root, match.origins):
            rewrite.discard()
            return Refusal("the limit on rewrites is reached")
        moved = rewrite.commit()
        for value in erase_unused(root_nodes(match)):
            # Only here can a node have become private. Constants have no patterns behind them, and what many read
            # is not read by one match alone.
            if value.producer is not None and value.constant is None and len(value.uses) <= self.index.largest:
                moved.extend(value.consumers)
        changed = [*rewrite.made, *moved]
        self.index.update(changed)
        self.enqueue_downstream(changed)
        return None
