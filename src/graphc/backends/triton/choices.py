"""What can be chosen for a region beyond the cost models: the options that templates read, and which to try."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import lru_cache
from pathlib import Path
from typing import Any

from graphc.backends.conv_product import as_product
from graphc.backends.triton import conv, depthwise, matmul
from graphc.backends.tuning import Choice, TuningDatabase
from graphc.errors import BackendError
from graphc.ir import Graph
from graphc.target import CudaTarget

_SHIPPED = Path(__file__).with_name("tuned")

Alternatives = Callable[[Graph, CudaTarget, frozenset[int], Mapping[str, Any]], list[dict[str, Any]]]


def _mixing(
    body: Graph, target: CudaTarget, constants: frozenset[int], options: Mapping[str, Any]
) -> list[dict[str, Any]]:
    product, _ = as_product(body)
    return matmul.alternatives(product, target, constants, options)


ALTERNATIVES: Mapping[str, Alternatives] = {
    "conv_product": _mixing,
    "depthwise": depthwise.alternatives,
    "conv": conv.alternatives,
    "matmul": matmul.alternatives,
}
"""Templates that can be told how to cut a region, each with the ways worth measuring."""

_FORMS = ("tiles", "rows", "descriptors")


def _is_tile(value: Any, words: int) -> bool:
    """Whether a value is six sizes, and a form after them where there is one word more."""
    if not isinstance(value, list) or len(value) != 6 + words:
        return False
    return all(type(v) is int and 0 < v < 1 << 16 for v in value[:6]) and all(v in _FORMS for v in value[6:])


def _is_power(value: Any) -> bool:
    """Whether a value is a power of two that a block may have elements of."""
    return type(value) is int and 0 < value <= 4096 and not value & (value - 1)


_OPTIONS: Mapping[str, Callable[[Any], bool]] = {
    "template": lambda value: isinstance(value, str) and value in ALTERNATIVES,
    "matmul_tile": lambda value: _is_tile(value, 1),
    "conv_tile": lambda value: _is_tile(value, 0),
    "depthwise_tile": lambda value: isinstance(value, list) and len(value) == 2 and all(map(_is_power, value)),
}


def accepts(choice: Choice) -> bool:
    """Whether each of a choice's options is known and has a value that templates can take."""
    return all(name in _OPTIONS and _OPTIONS[name](value) for name, value in choice.items())


@lru_cache(maxsize=8)
def shipped(isa: str) -> TuningDatabase:
    """What is known of an architecture without any tuning here."""
    return TuningDatabase.read(_SHIPPED / f"{isa}.json", accepts)


def alternatives(
    body: Graph, target: CudaTarget, constants: frozenset[int], options: Mapping[str, Any]
) -> list[Choice]:
    """Choices for a body, the more promising ones of each template first.

    Args:
        body: The region's body.
        target: The GPU.
        constants: Numbers of the body's inputs that are constants.
        options: Of the compile: `precision`.
    """
    found: list[Choice] = []
    for name, offer in ALTERNATIVES.items():
        try:
            found += [{"template": name, **choice} for choice in offer(body, target, constants, options)]
        except BackendError:
            # The template is for other bodies.
            continue
    return found
