"""Finding a pattern in a graph, from its root backwards, with backtracking over alternatives and operand orders."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from graphc.ir import Attribute, Graph, Node, Tensor, TensorType, Value
from graphc.ir.symbolic import Dim
from graphc.ops.base import Trait, find
from graphc.passes.base import Refusal
from graphc.passes.rules.pattern import (
    Absent,
    Apply,
    Const,
    Either,
    Optional,
    Pattern,
    Rest,
    Var,
    literal,
    starts,
)


class RefusedError(Exception):
    """Raised by a match's accessors where what they were asked for is not known; the driver notes the reason."""

    def __init__(self, reason: str) -> None:
        self.refusal = Refusal(reason)
        super().__init__(reason)


@dataclass(frozen=True)
class Match:
    """What the names of a pattern stand for in one place of a graph.

    Args:
        root: Node at the pattern's root; at the first where there are several.
        values: Values of variables and constants; a tuple for a `Rest`, None for an optional input not given.
        attributes: Bound attributes.
        nodes: Every node matched, root first, with the pattern it matched.
        roots: The values at several roots side by side, in order; empty where the pattern has one.
        each: The match of every single root, where the pattern is `every`.
    """

    root: Node
    values: Mapping[str, Value | tuple[Value | None, ...] | None] = field(default_factory=dict)
    attributes: Mapping[str, Attribute | None] = field(default_factory=dict)
    nodes: tuple[tuple[Apply, Node], ...] = ()
    places: Mapping[int, Value] = field(default_factory=dict)
    """Value at each operator pattern object, by identity: one object is one value."""
    roots: tuple[Value, ...] = ()
    each: tuple[Match, ...] = ()

    def __getitem__(self, name: str) -> Value:
        value = self.values[name]
        assert isinstance(value, Value), f"{name} is bound to {value}"
        return value

    def get(self, name: str) -> Value | None:
        """The value called `name`, None where it is an absent optional input or in an alternative not taken."""
        value = self.values.get(name)
        assert value is None or isinstance(value, Value), f"{name} is bound to {value}"
        return value

    def rest(self, name: str) -> tuple[Value, ...]:
        """The values that a `Rest` stands for; absent inputs are left out."""
        values = self.values[name]
        assert isinstance(values, tuple), f"{name} is bound to {values}"
        return tuple(value for value in values if value is not None)

    def attribute(self, name: str) -> Any:
        """The attribute called `name`; its default, or None, where it is absent."""
        return self.attributes.get(name)

    def node(self, label: str) -> Node:
        """The node whose pattern is named `label`."""
        found = self.find_node(label)
        assert found is not None, f"no node is labelled {label}"
        return found

    def find_node(self, label: str) -> Node | None:
        """The node whose pattern is named `label`, None where it stands in an alternative not taken."""
        return next((node for pattern, node in self.nodes if pattern.label == label), None)

    def tensor(self, name: str) -> Tensor:
        """The constant called `name`.

        Raises:
            RefusedError: It is no constant.
        """
        tensor = self[name].constant
        if tensor is None:
            raise RefusedError(f"%{self[name].name} is not a constant")
        return tensor

    def array(self, name: str) -> np.ndarray[Any, Any]:
        """Elements of the constant called `name`, to be treated as read-only.

        Raises:
            RefusedError: It is no constant.
        """
        return self.tensor(name).array()

    def integers(self, name: str) -> list[int]:
        """Elements of the constant list of integers called `name`; a scalar is a list of one.

        Raises:
            RefusedError: It is no constant.
        """
        return [int(element) for element in self.array(name).reshape(-1)]

    def type(self, name: str) -> TensorType:
        """Type of the tensor called `name`.

        Raises:
            RefusedError: It is no tensor or its type is unknown.
        """
        return tensor_type(self[name])

    def shape(self, name: str) -> tuple[Dim, ...]:
        """Shape of the tensor called `name`.

        Raises:
            RefusedError: Its rank is unknown.
        """
        return shape_of(self[name])

    @property
    def origins(self) -> tuple[str, ...]:
        """Names of the ONNX nodes that the matched nodes came from, in the order of the graph."""
        return tuple(dict.fromkeys(origin for _, node in reversed(self.nodes) for origin in node.origins))

    @property
    def output(self) -> TensorType:
        """Type of the root's value.

        Raises:
            RefusedError: It is unknown.
        """
        return tensor_type(self.root.output)

    @property
    def output_shape(self) -> tuple[Dim, ...]:
        """Shape of the root's value.

        Raises:
            RefusedError: Its rank is unknown.
        """
        return shape_of(self.root.output)


