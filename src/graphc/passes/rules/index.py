"""Which rules can match where: a bottom-up tree automaton over the operators of a graph.

Each value has a state: the parts of patterns that its producer, and what is before it, could be by their operators
alone. A node's state follows from its operator and its operands' states, so it is one look-up in a table; the table is
filled as new combinations come, of which a graph has few. Parts that rules share are one part, however many rules look
for them, and a rule is tried only where its whole pattern has the right operators and constants.

C. M. Hoffmann and M. J. O'Donnell, "Pattern Matching in Trees", JACM 29(1), 1982; filled on demand as in M. A. Ertl,
K. Casey and D. Gregg, "Fast and Flexible Instruction Selection with On-Demand Tree-Parsing Automata", PLDI 2006.
"""

from __future__ import annotations

from collections.abc import Hashable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache

from graphc.ir import Node, Tensor, Value
from graphc.passes.rules.match import is_commutative
from graphc.passes.rules.pattern import Absent, Apply, Const, Either, Optional, Pattern, Rest, Var, starts
from graphc.passes.rules.predicate import TensorPredicate
from graphc.passes.rules.rule import Rule


@dataclass(frozen=True)
class _Operand:
    """What an operand must be.

    Args:
        absent: Whether it may be left out.
        other: Whether any value suits that is no constant.
        constant: Whether any constant suits.
        predicates: Numbers of predicates, one of which a constant must fulfil otherwise.
        parts: Numbers of parts that suit.
    """

    absent: bool = False
    other: bool = False
    constant: bool = False
    predicates: frozenset[int] = frozenset()
    parts: frozenset[int] = frozenset()


@dataclass(frozen=True)
class _Part:
    """An operator of a pattern and what its operands must be, which several patterns may have in common.

    Args:
        operators: Domain and name of each operator that it may be.
        output: Which output of the node.
        operands: What each operand must be.
        is_open: Whether more operands may follow.
    """

    operators: frozenset[tuple[str, str]]
    output: int
    operands: tuple[_Operand, ...]
    is_open: bool


@dataclass(frozen=True)
class _State:
    """What patterns can tell of a value.

    Args:
        parts: Numbers of the parts that it could be.
        constant: Whether it is a constant.
        fulfils: Numbers of the predicates that the constant fulfils; None where its elements were not looked at.
    """

    parts: frozenset[int] = frozenset()
    constant: bool = False
    fulfils: frozenset[int] | None = None


@dataclass(frozen=True, eq=False)
class _Place:
    """What patterns can tell of a node: the rules that may be rooted there, and the states of outputs that have one."""

    rules: tuple[Rule, ...]
    states: dict[int, _State]


_OTHER = _State()
_CONSTANT = _State(constant=True)
_NOWHERE = _Place((), {})


class _Automaton:
    """What follows from rules alone, the same for every graph.

    Args:
        rules: In order of preference.

    Attributes:
        rules: The same.
        predicates: What constants of patterns must fulfil.
        starts: For each operator the parts that it may be: the part, its number, and the number of the rule whose root
            it is, or -1.
        deepest: Operators from a root to the farthest leaf of any rule.
        largest: Most operands that a match of any rule has.
    """

    def __init__(self, rules: tuple[Rule, ...]) -> None:
        self.rules = rules
        self.predicates: dict[Hashable, tuple[int, TensorPredicate]] = {}
        self.starts: dict[tuple[str, str], list[tuple[_Part, int, int]]] = {}
        self.deepest = max((rule.depth for rule in rules), default=0)
        self.largest = max((rule.size for rule in rules), default=0)
        self._parts: dict[_Part, int] = {}
        self._known: dict[int, int] = {}
        """Part of each pattern object met so far, by identity; the rules keep the objects alive."""
        roots = [(self._number(option), number) for number, rule in enumerate(rules) for option in starts(rule.pattern)]
        inner = {part for known in self._parts for operand in known.operands for part in operand.parts}
        parts = list(self._parts)
        for part, rule in [*roots, *((part, -1) for part in sorted(inner))]:
            for operator in parts[part].operators:
                self.starts.setdefault(operator, []).append((parts[part], part, rule))

    def _number(self, pattern: Pattern) -> int:
        """Number of the part that an operator pattern is."""
        assert isinstance(pattern, Apply), f"{pattern} is no operator"
        if id(pattern) not in self._known:
            is_open = bool(pattern.inputs) and isinstance(pattern.inputs[-1], Rest)
            operands = tuple(map(self._operand, pattern.inputs[: len(pattern.inputs) - is_open]))
            operators = frozenset((pattern.domain, op_type) for op_type in pattern.op_types)
            part = _Part(operators, pattern.output, operands, is_open)
            self._known[id(pattern)] = self._parts.setdefault(part, len(self._parts))
        return self._known[id(pattern)]

    def _operand(self, pattern: Pattern) -> _Operand:
        match pattern:
            case Apply():
                constant = ("", "Constant") in ((pattern.domain, op_type) for op_type in pattern.op_types)
                return _Operand(constant=constant, parts=frozenset([self._number(pattern)]))
            case Const(where=None):
                return _Operand(constant=True)
            case Const(where=TensorPredicate() as where):
                key = where if isinstance(where, Hashable) else id(where)
                number, _ = self.predicates.setdefault(key, (len(self.predicates), where))
                return _Operand(predicates=frozenset([number]))
            case Var():
                return _Operand(other=pattern.constant is not True, constant=pattern.constant is not False)
            case Absent():
                return _Operand(absent=True)
            case Optional():
                return _any([_Operand(absent=True), self._operand(pattern.inner)])
            case Either():
                return _any([self._operand(option) for option in pattern.options])
        raise AssertionError(f"{pattern} cannot be an operand")


