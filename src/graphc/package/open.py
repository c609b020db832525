"""Variants for any extent: step tables whose sizes and dimensions are expressions, made concrete for one binding.

An open variant is what a variant is before its symbols have values. `instantiate` gives them values: it evaluates every
expression once, plans the arena, and answers a variant like any other. It takes a millisecond or two for a hundred
steps, since nothing is compiled.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property

from graphc.errors import InputError, PackageError
from graphc.package.archive import ALIGNMENT
from graphc.package.expression import evaluate, symbols_of
from graphc.package.open_plans import Plans
from graphc.package.steps import MAX_ARGUMENTS, KernelStep
from graphc.package.tensor import HostTensor, Location, SymbolRange, check_extents, check_not_negative, numpy_dtype
from graphc.package.variant import BufferPlan, Copy, Variant

LARGEST_ARENA = 1 << 40
"""Bytes that no call may ask for: beyond the machines that graphc compiles for."""

Extent = int | str
"""A number, or an expression over symbols as `graphc.package.expression` reads it."""


@dataclass(frozen=True)
class OpenBuffer:
    """A buffer of the arena, live in steps [start, end): a value, or a kernel's workspace.

    Attributes:
        name: For reports.
        size: In bytes.
    """

    name: str
    start: int
    end: int
    size: Extent


@dataclass(frozen=True)
class OpenStep:
    """One call of a compiled kernel; fields as of `KernelStep`, with a buffer's number where that has an offset."""

    symbol: str
    arguments: tuple[Location, ...]
    dims: tuple[Extent, ...] = ()
    label: str = ""
    origins: tuple[str, ...] = ()
    flops: Extent = 0
    bytes: Extent = 0

    def __post_init__(self) -> None:
        if not self.symbol.isidentifier() or not self.symbol.isascii():
            raise PackageError(f"kernel symbol {self.symbol!r} is not a C identifier")
        if len(self.arguments) > MAX_ARGUMENTS:
            raise PackageError(f"kernel {self.symbol}: {len(self.arguments)} arguments; at most {MAX_ARGUMENTS}")


@dataclass(frozen=True)
class OpenCopy:
    """An output that no step writes, as of `Copy`."""

    output: int
    source: Location
    dtype: str
    shape: tuple[Extent, ...]


@dataclass(frozen=True)
class OpenVariant:
    """The program for every binding of the symbols within ranges, on one instruction set.

    Attributes:
        isa: Which code member holds its kernels.
        ranges: The values of each symbol that its kernels were made for.
        equal: What symbols that follow from others have to be.
        inputs: Input shapes, in the model's order.
        outputs: Output shapes.
        buffers: What lies in the arena.
        steps: In order of execution.
        copies: Outputs that no step writes.
    """

    isa: str
    ranges: Mapping[str, SymbolRange]
    inputs: tuple[tuple[Extent, ...], ...]
    outputs: tuple[tuple[Extent, ...], ...]
    buffers: tuple[OpenBuffer, ...]
    steps: tuple[OpenStep, ...]
    copies: tuple[OpenCopy, ...] = ()
    equal: Mapping[str, Extent] = field(default_factory=dict)

    def __post_init__(self) -> None:
        for shape in (*self.inputs, *self.outputs):
            check_extents(shape, "shape of an open variant")
        for buffer in self.buffers:
            if not 0 <= buffer.start <= buffer.end <= len(self.steps):
                raise PackageError(f"buffer {buffer.name!r} lives from step {buffer.start} to {buffer.end}")
        for extent in (*self.extents, *self.equal.values()):
            for symbol in symbols_of(extent):
                if symbol not in self.ranges:
                    raise PackageError(f"{extent!r} is over {symbol!r}, which has no range")

    @cached_property
    def free(self) -> tuple[str, ...]:
        """The symbols that do not follow from others, those that go in steps among them."""
        return tuple(n for n in self.ranges if n not in self.equal or set(symbols_of(self.equal[n])) == {n})

    @cached_property
    def extents(self) -> tuple[Extent, ...]:
        """Every expression in it, each once."""
        found: list[Extent] = [extent for shape in (*self.inputs, *self.outputs) for extent in shape]
        found += [buffer.size for buffer in self.buffers]
        for step in self.steps:
            found += [*step.dims, step.flops, step.bytes]
        found += [extent for copy in self.copies for extent in copy.shape]
        return tuple(dict.fromkeys(found))

    def __str__(self) -> str:
        own = {name: found for name, found in self.ranges.items() if name not in self.equal}
        text = describe_ranges({name: (found.minimum, found.maximum) for name, found in own.items()})
        return ", ".join([*([text] if own or not self.equal else []), *map(self._derived, sorted(self.equal))])

    def _derived(self, name: str) -> str:
        """What a symbol is over others, or of what number it is a multiple."""
        step = re.fullmatch(rf"([0-9]+)\*\({re.escape(name)}//\1\)", str(self.equal[name]))
        if step is None:
            return f"{name}={self.equal[name]}"
        found = self.ranges[name]
        least = 1 if found.maximum is None and found.minimum <= int(step[1]) else found.minimum
        return f"{describe_ranges({name: (least, found.maximum)})} that {step[1]} divides"

    def takes(self, bindings: Mapping[str, int]) -> bool:
        """Whether its kernels were made for these values, too."""
        return (
            bindings.keys() == self.ranges.keys()
            and all(
                bounds.minimum <= bindings[name] and (bounds.maximum is None or bindings[name] <= bounds.maximum)
                for name, bounds in self.ranges.items()
            )
            and all(evaluate(extent, bindings) == bindings[name] for name, extent in self.equal.items())
        )


