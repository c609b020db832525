"""Steps: calls of kernels, operators in NumPy, and the bodies of control flow."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, TypeAlias

from graphc.errors import PackageError
from graphc.package.control import BranchStep, CopyStep, LoopStep, RaiseStep
from graphc.package.tensor import MAX_BYTES, HostTensor, Location

MAX_ARGUMENTS = 40


@dataclass(frozen=True, slots=True)
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
        reason: Why it has no kernel, for reports; empty in packages of before it was told.
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
    reason: str = ""


Step: TypeAlias = KernelStep | HostStep | BranchStep | LoopStep
BodyStep: TypeAlias = KernelStep | CopyStep | RaiseStep | BranchStep | LoopStep


@dataclass(frozen=True)
class Body:
    """Steps that a branch or a loop runs."""

    steps: tuple[BodyStep, ...]
