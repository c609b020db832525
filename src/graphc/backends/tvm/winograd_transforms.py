"""The small linear transforms of Winograd convolution: F(2x2, 3x3) and F(4x4, 3x3).

A tile of `size` x `size` results of a 3x3 convolution is `A^T [(G g G^T) * (B^T d B)] A`, with the products taken
element by element (A. Lavin, S. Gray, "Fast Algorithms for Convolutional Neural Networks", 2015). The one-dimensional
forms below share sums and differences between rows of B^T and of A^T.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from tvm.tirx.script.builder import ir as T

from graphc.backends.base import Packing
from graphc.backends.tvm.conv_weights import DirectWeights
from graphc.backends.tvm.tir import Expr, bind, broadcast, lanes_of

Apply = Callable[[Sequence[Expr]], list[Expr]]
"""Multiplies a column of vectors by a fixed matrix."""


@dataclass(frozen=True)
class Transform:
    """One member of the family.

    Args:
        size: Results along each axis of a tile.
        input: Multiplication by B^T.
        output: Multiplication by A^T.
        filter: G.
    """

    size: int
    input: Apply
    output: Apply
    filter: tuple[tuple[float, ...], ...]

    @property
    def reach(self) -> int:
        """Inputs along each axis of a tile."""
        return self.size + 2

    @property
    def points(self) -> int:
        """Products of a tile, channel and output channel."""
        return self.reach * self.reach


def _times(value: Expr, factor: float) -> Expr:
    return value * broadcast(T.float32(factor), lanes_of(value))


def _input_2(d: Sequence[Expr]) -> list[Expr]:
    return [d[0] - d[2], d[1] + d[2], d[2] - d[1], d[1] - d[3]]


def _output_2(m: Sequence[Expr]) -> list[Expr]:
    return [m[0] + m[1] + m[2], m[1] - m[2] - m[3]]


def _input_4(d: Sequence[Expr]) -> list[Expr]:
    even, odd = bind(d[4] - _times(d[2], 4)), bind(d[3] - _times(d[1], 4))
    outer, inner = bind(d[4] - d[2]), bind(d[3] - d[1])
    return [
        _times(d[0], 4) - _times(d[2], 5) + d[4],
        even + odd,
        even - odd,
        outer + _times(inner, 2),
        outer - _times(inner, 2),
        _times(d[1], 4) - _times(d[3], 5) + d[5],
    ]


def _output_4(m: Sequence[Expr]) -> list[Expr]:
    sum_1, difference_1 = bind(m[1] + m[2]), bind(m[1] - m[2])
    sum_2, difference_2 = bind(m[3] + m[4]), bind(m[3] - m[4])
    return [
        m[0] + sum_1 + sum_2,
        difference_1 + _times(difference_2, 2),
        sum_1 + _times(sum_2, 4),
        difference_1 + _times(difference_2, 8) + m[5],
    ]


F2 = Transform(2, _input_2, _output_2, ((1, 0, 0), (0.5, 0.5, 0.5), (0.5, -0.5, 0.5), (0, 0, 1)))
F4 = Transform(
    4,
    _input_4,
    _output_4,
    (
        (1 / 4, 0, 0),
        (-1 / 6, -1 / 6, -1 / 6),
        (-1 / 6, 1 / 6, -1 / 6),
        (1 / 24, 1 / 12, 1 / 6),
        (1 / 24, -1 / 12, 1 / 6),
        (0, 0, 1),
    ),
)


def two_sided(
    apply: Apply, extent: int, load: Callable[[int, int], Expr], store: Callable[[int, int, Expr], None]
) -> None:
    """Multiplies a matrix of vectors by `apply` from the left and its transpose from the right.

    Args:
        apply: The one-dimensional transform.
        extent: Rows and columns that go in.
        load: Reads the vector at a row and column.
        store: Takes each result.
    """
    columns = [[bind(v) for v in apply([bind(load(i, j)) for i in range(extent)])] for j in range(extent)]
    for i in range(len(columns[0])):
        for j, value in enumerate(apply([column[i] for column in columns])):
            store(i, j, value)


def filter_packing(transform: Transform, weights: DirectWeights) -> Packing:
    """Transformed filters: per group of output blocks, one matrix of input channels by lanes for each point.

    Args:
        transform: Which.
        weights: How channels are cut, for a kernel of one tap.
    """

    def pack(array: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
        g = np.array(transform.filter, np.float64)
        points = np.einsum("ia,ocab,jb->ijoc", g, array.astype(np.float64), g)
        flat = points.reshape(-1, *array.shape[:2], 1, 1).astype(np.float32)
        packed = [weights.pack(point).reshape(-1) for point in flat]
        size = weights.width * weights.inputs
        parts = [[point[start : start + size] for point in packed] for start in range(0, weights.elements, size)]
        return np.concatenate([piece for part in parts for piece in part])

    parameters = {"size": transform.size, "vectors": weights.vectors, "lanes": weights.lanes}
    return Packing("conv_winograd", tuple(parameters.items()), pack)
