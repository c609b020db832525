"""What a GPU's processors do in a clock, and how many blocks one holds: the numbers under the cost models.

Peak rates, clocks and bandwidths are those of the data sheets of the cards that `target.cuda` names; registers, threads
and shared memory those of the "Technical Specifications per Compute Capability" table of NVIDIA's CUDA programming
guide. They rank candidates; nothing depends on their being exact.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Literal, TypeAlias

from graphc.target.cuda import REGISTERS, WARP, CudaTarget

Arithmetic: TypeAlias = Literal["half", "tf32", "single", "double", "byte"]
"""What multiplies: tensor cores of 16-bit floats, of tf32, of doubles and of bytes; lanes of singles."""

LAUNCH_SECONDS = 2e-6
"""From the end of one kernel to the first work of the next one inside a CUDA graph."""

FILL_CLOCKS = 1_500
"""From the start of a block to its first product, and from its last to its end."""

LATENCY_CLOCKS = 700
"""From asking for a line of memory to having it, on a busy machine."""

_REGISTER_FILE = 65_536
_BLOCKS = 32


@dataclass(frozen=True)
class Rates:
    """What an architecture does.

    Args:
        clock: Per second.
        memory: Bytes a second from the GPU's memory.
        macs: Multiply-adds of one processor in a clock.
        threads: Most threads that a processor holds.
        shared_bytes: Shared memory of a processor.
        cache: Bytes that a processor gets from L2 in a clock.
    """

    clock: float
    memory: float
    macs: Mapping[Arithmetic, int]
    threads: int = 1536
    shared_bytes: int = 102_400
    cache: int = 40


def _macs(half: int, tf32: int, single: int, double: int, byte: int) -> Mapping[Arithmetic, int]:
    return MappingProxyType({"half": half, "tf32": tf32, "single": single, "double": double, "byte": byte})


_RATES: Mapping[int, Rates] = MappingProxyType(
    {
        80: Rates(1.41e9, 2.0e12, _macs(1024, 512, 64, 64, 2048), 2048, 167_936),
        86: Rates(1.74e9, 0.7e12, _macs(512, 256, 128, 2, 1024)),
        87: Rates(1.30e9, 0.2e12, _macs(512, 256, 128, 2, 1024), 1536, 167_936),
        89: Rates(2.52e9, 0.86e12, _macs(512, 256, 128, 2, 1024)),
        90: Rates(1.83e9, 3.35e12, _macs(2048, 1024, 128, 128, 4096), 2048, 233_472),
        100: Rates(1.85e9, 8.0e12, _macs(4096, 2048, 128, 64, 8192), 2048, 233_472),
        103: Rates(1.85e9, 8.0e12, _macs(4096, 2048, 128, 2, 256), 2048, 233_472),
        120: Rates(2.40e9, 1.79e12, _macs(512, 128, 128, 2, 1024)),
    }
)


def rates_of(target: CudaTarget) -> Rates:
    """The rates of a target's architecture; of the newest one before it where it is not in the table."""
    return _RATES[max(known for known in _RATES if known <= max(target.capability, min(_RATES)))]


def resident_blocks(target: CudaTarget, shared: int, warps: int, registers: int) -> int:
    """How many blocks a processor holds at once; 0 where it cannot hold one.

    Args:
        target: The GPU.
        shared: Bytes of shared memory of a block.
        warps: Of a block.
        registers: Of a thread.
    """
    rates = rates_of(target)
    if shared > target.shared_bytes or registers > REGISTERS:
        return 0
    threads = warps * WARP
    # Each block costs 1 KiB of shared memory beside its own.
    limits = [_BLOCKS, rates.threads // threads, _REGISTER_FILE // (threads * registers)]
    return min(*limits, rates.shared_bytes // (shared + 1024))
