"""CUDA targets: one table of architectures and what kernels may assume of each.

Shared memory and registers are those of the "Technical Specifications per Compute Capability" table of NVIDIA's CUDA
programming guide; processors and bandwidths those of the data sheet of the architecture's best known card.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import ClassVar

WARP = 32
"""Threads of a warp, on every architecture."""

REGISTERS = 255
"""32-bit registers that one thread may have, on every architecture."""


@dataclass(frozen=True)
class CudaTarget:
    """A GPU that kernels are compiled for.

    Args:
        name: What a user types, e.g. `cuda:sm_90`.
        architecture: Compute capability, e.g. `sm_90`.
        shared_bytes: Shared memory that one block may ask for.
        processors: Multiprocessors that work is split for; a hint, any number runs.
    """

    name: str
    architecture: str
    shared_bytes: int
    processors: int

    kind: ClassVar[str] = "cuda"
    alignment: ClassVar[int] = 256
    """Bytes to which every buffer is aligned, as the driver's own allocations are."""

    @property
    def isa(self) -> str:
        """Key of the target's code in a package: the architecture."""
        return self.architecture

    @property
    def capability(self) -> int:
        """Compute capability as Triton and the driver count it: 80, 90, 120."""
        return int(self.architecture.removeprefix("sm_"))

    @property
    def has_tensor_memory_access(self) -> bool:
        """Whether blocks of a tensor are copied to shared memory by one instruction (TMA)."""
        return self.capability >= 90

    def __str__(self) -> str:
        return self.name


def _target(architecture: str, shared_bytes: int, processors: int) -> CudaTarget:
    return CudaTarget(f"cuda:{architecture}", architecture, shared_bytes, processors)


_TABLE = (
    # Before sm_80 there are no asynchronous copies, bfloat16 or tf32, and Triton's products do not use tensor cores.
    _target("sm_80", 166_912, 108),  # A100
    _target("sm_86", 101_376, 84),  # A40, RTX 3090
    _target("sm_87", 166_912, 16),  # Jetson Orin
    _target("sm_89", 101_376, 142),  # L40S, RTX 4090
    _target("sm_90", 232_448, 132),  # H100, H200
    _target("sm_100", 232_448, 148),  # B200
    _target("sm_103", 232_448, 148),  # B300
    _target("sm_120", 101_376, 170),  # RTX 5090
)

GPUS: Mapping[str, CudaTarget] = MappingProxyType({target.architecture: target for target in _TABLE})
"""Every CUDA target by its architecture's name, oldest first."""
