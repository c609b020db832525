"""The file that a compile writes: manifest, kernels, weights. NumPy only."""

from __future__ import annotations

from graphc.package.archive import ALIGNMENT, Member
from graphc.package.control import BranchStep, Carried, CopyStep, Lane, LoopStep, RaiseStep
from graphc.package.cuda import CudaCode, CudaKernel, CudaObject, Launch, cuda_members
from graphc.package.expression import evaluate, symbols_of
from graphc.package.file import MODEL, Package, atomic_file, write_package
from graphc.package.manifest import (
    FORMAT_VERSION,
    PARAMETER_ELEMENTS,
    BatchAxes,
    Code,
    Manifest,
    library_member,
)
from graphc.package.open import OpenBuffer, OpenCopy, OpenStep, OpenVariant, describe_ranges, instantiate
from graphc.package.open_plans import Plans
from graphc.package.safetensors import Blob, WeightsBuilder
from graphc.package.steps import MAX_ARGUMENTS, Body, BodyStep, HostStep, KernelStep, Step
from graphc.package.tensor import (
    MAP_KEYS,
    OPTIONAL,
    SEQUENCE,
    HostTensor,
    Location,
    SymbolRange,
    TensorSpec,
    numpy_dtype,
)
from graphc.package.values import format_value, format_values, parameter_values
from graphc.package.variant import BufferPlan, Copy, Variant

__all__ = [
    "ALIGNMENT",
    "FORMAT_VERSION",
    "MAP_KEYS",
    "MAX_ARGUMENTS",
    "MODEL",
    "OPTIONAL",
    "PARAMETER_ELEMENTS",
    "SEQUENCE",
    "BatchAxes",
    "Blob",
    "Body",
    "BodyStep",
    "BranchStep",
    "BufferPlan",
    "Carried",
    "Code",
    "Copy",
    "CopyStep",
    "CudaCode",
    "CudaKernel",
    "CudaObject",
    "HostStep",
    "HostTensor",
    "KernelStep",
    "Lane",
    "Launch",
    "Location",
    "LoopStep",
    "Manifest",
    "Member",
    "OpenBuffer",
    "OpenCopy",
    "OpenStep",
    "OpenVariant",
    "Package",
    "Plans",
    "RaiseStep",
    "Step",
    "SymbolRange",
    "TensorSpec",
    "Variant",
    "WeightsBuilder",
    "atomic_file",
    "cuda_members",
    "describe_ranges",
    "evaluate",
    "format_value",
    "format_values",
    "instantiate",
    "library_member",
    "numpy_dtype",
    "parameter_values",
    "symbols_of",
    "write_package",
]