def describe_ranges(ranges: Mapping[str, tuple[int, int | None]]) -> str:
    """`any batch, seq in 1..512, width=8`."""

    def text(name: str, low: int, high: int | None) -> str:
        if high is None:
            return f"any {name}" if low <= 1 else f"{name} from {low}"
        return f"{name}={low}" if low == high else f"{name} in {low}..{high}"

    return ", ".join(text(name, low, high) for name, (low, high) in sorted(ranges.items())) or "fixed shapes"


def instantiate(
    variant: OpenVariant, bindings: Mapping[str, int], *, alignment: int = ALIGNMENT, plans: Plans | None = None
) -> Variant:
    """The variant for one binding, its memory planned greedily.

    Args:
        variant: Takes these bindings.
        bindings: A value of each of its symbols.
        alignment: Bytes to which each buffer is aligned: `Code.alignment` of its instruction set.
        plans: Of this variant, kept from binding to binding, with their own alignment.

    Raises:
        InputError: No machine has the memory for it.
        PackageError: An expression divides by zero or is negative where a size is meant.
    """
    values = {extent: evaluate(extent, bindings) for extent in variant.extents}
    sizes = [values[buffer.size] for buffer in variant.buffers]
    if min(sizes, default=0) < 0:
        raise PackageError(f"a buffer of {min(sizes)} bytes")
    if sum(sizes) > LARGEST_ARENA:
        bound = ", ".join(f"{name}={value}" for name, value in sorted(bindings.items()))
        raise InputError(f"with {bound} the model's values take {sum(sizes) / 1e12:,.1f} TB, more than any machine has")
    plan = (plans or Plans(variant, alignment)).plan(bindings, sizes)
    places = [Location("arena", 0, offset) for offset in plan.offsets]

    def place(location: Location) -> Location:
        return places[location.index] if location.kind == "buffer" else location

    def shape(extents: tuple[Extent, ...]) -> tuple[int, ...]:
        return tuple([values[extent] for extent in extents])

    return Variant(
        isa=variant.isa,
        bindings=dict(bindings),
        inputs=tuple(shape(extents) for extents in variant.inputs),
        outputs=tuple(shape(extents) for extents in variant.outputs),
        arena_size=plan.peak,
        lower_bound=plan.lower_bound,
        buffers=tuple(
            BufferPlan(buffer.name, buffer.start, buffer.end, offset, size)
            for buffer, offset, size in zip(variant.buffers, plan.offsets, sizes, strict=True)
        ),
        steps=tuple(
            KernelStep(
                step.symbol,
                tuple([place(location) for location in step.arguments]),
                tuple([values[dim] for dim in step.dims]),
                step.label,
                step.origins,
                values[step.flops],
                values[step.bytes],
            )
            for step in variant.steps
        ),
        copies=tuple(
            Copy(copy.output, HostTensor(place(copy.source), copy.dtype, shape(copy.shape))) for copy in variant.copies
        ),
    )


def check_open(variant: OpenVariant, weights_size: int, inputs: int, outputs: int) -> None:
    """Raises PackageError where a step of an open variant names what is not there."""
    counts = {"buffer": len(variant.buffers), "input": inputs, "output": outputs}
    places = [(location, step.symbol) for step in variant.steps for location in step.arguments]
    places += [(copy.source, f"output {copy.output}") for copy in variant.copies]
    for location, what in places:
        if location.kind == "weight":
            if location.index or location.offset > weights_size:
                raise PackageError(f"{what}: weights at {location.offset} of {weights_size} bytes")
        elif location.index >= counts.get(location.kind, 0) or location.offset:
            raise PackageError(f"{what}: {location.kind} {location.index} does not exist")
    for copy in variant.copies:
        check_not_negative("number of an output", copy.output)
        numpy_dtype(copy.dtype)
        if copy.output >= outputs:
            raise PackageError(f"a copy to output {copy.output}, which does not exist")
