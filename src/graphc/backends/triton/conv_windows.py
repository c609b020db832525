"""Where the windows of a convolution lie, as its functions are told."""

from __future__ import annotations

from typing import Any

from graphc.backends.conv_problem import Convolution, Source
from graphc.ir import Dim, TensorType

LIMIT = 1 << 31
"""Indices and offsets of this many have 32 bits."""


def is_wide(extent: Dim) -> bool:
    """Whether offsets of so many elements need 64 bits."""
    return not isinstance(extent, int) or extent >= LIMIT


def window_facts(problem: Convolution, data: TensorType) -> dict[str, Any]:
    """What the texts of convolutions ask of their windows and images."""
    rows, columns = problem.window.output
    return {
        "data": f"in{problem.data}",
        "weights": f"in{problem.weights}",
        "window": problem.window,
        "strides": Source(data, False).strides(),
        "rows": rows,
        "columns": columns,
        "pixels": problem.batch * rows * columns,
        "outputs": problem.outputs,
        "wide": is_wide(data.numel),
    }


def inside_image(problem: Convolution) -> list[str]:
    """Conditions under which what a tap reads is in the image, over `top`, `left`, `down` and `across`."""
    found = []
    extents = (problem.height, problem.width)
    for place, (begin, end), extent in zip(("top + down", "left + across"), problem.border, extents, strict=True):
        found += [f"({place} >= 0)"] if begin else []
        found += [f"({place} < {extent})"] if end else []
    return found