@lru_cache(maxsize=64)
def _automaton(rules: tuple[Rule, ...]) -> _Automaton:
    """Made once: a compile applies the same few sets of rules again and again."""
    return _Automaton(rules)


class RuleIndex:
    """The rules that could match at each node, kept up to date while the graph changes.

    Args:
        rules: In order of preference, which answers keep.

    Attributes:
        deepest: Operators from a root to the farthest leaf of any rule.
        largest: Most operands that a match of any rule has.
    """

    def __init__(self, rules: Iterable[Rule]) -> None:
        found = _automaton(tuple(rules))
        self._rules, self._starts, self._predicates = found.rules, found.starts, found.predicates
        self.deepest, self.largest = found.deepest, found.largest
        self._placed: dict[Node, _Place] = {}
        self._table: dict[Hashable, _Place] = {}
        self._elements: dict[Hashable, _State] = {}

    def at(self, node: Node) -> tuple[Rule, ...]:
        """The rules whose whole pattern has the right operators at `node`, in order."""
        return self._place(node).rules

    def is_inside(self, node: Node) -> bool:
        """Whether `node` could be what a pattern has behind its root."""
        return bool(self._place(node).states)

    def update(self, nodes: Iterable[Node]) -> None:
        """Looks anew at nodes whose operands changed, and at their readers as long as that makes a difference."""
        stack = list(nodes)
        while stack:
            node = stack.pop()
            before = self._placed.pop(node, _NOWHERE)
            if node.graph is not None and before is not self._place(node):
                stack.extend(reader for value in node.outputs for reader in value.consumers)

    def _place(self, node: Node) -> _Place:
        if (node.domain, node.op_type) not in self._starts:
            return _NOWHERE
        # Producers first, on a stack of our own: graphs are deeper than Python's. A node waits for those before it only
        # once, so that this ends even where a faulty rule made a circle.
        stack, waits = [node], set()
        while stack:
            latest = stack[-1]
            if latest not in self._placed and latest not in waits:
                waits.add(latest)
                stack.extend(p for p in self._producers(latest) if p not in self._placed and p not in waits)
                continue
            stack.pop()
            if latest not in self._placed:
                self._placed[latest] = self._find(latest)
        return self._placed[node]

    def _producers(self, node: Node) -> Iterator[Node]:
        for value in node.inputs:
            producer = None if value is None else value.producer
            if producer is not None and (producer.domain, producer.op_type) in self._starts:
                yield producer

    def _find(self, node: Node) -> _Place:
        states = tuple(None if value is None else self._state(value) for value in node.inputs)
        key = (node.domain, node.op_type, node.version, len(node.outputs), states)
        found = self._table.get(key)
        if found is None:
            found = self._table[key] = self._compute(node, states)
        return found

    def _compute(self, node: Node, operands: tuple[_State | None, ...]) -> _Place:
        orders = [operands]
        if len(operands) == 2 and is_commutative(node):
            orders.append(operands[::-1])
        rules: set[int] = set()
        parts: dict[int, set[int]] = {}
        for part, number, rule in self._starts[node.domain, node.op_type]:
            if part.output < len(node.outputs) and any(_suits(part, order) for order in orders):
                if rule < 0:
                    parts.setdefault(part.output, set()).add(number)
                else:
                    rules.add(rule)
        states = {output: _State(frozenset(numbers)) for output, numbers in parts.items()}
        return _Place(tuple(self._rules[rule] for rule in sorted(rules)), states)

    def _state(self, value: Value) -> _State:
        tensor = value.constant
        if tensor is not None:
            # Elements of a larger one are looked at where all else matches: they may have to be read from a file.
            return _CONSTANT if tensor.size != 1 else self._element(tensor)
        place = None if value.producer is None else self._placed.get(value.producer)
        return _OTHER if place is None else place.states.get(value.index, _OTHER)

    def _element(self, tensor: Tensor) -> _State:
        key = (tensor.dtype, tensor.shape, tensor.array().tobytes())
        found = self._elements.get(key)
        if found is None:
            fulfils = frozenset(number for number, predicate in self._predicates.values() if predicate.holds(tensor))
            found = self._elements[key] = _State(constant=True, fulfils=fulfils)
        return found


def _any(options: Sequence[_Operand]) -> _Operand:
    return _Operand(
        any(option.absent for option in options),
        any(option.other for option in options),
        any(option.constant for option in options),
        frozenset().union(*(option.predicates for option in options)),
        frozenset().union(*(option.parts for option in options)),
    )


def _suits(part: _Part, operands: tuple[_State | None, ...]) -> bool:
    """Whether operands of these states, None for one that is absent, could be those of `part`."""
    wanted, given = part.operands, operands[: len(part.operands)]
    if not part.is_open and any(state is not None for state in operands[len(wanted) :]):
        return False
    return all(map(_is, wanted, given)) and all(operand.absent for operand in wanted[len(given) :])


def _is(operand: _Operand, state: _State | None) -> bool:
    if state is None:
        return operand.absent
    if not state.constant:
        return operand.other or not operand.parts.isdisjoint(state.parts)
    if operand.constant or not operand.predicates:
        return operand.constant
    return state.fulfils is None or not operand.predicates.isdisjoint(state.fulfils)
