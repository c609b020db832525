"""What can be chosen for a region beyond the cost model: the options that templates read, and which to try."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import lru_cache
from pathlib import Path
from typing import Any

from graphc.backends.tuning import Choice, TuningDatabase
from graphc.backends.tvm import conv, depthwise, gemm, winograd
from graphc.backends.tvm.partial_sums import LONG, SHORT_STEPS
from graphc.errors import BackendError
from graphc.ir import Graph
from graphc.target import Target

_SHIPPED = Path(__file__).with_name("tuned")

Alternatives = Callable[[Graph, Target, frozenset[int]], list[dict[str, Any]]]

ALTERNATIVES: Mapping[str, Alternatives] = {
    "depthwise": depthwise.alternatives,
    "winograd": winograd.alternatives,
    "conv": conv.alternatives,
    "gemm": gemm.alternatives,
}
"""Templates that can be told how to cut a region, each with the ways worth measuring."""


def _extents(count: int) -> Callable[[Any], bool]:
    return lambda value: (
        isinstance(value, list) and len(value) == count and all(type(v) is int and 0 < v < 1 << 16 for v in value)
    )


_OPTIONS: Mapping[str, Callable[[Any], bool]] = {
    "template": lambda value: isinstance(value, str) and value in ALTERNATIVES,
    "conv_tile": _extents(3),
    "conv_order": lambda value: value in ("rows", "channels"),
    "depthwise_tile": _extents(2),
    "tile": _extents(2),
    "part": lambda value: type(value) is int and value in (SHORT_STEPS, LONG),
    "winograd_size": lambda value: type(value) is int and value in (2, 4),
    "winograd_order": lambda value: value in ("tiles", "channels"),
}


def accepts(choice: Choice) -> bool:
    """Whether each of a choice's options is known and has a value that templates can take."""
    return all(name in _OPTIONS and _OPTIONS[name](value) for name, value in choice.items())


@lru_cache(maxsize=8)
def shipped(isa: str) -> TuningDatabase:
    """What is known of an instruction set without any tuning here."""
    return TuningDatabase.read(_SHIPPED / f"{isa}.json", accepts)


def alternatives(body: Graph, target: Target, constants: frozenset[int], options: Mapping[str, Any]) -> list[Choice]:
    """Choices for a body, the more promising ones of each template first.

    Args:
        body: The region's body.
        target: The CPU.
        constants: Numbers of the body's inputs that are constants.
        options: Of the compile: `winograd`.
    """
    found: list[Choice] = []
    for name, offer in ALTERNATIVES.items():
        if name == "winograd" and not options.get("winograd", True):
            continue
        try:
            found += [{"template": name, **choice} for choice in offer(body, target, constants)]
        except BackendError:
            # The template is for other bodies.
            continue
    return found
