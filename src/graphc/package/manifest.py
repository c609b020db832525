"""What a package says about itself: inputs, outputs, symbols, variants with their step tables and memory plans.

Every class here is a frozen dataclass that checks itself when made, so that a manifest read from a damaged file can
name nothing outside its arena, its weights or its slots. `to_json` and `from_json` are inverse to each other.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from graphc.errors import PackageError
from graphc.package import codec
from graphc.package.archive import ALIGNMENT
from graphc.package.cuda import CUDA, CUDA_ALIGNMENT
from graphc.package.expression import symbols_of
from graphc.package.limits import Limits
from graphc.package.open import OpenStep, OpenVariant, check_open
from graphc.package.steps import KernelStep
from graphc.package.tensor import SymbolRange, TensorSpec, check_not_negative, numpy_dtype
from graphc.package.variant import Variant

FORMAT_VERSION = 1
PARAMETER_ELEMENTS = 64
"""Elements that an input may have for a variant to be keyed by its value."""


@dataclass(frozen=True)
class Code:
    """The kernels of one target and what they need.

    Attributes:
        member: Name in the archive: of a shared library, or of a GPU's `kernels.json`, which names its cubins.
        machine: `x86_64` or `aarch64`, or `cuda`.
        requires: Instruction-set extensions it uses, in LLVM's names (`avx512f`, `avx512vnni`, `dotprod`); of a GPU,
            its architecture.
    """

    member: str
    machine: str
    requires: tuple[str, ...] = ()

    @property
    def kind(self) -> str:
        """Of what it runs on: `cpu` or `cuda`."""
        return CUDA if self.machine == CUDA else "cpu"

    @property
    def alignment(self) -> int:
        """Bytes to which each buffer of its programs is aligned."""
        return CUDA_ALIGNMENT if self.machine == CUDA else ALIGNMENT


def library_member(isa: str) -> str:
    """What the shared library of an instruction set is called in a package."""
    return f"cpu/{isa}/model.so"


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
        code: Kernels by instruction set, or a GPU's architecture.
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
        open: Programs for any extents within ranges.
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
    open: tuple[OpenVariant, ...] = ()

    def __post_init__(self) -> None:
        check_not_negative("size of the weights", self.weights_size)
        check_not_negative("number of specializations", self.specializations)
        _check_names(self)
        _check_architectures(self)
        if self.batch is not None:
            _check_batch(self, self.batch)
        for index, variant in enumerate(self.variants):
            try:
                _check_variant(self, variant)
            except PackageError as error:
                raise PackageError(f"variants[{index}]: {error.message}", hint=error.hint) from error
        for index, program in enumerate(self.open):
            try:
                _check_open(self, program)
            except PackageError as error:
                raise PackageError(f"open[{index}]: {error.message}", hint=error.hint) from error
        if self.host_steps != any(variant.host_steps for variant in self.variants):
            raise PackageError(f"host_steps is {self.host_steps}, which the variants contradict")

    def target(self, isa: str) -> str:
        """What a user calls the target whose code is that of `isa`: `cpu:x86-64-v3`, `cuda:sm_90`."""
        return f"{self.code[isa].kind}:{isa}"

    def kernel_steps(self, isa: str) -> Iterator[KernelStep | OpenStep]:
        """Every call of a kernel of an instruction set, over all variants."""
        for variant in self.variants:
            if variant.isa == isa:
                yield from variant.kernel_steps
        for program in self.open:
            if program.isa == isa:
                yield from program.steps

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
            if not spec.ranked:
                raise PackageError(f"input {spec.name!r} has no rank")
            for extent in spec.shape:
                for symbol in symbols_of(extent):
                    if symbol not in manifest.symbols:
                        raise PackageError(f"input {spec.name!r} uses the undeclared symbol {symbol!r}")
    known = {spec.name: spec for spec in manifest.inputs}
    for name in manifest.parameters:
        if name not in known or known[name].dtype == "string":
            raise PackageError(f"parameter {name!r} is no input of numbers")


def _check_architectures(manifest: Manifest) -> None:
    for name, code in manifest.code.items():
        if code.kind == CUDA and not re.fullmatch("sm_[0-9]{2,4}", name):
            raise PackageError(f"code of a GPU for {name!r}; expected an architecture such as 'sm_90'")


def _check_batch(manifest: Manifest, batch: BatchAxes) -> None:
    for what, specs, axes in (("input", manifest.inputs, batch.inputs), ("output", manifest.outputs, batch.outputs)):
        if len(axes) != len(specs):
            raise PackageError(f"{len(axes)} batch axes for {len(specs)} {what}s")
        for spec, axis in zip(specs, axes, strict=True):
            if not 0 <= axis < len(spec.shape):
                raise PackageError(f"{what} {spec.name!r} has no axis {axis} to batch along")
            if what == "input" and spec.shape[axis] != batch.symbol:
                raise PackageError(f"axis {axis} of input {spec.name!r} is {spec.shape[axis]}, not {batch.symbol}")


def _shapes(manifest: Manifest, variant: Variant | OpenVariant) -> Iterator[tuple[str, TensorSpec, Any]]:
    """What each shape of a variant is of: an input or an output, which, and the shape."""
    for what, specs, shapes in (
        ("input", manifest.inputs, variant.inputs),
        ("output", manifest.outputs, variant.outputs),
    ):
        if len(specs) != len(shapes):
            raise PackageError(f"{len(shapes)} {what} shapes for {len(specs)} {what}s")
        for spec, shape in zip(specs, shapes, strict=True):
            yield what, spec, shape


def _check_open(manifest: Manifest, variant: OpenVariant) -> None:
    if variant.isa not in manifest.code:
        raise PackageError(f"no code for instruction set {variant.isa!r}")
    if set(variant.ranges) != set(manifest.symbols):
        raise PackageError(f"it is over {sorted(variant.ranges)}, the symbols are {sorted(manifest.symbols)}")
    for what, spec, shape in _shapes(manifest, variant):
        if spec.wraps or (spec.ranked and len(shape) != len(spec.shape)):
            raise PackageError(f"{what} {spec.name!r}: shape {list(shape)} has not the rank of {spec}")
    check_open(variant, manifest.weights_size, len(manifest.inputs), len(manifest.outputs))


def _check_variant(manifest: Manifest, variant: Variant) -> None:
    if variant.isa not in manifest.code:
        raise PackageError(f"no code for instruction set {variant.isa!r}")
    if set(variant.bindings) != set(manifest.symbols):
        raise PackageError(f"it binds {sorted(variant.bindings)}, the symbols are {sorted(manifest.symbols)}")
    for what, spec, shape in _shapes(manifest, variant):
        if what == "input" and (shape is None) != bool(spec.wraps):
            raise PackageError(f"input {spec.name!r}: shape {shape} for {spec}")
        if shape is not None and spec.ranked and len(shape) != len(spec.shape):
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
    limits = Limits(manifest, variant)
    for index, step in enumerate(variant.steps):
        try:
            limits.check_step(step, -1)
        except PackageError as error:
            raise PackageError(f"steps[{index}]: {error.message}") from error
    for number, body in enumerate(variant.bodies):
        for index, inner in enumerate(body.steps):
            try:
                limits.check_step(inner, number)
            except PackageError as error:
                raise PackageError(f"bodies[{number}].steps[{index}]: {error.message}") from error
    for copy in variant.copies:
        limits.check(copy.source.location, copy.source.nbytes)
