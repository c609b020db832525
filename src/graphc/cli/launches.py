"""What kernels of a GPU launch, as `inspect` shows it: read from the package and its cubins, with no GPU here."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from graphc.backends.triton.elf import resources_of
from graphc.cli.table import size
from graphc.errors import GraphcError
from graphc.package import KernelStep, Package, Variant, evaluate
from graphc.package.cuda import CudaCode, Launch


@dataclass(frozen=True)
class LaunchUse:
    """One launch of a kernel.

    Args:
        function: Its name in the cubin.
        grid: Blocks along x, y and z, in the kernel's first step.
        threads: Of a block.
        shared: Bytes of dynamic shared memory of a block.
        scratch: Bytes of scratch memory of a block.
        registers: Of a thread; None where the cubin does not say.
        spilled: Bytes of a thread's local memory, which registers were spilled to; None likewise.
    """

    function: str
    grid: tuple[int, int, int]
    threads: int
    shared: int
    scratch: int
    registers: int | None
    spilled: int | None

    def __str__(self) -> str:
        extents = list(self.grid)
        while len(extents) > 1 and extents[-1] == 1:
            extents.pop()
        parts = [f"{'×'.join(map(str, extents))} blocks of {self.threads}"]
        if self.shared:
            parts.append(f"{size(self.shared)} shared")
        if self.registers is not None:
            parts.append(f"{self.registers} registers")
        if self.spilled:
            parts.append(f"{self.spilled} B spilled")
        return ", ".join(parts)

    def to_json(self) -> dict[str, Any]:
        """As plain data."""
        return dict(vars(self))


def launches_of(package: Package, variant: Variant) -> dict[str, list[LaunchUse]]:
    """What each kernel of a variant launches, by its symbol; nothing where it runs on a CPU.

    Raises:
        PackageError: The code is damaged.
    """
    if package.manifest.code[variant.isa].kind != "cuda":
        return {}
    reader = _Reader(package, variant.isa)
    found: dict[str, list[LaunchUse]] = {}
    for step in variant.kernel_steps:
        if step.symbol not in found:
            found[step.symbol] = reader.launches(step)
    return found


class _Reader:
    def __init__(self, package: Package, architecture: str) -> None:
        self.package, self.architecture = package, architecture
        self.code: CudaCode = package.cuda(architecture)
        self._resources: dict[str, tuple[int | None, int | None]] = {}

    def launches(self, step: KernelStep) -> list[LaunchUse]:
        dims = {f"d{number}": value for number, value in enumerate(step.dims)}
        return [
            LaunchUse(
                launch.function,
                _grid(launch, dims),
                launch.threads,
                launch.shared,
                launch.scratch,
                *self._resources_of(launch.cubin),
            )
            for launch in self.code.kernels[step.symbol].launches
        ]

    def _resources_of(self, cubin: str) -> tuple[int | None, int | None]:
        """Registers and spilled bytes of a cubin's function."""
        if cubin not in self._resources:
            data = self.package.cubin(self.architecture, cubin)
            try:
                found = resources_of(data)
                self._resources[cubin] = found.registers, found.stack
            except GraphcError:
                # Another backend's: it need not say what ptxas says.
                self._resources[cubin] = None, None
        return self._resources[cubin]


def _grid(launch: Launch, dims: dict[str, int]) -> tuple[int, int, int]:
    x, y, z = (evaluate(extent, dims) for extent in launch.grid)
    return x, y, z
