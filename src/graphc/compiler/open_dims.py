"""Graphs whose symbols stay open: which values their types hold for, and what keeps a program from being for any."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping, Sequence

from graphc.backends.base import Kernel
from graphc.backends.regions import body_of
from graphc.compiler.equal_dims import equalities, with_equalities
from graphc.compiler.program import Program
from graphc.errors import GraphcError
from graphc.frontend import bind_dims
from graphc.frontend.binding import Solution
from graphc.ir import Graph, Node, TensorType
from graphc.ir.symbolic import (
    LARGEST_STEP,
    Dim,
    evaluate,
    in_steps,
    multiply,
    substitute,
    symbol,
    symbols,
    typical,
)
from graphc.ops.base import Trait, find
from graphc.ops.inference import infer_graph

_SHORT = 20
"""Values of a symbol that are all tried."""

_WITHOUT_END = 1 << 40
"""Where a range that is given ends that has none."""

Ranges = Mapping[str, "tuple[int, int | None]"]
"""Inclusive bounds of symbols."""

_CLASHING = re.compile(r"[a-z]{1,2}[0-9]+t?|block")
"""Names that axes and loops have in tensor expressions and templates."""

_APART = (7, 11, 13, 17, 19, 23, 29, 31, 37, 41, 43, 47, 53, 59, 61, 67, 71, 73, 79, 83, 89, 97)
"""Extents that no shape relates to one another by accident."""

_FAR = 4093
"""An extent beyond the tables of positions of most models; primes after it keep symbols apart."""

_LARGER = 30
"""How much larger extents are tried where small ones are too small for the model."""

_LARGEST = 1 << 20
"""Where the search for the end of a range ends."""


def open_graph(source: Graph, ranges: Ranges) -> Graph | str:
    """A copy of a graph with its symbols open within ranges, or why that cannot be.

    Types of a graph over symbols take extents for equal that may not be, and know nothing of the length of a table of
    positions. What nodes demand to be equal becomes one symbol, or an expression over one. Then the types are inferred
    anew at values of the symbols far apart, at the least and at the largest ones: where an inference disagrees with the
    types over symbols, a range ends.

    Args:
        source: Types inferred; what is bound has no symbols any more.
        ranges: Of every symbol of its inputs, as far as the caller wants.

    Returns:
        The copy, its types inferred within the ranges found, which are its `bounds`; or the reason.
    """
    unknown = sorted({str(value.name) for value in source.inputs if not isinstance(value.type, TensorType)})
    if unknown:
        return f"input {unknown[0]!r} is no tensor"
    copy = source.clone()
    copy.bounds = {name: (max(1, low), high) for name, (low, high) in ranges.items()}
    equal = equalities(copy)
    _substitute(copy, equal)
    copy.bounds = {name: bounds for name, bounds in copy.bounds.items() if name not in equal}
    steps, near = _steps(source, copy.bounds, equal)
    if steps:
        stepped: dict[str, Dim] = {name: multiply(step, in_steps(name, step)) for name, step in steps.items()}
        _substitute(copy, stepped)
        copy.bounds = {
            str(in_steps(name, steps[name])) if name in steps else name: _in_steps(bounds, steps.get(name, 1))
            for name, bounds in copy.bounds.items()
        }
        infer_graph(copy)
        equal = {**{name: substitute(value, stepped) for name, value in equal.items()}, **stepped}
        near = {str(in_steps(n, steps[n])) if n in steps else n: v // steps.get(n, 1) for n, v in near.items()}
    names = sorted(copy.bounds)

    def problem_at(point: Mapping[str, int]) -> str | None:
        return disagreement(copy, source, with_equalities(point, equal))

    for point in (near, _beside(copy.bounds, near)):
        if (problem := problem_at(point)) is not None:
            return f"at {_text(point)} the model's types do not follow from its symbols: {problem}"
    for name in names:
        low, high = copy.bounds[name]
        if problem_at({**near, name: low}) is not None:
            copy.bounds[name] = (_first(problem_at, near, name, low), high)
        far = _FAR + 2 * names.index(name) if high is None else high
        if far > near[name] and problem_at({**near, name: far}) is not None:
            last = _last(problem_at, near, name, high or _LARGEST)
            copy.bounds[name] = (copy.bounds[name][0], last)
    corners = [{name: low for name, (low, _) in copy.bounds.items()}]
    corners.append({n: _FAR + 2 * i if (h := copy.bounds[n][1]) is None else h for i, n in enumerate(names)})
    # In short ranges no prime may be left that a divisor of the model's would not divide.
    corners += [
        {**near, name: value}
        for name, (low, high) in copy.bounds.items()
        if high is not None and high - low < _SHORT
        for value in range(low, high + 1)
    ]
    for corner in corners:
        if (problem := problem_at(corner)) is not None:
            return f"at {_text(corner)} the model's types do not follow from its symbols: {problem}"
    _substitute(copy, {name: symbol(renamed(name)) for name in names})
    copy.bounds = {renamed(name): bounds for name, bounds in copy.bounds.items()}
    infer_graph(copy)
    return copy


def _steps(source: Graph, bounds: Ranges, equal: Mapping[str, Dim]) -> tuple[dict[str, int], dict[str, int]]:
    """Of which numbers symbols must be multiples for the model to be valid, and values with which it is.

    What is halved five times and doubled again fits what it is added to only where 32 divides it. And an image must
    be as large as its windows.

    Returns:
        The steps, of those symbols that have any; a value of each symbol, small where that will do.
    """

    def is_valid(point: Mapping[str, int]) -> bool:
        bound = source.clone()
        try:
            bind_dims(bound, _of_inputs(source, with_equalities(point, equal)))
        except GraphcError:
            return False
        return True

    near = _apart(bounds, 0)
    larger = {name: _within(bounds[name], _LARGER * value + 1) for name, value in near.items()}
    for point in (near, larger):
        if is_valid(point) and is_valid(_beside(bounds, point)):
            return {}, point
    least = LARGEST_STEP
    while least > 1:
        point = {name: _multiple(bounds[name], least, value) for name, value in near.items()}
        if is_valid(point) and is_valid({name: _multiple(bounds[name], least, v + 1) for name, v in near.items()}):
            break
        least //= 2
    steps: dict[str, int] = {}
    for name in sorted(bounds) if least > 1 else ():
        step = least
        while step > 1 and all(
            is_valid({**point, name: _multiple(bounds[name], step // 2, 2 * near[name] + odd)}) for odd in (1, 3)
        ):
            step //= 2
        if step > 1 and point[name] % step == 0:
            steps[name] = step
    return (steps, point) if steps else ({}, near)


def _beside(bounds: Ranges, point: Mapping[str, int]) -> dict[str, int]:
    """A point near another, at other remainders."""
    return {name: _within(bounds[name], point[name] + 2 * (i + 1)) for i, name in enumerate(sorted(point))}


def _within(bounds: tuple[int, int | None], value: int) -> int:
    low, high = bounds
    return max(low, value if high is None else min(value, high))


def _multiple(bounds: tuple[int, int | None], step: int, count: int) -> int:
    """So many steps, or as many as bounds allow; the nearest value where they leave no multiple."""
    low, high = bounds
    value = max(-(-low // step), count if high is None else min(count, high // step)) * step
    return _within(bounds, value)


def _in_steps(bounds: tuple[int, int | None], step: int) -> tuple[int, int | None]:
    low, high = bounds
    return -(-low // step), None if high is None else high // step


def renamed(name: str) -> str:
    """What a symbol is called in an open graph."""
    return f"dim_{name}" if _CLASHING.fullmatch(name) else name


def _substitute(graph: Graph, values: Mapping[str, Dim]) -> None:
    """Puts expressions in the place of symbols, in the types of all values."""
    solution = Solution(values=dict(values))
    for inner in graph.all_graphs():
        for typed in (*inner.inputs, *(output for node in inner.nodes for output in node.outputs)):
            typed.type = solution.type_of(typed.type)


def _apart(bounds: Ranges, first: int) -> dict[str, int]:
    """A prime for each symbol, or what its bounds leave of it."""
    values = {name: _APART[(first + i) % len(_APART)] for i, name in enumerate(sorted(bounds))}
    return {
        name: max(low, values[name] if high is None else min(values[name], high))
        for name, (low, high) in bounds.items()
    }


def _last(problem_at: Callable[[Mapping[str, int]], str | None], near: Mapping[str, int], name: str, high: int) -> int:
    """The largest value of a symbol at which types agree, between one where they do and one where they may not."""
    low = near[name]
    while low < high:
        middle = (low + high + 1) // 2
        if problem_at({**near, name: middle}) is None:
            low = middle
        else:
            high = middle - 1
    return low


def _first(problem_at: Callable[[Mapping[str, int]], str | None], near: Mapping[str, int], name: str, low: int) -> int:
    """The least value of a symbol at which types agree, between one where they do not and one where they do."""
    high = near[name]
    while low + 1 < high:
        middle = (low + high) // 2
        if problem_at({**near, name: middle}) is None:
            high = middle
        else:
            low = middle
    return high


def _of_inputs(graph: Graph, values: Mapping[str, int]) -> dict[str, int]:
    """The values of those symbols that a graph's inputs have."""
    kinds = [value.type for value in graph.inputs]
    known = set().union(*(kind.symbols() for kind in kinds if isinstance(kind, TensorType)))
    return {name: value for name, value in values.items() if name in known}


