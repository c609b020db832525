"""Binding symbolic dimensions: by the symbol's name, or by an input's name and its shape."""

from __future__ import annotations

import difflib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import NoReturn, TypeAlias

from graphc.errors import OptionError
from graphc.ir import Dim, Graph, MapType, OptionalType, SequenceType, SymbolicInt, TensorType, Type, Value, symbol
from graphc.ir.symbolic import linear_coefficient, substitute, symbols
from graphc.ops.inference import infer_graph

Bindings: TypeAlias = "Mapping[str, int | Sequence[int | str | None]]"
"""What `dims=` takes: `{"batch": 8}`, `{"seq": (1, 512)}` (inclusive bounds), `{"x": [1, 3, None, None]}`."""

MAX_EXTENT = (1 << 63) - 1


@dataclass
class Solution:
    """What bindings mean for a graph.

    Args:
        values: Extent (or other symbol) of each symbol bound.
        bounds: Inclusive bounds of symbols that stay open.
        shapes: Shapes of inputs whose rank the model leaves open.
    """

    values: dict[str, Dim] = field(default_factory=dict)
    bounds: dict[str, tuple[int, int | None]] = field(default_factory=dict)
    shapes: dict[str, tuple[Dim, ...]] = field(default_factory=dict)

    def type_of(self, kind: Type | None) -> Type | None:
        """`kind` with its symbols replaced."""
        return None if kind is None else _substitute(kind, self.values)


def solve(inputs: Sequence[Value], dims: Bindings, originals: Mapping[str, str] | None = None) -> Solution:
    """Works out which symbol takes which value.

    Args:
        inputs: Inputs of the graph.
        dims: Bindings by symbol or by input.
        originals: Name in the model file of symbols that are called otherwise here.

    Raises:
        OptionError: A name is unknown, an extent is negative, or two bindings contradict each other or the model.
    """
    known = set().union(*(_symbols(value.type) for value in inputs))
    aliases = {original: name for name, original in (originals or {}).items()}
    by_input = {value.name: value for value in inputs}
    solution = Solution()
    for name, given in dims.items():
        target = name if name in known else aliases.get(name, name)
        if isinstance(given, int):
            if target not in known:
                _unknown(name, known | set(aliases), by_input)
            _assign(solution, target, given, name)
        elif name in by_input:
            _bind_shape(solution, by_input[name], given)
        elif target in known:
            solution.bounds[target] = _bounds(name, given)
        else:
            _unknown(name, known | set(aliases), by_input)
    for name, (low, high) in solution.bounds.items():
        value = solution.values.get(name)
        if isinstance(value, int) and (value < low or (high is not None and value > high)):
            raise OptionError(f"dimension {name!r} is bound to {value}, outside its bounds {low}..{high or ''}")
    return solution


def bind_dims(graph: Graph, dims: Bindings, originals: Mapping[str, str] | None = None) -> None:
    """Binds symbolic dimensions of a graph in place and infers its types anew.

    Args:
        graph: The graph.
        dims: Bindings by symbol or by input.
        originals: Name in the model file of symbols that are called otherwise here.

    Raises:
        OptionError: A binding does not fit the graph.
        TypeInferenceError: With these extents, shapes do not fit a node.
    """
    solution = solve(graph.inputs, dims, originals)
    for name, value in solution.values.items():
        low, high = graph.bounds.get(name, (0, None))
        if isinstance(value, int) and (value < low or (high is not None and value > high)):
            raise OptionError(f"dimension {name!r} is bound to {value}, outside its bounds {low}..{high or ''}")
    declared = {output: output.type for output in graph.outputs if output.producer is not None}
    for inner in graph.all_graphs():
        for typed in (*inner.inputs, *(output for node in inner.nodes for output in node.outputs)):
            typed.type = solution.type_of(typed.type)
    apply_shapes(graph, solution)
    graph.bounds = {name: extent for name, extent in graph.bounds.items() if name not in solution.values}
    graph.bounds.update(solution.bounds)
    bound = {output: output.type for output in declared}
    for output, kind in bound.items():
        output.type = kind.with_shape(None) if isinstance(kind, TensorType) else kind
    infer_graph(graph)
    if again := [output for output, kind in declared.items() if _is_declared(output.type, kind)]:
        for output in again:
            output.type = bound[output]
        infer_graph(graph)


def _is_declared(found: Type | None, declared: Type | None) -> bool:
    """Whether what is declared of an output counts beside what was found.

    It does where less was found, and where numbers differ, which is an error. A rank, or an extent that a symbol
    stands for, is declared wrongly by old exporters; what was found counts.
    """
    if not isinstance(found, TensorType) or not isinstance(declared, TensorType) or declared.shape is None:
        return False
    if found.shape is None:
        return True
    pairs = zip(found.shape, declared.shape, strict=False)
    same = len(found.shape) == len(declared.shape)
    return same and any(isinstance(b, int) and a != b for a, b in pairs)


