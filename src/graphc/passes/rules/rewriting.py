"""One rewrite: what a rule builds for a match, checked, and then put in the matched root's place or taken back."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from graphc.errors import GraphcError, PassError
from graphc.ir import Builder, Graph, Node, TensorType, Type, Value
from graphc.ir.ordering import producers_within
from graphc.ops.inference import infer_node
from graphc.passes.base import Refusal
from graphc.passes.edit import cannot_replace, replace_value
from graphc.passes.rules.match import Match, RefusedError
from graphc.passes.rules.rule import Rule
from graphc.passes.rules.siblings import root_nodes


@dataclass(frozen=True)
class Rewrite:
    """What was built for a match, in the graph but not yet read by anything.

    Args:
        pairs: The roots' values that go, each with the one that takes its place.
        made: Nodes that were built, in order.
        moves: Nodes, in order, that what was built for several roots reads, with the node before which they have to be.
    """

    pairs: tuple[tuple[Value, Value], ...]
    made: tuple[Node, ...]
    moves: tuple[tuple[Node, Node], ...] = ()

    @staticmethod
    def build(rule: Rule, match: Match) -> Rewrite | Refusal:
        """Has `rule` build what takes the place of `match`; where it refuses, nothing is left of it.

        Raises:
            PassError: What it built is ill-typed or of another type than what it is to replace.
        """
        node, graph = match.root, match.root.graph
        assert graph is not None, node
        span = graph.between(root_nodes(match))
        made: list[Node] = []
        builder = _Recorder(graph, made, before=span[0], origins=match.origins)
        answer: Value | tuple[Value, ...] | Refusal | Rewrite
        try:
            answer = rule.replacement(match, builder)
            if not isinstance(answer, Refusal):
                new = answer if isinstance(answer, tuple) else (answer,)
                pairs = _pairs(rule, match, new)
                answer = _cannot_replace(rule, match, pairs, made) or _placed(pairs, made, span)
        except RefusedError as refused:
            answer = refused.refusal
        except PassError:
            _discard(made)
            raise
        except GraphcError as error:
            _discard(made)
            raise PassError(
                f"rule {rule.name!r} built an invalid node: {error.message}", nodes=error.nodes or node.origins
            ) from error
        if isinstance(answer, Refusal):
            _discard(made)
        return answer

    def commit(self) -> list[Node]:
        """Makes everything read the new values; answers the nodes that do."""
        for node, anchor in self.moves:
            assert anchor.graph is not None, anchor
            anchor.graph.move_before(node, anchor)
        moved = [reader for old, _ in self.pairs for reader in old.consumers]
        for old, value in self.pairs:
            value.type = _merge(old.type, value.type, fresh=value.producer in self.made)
            replace_value(old, value)
        return moved

    def discard(self) -> None:
        """Takes back what was built."""
        _discard(self.made)


def _pairs(rule: Rule, match: Match, new: tuple[Value, ...]) -> tuple[tuple[Value, Value], ...]:
    if match.roots and len(new) != len(match.roots):
        raise PassError(
            f"rule {rule.name!r} answers {len(new)} values for {len(match.roots)} roots", nodes=match.root.origins
        )
    return tuple(zip(match.roots or match.root.outputs, new, strict=False))


def _cannot_replace(
    rule: Rule, match: Match, pairs: tuple[tuple[Value, Value], ...], made: Sequence[Node]
) -> Refusal | None:
    going = {old for old, new in pairs if old is not new}
    kept = {old for old, new in pairs if old is new}
    for root in root_nodes(match):
        unmatched = [value for value in root.outputs if value not in going | kept and value.is_used]
        if unmatched:
            return Refusal(f"output %{unmatched[0].name} of {root.op} is used too")
    for old, value in pairs:
        reason = cannot_replace(old, value, fresh=value.producer in made)
        if reason is not None:
            return Refusal(reason)
        _check_types(rule, match, old, value)
        if value in going:
            raise PassError(
                f"rule {rule.name!r} puts %{value.name}, which is to be replaced, in the place of %{old.name}",
                nodes=match.root.origins,
                hint="build the root's operator anew on its inputs",
            )
        reader = next((node for node in made if old in node.inputs), None)
        if reader is not None and value is not old:
            raise PassError(
                f"rule {rule.name!r} built {reader.describe()}, which reads what it is to replace",
                nodes=match.root.origins,
                hint="build the root's operator anew on its inputs",
            )
    return None


def _placed(pairs: tuple[tuple[Value, Value], ...], made: Sequence[Node], span: Sequence[Node]) -> Rewrite | Refusal:
    """The rewrite, with what has to be moved before the first root for what was built there.

    Args:
        pairs: See Rewrite.
        made: See Rewrite.
        span: The nodes from the first root to the last.
    """
    if len(span) == 1:
        return Rewrite(pairs, tuple(made))
    going = {old.producer: old for old, new in pairs if old is not new}
    wanted = [value for node in made for value in node.inputs] + [new for old, new in pairs if old is not new]
    needed = producers_within({*span}, [value.producer for value in wanted if value is not None])
    for node in needed & going.keys():
        return Refusal(f"what another root reads is computed from %{going[node].name}")
    early = [node for node in span if node in needed]
    anchor = made[0] if made else span[0]
    return Rewrite(pairs, tuple(made), tuple((node, anchor) for node in early if node is not anchor))


class _Recorder(Builder):
    """A builder that remembers what it made, so that a refusal can take it back, and infers types at once."""

    def __init__(self, graph: Graph, made: list[Node], *, before: Node, origins: Iterable[str]) -> None:
        super().__init__(graph, before=before, origins=origins, infer=infer_node)
        self.made = made

    def insert(self, node: Node) -> Node:
        self.made.append(node)
        return super().insert(node)


def _discard(made: Sequence[Node]) -> None:
    for node in reversed(made):
        if node.graph is not None:
            node.graph.remove(node)


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
