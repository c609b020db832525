"""Which target this machine is, read from what Linux says about the processor."""

from __future__ import annotations

import os
import platform
from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import lru_cache
from pathlib import Path

from graphc.errors import OptionError
from graphc.target.cpu import CPUS, Target

CPUINFO = Path("/proc/cpuinfo")


@dataclass(frozen=True)
class Processor:
    """What /proc/cpuinfo says of the first processor.

    Args:
        architecture: `x86_64` or `aarch64`, as `platform.machine()` says.
        vendor: `GenuineIntel`, `AuthenticAMD`, or Arm's implementer number in hexadecimal.
        family: x86 family; 0 on Arm.
        model: x86 model, or Arm's part number.
        flags: Features, under Linux's names.
    """

    architecture: str
    vendor: str = ""
    family: int = 0
    model: int = 0
    flags: frozenset[str] = frozenset()


# (vendor, family) -> model ranges, inclusive, and the target each means. A model that several generations share
# (Intel 0x55) is told apart by the features, newest first. Intel's and AMD's identification manuals; LLVM's Host.cpp.
_X86_MODELS: dict[tuple[str, int], tuple[tuple[int, int, tuple[str, ...]], ...]] = {
    ("GenuineIntel", 6): (
        *((model, model, ("haswell",)) for model in (0x3C, 0x3F, 0x45, 0x46)),
        *((model, model, ("broadwell",)) for model in (0x3D, 0x47, 0x4F, 0x56)),
        *((model, model, ("skylake",)) for model in (0x4E, 0x5E, 0x8E, 0x9E, 0xA5, 0xA6)),
        (0x55, 0x55, ("cooperlake", "cascadelake", "skylake-avx512")),
        *((model, model, ("icelake-server",)) for model in (0x6A, 0x6C, 0x7D, 0x7E)),
        *((model, model, ("tigerlake",)) for model in (0x8C, 0x8D)),
        (0xA7, 0xA7, ("rocketlake",)),
        *((model, model, ("alderlake",)) for model in (0x97, 0x9A, 0xAA, 0xAC, 0xB7, 0xBA, 0xBF)),
        (0x8F, 0x8F, ("sapphirerapids",)),
        (0xCF, 0xCF, ("emeraldrapids",)),
        *((model, model, ("graniterapids",)) for model in (0xAD, 0xAE)),
    ),
    ("AuthenticAMD", 0x17): ((0x00, 0x2F, ("znver1",)), (0x30, 0xAF, ("znver2",))),
    ("AuthenticAMD", 0x19): (
        (0x00, 0x0F, ("znver3",)),
        (0x10, 0x1F, ("znver4",)),
        (0x20, 0x5F, ("znver3",)),
        (0x60, 0xAF, ("znver4",)),
    ),
    ("AuthenticAMD", 0x1A): ((0x00, 0xFF, ("znver5", "znver4")),),
}
_ARM_PARTS = {
    ("0x41", 0xD0C): "neoverse-n1",
    ("0x41", 0xD40): "neoverse-v1",
    ("0x41", 0xD49): "neoverse-n2",
    ("0x41", 0xD4F): "neoverse-v2",
}
_LEVELS = {"x86_64": ("x86-64-v4", "x86-64-v3", "x86-64-v2"), "aarch64": ("aarch64", "armv8-a")}
"""What to fall back on where the model is unknown or a hypervisor hides features, best first."""


def read_processor(path: Path = CPUINFO) -> Processor:
    """What this machine's first processor is; only the architecture where `path` cannot be read."""
    architecture = platform.machine()
    try:
        text = path.read_text(errors="replace")
    except OSError:
        return Processor(architecture)
    return parse_cpuinfo(text, architecture)


def parse_cpuinfo(text: str, architecture: str) -> Processor:
    """What the text of /proc/cpuinfo says of its first processor."""
    facts: dict[str, str] = {}
    for line in text.split("\n\n")[0].splitlines():
        key, _, value = line.partition(":")
        facts[key.strip()] = value.strip()
    if architecture == "aarch64":
        part = _integer(facts.get("CPU part", ""))
        flags = frozenset(facts.get("Features", "").split())
        return Processor(architecture, facts.get("CPU implementer", ""), 0, part, flags)
    return Processor(
        architecture,
        facts.get("vendor_id", ""),
        _integer(facts.get("cpu family", "")),
        _integer(facts.get("model", "")),
        frozenset(facts.get("flags", "").split()),
    )


def _integer(text: str) -> int:
    try:
        return int(text, 0)
    except ValueError:
        return 0


def target_of(processor: Processor) -> Target:
    """The most specific target whose every feature `processor` shows.

    Raises:
        OptionError: No target of the table can run on it.
    """
    for isa in _candidates(processor):
        target = CPUS[isa]
        if not target.missing(processor.flags):
            return target
    known = ", ".join(sorted(CPUS))
    raise OptionError(
        f"cannot tell what this machine's processor can do ({processor.architecture}, {len(processor.flags)} flags)",
        hint=f"name the target, e.g. cpu:x86-64-v3; known: {known}",
    )


def _candidates(processor: Processor) -> Iterator[str]:
    if processor.architecture == "aarch64":
        part = _ARM_PARTS.get((processor.vendor, processor.model))
        if part is not None:
            yield part
    else:
        for low, high, names in _X86_MODELS.get((processor.vendor, processor.family), ()):
            if low <= processor.model <= high:
                yield from names
    yield from _LEVELS.get(processor.architecture, ())


@lru_cache(maxsize=1)
def _host() -> Target:
    return target_of(read_processor())


def detect_host() -> Target:
    """The target of this machine, with the cores this process may use.

    Raises:
        OptionError: The processor is older than every target.
    """
    return replace(_host(), cores=len(os.sched_getaffinity(0)))