@dataclass
class Trace:
    """How far a match came: the mismatch that came after the most nodes."""

    reason: str = "no node of the pattern's root operator"
    match: Match | None = None
    """What was matched by then; None before anything was."""
    stopped: Value | None = None
    """The value that did not match; None where it is another thing."""
    complete: bool = False
    """Whether one root of several matched whole, so that something else than its operators and constants stopped it."""

    def note(self, match: Match, reason: str, stopped: Value | None = None, *, complete: bool = False) -> None:
        """Keeps `reason` if no other came further."""
        if self.match is None or (len(match.nodes), complete) > (len(self.match.nodes), self.complete):
            self.match, self.reason, self.stopped, self.complete = match, reason, stopped, complete


def tensor_type(value: Value) -> TensorType:
    """Type of a tensor.

    Raises:
        RefusedError: It is no tensor or its type is unknown.
    """
    if not isinstance(value.type, TensorType):
        raise RefusedError(f"the tensor type of %{value.name} is unknown")
    return value.type


def shape_of(value: Value) -> tuple[Dim, ...]:
    """Shape of a tensor.

    Raises:
        RefusedError: Its rank is unknown.
    """
    shape = tensor_type(value).shape
    if shape is None:
        raise RefusedError(f"the rank of %{value.name} is unknown")
    return shape


def find_matches(pattern: Pattern, node: Node, trace: Trace | None = None) -> Iterator[Match]:
    """Every way in which a pattern of one root matches with its root at `node`, the preferred one first."""
    trace = trace or Trace()
    for found in match_root(pattern, node, Match(node), trace):
        reader = outside_reader(found, [node])
        if reader is None:
            yield found
        else:
            trace.note(found, reader)


def match_root(pattern: Pattern, node: Node, state: Match, trace: Trace) -> Iterator[Match]:
    """Every way in which `pattern` matches at `node` beside what was matched before; who reads it is not asked."""
    for option in starts(pattern):
        assert isinstance(option, Apply), f"the root of a pattern must be an operator, not {option}"
        if option.output < len(node.outputs):
            yield from _match_apply(option, node.outputs[option.output], state, trace)


def outside_reader(match: Match, roots: Sequence[Node]) -> str | None:
    """Why a private node behind the roots is not private, None where every one is."""
    inside = {id(node) for _, node in match.nodes}
    for pattern, node in match.nodes:
        if not pattern.private or node in roots:
            continue
        for value in node.outputs:
            for use in value.uses:
                if isinstance(use.user, Graph):
                    return f"%{value.name} is an output of graph {use.user.name}"
                if id(use.user) not in inside:
                    return f"%{value.name} is also read by {use.user}"
    return None


def _match(pattern: Pattern, value: Value | None, state: Match, trace: Trace) -> Iterator[Match]:
    if isinstance(pattern, Either):
        for option in pattern.options:
            yield from _match(option, value, state, trace)
    elif isinstance(pattern, Optional):
        if value is not None:
            yield from _match(pattern.inner, value, state, trace)
        elif isinstance(pattern.inner, Var | Const):
            yield _bind(state, pattern.inner.name, None)
        else:
            yield state
    elif isinstance(pattern, Absent):
        if value is None:
            yield state
        else:
            trace.note(state, f"%{value.name} is given where an input should be absent", value)
    elif value is None:
        trace.note(state, "an input is absent")
    elif isinstance(pattern, Apply):
        yield from _match_apply(pattern, value, state, trace)
    else:
        reason = _leaf_mismatch(pattern, value, state)
        if reason is None:
            assert isinstance(pattern, Var | Const), pattern
            yield _bind(state, pattern.name, value)
        else:
            trace.note(state, reason, value)