def apply_shapes(graph: Graph, solution: Solution) -> None:
    """Gives inputs without rank the shapes that the solution has for them."""
    for value in graph.inputs:
        shape = solution.shapes.get(value.name)
        if shape is not None and isinstance(value.type, TensorType):
            value.type = value.type.with_shape(shape)


def _assign(solution: Solution, name: str, value: Dim, said: str) -> None:
    if isinstance(value, int) and not 0 <= value <= MAX_EXTENT:
        raise OptionError(f"dimension {said!r} cannot be {value}", hint="extents are natural numbers")
    before = solution.values.setdefault(name, value)
    if before != value:
        raise OptionError(f"dimension {name!r} is bound to {before} and to {value}")


def _bounds(name: str, given: Sequence[int | str | None]) -> tuple[int, int | None]:
    if len(given) != 2 or not isinstance(given[0], int) or isinstance(given[1], str):
        raise OptionError(
            f"dimension {name!r} takes a number or (low, high) bounds, not {tuple(given)}",
            hint=f"for example dims={{{name!r}: 8}} or dims={{{name!r}: (1, 512)}}",
        )
    low, high = given[0], given[1]
    if low < 0 or (high is not None and high < low):
        raise OptionError(f"dimension {name!r} cannot lie between {low} and {high}")
    return low, high


def _bind_shape(solution: Solution, value: Value, given: Sequence[int | str | None]) -> None:
    if not isinstance(value.type, TensorType):
        raise OptionError(f"input {value.name!r} is {value.type}; only tensors have a shape to bind")
    shape = value.type.shape
    if shape is None:
        solution.shapes[value.name] = tuple(
            symbol(extent) if isinstance(extent, str) else symbol(f"{value.name}_d{axis}") if extent is None else extent
            for axis, extent in enumerate(given)
        )
        return
    if len(given) != len(shape):
        raise OptionError(
            f"input {value.name!r} has rank {len(shape)}, and the shape given for it is {list(given)}",
            hint=f"the model declares {value.type}",
        )
    for axis, (dim, extent) in enumerate(zip(shape, given, strict=True)):
        if extent is None or dim == extent:
            continue
        place = f"axis {axis} of input {value.name!r}"
        if isinstance(dim, int):
            raise OptionError(f"{place} is {dim} in the model and cannot be bound to {extent}")
        if isinstance(extent, str):
            if extent != str(dim):
                _rename(solution, dim, extent, place)
        else:
            _solve(solution, dim, extent, place)


def _rename(solution: Solution, dim: SymbolicInt, name: str, place: str) -> None:
    if str(dim) not in symbols(dim) or not name.isidentifier():
        raise OptionError(f"{place} is {dim}, which cannot be called {name!r}")
    _assign(solution, str(dim), symbol(name), place)


def _solve(solution: Solution, dim: SymbolicInt, extent: int, place: str) -> None:
    """Finds the symbol that makes `dim` equal to `extent`."""
    rest = substitute(dim, solution.values)
    names = sorted(symbols(rest))
    if not names:
        if rest != extent:
            raise OptionError(f"{place} is {dim} = {rest} by other bindings and cannot be {extent}")
        return
    if len(names) > 1:
        raise OptionError(f"{place} is {dim}; bind {' and '.join(names)} by name instead")
    factor = linear_coefficient(rest, names[0])
    offset = substitute(rest, {names[0]: 0})
    if not factor or not isinstance(offset, int) or (extent - offset) % factor:
        raise OptionError(f"{place} is {rest}; there is no {names[0]} for which it is {extent}")
    _assign(solution, names[0], (extent - offset) // factor, names[0])


def _unknown(name: str, known: set[str], inputs: Mapping[str, Value]) -> NoReturn:
    close = difflib.get_close_matches(name, [*known, *inputs], 3, 0.5)
    if close:
        hint = f"did you mean {' or '.join(repr(item) for item in close)}?"
    elif known:
        hint = f"the model's dimensions are {', '.join(sorted(known))}"
    else:
        hint = "every dimension of this model is fixed already"
    raise OptionError(f"the model has no dimension {name!r} to bind", hint=hint)


def _symbols(kind: Type | None) -> frozenset[str]:
    match kind:
        case TensorType():
            return kind.symbols()
        case SequenceType(element=element) | OptionalType(element=element) | MapType(value=element):
            return _symbols(element)
    return frozenset()


def _substitute(kind: Type, values: Mapping[str, Dim]) -> Type:
    match kind:
        case TensorType(dtype=dtype, shape=shape, layout=layout):
            return TensorType(dtype, None if shape is None else tuple(substitute(d, values) for d in shape), layout)
        case SequenceType(element=element):
            return SequenceType(_substitute(element, values))
        case OptionalType(element=element):
            return OptionalType(_substitute(element, values))
        case MapType(key=key, value=element):
            return MapType(key, _substitute(element, values))
