"""Patterns of several roots: from one of them to the others, through a value that they have in common."""

from __future__ import annotations

from collections.abc import Iterator

from graphc.errors import OptionError
from graphc.ir import Node, Value
from graphc.passes.rules.match import Match, RefusedError, Trace, find_matches, match_root, outside_reader
from graphc.passes.rules.pattern import Every, Pattern, Together, bound_at, roots, starts, within


def check_roots(pattern: Pattern) -> None:
    """Refuses what cannot be the whole pattern of a rule.

    Raises:
        OptionError: A root is no operator or cannot be found from the others, or several roots are within a pattern.
    """
    if not roots(pattern):
        raise OptionError("a rule's pattern has a root that is no operator")
    parts = within(pattern) if isinstance(pattern, Together | Every) else (pattern,)
    if any(map(_has_several_roots, parts)):
        raise OptionError("several roots side by side can only be a rule's whole pattern")
    if isinstance(pattern, Every) and not (pattern.share and bound_at(pattern.one).keys() >= {*pattern.share}):
        raise OptionError(f"not every match has a value called {' and '.join(pattern.share) or 'what all share'}")
    found, waiting = [parts[0]], list(parts[1:])
    while waiting:
        following = next((part for part in waiting if any(_common(part, other) for other in found)), None)
        if following is None:
            raise OptionError(
                f"nothing leads from one root of the pattern to root {parts.index(waiting[0]) + 1}",
                hint="a variable or an operator of the pattern has to stand in both, whatever alternative is taken",
            )
        waiting.remove(following)
        found.append(following)


def root_nodes(match: Match) -> list[Node]:
    """The nodes at the roots of a match, each once."""
    return list(dict.fromkeys(value.producer for value in match.roots if value.producer is not None)) or [match.root]


def find_siblings(pattern: Pattern, node: Node, trace: Trace | None = None) -> Iterator[Match]:
    """Every way in which `pattern` matches with a root at `node`, the preferred one first."""
    trace = trace or Trace()
    if isinstance(pattern, Together):
        for first, part in enumerate(pattern.parts):
            for found in match_root(part, node, Match(node), trace):
                yield from _complete(pattern, {first: _root_value(found, part)}, found, trace)
    elif isinstance(pattern, Every):
        yield from _every(pattern, node, trace)
    else:
        yield from find_matches(pattern, node, trace)


def _has_several_roots(pattern: Pattern) -> bool:
    return isinstance(pattern, Together | Every) or any(map(_has_several_roots, within(pattern)))


def _common(left: Pattern, right: Pattern) -> set[str | int]:
    return bound_at(left).keys() & bound_at(right).keys()


def _root_value(match: Match, part: Pattern) -> Value:
    """The value at the root that one part of the pattern matched."""
    return next(match.places[id(start)] for start in starts(part) if id(start) in match.places)


def _complete(pattern: Together, found: dict[int, Value], state: Match, trace: Trace) -> Iterator[Match]:
    """Matches in which the roots not found yet are found, the nearest to what is known first."""
    parts = pattern.parts
    if len(found) == len(parts):
        values = tuple(found[index] for index in range(len(parts)))
        first = values[0].producer
        assert first is not None, values
        whole = Match(first, state.values, state.attributes, state.nodes, state.places, values)
        reader = outside_reader(whole, root_nodes(whole))
        if reader is None:
            yield whole
        else:
            trace.note(whole, reader)
        return
    index = next(i for i, part in enumerate(parts) if i not in found and any(_common(part, parts[j]) for j in found))
    for candidate in _candidates(parts[index], state):
        for extended in match_root(parts[index], candidate, state, trace):
            value = _root_value(extended, parts[index])
            if value not in found.values():
                yield from _complete(pattern, {**found, index: value}, extended, trace)


def _every(pattern: Every, node: Node, trace: Trace) -> Iterator[Match]:
    for first in _single(pattern, node, Match(node), trace):
        shared = Match(node, {name: first.values[name] for name in pattern.share})
        members: dict[Value, Match] = {}
        aside = Trace("nothing else reads it in this way")
        for candidate in _candidates(pattern.one, shared):
            state = Match(candidate, shared.values)
            found = first if candidate is node else next(_single(pattern, candidate, state, aside), None)
            if found is not None:
                members[_root_value(found, pattern.one)] = found
        if len(members) < pattern.least:
            names = " and ".join(f"%{first[name].name}" for name in pattern.share)
            reason = f"of {names} it takes {pattern.least} alike, and there is {len(members)}: {aside.reason}"
            trace.note(first, reason, complete=True)
            continue
        root = next(iter(members.values())).root
        nodes = tuple(entry for found in members.values() for entry in found.nodes)
        yield Match(root, shared.values, {}, nodes, {}, tuple(members), tuple(members.values()))


def _single(pattern: Every, node: Node, state: Match, trace: Trace) -> Iterator[Match]:
    """Matches of one of every, none of which its condition refuses."""
    for found in match_root(pattern.one, node, state, trace):
        try:
            refusal = outside_reader(found, [node]) or (pattern.when and pattern.when(found))
        except RefusedError as refused:
            refusal = refused.refusal
        if refusal is None:
            yield found
        else:
            trace.note(found, refusal if isinstance(refusal, str) else refusal.reason, complete=True)


def _candidates(pattern: Pattern, state: Match) -> Iterator[Node]:
    """Nodes at which `pattern` may be rooted, since they come as far behind a value that is known as it says."""
    depths = bound_at(pattern)
    known = ((key, state.values.get(key) if isinstance(key, str) else state.places.get(key)) for key in depths)
    key, value = min(
        ((key, value) for key, value in known if isinstance(value, Value)),
        key=lambda item: (max(depths[item[0]]), len(item[1].uses)),
    )
    operators, graph = roots(pattern), state.root.graph
    seen: dict[Node, None] = {}
    front = {value: None}
    for _ in range(max(depths[key])):
        readers = dict.fromkeys(node for value in front for node in value.consumers)
        seen.update((node, None) for node in readers if (node.domain, node.op_type) in operators)
        front = dict.fromkeys(value for node in readers for value in node.outputs)
    if 0 in depths[key] and value.producer is not None:
        seen[value.producer] = None
    yield from (node for node in seen if node.graph is graph)