def _leaf_mismatch(pattern: Pattern, value: Value, state: Match) -> str | None:
    assert isinstance(pattern, Var | Const), pattern
    if pattern.name in state.values and not _same(state.values[pattern.name], value):
        return f"%{value.name} is not the value already matched as {pattern.name!r}"
    if isinstance(pattern, Const):
        if value.constant is None:
            return f"%{value.name} is not a constant"
        if pattern.where is not None and not pattern.where.holds(value.constant):
            found = f" is {value.constant.array().reshape(-1)[0]}," if value.constant.size == 1 else " is"
            return f"constant %{value.name}{found} not {pattern.where}"
        return None
    if pattern.constant is not None and (value.constant is not None) != pattern.constant:
        return f"%{value.name} is {'not ' if pattern.constant else ''}a constant"
    if pattern.rank is None and not pattern.kinds:
        return None
    type_ = value.type
    if not isinstance(type_, TensorType):
        return f"the tensor type of %{value.name} is unknown"
    if pattern.kinds and type_.dtype.kind not in pattern.kinds:
        return f"%{value.name} is {type_.dtype}, not of kind {' or '.join(pattern.kinds)}"
    if pattern.rank is not None and type_.rank != pattern.rank:
        return f"%{value.name} has rank {type_.rank}, not {pattern.rank}"
    return None


def _same(bound: object, value: Value) -> bool:
    if bound is value:
        return True
    return (
        isinstance(bound, Value)
        and bound.constant is not None
        and value.constant is not None
        and bound.constant == value.constant
    )


def _bind(state: Match, name: str, value: Value | tuple[Value | None, ...] | None) -> Match:
    if not name or state.values.get(name, ...) is value:
        return state
    return Match(state.root, {**state.values, name: value}, state.attributes, state.nodes, state.places)


def _match_apply(pattern: Apply, value: Value, state: Match, trace: Trace) -> Iterator[Match]:
    known = state.places.get(id(pattern))
    if known is not None:
        if known is value:
            yield state
        else:
            trace.note(state, f"%{value.name} is not %{known.name}, which the pattern needs at both places", value)
        return
    node = value.producer
    if node is None or node.domain != pattern.domain or node.op_type not in pattern.op_types:
        found = "a graph input" if node is None else f"made by {node.op}"
        trace.note(state, f"%{value.name} is {found}, not by {pattern.text}", value)
        return
    if value.index != pattern.output:
        trace.note(state, f"%{value.name} is output {value.index} of {node.op}, not {pattern.output}", value)
        return
    attributes = _match_attributes(pattern, node, state, trace)
    if attributes is None:
        return
    entered = Match(
        state.root,
        state.values,
        attributes,
        (*state.nodes, (pattern, node)),
        {**state.places, id(pattern): value},
    )
    inputs = node.inputs
    yield from _match_inputs(pattern.inputs, inputs, entered, trace)
    if len(inputs) == len(pattern.inputs) == 2 and inputs[0] is not inputs[1] and is_commutative(node):
        yield from _match_inputs(pattern.inputs, inputs[::-1], entered, trace)


def is_commutative(node: Node) -> bool:
    """Whether the two operands of a node may change places."""
    operator = find(node)
    return operator is not None and operator.has(Trait.COMMUTATIVE)


def _match_attributes(pattern: Apply, node: Node, state: Match, trace: Trace) -> Mapping[str, Attribute | None] | None:
    bound = state.attributes
    for name, spec in pattern.attributes.items():
        wanted = literal(spec)
        found = node.attributes.get(name, wanted.default)
        if wanted.where is not None and not wanted.where(found):
            trace.note(state, f"attribute {name} of {node} is {found!r}")
            return None
        if wanted.name:
            if wanted.name in bound and bound[wanted.name] != found:
                trace.note(state, f"attribute {name} of {node} is {found!r}, not {bound[wanted.name]!r}")
                return None
            bound = {**bound, wanted.name: found}
    return bound


def _match_inputs(
    patterns: tuple[Pattern, ...], inputs: tuple[Value | None, ...], state: Match, trace: Trace
) -> Iterator[Match]:
    if not patterns:
        if all(value is None for value in inputs):
            yield state
        else:
            trace.note(state, f"{state.nodes[-1][1]} has more inputs than the pattern")
        return
    first, others = patterns[0], patterns[1:]
    if isinstance(first, Rest):
        assert not others, "Rest must be the last input of a pattern"
        if first.name not in state.values or state.values[first.name] == inputs:
            yield _bind(state, first.name, inputs)
        return
    for found in _match(first, inputs[0] if inputs else None, state, trace):
        yield from _match_inputs(others, inputs[1:], found, trace)
