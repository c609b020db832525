"""The file that a compile writes: manifest, kernels, weights. NumPy only."""

from __future__ import annotations

from graphc.package.archive import ALIGNMENT, Member
from graphc.package.expression import evaluate, symbols_of
from graphc.package.file import MODEL, Package, atomic_file, write_package
from graphc.package.manifest import (
    FORMAT_VERSION,
    MAX_ARGUMENTS,
    BufferPlan,
    Code,
    Copy,
    HostStep,
    KernelStep,
    Manifest,
    Variant,
)
from graphc.package.safetensors import Blob, WeightsBuilder
from graphc.package.tensor import HostTensor, Location, SymbolRange, TensorSpec, numpy_dtype

__all__ = [
    "ALIGNMENT",
    "FORMAT_VERSION",
    "MAX_ARGUMENTS",
    "MODEL",
    "Blob",
    "BufferPlan",
    "Code",
    "Copy",
    "HostStep",
    "HostTensor",
    "KernelStep",
    "Location",
    "Manifest",
    "Member",
    "Package",
    "SymbolRange",
    "TensorSpec",
    "Variant",
    "WeightsBuilder",
    "atomic_file",
    "evaluate",
    "numpy_dtype",
    "symbols_of",
    "write_package",
]
