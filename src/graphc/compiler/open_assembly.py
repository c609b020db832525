"""The step table of an open program: sizes and dimensions as text, buffers by number."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from graphc.backends.base import Kernel, Packing
from graphc.compiler.open_dims import renamed
from graphc.compiler.places import Bodies, Places, Weights
from graphc.compiler.program import Program
from graphc.ir import Dim, Graph, Node, TensorType, Value
from graphc.ir.symbolic import Bounds, evaluate, floordiv, multiply, step_of, substitute, symbol, symbols
from graphc.package import Location, OpenBuffer, OpenCopy, OpenStep, OpenVariant, SymbolRange


class _OpenPlaces(Places):
    """Locations of the values of an open program."""

    def __init__(self, program: Program, weights: Weights) -> None:
        super().__init__(program, weights, Bodies())
        self._numbers = {id(storage): number for number, storage in enumerate(program.buffers.arena())}

    def location(self, value: Value, packing: Packing | None = None) -> Location:
        storage = self.schedule.buffers.storage[value]
        if storage.kind == "arena":
            return Location("buffer", self._numbers[id(storage)])
        return super().location(value, packing)

    def _workspace(self, number: int, position: int) -> Location:
        return Location("buffer", self.schedule.workspaces[number, position])


def assemble_open(program: Program, source: Graph, names: Sequence[str], weights: Weights) -> OpenVariant:
    """The open variant of an open program.

    Args:
        program: Over the symbols of its graph's bounds.
        source: The graph as imported.
        names: Symbols of its inputs.
        weights: Where constants go.
    """
    places = _OpenPlaces(program, weights)
    originals: dict[str, Dim] = {renamed(name): symbol(name) for name in names}
    solved = symbols_in(source, program.graph)
    for name in names:
        for own in symbols(solved[name]):
            if solved[name] == multiply(step_of(own), symbol(own)) and step_of(own) > 1:
                originals[own] = floordiv(symbol(name), step_of(own))
    known = {name: substitute(solved[name], originals) for name in names}
    ranges = _ranges({name: solved[name] for name in names}, originals, program.graph.bounds)

    def extent(value: Dim) -> int | str:
        found = substitute(value, originals)
        return found if isinstance(found, int) else str(found)

    def shape(value: Value) -> tuple[int | str, ...]:
        return tuple(extent(dim) for dim in value.tensor_type.dims)

    def step(number: int, node: Node, kernel: Kernel) -> OpenStep:
        return OpenStep(
            symbol=kernel.symbol,
            arguments=places.arguments(number, node, kernel),
            dims=tuple(extent(dim) for dim in kernel.dims),
            label=f"{kernel.template}: {node.name or node.op_type}",
            origins=node.origins,
            flops=extent(kernel.flops),
            bytes=extent(kernel.bytes),
        )

    steps = [step(number, node, program.kernels[node]) for number, node in enumerate(program.buffers.steps)]
    buffers = [
        OpenBuffer(storage.root.name, storage.start, storage.end, extent(storage.size))
        for storage in program.buffers.arena()
    ]
    sizes = program.open_intervals()[len(buffers) :]
    for (number, _), (start, end, size) in zip(program.workspaces, sizes, strict=True):
        owner = program.kernels[program.buffers.steps[number]].template
        buffers.append(OpenBuffer(f"workspace of {owner}", start, end, extent(size)))
    return OpenVariant(
        isa=program.target.isa,
        ranges=ranges,
        equal={name: str(value) for name, value in known.items() if is_derived(name, value)},
        inputs=tuple(shape(value) for value in program.graph.inputs),
        outputs=tuple(shape(value) for value in program.graph.outputs),
        buffers=tuple(buffers),
        steps=tuple(steps),
        copies=tuple(
            OpenCopy(number, places.location(value), value.tensor_type.dtype.name, shape(value))
            for number, value in program.buffers.copies
        ),
    )


def is_derived(name: str, value: Dim, *, own: bool = False) -> bool:
    """Whether a symbol is an expression over others or, unless `own` are left out, over itself: it goes in steps."""
    return not isinstance(value, int) and str(value) != name and not (own and symbols(value) == {name})


def _ranges(solved: Mapping[str, Dim], originals: Mapping[str, Dim], bounds: Bounds) -> dict[str, SymbolRange]:
    """The range of each symbol: those that are bound have one value, those that go in steps end at multiples."""
    found: dict[str, SymbolRange] = {}
    least = {name: low for name, (low, _) in bounds.items()}
    most = {name: high for name, (_, high) in bounds.items() if high is not None}
    for name, value in solved.items():
        if isinstance(value, int):
            found[name] = SymbolRange(value, value)
        elif symbols(value) <= most.keys() and not is_derived(name, substitute(value, originals), own=True):
            found[name] = SymbolRange(evaluate(value, least), evaluate(value, most))
        else:
            found[name] = SymbolRange(evaluate(value, least))
    return found


def symbols_in(source: Graph, bound: Graph) -> dict[str, Dim]:
    """What each symbol of the source's inputs is in another graph's."""
    values: dict[str, Dim] = {}
    for before, after in zip(source.inputs, bound.inputs, strict=True):
        if isinstance(before.type, TensorType) and isinstance(after.type, TensorType):
            for dim, extent in zip(before.type.dims, after.type.dims, strict=True):
                if not isinstance(dim, int) and symbols(dim) == {str(dim)}:
                    values[str(dim)] = extent
    return values