def disagreement(graph: Graph, source: Graph, values: Mapping[str, int]) -> str | None:
    """What the types of `source` at these values contradict of the types over symbols in `graph`; None for nothing."""
    bound = source.clone()
    try:
        bind_dims(bound, _of_inputs(source, values))
    except GraphcError as error:
        return error.message
    for left, right in zip(graph.nodes, bound.nodes, strict=True):
        for value, other in zip(left.outputs, right.outputs, strict=True):
            open_type, bound_type = value.type, other.type
            if not isinstance(open_type, TensorType) or not isinstance(bound_type, TensorType):
                continue
            if open_type.shape is None or bound_type.shape is None:
                continue
            if len(open_type.shape) != len(bound_type.shape):
                return f"%{value.name} is {open_type}, but {bound_type}"
            for extent, found in zip(open_type.shape, bound_type.shape, strict=True):
                known = isinstance(found, int) and symbols(extent) <= values.keys()
                if known and evaluate(extent, values) != found:
                    return f"%{value.name} is {open_type}, but {bound_type}"
    return None


def usual_values(graph: Graph) -> dict[str, int]:
    """A value of each open symbol to weigh costs and to show plans at."""
    return {name: typical(symbol(name), graph.bounds) for name in graph.bounds}


def closed_reason(program: Program) -> str | None:
    """Why a program over symbols is none that runs for any of their values; None where it is one."""
    for host in program.host:
        return f"{_named(host.node)} would run on the host: {host.reason}"
    for node in program.controls:
        return f"{_named(node)} has bodies, which are compiled for bound extents only"
    if program.buffers.objects:
        return "some of its values have shapes that only the data tells"
    for node, kernel in program.kernels.items():
        if kernel.template == "generic" and any(_is_heavy(inner) for inner in _open_nodes(node, kernel)):
            return f"{_named(node)} has a fast kernel for bound extents only"
    return None


def _named(node: Node) -> str:
    return f"{node.op_type} ({', '.join(node.origins[:3]) or node.name})"


def _open_nodes(node: Node, kernel: Kernel) -> Iterator[Node]:
    yield from body_of(node).nodes if kernel.dims else ()


def _is_heavy(node: Node) -> bool:
    operator = find(node)
    return operator is not None and operator.has(Trait.CONTRACTION)


def _text(values: Mapping[str, int]) -> str:
    return ", ".join(f"{name}={value}" for name, value in sorted(values.items()))


def ranges_of(names: Sequence[str], given: Mapping[str, object], bounds: Ranges) -> dict[str, tuple[int, int | None]]:
    """The range of each symbol: as given, else as the model bounds it."""
    found: dict[str, tuple[int, int | None]] = {}
    for name in names:
        wanted = given.get(name)
        low, high = bounds.get(name, (0, None))
        if isinstance(wanted, range):
            low = max(low, wanted.start)
            if wanted.stop <= _WITHOUT_END:
                high = wanted.stop - 1 if high is None else min(high, wanted.stop - 1)
        found[name] = (low, high)
    return found
