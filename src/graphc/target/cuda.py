"""CUDA targets: an architecture's name and what follows from it."""

from __future__ import annotations

from dataclasses import dataclass

ARCHITECTURES = ("sm_75", "sm_80", "sm_86", "sm_87", "sm_89", "sm_90", "sm_100", "sm_103", "sm_120")
"""Compute capabilities that kernels can be compiled for, oldest first."""


@dataclass(frozen=True)
class CudaTarget:
    """A GPU that kernels are compiled for.

    Args:
        name: What a user types: `cuda`, `cuda:sm_90`.
        architecture: Compute capability, e.g. `sm_90`; None for that of the device which is there when compiling.
    """

    name: str
    architecture: str | None

    def __str__(self) -> str:
        return self.name
