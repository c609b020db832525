"""Targets by the names that users type: `cpu`, `cpu:x86-64-v3`, `cuda:sm_90`, several with commas between."""

from __future__ import annotations

import difflib
from typing import TypeAlias

from graphc.errors import OptionError
from graphc.target.cpu import CPUS, Target
from graphc.target.cuda import GPUS, CudaTarget
from graphc.target.host import detect_host

AnyTarget: TypeAlias = Target | CudaTarget
"""What a compile may be for. Both have `name`, `kind` (`cpu` or `cuda`), `isa` and `alignment`."""


def known_names() -> tuple[str, ...]:
    """Every name that `parse_target` reads."""
    return ("cpu", *(target.name for target in CPUS.values()), "cuda", *(target.name for target in GPUS.values()))


def parse_target(name: str) -> AnyTarget:
    """The target called `name`; `cpu` is this machine's CPU.

    Raises:
        OptionError: There is no such target, it is several (`cuda`), or this machine's CPU is older than every target.
    """
    found = _named(name)
    if len(found) > 1:
        raise OptionError(f"{name.strip()!r} is several targets: {', '.join(target.name for target in found)}")
    return found[0]


COMMON_GPUS = ("sm_80", "sm_90")
"""What `cuda` means: the architectures of data centers."""


def _named(name: str) -> tuple[AnyTarget, ...]:
    """The targets that a name stands for."""
    text = name.strip().lower()
    if text == "cpu":
        return (detect_host(),)
    if text == "cuda":
        return tuple(GPUS[architecture] for architecture in COMMON_GPUS)
    kind, _, detail = text.partition(":")
    if kind == "cpu" and detail in CPUS:
        return (CPUS[detail],)
    if kind == "cuda" and detail in GPUS:
        return (GPUS[detail],)
    known = known_names()
    near = difflib.get_close_matches(text, known, n=1) or difflib.get_close_matches(f"cpu:{text}", known, n=1)
    raise OptionError(
        f"unknown target {name.strip()!r}; known: {', '.join(known)}",
        hint=f"did you mean {near[0]}?" if near else None,
    )


def parse_targets(text: str) -> tuple[AnyTarget, ...]:
    """The targets that `text` names, with commas between, each once and in order.

    Raises:
        OptionError: A name is unknown, or there is none.
    """
    names = [part for part in text.split(",") if part.strip()]
    if not names:
        raise OptionError("no target is named", hint="use cpu for this machine's CPU")
    found: dict[str, AnyTarget] = {}
    for name in names:
        for target in _named(name):
            found.setdefault(target.name, target)
    return tuple(found.values())
