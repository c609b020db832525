"""What a package says about itself: inputs, outputs, symbols, variants with their step tables and memory plans.

Every class here is a frozen dataclass that checks itself when made, so that a manifest read from a damaged file can
name nothing outside its arena, its weights or its slots. `to_json` and `from_json` are inverse to each other.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import ClassVar

from graphc.errors import PackageError
from graphc.package import codec
from graphc.package.expression import symbols_of
from graphc.package.tensor import (
    MAX_BYTES,
    HostTensor,
    Location,
    SymbolRange,
    TensorSpec,
    check_extents,
    check_not_negative,
    numpy_dtype,
)

FORMAT_VERSION = 1
MAX_ARGUMENTS = 40
PARAMETER_ELEMENTS = 64
"""Elements that an input may have for a variant to be keyed by its value."""


@dataclass(frozen=True)
class KernelStep:
    """One call of a compiled kernel.

    Attributes:
        symbol: The kernel's C symbol: `int32_t kernel(const int64_t* dims, void* a0, ..., void* aN-1)`.
        arguments: Where its pointers point, at most 40.
        dims: What `dims` holds.
        label: The kernel's kind for profiles, e.g. `conv3x3+relu`.
        origins: The ONNX nodes it came from.
        flops: Floating-point (or integer) operations of one call, 0 if unknown.
        bytes: Least traffic of one call, 0 if unknown.
    """

    TAG: ClassVar[str] = "kernel"
    symbol: str
    arguments: tuple[Location, ...]
    dims: tuple[int, ...] = ()
    label: str = ""
    origins: tuple[str, ...] = ()
    flops: int = 0
    bytes: int = 0

    def __post_init__(self) -> None:
        if not self.symbol.isidentifier() or not self.symbol.isascii():
            raise PackageError(f"kernel symbol {self.symbol!r} is not a C identifier")
        if len(self.arguments) > MAX_ARGUMENTS:
            raise PackageError(f"kernel {self.symbol}: {len(self.arguments)} arguments; at most {MAX_ARGUMENTS}")
        if any(abs(dim) > MAX_BYTES for dim in self.dims):
            raise PackageError(f"kernel {self.symbol}: a dimension does not fit 63 bits")


@dataclass(frozen=True)
class HostStep:
    """One operator evaluated in NumPy by `graphc.ops.host.evaluate(payload, arrays)`.

    Attributes:
        op_type: ONNX operator name; with `domain` and `version` for reports.
        payload: A serialized ONNX NodeProto, opaque here.
        inputs: Operands; None is an optional input left out.
        outputs: Results.
        label: For profiles.
        origins: The ONNX nodes it came from.
    """

    TAG: ClassVar[str] = "host"
    op_type: str
    domain: str
    version: int
    payload: bytes
    inputs: tuple[HostTensor | None, ...]
    outputs: tuple[HostTensor | None, ...]
    label: str = ""
    origins: tuple[str, ...] = ()


@dataclass(frozen=True)
class Copy:
    """An output that no step writes (an input, a constant, a duplicate, a slot): copied when all steps have run."""

    output: int
    source: HostTensor


@dataclass(frozen=True)
class BufferPlan:
    """One planned buffer, for reports: live in steps [start, end), at `offset` in the arena, of `size` bytes."""

    name: str
    start: int
    end: int
    offset: int
    size: int


@dataclass(frozen=True)
class Variant:
    """The program for one binding of the symbols on one instruction set.

    Attributes:
        isa: Which code member holds its kernels.
        bindings: Value of each symbol.
        values: Bytes of each parameter that its kernels were made for, C-contiguous; of the others, any value will do.
        inputs: Concrete input shapes, in the model's order; None where the input is no tensor.
        outputs: Concrete output shapes; None where known only at run time.
        arena_size: Bytes of the arena.
        lower_bound: The largest sum of live bytes: what no plan can beat.
        buffers: The memory plan, for reports.
        steps: In order of execution.
        copies: Outputs that no step writes.
        objects: Number of object slots.
    """

    isa: str
    bindings: Mapping[str, int]
    inputs: tuple[tuple[int, ...] | None, ...]
    outputs: tuple[tuple[int, ...] | None, ...]
    arena_size: int
    steps: tuple[KernelStep | HostStep, ...]
    lower_bound: int = 0
    buffers: tuple[BufferPlan, ...] = ()
    copies: tuple[Copy, ...] = ()
    objects: int = 0
    values: Mapping[str, bytes] = field(default_factory=dict)

    def __post_init__(self) -> None:
        check_not_negative("arena size", self.arena_size)
        check_not_negative("number of object slots", self.objects)
        for shape in (*self.inputs, *self.outputs):
            check_extents(shape or (), "shape of a variant")

    @property
    def host_steps(self) -> tuple[HostStep, ...]:
        """The steps that run in NumPy."""
        return tuple(step for step in self.steps if isinstance(step, HostStep))


@dataclass(frozen=True)
class Code:
    """A shared library of the package and what it needs.

    Attributes:
        member: Its name in the archive.
        machine: `x86_64` or `aarch64`.
        requires: Instruction-set extensions it uses, in LLVM's names (`avx512f`, `avx512vnni`, `dotprod`).
    """

    member: str
    machine: str
    requires: tuple[str, ...] = ()


@dataclass(frozen=True)
class BatchAxes:
    """Proof that rows are independent: row i of every output depends on row i of the inputs and on nothing else.

    Nor does it depend on how many rows there are, so that requests may share a call and calls may be padded.

    Attributes:
        symbol: The dimension that counts rows.
        inputs: Which axis of each input it is.
        outputs: Which axis of each output it is.
    """

    symbol: str
    inputs: tuple[int, ...]
    outputs: tuple[int, ...]


@dataclass(frozen=True)
class Manifest:
    """The whole of `manifest.json`.

    Attributes:
        model: Name of the model it was compiled from.
        inputs: In the model's order.
        outputs: In the model's order.
        variants: Programs, one per binding and instruction set.
        code: Instruction set to shared library.
        symbols: Range of each symbolic dimension.
        parameters: Inputs whose values decide what runs; their names, in the model's order.
        specializations: Variants that one load may have compiled for values of the parameters that come.
        weights_size: Bytes of the weights region that locations of kind `weight` point into.
        host_steps: Whether any variant has a host step, so that running needs `graphc.ops`.
        options: What the compile was told, for reports.
        versions: Versions of what made it, for reports.
        hashes: sha256 of every other member.
        producer: What wrote the package.
        format_version: Of this format.
        batch: Along which axes rows are independent; None where that was not proved.
    """

    model: str
    inputs: tuple[TensorSpec, ...]
    outputs: tuple[TensorSpec, ...]
    variants: tuple[Variant, ...]
    code: Mapping[str, Code]
    symbols: Mapping[str, SymbolRange] = field(default_factory=dict)
    weights_size: int = 0
    host_steps: bool = False
    options: Mapping[str, str] = field(default_factory=dict)
    versions: Mapping[str, str] = field(default_factory=dict)
    hashes: Mapping[str, str] = field(default_factory=dict)
    producer: str = "graphc"
    format_version: int = FORMAT_VERSION
    batch: BatchAxes | None = None
    parameters: tuple[str, ...] = ()
    specializations: int = 0

    def __post_init__(self) -> None:
        check_not_negative("size of the weights", self.weights_size)
        check_not_negative("number of specializations", self.specializations)
        _check_names(self)
        if self.batch is not None:
            _check_batch(self, self.batch)
        for index, variant in enumerate(self.variants):
            try:
                _check_variant(self, variant)
            except PackageError as error:
                raise PackageError(f"variants[{index}]: {error.message}", hint=error.hint) from error
        if self.host_steps != any(variant.host_steps for variant in self.variants):
            raise PackageError(f"host_steps is {self.host_steps}, which the variants contradict")

    def to_json(self) -> str:
        """Its text: keys sorted, so that equal manifests give equal bytes."""
        return json.dumps(codec.encode(self), sort_keys=True, separators=(",", ":"), ensure_ascii=True)

    @classmethod
    def from_json(cls, text: str | bytes) -> Manifest:
        """The manifest of such a text.

        Raises:
            PackageError: Not JSON, of another format version, or not a manifest; names the place.
        """
        try:
            value = json.loads(text)
        except (ValueError, RecursionError) as error:
            raise PackageError(f"manifest.json is not JSON: {error}", hint="the package is damaged") from error
        version = value.get("format_version") if isinstance(value, dict) else None
        if version != FORMAT_VERSION:
            raise PackageError(
                f"the package has format version {version!r}; this graphc reads version {FORMAT_VERSION}",
                hint="compile the model again with this version of graphc",
            )
        manifest = codec.decode(cls, value, "manifest")
        assert isinstance(manifest, cls)
        return manifest


def _check_names(manifest: Manifest) -> None:
    for what, specs in (("input", manifest.inputs), ("output", manifest.outputs)):
        names = [spec.name for spec in specs]
        if len(set(names)) != len(names):
            raise PackageError(f"two {what}s have one name")
        for spec in specs if what == "input" else ():
            for extent in spec.shape:
                for symbol in symbols_of(extent):
                    if symbol not in manifest.symbols:
                        raise PackageError(f"input {spec.name!r} uses the undeclared symbol {symbol!r}")
    known = {spec.name: spec for spec in manifest.inputs}
    for name in manifest.parameters:
        if name not in known or known[name].dtype == "string":
            raise PackageError(f"parameter {name!r} is no input of numbers")


def _check_batch(manifest: Manifest, batch: BatchAxes) -> None:
    for what, specs, axes in (("input", manifest.inputs, batch.inputs), ("output", manifest.outputs, batch.outputs)):
        if len(axes) != len(specs):
            raise PackageError(f"{len(axes)} batch axes for {len(specs)} {what}s")
        for spec, axis in zip(specs, axes, strict=True):
            if not 0 <= axis < len(spec.shape):
                raise PackageError(f"{what} {spec.name!r} has no axis {axis} to batch along")
            if what == "input" and spec.shape[axis] != batch.symbol:
                raise PackageError(f"axis {axis} of input {spec.name!r} is {spec.shape[axis]}, not {batch.symbol}")


def _check_variant(manifest: Manifest, variant: Variant) -> None:
    if variant.isa not in manifest.code:
        raise PackageError(f"no code for instruction set {variant.isa!r}")
    if set(variant.bindings) != set(manifest.symbols):
        raise PackageError(f"it binds {sorted(variant.bindings)}, the symbols are {sorted(manifest.symbols)}")
    for what, specs, shapes in (
        ("input", manifest.inputs, variant.inputs),
        ("output", manifest.outputs, variant.outputs),
    ):
        if len(specs) != len(shapes):
            raise PackageError(f"{len(shapes)} {what} shapes for {len(specs)} {what}s")
        for spec, shape in zip(specs, shapes, strict=True):
            if (shape is None and what == "input") != (bool(spec.wraps) and what == "input"):
                raise PackageError(f"input {spec.name!r}: shape {shape} for {spec}")
            if shape is not None and len(shape) != len(spec.shape):
                raise PackageError(f"{what} {spec.name!r}: shape {list(shape)} has not the rank of {spec}")
    for name, value in variant.values.items():
        if name not in manifest.parameters:
            raise PackageError(f"it is for a value of {name!r}, which is no parameter")
        position = [spec.name for spec in manifest.inputs].index(name)
        size = math.prod(variant.inputs[position] or ()) * numpy_dtype(manifest.inputs[position].dtype).itemsize
        if len(value) != size:
            raise PackageError(f"{len(value)} bytes are no value of {manifest.inputs[position]}")
    for copy in variant.copies:
        if not 0 <= copy.output < len(manifest.outputs):
            raise PackageError(f"a copy to output {copy.output}, which does not exist")
    limits = _Limits(manifest, variant)
    for index, step in enumerate(variant.steps):
        try:
            if isinstance(step, KernelStep):
                for location in step.arguments:
                    limits.check(location, 0)
            else:
                for operand in (*step.inputs, *step.outputs):
                    if operand is not None:
                        limits.check(operand.location, operand.nbytes)
        except PackageError as error:
            raise PackageError(f"steps[{index}]: {error.message}") from error
    for copy in variant.copies:
        limits.check(copy.source.location, copy.source.nbytes)


class _Limits:
    """How far each region of a variant reaches, in bytes."""

    def __init__(self, manifest: Manifest, variant: Variant) -> None:
        def sizes(specs: tuple[TensorSpec, ...], shapes: tuple[tuple[int, ...] | None, ...]) -> list[int]:
            return [
                MAX_BYTES if shape is None else math.prod(shape) * numpy_dtype(spec.dtype).itemsize
                for spec, shape in zip(specs, shapes, strict=True)
            ]

        self.sizes = {
            "arena": [variant.arena_size],
            "weight": [manifest.weights_size],
            "input": sizes(manifest.inputs, variant.inputs),
            "output": sizes(manifest.outputs, variant.outputs),
            "object": [MAX_BYTES] * min(variant.objects, 1 << 20),
        }

    def check(self, location: Location, nbytes: int) -> None:
        sizes = self.sizes[location.kind]
        if location.index >= len(sizes):
            raise PackageError(f"{location.kind} {location.index} does not exist; there are {len(sizes)}")
        if location.offset + nbytes > sizes[location.index]:
            raise PackageError(
                f"{nbytes} bytes at offset {location.offset} are outside {location.kind} {location.index}"
                f" of {sizes[location.index]} bytes"
            )
