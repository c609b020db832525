"""Applying rules until none applies: a worklist of nodes, rules indexed by what they match, no rescanning.

After a rewrite, only nodes at which a rule could newly match are looked at again: the nodes made, and the consumers of
every value whose producer or use count changed, as far downstream as patterns reach.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Sequence

from graphc.errors import GraphcError, PassError
from graphc.ir import Builder, Graph, Node, TensorType, Type, Value
from graphc.ops.inference import infer_node
from graphc.passes.base import PassContext, Refusal
from graphc.passes.edit import cannot_replace, erase_unused, replace_value
from graphc.passes.rules.index import RuleIndex
from graphc.passes.rules.match import Match, RefusedError, Trace
from graphc.passes.rules.rule import Rule

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


def explain(rule: Rule, node: Node) -> str | None:
    """Why `rule` does not apply at `node`, in one sentence; None where it does as far as its conditions tell."""
    trace = Trace()
    if (node.domain, node.op_type) not in rule.roots:
        wanted = ", ".join(sorted(f"{d}::{n}" if d else n for d, n in rule.roots))
        return f"it starts at {wanted}, not at {node.op}"
    refusal: Refusal | None = None
    for match in rule.matches(node, trace):
        refusal = rule.refusal(match)
        if refusal is None:
            return None
    return refusal.reason if refusal is not None else trace.reason


class _Driver:
    def __init__(self, rules: Sequence[Rule], context: PassContext) -> None:
        self.context = context
        self.index = RuleIndex(rules)
        self.queue: deque[Node] = deque()
        self.queued: set[Node] = set()
        self.deepest = max((rule.depth for rule in rules), default=0)
        self.largest = max((rule.size for rule in rules), default=0)

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
        for _ in range(self.deepest):
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
                raise PassError(
                    f"rules run in a circle: {count} rewrites, the latest {self.context.last_applied}",
                    nodes=node.origins,
                    hint="a rule's replacement matches a rule again; `explain` shows which",
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
        node, graph = match.root, match.root.graph
        assert graph is not None, node
        origins = dict.fromkeys(origin for _, matched in reversed(match.nodes) for origin in matched.origins)
        made: list[Node] = []
        builder = _Recorder(graph, made, before=node, origins=origins)
        answer: Value | tuple[Value, ...] | Refusal | None
        try:
            answer = rule.replacement(match, builder)
        except RefusedError as refused:
            answer = refused.refusal
        except GraphcError as error:
            _discard(made)
            raise PassError(
                f"rule {rule.name!r} built an invalid node: {error.message}", nodes=error.nodes or node.origins
            ) from error
        if not isinstance(answer, Refusal):
            answer = self.replace(rule, match, answer if isinstance(answer, tuple) else (answer,), made)
        if isinstance(answer, Refusal):
            _discard(made)
            return answer
        return None

    def replace(self, rule: Rule, match: Match, new: tuple[Value, ...], made: Sequence[Node]) -> Refusal | None:
        root = match.root
        pairs = list(zip(root.outputs, new, strict=False))
        unmatched = [value for value in root.outputs[len(new) :] if value.is_used]
        if unmatched:
            return Refusal(f"output %{unmatched[0].name} of {root.op} is used too")
        for old, value in pairs:
            reason = cannot_replace(old, value, fresh=value.producer in made)
            if reason is not None:
                return Refusal(reason)
            _check_types(rule, match, old, value)
        if not self.context.permit(rule.name, root):
            return Refusal("the limit on rewrites is reached")
        moved = [reader for old, _ in pairs for reader in old.consumers]
        for old, value in pairs:
            value.type = _merge(old.type, value.type, fresh=value.producer in made)
            replace_value(old, value)
        for value in erase_unused([root]):
            # Only here can a node have become private. Constants have no patterns behind them, and what many read
            # is not read by one match alone.
            if value.producer is not None and value.constant is None and len(value.uses) <= self.largest:
                moved.extend(value.consumers)
        self.index.update([*made, *moved])
        self.enqueue_downstream([*made, *moved])
        return None


class _Recorder(Builder):
    """A builder that remembers what it made, so that a refusal can take it back, and infers types at once."""

    def __init__(self, graph: Graph, made: list[Node], *, before: Node, origins: Iterable[str]) -> None:
        super().__init__(graph, before=before, origins=origins, infer=infer_node)
        self.made = made

    def insert(self, node: Node) -> Node:
        self.made.append(node)
        return super().insert(node)


def _discard(made: list[Node]) -> None:
    for node in reversed(made):
        if node.graph is not None:
            node.graph.remove(node)
    made.clear()


def _check_types(rule: Rule, match: Match, old: Value, new: Value) -> None:
    if isinstance(old.type, TensorType) and isinstance(new.type, TensorType):
        same = old.type.dtype == new.type.dtype and _may_equal(old.type, new.type)
    else:
        same = old.type is None or new.type is None or old.type == new.type
    if not same:
        raise PassError(
            f"rule {rule.name!r} would change %{old.name} from {old.type} to {new.type}", nodes=match.root.origins
        )


def _may_equal(left: TensorType, right: TensorType) -> bool:
    if left.shape is None or right.shape is None:
        return True
    return len(left.shape) == len(right.shape) and all(
        a == b or not (isinstance(a, int) and isinstance(b, int)) for a, b in zip(left.shape, right.shape, strict=True)
    )


def _merge(old: Type | None, new: Type | None, *, fresh: bool) -> Type | None:
    """What is known of a value from both sides; open extents of a fresh value keep the names they had."""
    if new is None or not isinstance(new, TensorType) or not isinstance(old, TensorType) or old.shape is None:
        return old if new is None else new
    if new.shape is None:
        return new.with_shape(old.shape)
    shape = tuple(
        b if isinstance(b, int) or not (fresh or isinstance(a, int)) else a
        for a, b in zip(old.shape, new.shape, strict=True)
    )
    return new if shape == new.shape else new.with_shape(shape)
