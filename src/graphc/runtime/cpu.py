"""What this machine's CPU can run, and how many threads to use on it."""

from __future__ import annotations

import os
import platform
from collections.abc import Mapping
from functools import cache
from pathlib import Path

from graphc.errors import OptionError, PackageError
from graphc.package import Code

MAX_THREADS = 64
_CPUINFO = Path("/proc/cpuinfo")
# LLVM's names where the kernel's differ in more than dots and underscores.
_ALIASES = {
    "sse3": "pni",
    "bmi": "bmi1",
    "pclmul": "pclmulqdq",
    "rdrnd": "rdrand",
    "lzcnt": "abm",
    "sahf": "lahflm",
    "64bit": "lm",
    "crc32": "sse42",
    "neon": "asimd",
    "fparmv8": "fp",
    "dotprod": "asimddp",
    "fullfp16": "asimdhp",
    "fp16fml": "asimdfhm",
    "rdm": "asimdrdm",
    "lse": "atomics",
    "sha": "shani",
    "prfchw": "3dnowprefetch",
}


def machine() -> str:
    """This machine's architecture as packages name it: `x86_64` or `aarch64`."""
    name = platform.machine().lower()
    return {"amd64": "x86_64", "arm64": "aarch64"}.get(name, name)


@cache
def processor() -> str:
    """This machine's processor, by the name that the kernel has for it."""
    try:
        lines = _CPUINFO.read_text().splitlines()
    except OSError:
        lines = []
    name = next((line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")), "")
    return f"{platform.machine()} {name}".strip()


def _plain(name: str) -> str:
    return name.lower().replace("_", "").replace(".", "").replace("-", "")


@cache
def features() -> frozenset[str] | None:
    """Instruction-set extensions as the kernel names them, without punctuation; None where it does not say."""
    try:
        text = _CPUINFO.read_text()
    except OSError:
        return None
    for line in text.splitlines():
        key, _, value = line.partition(":")
        if key.strip() in ("flags", "Features"):
            return frozenset(_plain(flag) for flag in value.split())
    return None


def missing_features(code: Code) -> tuple[str, ...]:
    """What `code` needs and this machine lacks; empty where it runs, or where the machine does not say."""
    if code.machine != machine():
        return (code.machine,)
    known = features()
    if known is None:
        return ()
    plain = {name: _plain(name) for name in code.requires}
    return tuple(name for name, key in plain.items() if key not in known and _ALIASES.get(key, key) not in known)


def choose_isa(code: Mapping[str, Code], wanted: str | None = None) -> str:
    """The instruction set to run: the richest of the package that this machine has.

    Args:
        code: Of a manifest.
        wanted: Use this one instead.

    Raises:
        PackageError: This machine runs none of them, or not `wanted`; says what it lacks.
        OptionError: The package has no code for `wanted`.
    """
    if wanted is not None and wanted not in code:
        raise OptionError(f"the package has no code for {wanted!r}; it has {', '.join(sorted(code))}")
    names = [wanted] if wanted is not None else sorted(code, key=lambda name: (-len(code[name].requires), name))
    lacking = {name: missing_features(code[name]) for name in names}
    for name, missing in lacking.items():
        if not missing:
            return name
    needs = "; ".join(f"{name} needs {', '.join(missing)}" for name, missing in lacking.items())
    raise PackageError(
        f"this {machine()} machine cannot run the package: {needs or 'it has no code'}",
        hint="compile for this machine with --target cpu, or for an older one, e.g. --target cpu:x86-64-v3",
    )


def thread_count(threads: int | None) -> int:
    """How many threads a call may use.

    Args:
        threads: As asked for; None is `GRAPHC_NUM_THREADS`, else the CPUs that this process may run on.

    Raises:
        OptionError: Not a positive integer.
    """
    value: object = threads
    what = "threads"
    if threads is None and (text := os.environ.get("GRAPHC_NUM_THREADS", "").strip()):
        what = "GRAPHC_NUM_THREADS"
        value = int(text) if text.isdecimal() else text
    elif threads is None:
        value = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    if type(value) is not int or value < 1:
        raise OptionError(f"{what} is {value!r}; expected a positive integer")
    return min(value, MAX_THREADS)
