"""The step table of an open program: sizes and dimensions as text, buffers by number."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from graphc.backends.base import Kernel, Packing
from graphc.compiler.open_dims import renamed
from graphc.compiler.places import Bodies, Places, Weights
from graphc.compiler.program import Program
from graphc.ir import Dim, Graph, Node, Value
from graphc.ir.symbolic import substitute, symbol
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
        ranges=_ranges(program, source, names),
        inputs=tuple(shape(value) for value in program.graph.inputs),
        outputs=tuple(shape(value) for value in program.graph.outputs),
        buffers=tuple(buffers),
        steps=tuple(steps),
        copies=tuple(
            OpenCopy(number, places.location(value), value.tensor_type.dtype.name, shape(value))
            for number, value in program.buffers.copies
        ),
    )


def _ranges(program: Program, source: Graph, names: Sequence[str]) -> dict[str, SymbolRange]:
    """The range of each of the model's symbols: those that are bound have one value."""
    found: dict[str, SymbolRange] = {}
    bound = bound_symbols(source, program.graph)
    for name in names:
        if name in bound:
            found[name] = SymbolRange(bound[name], bound[name])
        else:
            found[name] = SymbolRange(*program.graph.bounds[renamed(name)])
    return found


def bound_symbols(source: Graph, bound: Graph) -> Mapping[str, int]:
    """Value of each symbol of the source's inputs that has one in the other graph's."""
    values: dict[str, int] = {}
    for before, after in zip(source.inputs, bound.inputs, strict=True):
        for dim, extent in zip(before.tensor_type.dims, after.tensor_type.dims, strict=True):
            if not isinstance(dim, int) and isinstance(extent, int):
                values[str(dim)] = extent
    return values
