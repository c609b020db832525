"""Which of the devices here runs a package."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from graphc.errors import DeviceError, GraphcError, OptionError, PackageError
from graphc.package import Code
from graphc.runtime.cpu import choose_isa
from graphc.runtime.engine import Engine
from graphc.runtime.library_engine import LibraryEngine

if TYPE_CHECKING:
    from graphc.runtime.cuda import Device

CUDA = "cuda"


def choose_engine(code: Mapping[str, Code], *, device: str | None, isa: str | None, threads: int) -> Engine:
    """What runs a package here.

    Args:
        code: Of the package's manifest.
        device: `cpu`, `cuda` or `cuda:1`; None is the first GPU that the package has code for, else the CPU.
        isa: Instruction set or architecture, of those in the package; None chooses.
        threads: Of the CPU, that a call may use.

    Raises:
        PackageError: Nothing here runs the package; says what it has code for, and what is here.
        DeviceError: The GPU asked for is not here.
        OptionError: The device is unknown, or the package has no code for `isa`.
    """
    if isa is not None and isa not in code:
        raise OptionError(f"the package has no code for {isa!r}; it has {', '.join(sorted(code))}")
    kind, number = _parse(device)
    wanted = code if isa is None else {isa: code[isa]}
    cuda = [name for name, entry in wanted.items() if entry.kind == CUDA]
    cpu = {name: entry for name, entry in wanted.items() if entry.kind != CUDA}
    if kind == CUDA:
        return _gpu_engine(cuda, code, number, threads)
    if kind is None and cuda:
        try:
            return _gpu_engine(cuda, code, None, threads)
        except GraphcError:
            # What is wrong with the GPU matters where there is nothing else to run.
            if not cpu:
                raise
    if not cpu:
        raise PackageError(
            f"the package has code for {', '.join(sorted(code))}, and none for a CPU",
            hint="load it with device='cuda', or compile with --target cpu,cuda",
        )
    return LibraryEngine(choose_isa(cpu, isa), threads)


def _parse(device: str | None) -> tuple[str | None, int | None]:
    """The kind and number of a device."""
    if device in (None, "cpu", CUDA):
        return device, None
    name, _, number = str(device).partition(":")
    if name != CUDA or not number.isdecimal():
        raise OptionError(f"unknown device {device!r}; expected 'cpu', 'cuda', or a GPU by number such as 'cuda:1'")
    return CUDA, int(number)


def _gpu_engine(architectures: list[str], code: Mapping[str, Code], number: int | None, threads: int) -> Engine:
    """The GPU of this number, or the first that runs one of the architectures."""
    from graphc.runtime.cuda.code import closest
    from graphc.runtime.cuda.device import each_device, open_device
    from graphc.runtime.cuda.engine import CudaEngine

    here: list[Device] = []
    try:
        for device in each_device() if number is None else (open_device(number),):
            if (architecture := closest(architectures, device.capability)) is not None:
                return CudaEngine(device, architecture, threads)
            here.append(device)
    except DeviceError as error:
        raise DeviceError(f"{error.message}; the package has code for {_list(code)}", hint=error.hint) from error
    raise PackageError(
        f"the package has code for {_list(code)}; {_describe(here)}",
        hint=f"compile with --target cuda:sm_{here[0].capability}",
    )


def _list(code: Mapping[str, Code]) -> str:
    return ", ".join(sorted(code)) or "nothing"


def _describe(here: Sequence[Device]) -> str:
    return ", ".join(f"{device} is {device.name} (sm_{device.capability})" for device in here)
